//! One thread of another process, stopped for a moment, and made to do something: the only use of ptrace in the profiler.
//!
//! The thread is seized and interrupted, which neither sends it a signal nor changes what `waitpid` tells its parent. Where it
//! stopped in a system call, the kernel restarts that by itself when the registers are back, as it does after any signal
//! without a handler (`epoll_wait` and few others return EINTR instead: signal(7); CPython asks again). All signals are masked
//! while foreign registers are in, so that no handler runs on them: those that arrive wait. System calls are made with
//! `PTRACE_SYSCALL`, whose stops are no signals: single steps and breakpoints would set the disposition of SIGTRAP to the default
//! in a program that ignores it. Between the last call and the old registers the thread is interrupted once more, so that they
//! go in at the point where the kernel looks for signals and restarts system calls.
//!
//! A thread in a restartable sequence (rseq) must not be stopped: the kernel would forget the sequence as soon as it sees other
//! registers. It is let go and tried again.
//!
//! The work is done by a thread of its own, since what a thread traces is let go when it ends. `PTRACE_O_EXITKILL` is not set.
//! All of this runs in a process of its own ([`super::apart`]), which is not ended with the profiler.

use std::{
    fs, io, mem,
    path::Path,
    sync::{
        atomic::{AtomicI32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use libc::{c_int, c_long, pid_t, user_regs_struct};

use crate::prompt::Prompt;

/// How long a thread may take to stop, and it runs on until it does: one that waits for a disk or a `vfork` does not, and one that
/// has no processor takes its time.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long each of its steps may take. All are short calls, but the machine may be busy, or the process frozen.
const STEP: Duration = Duration::from_secs(10);
/// How often the tracer is made to look at the time.
const NUDGE: Duration = Duration::from_millis(100);
/// Looks for a moment at which the thread is in no restartable sequence.
const TRIES: usize = 20;

/// What libc does not name everywhere (include/uapi/linux/ptrace.h).
const GET_SIGNAL_MASK: c_long = 0x420a;
const SET_SIGNAL_MASK: c_long = 0x420b;
const MASK_BYTES: u64 = size_of::<u64>() as u64;
const GET_RSEQ: c_long = 0x420f;
/// The code of a program of 64 bits.
const CODE_SEGMENT: u64 = 0x33;
const EVENT_STOP: c_int = 128;

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error(
        "thread {tid} may not be stopped: {source}; run as root, or with CAP_SYS_PTRACE in the process's namespaces"
    )]
    Denied { tid: u32, source: io::Error },
    #[error(
        "thread {tid} did not stop within {PATIENCE:?} (it waits for a disk or for a vfork, or is frozen): try again"
    )]
    Busy { tid: u32 },
    #[error("thread {tid} has ended")]
    Gone { tid: u32 },
    #[error("thread {tid} was in a restartable sequence (rseq) each time it was stopped: try again")]
    Restartable { tid: u32 },
    #[error("thread {tid} does not run code for x86-64")]
    OtherCode { tid: u32 },
    #[error("the kernel does not say whether thread {tid} is in a restartable sequence (Linux 5.13 does)")]
    NoRestartable { tid: u32 },
    #[error("no instruction for system calls was found in process {pid} (it has no vDSO)")]
    NoVdso { pid: u32 },
    #[error("{what} in the process failed: {source}")]
    Call { what: &'static str, source: io::Error },
    #[error("thread {tid} stopped for something else (status {status:#x})")]
    Unexpected { tid: u32, status: c_int },
    #[error("{what} of thread {tid} failed: {source}")]
    Request {
        what: &'static str,
        tid: u32,
        source: io::Error,
    },
    #[error("a thread to trace with could not be started: {0}")]
    Thread(io::Error),
    #[error("the process that stops others could not be started: {0}")]
    Start(io::Error),
    #[error(
        "the process that stops others ended while process {pid} was stopped, or about to be (was it killed?): see whether process {pid} still runs"
    )]
    Lost { pid: u32 },
    /// What it was that kept the tracer's process from it.
    #[error("{0}")]
    Told(String),
}

