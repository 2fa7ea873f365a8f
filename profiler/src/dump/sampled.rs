//! The registers and the stack of a thread that runs, by one sample of a perf event. Nothing is stopped for it.
//!
//! The event is the thread's own leaving of its CPU: the kernel copies then what it left user space with. The reader comes
//! to run on that CPU ([`place`](super::place)), so the thread has to go, and what was copied is what it has until it is
//! back: its native frames are of the very moment of the Python frames that are read meanwhile. That needs the right to see
//! the kernel's events, and to run there. Else a clock that only runs while the thread is in user space takes the sample,
//! which is of another moment, and said to be.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use perf_event_open_sys as sys;
use profiler_common::unwind::{REGISTER_FP, REGISTER_PC, REGISTER_SP, REGISTERS};
use sys::bindings as abi;

use crate::{process::perf_ring::PerfRing, python::memory::ReadMemory};

/// What is copied of a stack. The frames above the innermost Python function take less, but of a function that keeps a large
/// array there.
const STACK_BYTES: usize = 32 << 10;
/// Pages of records: some seven samples.
const RING_PAGES: usize = 64;
/// A sample is no longer: header, registers with their kind, and the stack with its two lengths.
const MOST_RECORD_BYTES: usize = 8 + 8 + 8 * REGISTERS_TOLD.len() + 8 + STACK_BYTES + 8;
/// How long a thread has to run in user space until its clock takes a sample.
const CLOCK_NS: u64 = 200_000;

/// Registers as perf numbers them, in that order, and their places in `struct pt_regs`, counted in words.
const REGISTERS_TOLD: [(abi::perf_event_x86_regs, usize); 17] = [
    (abi::PERF_REG_X86_AX, 10),
    (abi::PERF_REG_X86_BX, 5),
    (abi::PERF_REG_X86_CX, 11),
    (abi::PERF_REG_X86_DX, 12),
    (abi::PERF_REG_X86_SI, 13),
    (abi::PERF_REG_X86_DI, 14),
    (abi::PERF_REG_X86_BP, REGISTER_FP),
    (abi::PERF_REG_X86_SP, REGISTER_SP),
    (abi::PERF_REG_X86_IP, REGISTER_PC),
    (abi::PERF_REG_X86_R8, 9),
    (abi::PERF_REG_X86_R9, 8),
    (abi::PERF_REG_X86_R10, 7),
    (abi::PERF_REG_X86_R11, 6),
    (abi::PERF_REG_X86_R12, 3),
    (abi::PERF_REG_X86_R13, 2),
    (abi::PERF_REG_X86_R14, 1),
    (abi::PERF_REG_X86_R15, 0),
];

/// With what a thread left user space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserStack {
    /// As the kernel's `struct pt_regs` has them.
    pub registers: [u64; REGISTERS],
    /// From the stack pointer on.
    bytes: Vec<u8>,
}

impl UserStack {
    /// Kernels before 5.11 do not tell the frame pointer of who is in a system call, but 0.
    pub fn has_fp(&self) -> bool {
        self.registers[REGISTER_FP] != 0
    }

    fn sp(&self) -> u64 {
        self.registers[REGISTER_SP]
    }
}

/// At the `ret` of a function the tables still say where below the stack its caller's frame pointer is: it was popped from
/// there an instruction ago, and is in the register. No other word below the stack is asked for.
const POPPED_BYTES: u64 = 128;

/// The stack, and what was popped last.
impl ReadMemory for UserStack {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        // Whole windows are read, of which the popped word is the first.
        let popped = self.sp().saturating_sub(address);
        if (1..=POPPED_BYTES).contains(&popped) {
            let fp = self.registers[REGISTER_FP].to_ne_bytes();
            let (below, above) = into.split_at_mut(into.len().min(popped as usize));
            below
                .chunks_mut(fp.len())
                .for_each(|word| word.copy_from_slice(&fp[..word.len()]));
            return above.is_empty() || self.read(self.sp(), above);
        }
        let piece = address
            .checked_sub(self.sp())
            .and_then(|from| usize::try_from(from).ok())
            .and_then(|from| self.bytes.get(from..from.checked_add(into.len())?));
        if let Some(piece) = piece {
            into.copy_from_slice(piece);
        }
        piece.is_some()
    }
}