/// Stops a thread of a process, does `work` with it, and lets it go as it was. How long it was stopped comes with the result.
///
/// # Errors
/// If it cannot be stopped, or what is done with it fails. It goes on as it was.
pub fn with_stopped<T: Send>(
    pid: u32,
    tid: u32,
    work: impl FnOnce(&mut Stopped) -> Result<T, TraceError> + Send,
) -> Result<(T, Duration), TraceError> {
    // Before anything stops.
    let gate = syscall_instruction(pid)?;
    let (tell, told) = mpsc::channel();
    let number = AtomicI32::new(0);
    let number = &number;
    thread::scope(|scope| {
        let tracer = thread::Builder::new()
            .name("tracer".to_owned())
            .spawn_scoped(scope, move || {
                let _ended = Ended(tell);
                number.store(nudge::prepare(), Ordering::Relaxed);
                // Whatever keeps us from a processor keeps the process stopped. Where it is not permitted it takes longer.
                let _prompt = Prompt::begin();
                let mut stopped = Stopped::seize(tid, gate)?;
                let outcome = work(&mut stopped);
                let took = stopped.release()?;
                Ok((outcome?, took))
            });
        let tracer = tracer.map_err(TraceError::Thread)?;
        // The tracer waits for the kernel, without a limit of its own: now and then it is made to look at the time.
        while told.recv_timeout(NUDGE) == Err(mpsc::RecvTimeoutError::Timeout) {
            nudge::wake(number.load(Ordering::Relaxed));
        }
        tracer.join().unwrap_or(Err(TraceError::Gone { tid }))
    })
}

/// Says that the tracer is about to end, however it does.
struct Ended(mpsc::Sender<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        // Nobody waits any more: then nobody has to be told.
        let _ = self.0.send(());
    }
}

/// A signal whose handler does nothing, but end a `waitpid`. Sleeping between looks instead takes milliseconds where timers are
/// coarse (a virtual machine: 2 ms for 5 µs), all of which a process is stopped; and looking without sleep keeps the thread
/// that is waited for from the processor.
mod nudge {
    use std::{mem, ptr, sync::Once};

    fn signal() -> libc::c_int {
        libc::SIGRTMAX() - 3
    }

    extern "C" fn nothing(_: libc::c_int) {}