/// When a sample is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Whenever the thread leaves its CPU.
    Leaves,
    /// Once, while it is in user space.
    Clock,
}

/// Samples of one thread, as long as this lives.
pub struct Sampler {
    ring: PerfRing,
    last: Option<UserStack>,
    bytes: Vec<u8>,
    /// When there is no more patience with it.
    until: Instant,
}

impl Sampler {
    /// # Errors
    /// If the kernel refuses: why, in a few words.
    pub fn open(tid: u32, event: Event, patience: Duration) -> Result<Self, String> {
        let mut attributes = attributes(event);
        // SAFETY: the attributes are initialized and outlive the call; the event changes nothing in any process.
        let fd = unsafe {
            sys::perf_event_open(
                &raw mut attributes,
                tid.cast_signed(),
                -1,
                -1,
                abi::PERF_FLAG_FD_CLOEXEC.into(),
            )
        };
        if fd < 0 {
            return Err(refused(&io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just created and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let ring = PerfRing::map(fd, RING_PAGES, "a thread").map_err(|error| format!("{error:#}"))?;
        Ok(Self {
            ring,
            last: None,
            bytes: Vec::new(),
            until: Instant::now() + patience,
        })
    }

    /// With what the thread left its CPU when it last did, since this was opened; `None` if it did not, or if that is not
    /// sure.
    pub fn last(&mut self) -> Option<&UserStack> {
        self.bytes.clear();
        let is_taken = self.ring.take(&mut self.bytes).is_ok();
        let has_room = self.bytes.len() + MOST_RECORD_BYTES <= self.ring.data_bytes();
        match parse(&self.bytes) {
            // One that did not fit would be missing behind the others.
            Some(found) if is_taken && has_room => {
                // It has not left since.
                if !self.bytes.is_empty() {
                    self.last = found;
                }
            }
            _ => self.last = None,
        }
        self.last.as_ref()
    }

    /// Waits a moment, in which it gets a CPU perhaps. `false` if there is no more patience with it.
    pub fn wait(&self) -> bool {
        const MOMENT_MS: i32 = 2;
        if Instant::now() >= self.until {
            return false;
        }
        let mut ready = libc::pollfd {
            fd: self.ring.event().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, which lives across the call.
        unsafe { libc::poll(&raw mut ready, 1, MOMENT_MS) };
        true
    }
}

fn attributes(event: Event) -> abi::perf_event_attr {
    let (config, period) = match event {
        Event::Leaves => (abi::PERF_COUNT_SW_CONTEXT_SWITCHES, 1),
        Event::Clock => (abi::PERF_COUNT_SW_CPU_CLOCK, CLOCK_NS),
    };
    let mut attributes = abi::perf_event_attr {
        type_: abi::PERF_TYPE_SOFTWARE,
        config: config.into(),
        size: size_of::<abi::perf_event_attr>() as u32,
        sample_type: (abi::PERF_SAMPLE_REGS_USER | abi::PERF_SAMPLE_STACK_USER).into(),
        sample_regs_user: REGISTERS_TOLD
            .iter()
            .fold(0, |mask, (register, _)| mask | 1 << register),
        sample_stack_user: STACK_BYTES as u32,
        ..Default::default()
    };
    attributes.__bindgen_anon_1.sample_period = period;
    attributes.__bindgen_anon_2.wakeup_events = 1;
    // Who may not see the kernel may have a clock of user space.
    attributes.set_exclude_kernel(u64::from(event == Event::Clock));
    attributes.set_exclude_hv(1);
    attributes
}

/// Why there is no event.
fn refused(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
            match paranoid.trim() {
                "" => "perf events are refused; run as root".to_owned(),
                level => format!("perf events are refused (kernel.perf_event_paranoid is {level}); run as root"),
            }
        }
        Some(libc::ENOSYS) => "this kernel is built without perf events".to_owned(),
        Some(libc::EMFILE | libc::ENFILE) => "too many open files; raise `ulimit -n`".to_owned(),
        Some(libc::ESRCH) => "it has ended meanwhile".to_owned(),
        _ => format!("perf events failed: {error}"),
    }
}

/// The last of some records, if it has a stack. `None` if any may be missing.
fn parse(mut bytes: &[u8]) -> Option<Option<UserStack>> {
    let mut last = None;
    while !bytes.is_empty() {
        let (kind, rest) = bytes.split_first_chunk()?;
        let (_misc, rest) = rest.split_first_chunk::<2>()?;
        let (size, _) = rest.split_first_chunk()?;
        let (record, rest) = bytes.split_at_checked(u16::from_ne_bytes(*size).into())?;
        let body = record.get(HEADER_BYTES..)?;
        match u32::from_ne_bytes(*kind) {
            abi::PERF_RECORD_SAMPLE => last = sample(body),
            abi::PERF_RECORD_UNTHROTTLE => {}
            // Some did not fit, or came too soon.
            _ => return None,
        }
        bytes = rest;
    }
    Some(last)
}

/// type, misc, size.
const HEADER_BYTES: usize = 4 + 2 + 2;

/// The kind of registers, these, the room for the stack, the stack, and how much of it there is.
fn sample(body: &[u8]) -> Option<UserStack> {
    let mut words = Words(body);
    let kind = words.next()?;
    if u32::try_from(kind) != Ok(abi::PERF_SAMPLE_REGS_ABI_64) {
        return None;
    }
    let mut registers = [0; REGISTERS];
    for (_, place) in REGISTERS_TOLD {
        registers[place] = words.next()?;
    }
    let room = usize::try_from(words.next()?).ok()?;
    let (stack, rest) = words.0.split_at_checked(room)?;
    let filled = usize::try_from(Words(rest).next()?).ok()?;
    Some(UserStack {
        registers,
        bytes: stack.get(..filled)?.to_vec(),
    })
}

struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next(&mut self) -> Option<u64> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_ne_bytes(*word))
    }
}

/// For `fuzzed`.
#[doc(hidden)]
pub fn parse_records(bytes: &[u8]) {
    if let Some(Some(stack)) = parse(bytes) {
        stack.read(stack.sp(), &mut [0; 8]);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        hint::black_box,
        ptr,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        thread,
    };

    use proptest::prelude::*;

    use super::*;

    const MARK: u64 = 0x5eed_0f7a_1e5c_0de5;

    fn record(kind: u32, body: &[u8]) -> Vec<u8> {
        let size = (HEADER_BYTES + body.len()) as u16;
        [&kind.to_ne_bytes()[..], &[0; 2], &size.to_ne_bytes(), body].concat()
    }

    /// Registers count up from `first`, and there is room for three words of stack, two of which are there.
    fn sampled(first: u64) -> Vec<u8> {
        let words = [u64::from(abi::PERF_SAMPLE_REGS_ABI_64)].into_iter();
        let registers = (0..REGISTERS_TOLD.len() as u64).map(|at| first + at);
        let words = words.chain(registers).chain([24, 11, 12, 13, 16]);
        record(
            abi::PERF_RECORD_SAMPLE,
            &words.flat_map(u64::to_ne_bytes).collect::<Vec<u8>>(),
        )
    }

    #[test]
    fn the_last_of_several_samples_is_told_unless_one_is_missing() {
        let both = [sampled(100), sampled(1000)].concat();
        let stack = parse(&both).expect("whole").expect("a stack");
        // ax, bx, cx, dx, si, di, bp, sp, ip.
        assert_eq!(
            (
                stack.registers[REGISTER_FP],
                stack.registers[REGISTER_SP],
                stack.registers[REGISTER_PC]
            ),
            (1006, 1007, 1008)
        );
        assert_eq!((stack.read_u64(1007), stack.read_u64(1015)), (Some(11), Some(12)));
        let far_below = 1007 - POPPED_BYTES - 8;
        assert_eq!((stack.read_u64(1016), stack.read_u64(far_below)), (None, None));
        let lost = record(abi::PERF_RECORD_LOST, &[0; 16]);
        assert_eq!(parse(&[both.clone(), lost].concat()), None);
        let throttled = record(abi::PERF_RECORD_THROTTLE, &[0; 24]);
        assert_eq!(parse(&[both.clone(), throttled].concat()), None);
        assert_eq!(parse(&both[..both.len() - 1]), None);
        assert_eq!(parse(&[]), Some(None));
    }

    /// What a thread that has `MARK` on its stack left user space with; `None` if the kernel has no such events for us.
    fn of_a_thread(event: Event, goes_on: fn()) -> Option<(UserStack, u64)> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (tell, told) = mpsc::channel();
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mark = black_box(MARK);
            // SAFETY: gettid(2) has no preconditions.
            let tid = unsafe { libc::gettid() }.cast_unsigned();
            tell.send((tid, ptr::from_ref(&mark) as u64))
                .expect("somebody who listens");
            while !over.load(Ordering::Relaxed) {
                goes_on();
            }
            black_box(&mark);
        });
        let (tid, at) = told.recv().expect("a thread");
        let mut found = None;
        if let Ok(mut sampler) = Sampler::open(tid, event, Duration::from_secs(30)) {
            while found.is_none() && sampler.wait() {
                found = sampler.last().cloned();
            }
            assert!(found.is_some(), "nothing in half a minute");
        }
        is_over.store(true, Ordering::Relaxed);
        thread.join().expect("it ends");
        Some((found?, at))
    }

    #[test]
    fn what_was_popped_is_in_its_register_and_nothing_else_is_below_the_stack() {
        let mut registers = [0; REGISTERS];
        (registers[REGISTER_SP], registers[REGISTER_FP]) = (0x1000, 77);
        let stack = UserStack {
            registers,
            bytes: vec![1; 16],
        };
        let mut window = [0; 24];
        assert!(stack.read(0xff8, &mut window));
        assert_eq!(
            (
                u64::from_ne_bytes(*window.first_chunk().unwrap()),
                window[8..] == [1; 16]
            ),
            (77, true)
        );
        assert!(!stack.read(0x1000 - POPPED_BYTES - 8, &mut [0; 8]) && !stack.read(0xff8, &mut [0; 32]));
        assert!(stack.read(0x1008, &mut [0; 8]) && !stack.read(0x1009, &mut [0; 8]));
    }

    #[test]
    fn a_thread_that_leaves_its_cpu_has_its_stack_as_it_left_it() {
        let sleeps = || thread::sleep(Duration::from_millis(1));
        if let Some((stack, at)) = of_a_thread(Event::Leaves, sleeps) {
            assert_eq!(stack.read_u64(at), Some(MARK));
        }
    }

    #[test]
    fn a_thread_that_computes_has_its_stack_by_the_clock() {
        if let Some((stack, at)) = of_a_thread(Event::Clock, std::hint::spin_loop) {
            assert_eq!(stack.read_u64(at), Some(MARK));
            assert_eq!(stack.read_u64(stack.sp().wrapping_sub(POPPED_BYTES + 8)), None);
        }
    }

    proptest! {
        #[test]
        fn no_records_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..200_usize, byte in any::<u8>()) {
            parse_records(&bytes);
            let mut sample = sampled(7);
            let at = at.min(sample.len() - 1);
            sample[at] = byte;
            parse_records(&sample);
        }
    }
}