    /// The calling thread can be woken by its number, which is returned.
    pub fn prepare() -> libc::pid_t {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: a handler that does nothing, for a signal that nobody else here uses; without SA_RESTART.
            unsafe {
                let mut action: libc::sigaction = mem::zeroed();
                action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
                libc::sigaction(signal(), &raw const action, ptr::null_mut());
            }
        });
        // SAFETY: a set on the stack, of the calling thread.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, signal());
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
            libc::gettid()
        }
    }

    pub fn wake(thread: libc::pid_t) {
        if thread > 0 {
            // SAFETY: plain system calls; one of our threads gets a signal that does nothing.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }
}

/// A thread that is stopped.
pub struct Stopped {
    tid: u32,
    /// The address of an instruction that makes a system call.
    gate: u64,
    /// What it had when it stopped.
    registers: user_regs_struct,
    mask: u64,
    since: Instant,
    /// It is where the kernel looks for signals: there registers may go back.
    at_signals: bool,
    /// It was told to go on, and has not stopped since.
    runs: bool,
    /// Where it is: what it has now is foreign, and the last stop was one of a system call.
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// As it was; it has its own registers.
    AsItWas,
    /// Its registers and mask are ours.
    Foreign,
    /// It is gone, or not ours any more.
    LetGo,
}

impl Stopped {
    fn seize(tid: u32, gate: u64) -> Result<Self, TraceError> {
        for _ in 0..TRIES {
            let denied = |source: io::Error| match source.raw_os_error() {
                Some(libc::ESRCH) => TraceError::Gone { tid },
                _ => TraceError::Denied { tid, source },
            };
            request(libc::PTRACE_SEIZE as c_long, tid, 0, libc::PTRACE_O_TRACESYSGOOD as u64).map_err(denied)?;
            let mut stopped = Self {
                tid,
                gate,
                // SAFETY: integers, which may be zero.
                registers: unsafe { mem::zeroed() },
                mask: 0,
                since: Instant::now(),
                at_signals: false,
                runs: true,
                state: State::AsItWas,
            };
            stopped.ask("an interrupt", libc::PTRACE_INTERRUPT as c_long, 0, 0)?;
            // Where it does not stop, the end of this thread lets go of it.
            stopped.until_event(PATIENCE)?;
            stopped.since = Instant::now();
            stopped.registers = stopped.read_registers()?;
            if stopped.registers.cs != CODE_SEGMENT {
                return Err(TraceError::OtherCode { tid });
            }
            // A system call is in no sequence.
            if (stopped.registers.orig_rax as i64) < 0 && stopped.is_in_sequence()? {
                stopped.detach()?;
                thread::sleep(Duration::from_micros(200));
                continue;
            }
            let mut mask = 0_u64;
            let into = &raw mut mask as u64;
            stopped.ask("reading the signal mask", GET_SIGNAL_MASK, MASK_BYTES, into)?;
            stopped.mask = mask;
            return Ok(stopped);
        }
        Err(TraceError::Restartable { tid })
    }

    /// Whether a restartable sequence is set, be it the one that it runs or one that it has left.
    fn is_in_sequence(&self) -> Result<bool, TraceError> {
        /// `struct ptrace_rseq_configuration`.
        #[repr(C)]
        #[derive(Default)]
        struct Configuration {
            address: u64,
            size: u32,
            signature: u32,
            flags: u32,
            pad: u32,
        }
        let mut configuration = Configuration::default();
        let into = &raw mut configuration as u64;
        let tid = self.tid;
        request(GET_RSEQ, tid, size_of::<Configuration>() as u64, into)
            .map_err(|_| TraceError::NoRestartable { tid })?;
        if configuration.address == 0 {
            return Ok(false);
        }
        // `rseq_cs` is the third field, after two numbers of 32 bits.
        let sequence = self.peek(configuration.address.wrapping_add(8))?;
        Ok(sequence != 0)
    }

    /// Makes it do a system call.
    ///
    /// # Errors
    /// If that fails there, or the thread does something else.
    pub fn call(&mut self, what: &'static str, number: c_long, arguments: [u64; 6]) -> Result<u64, TraceError> {
        let mut registers = self.registers;
        registers.rip = self.gate;
        registers.rax = number as u64;
        [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
            registers.r9,
        ] = arguments;
        self.enter(registers)?;
        let result = self.leave()?.rax;
        if (-4095..0).contains(&(result as i64)) {
            return Err(TraceError::Call {
                what,
                source: io::Error::from_raw_os_error(-(result as i64) as i32),
            });
        }
        Ok(result)
    }

    /// Makes it run code that ends in a system call, and returns the registers that it has there. `registers`: what the code
    /// is given.
    ///
    /// # Errors
    /// If the thread does something else.
    pub fn run(
        &mut self,
        entry: u64,
        give: impl FnOnce(&mut user_regs_struct),
    ) -> Result<user_regs_struct, TraceError> {
        let mut registers = self.registers;
        registers.rip = entry;
        give(&mut registers);
        self.enter(registers)?;
        let reached = self.read_registers()?;
        self.leave()?;
        Ok(reached)
    }

    /// Goes on with foreign registers as far as to the next system call.
    fn enter(&mut self, mut registers: user_regs_struct) -> Result<(), TraceError> {
        if self.state == State::AsItWas {
            // Without SIGKILL and SIGSTOP, which nobody can mask.
            let all = u64::MAX;
            let from = &raw const all as u64;
            self.ask("masking signals", SET_SIGNAL_MASK, MASK_BYTES, from)?;
            self.state = State::Foreign;
        }
        // In no system call, so none is restarted.
        registers.orig_rax = u64::MAX;
        self.write_registers(&registers)?;
        self.go_to_call()
    }

    /// … and through it.
    fn leave(&mut self) -> Result<user_regs_struct, TraceError> {
        self.go_to_call()?;
        self.read_registers()
    }

    /// Runs until a system call begins or ends.
    fn go_to_call(&mut self) -> Result<(), TraceError> {
        let mut signal = 0;
        loop {
            self.ask("going on", libc::PTRACE_SYSCALL as c_long, 0, signal)?;
            self.at_signals = false;
            self.runs = true;
            signal = match self.wait(STEP)? {
                Some(status) if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 => return Ok(()),
                // The whole process was stopped, or goes on: nothing to do with us. It is stopped again when we let go.
                Some(status) if is_event_stop(status) => 0,
                // Not masked: SIGSTOP, which takes effect as it would.
                Some(status) if libc::WSTOPSIG(status) == libc::SIGSTOP => libc::SIGSTOP as u64,
                Some(status) => {
                    self.at_signals = true;
                    return Err(self.unexpected(status));
                }
                None => return Err(TraceError::Busy { tid: self.tid }),
            };
        }
    }

    /// Waits for the stop that was asked for. Signals that it was about to get before that, it gets.
    fn until_event(&mut self, patience: Duration) -> Result<(), TraceError> {
        loop {
            match self.wait(patience)? {
                Some(status) if is_event_stop(status) => {
                    self.at_signals = true;
                    return Ok(());
                }
                Some(status) if status >> 16 == 0 => {
                    // One of a system call is no signal.
                    let signal = match libc::WSTOPSIG(status) {
                        at_call if at_call == libc::SIGTRAP | 0x80 => 0,
                        signal => signal as u64,
                    };
                    // This was the one stop that the last interrupt had promised (`ptrace_stop` forgets it at any stop).
                    self.ask("an interrupt", libc::PTRACE_INTERRUPT as c_long, 0, 0)?;
                    self.ask("going on", libc::PTRACE_CONT as c_long, 0, signal)?;
                    self.runs = true;
                }
                Some(status) => return Err(self.unexpected(status)),
                None => return Err(TraceError::Busy { tid: self.tid }),
            }
        }
    }

    /// Gives it back what it had, and lets it go. How long it was stopped.
    fn release(mut self) -> Result<Duration, TraceError> {
        self.restore()?;
        let took = self.since.elapsed();
        self.detach()?;
        Ok(took)
    }

    fn restore(&mut self) -> Result<(), TraceError> {
        if self.state != State::Foreign {
            return Ok(());
        }
        if !self.at_signals {
            self.ask("an interrupt", libc::PTRACE_INTERRUPT as c_long, 0, 0)?;
            // One that did not come to its next stop in time (a frozen cgroup, a disk) is still on its way there.
            if !self.runs {
                self.ask("going on", libc::PTRACE_CONT as c_long, 0, 0)?;
                self.runs = true;
            }
            // Let go with foreign registers, it would die: it is waited for as long as it takes.
            self.until_event(Duration::MAX)?;
        }
        let registers = self.registers;
        self.write_registers(&registers)?;
        let mask = self.mask;
        let from = &raw const mask as u64;
        self.ask("setting the signal mask", SET_SIGNAL_MASK, MASK_BYTES, from)?;
        self.state = State::AsItWas;
        Ok(())
    }

    fn detach(&mut self) -> Result<(), TraceError> {
        self.ask("letting go", libc::PTRACE_DETACH as c_long, 0, 0)?;
        self.state = State::LetGo;
        Ok(())
    }

    /// A word of its memory.
    ///
    /// # Errors
    /// If there is none at that address.
    pub fn peek(&self, address: u64) -> Result<u64, TraceError> {
        let mut word = 0_u64;
        self.ask(
            "reading memory",
            libc::PTRACE_PEEKDATA as c_long,
            address,
            &raw mut word as u64,
        )?;
        Ok(word)
    }

    /// Writes a word of memory that is ours in it.
    ///
    /// # Errors
    /// If there is none at that address.
    pub fn poke(&self, address: u64, word: u64) -> Result<(), TraceError> {
        self.ask("writing memory", libc::PTRACE_POKEDATA as c_long, address, word)
    }

    fn read_registers(&self) -> Result<user_regs_struct, TraceError> {
        // SAFETY: integers, which may be zero.
        let mut registers: user_regs_struct = unsafe { mem::zeroed() };
        let into = &raw mut registers as u64;
        self.ask("reading registers", libc::PTRACE_GETREGS as c_long, 0, into)?;
        Ok(registers)
    }

    fn write_registers(&self, registers: &user_regs_struct) -> Result<(), TraceError> {
        let from = &raw const *registers as u64;
        self.ask("writing registers", libc::PTRACE_SETREGS as c_long, 0, from)
    }

    fn ask(&self, what: &'static str, asked: c_long, address: u64, data: u64) -> Result<(), TraceError> {
        let tid = self.tid;
        request(asked, tid, address, data).map_err(|source| match source.raw_os_error() {
            // Killed: a thread that is stopped is there.
            Some(libc::ESRCH) => TraceError::Gone { tid },
            _ => TraceError::Request { what, tid, source },
        })
    }

    /// What became of it, or nothing so far.
    fn wait(&mut self, patience: Duration) -> Result<Option<c_int>, TraceError> {
        let began = Instant::now();
        loop {
            let mut status = 0;
            // SAFETY: `status` is live and writable.
            let waited = unsafe { libc::waitpid(self.tid as pid_t, &raw mut status, libc::__WALL) };
            let tid = self.tid;
            if waited > 0 {
                if libc::WIFSTOPPED(status) {
                    self.runs = false;
                    return Ok(Some(status));
                }
                self.state = State::LetGo;
                return Err(TraceError::Gone { tid });
            }
            if waited < 0 {
                let source = io::Error::last_os_error();
                match source.raw_os_error() {
                    Some(libc::EINTR) if began.elapsed() > patience => return Ok(None),
                    Some(libc::EINTR) => continue,
                    Some(libc::ECHILD) => {
                        self.state = State::LetGo;
                        return Err(TraceError::Gone { tid });
                    }
                    _ => {
                        let what = "waiting";
                        return Err(TraceError::Request { what, tid, source });
                    }
                }
            }
        }
    }

    fn unexpected(&self, status: c_int) -> TraceError {
        TraceError::Unexpected { tid: self.tid, status }
    }
}

impl Drop for Stopped {
    /// On the way out of an error.
    fn drop(&mut self) {
        if self.state != State::LetGo && self.restore().is_ok() {
            let _ = self.detach();
        }
    }
}

fn is_event_stop(status: c_int) -> bool {
    status >> 16 == EVENT_STOP
}

/// As the kernel has it: libc's wrapper returns words instead of storing them.
fn request(asked: c_long, tid: u32, address: u64, data: u64) -> io::Result<()> {
    // SAFETY: the callers pass addresses of live values of the size that each request wants, or of the traced process.
    match unsafe { libc::syscall(libc::SYS_ptrace, asked, c_long::from(tid), address, data) } {
        // Some return how much they have stored.
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where in a process there is an instruction for system calls: in the vDSO, which every program has.
fn syscall_instruction(pid: u32) -> Result<u64, TraceError> {
    use std::os::unix::fs::FileExt as _;
    const MOST: usize = 64 << 10;
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => TraceError::Gone { tid: pid },
        _ => TraceError::Denied { tid: pid, source },
    };
    let proc = Path::new("/proc").join(pid.to_string());
    let maps = fs::read(proc.join("maps")).map_err(unreadable)?;
    let maps = String::from_utf8_lossy(&maps);
    let vdso = maps.lines().find(|line| line.ends_with("[vdso]"));
    let range = vdso.and_then(|line| line.split_once(' ')?.0.split_once('-'));
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = range
        .and_then(|(start, end)| Some((number(start)?, number(end)?)))
        .ok_or(TraceError::NoVdso { pid })?;
    let mut bytes = vec![0; (end.saturating_sub(start) as usize).min(MOST)];
    let memory = fs::File::open(proc.join("mem")).map_err(unreadable)?;
    memory.read_exact_at(&mut bytes, start).map_err(unreadable)?;
    let at = bytes.windows(2).position(|two| two == [0x0f, 0x05]);
    at.map(|at| start + at as u64).ok_or(TraceError::NoVdso { pid })
}
