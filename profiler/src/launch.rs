//! Starting the command after `--`, so that nothing of it is missed.
//!
//! The child is forked first and waits, before its exec, until the profiler knows its pid and is recording:
//!
//! ```text
//! parent:  prepare ── fork ────────── "ready" ◀── … register the pid … ── release ──▶ … exec's errno, or nothing
//! child:               └─ become the user, find the program, report ── wait ──────────── exec
//! ```
//!
//! Decisions:
//!
//! - **The user.** Under sudo the command runs as who called sudo: uid, gid, groups, `HOME`, `USER`, `LOGNAME` and
//!   `SHELL`, without the `SUDO_…` variables. The program is looked up by the child after the change, so what is found
//!   is what that user may execute.
//! - **Signals.** The child starts with nothing blocked and every signal at its default, except those that were already
//!   ignored when the profiler started (`nohup` works through it); SIGPIPE is at its default, since it is Rust's runtime
//!   that ignores it here.
//! - **The terminal.** The child stays in our process group, in the foreground if we are, so that Ctrl-C, Ctrl-\ and
//!   Ctrl-Z reach it as they would from a shell. Hence [`must_forward`].
//! - **If the profiler dies** before the release, the pipe the child waits on closes and it ends without having run.
//!   After the release it is a process of its own: it is never stopped, and outlives us.
//!
//! Everything the child does between fork and exec is async-signal-safe: another thread of the parent may have held any
//! lock at the fork, the allocator's among them. So all memory is made ready before, and the child only makes system
//! calls.

mod program;

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, process::ExitStatusExt as _},
    },
    path::PathBuf,
    process::ExitStatus,
    ptr,
};

use thiserror::Error;

use crate::{exit, invoker::Invoker};

/// What execvp searches when there is no PATH (glibc 2.24 and later: `_CS_PATH`, without the current directory).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Runs what the kernel does not recognize (`ENOEXEC`): a script without `#!`, as execvp(3) has it.
const SHELL: &CStr = c"/bin/sh";

/// What the waiting child is told. The end of the pipe means the same as `CANCEL`.
const GO: u8 = 1;
const CANCEL: u8 = 0;

#[derive(Debug, Error)]
pub enum LaunchError {
    #[error("command not found: {}{hint}", command.display())]
    NotFound { command: OsString, hint: &'static str },
    #[error("cannot execute {}: {reason}{hint}", command.display())]
    NotExecutable {
        command: OsString,
        reason: io::Error,
        hint: &'static str,
    },
    #[error("cannot become user {uid} to run the command: {reason}; run the profiler as root instead of with sudo")]
    User { uid: u32, reason: io::Error },
    #[error("an argument or variable of the command holds a NUL byte, which no program can be given")]
    NulByte,
    #[error("cannot start the command")]
    System(#[from] io::Error),
}

impl LaunchError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => exit::NOT_FOUND,
            Self::NotExecutable { .. } => exit::NOT_EXECUTABLE,
            Self::User { .. } | Self::NulByte | Self::System(_) => exit::FAILURE,
        }
    }
}

/// What a command finds around it.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub variables: Vec<(OsString, OsString)>,
    /// Whom the command runs as; `None` is who we are.
    pub invoker: Option<Invoker>,
}

impl Surroundings {
    /// Those of the profiler itself, as seen by `invoker`.
    pub fn of_this_process(invoker: Option<Invoker>) -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            invoker,
        }
    }

    /// The variables the command is given.
    fn child_variables(&self) -> Vec<(OsString, OsString)> {
        let mut variables = self.variables.clone();
        if let Some(invoker) = &self.invoker {
            variables.retain(|(name, _)| !name.as_bytes().starts_with(b"SUDO_"));
            if let Some(account) = &invoker.account {
                let own = [
                    ("HOME", &account.home),
                    ("USER", &account.name),
                    ("LOGNAME", &account.name),
                    ("SHELL", &account.shell),
                ];
                for (name, value) in own {
                    variables.retain(|(existing, _)| existing != name);
                    if !value.is_empty() {
                        variables.push((OsString::from(name), value.clone()));
                    }
                }
            }
        }
        variables
    }

    /// Under sudo PATH is sudo's, which is the usual reason why a command that was there a moment ago is not found.
    fn path_hint(&self) -> &'static str {
        if self.invoker.is_some() {
            "; sudo sets its own PATH, so give the command's full path, or run sudo env \"PATH=$PATH\" …"
        } else {
            ""
        }
    }

    fn permission_hint(&self) -> &'static str {
        if self.invoker.is_some() {
            "; it runs as the user who called sudo, who must be able to execute it"
        } else {
            "; make it executable with chmod +x, or name its interpreter first"
        }
    }
}

/// A child that is ready to become the command. Dropping it ends the child, which then has done nothing.
#[derive(Debug)]
pub struct Stopped {
    command: OsString,
    hints: Hints,
    /// `Some` until released.
    parts: Option<(Process, PipeWriter, PipeReader)>,
    pid: u32,
    code: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
struct Hints {
    path: &'static str,
    permission: &'static str,
}

/// The command, running or ended. Dropping it leaves it alone.
#[derive(Debug)]
pub struct Running {
    process: Process,
}

/// A child of ours that is reaped here and nowhere else.
#[derive(Debug)]
struct Process {
    pid: libc::pid_t,
    pidfd: OwnedFd,
    /// Once it is known the pid may belong to somebody else, and must not be used again.
    status: Option<ExitStatus>,
}

/// Forks the child and waits until it is ready. What can be known about the command before it runs is known now.
pub fn prepare(command: &[OsString], surroundings: &Surroundings) -> Result<Stopped, LaunchError> {
    let Some(program) = command.first() else {
        return Err(LaunchError::NotFound {
            command: OsString::new(),
            hint: "",
        });
    };
    let hints = Hints {
        path: surroundings.path_hint(),
        permission: surroundings.permission_hint(),
    };
    let plan = Plan::new(program, command, surroundings)?;
    let (go_read, go_write) = io::pipe()?;
    let (report_read, report_write) = io::pipe()?;

    let process = fork(&plan, &go_read, &go_write, &report_read, &report_write)?;
    // Our copies of the child's ends, without which its end could not be noticed.
    drop((go_read, report_write));
    let mut stopped = Stopped {
        command: program.clone(),
        hints,
        pid: process.pid.unsigned_abs(),
        code: program::files(command, &surroundings.child_variables()),
        parts: Some((process, go_write, report_read)),
    };
    match stopped.read_report()? {
        Some(Report {
            stage: Stage::Ready, ..
        }) => Ok(stopped),
        Some(report) => Err(stopped.failure(report, surroundings.invoker.as_ref())),
        None => Err(io::Error::other("it ended before it began").into()),
    }
}

impl Stopped {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The files whose machine code it is going to run, as far as that can be known: an executable, and a libpython.
    pub fn code(&self) -> &[PathBuf] {
        &self.code
    }

    /// Lets the child become the command. Returns when it has, or has failed to.
    pub fn release(mut self) -> Result<Running, LaunchError> {
        if let Some((_, go, _)) = &mut self.parts {
            match go.write_all(&[GO]) {
                // It was killed while it waited (Ctrl-C, perhaps). Its status says so.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                outcome => outcome?,
            }
        }
        // exec closes the child's end, so success is the end of the file.
        if let Some(report) = self.read_report()? {
            return Err(self.failure(report, None));
        }
        match self.parts.take() {
            Some((process, ..)) => Ok(Running { process }),
            None => Err(io::Error::other("it was released before").into()),
        }
    }

    fn read_report(&mut self) -> io::Result<Option<Report>> {
        let Some((_, _, report)) = &mut self.parts else {
            return Ok(None);
        };
        let mut bytes = [0; Report::BYTES];
        match report.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(Report::from_bytes(bytes))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn failure(&self, report: Report, invoker: Option<&Invoker>) -> LaunchError {
        let reason = io::Error::from_raw_os_error(report.errno);
        let command = self.command.clone();
        match report.stage {
            Stage::Find | Stage::Exec => match report.errno {
                // execve(2) says ENOENT also when a script's interpreter is missing, but then the file itself was found.
                libc::ENOENT | libc::ENOTDIR if report.stage == Stage::Find => LaunchError::NotFound {
                    command,
                    hint: self.hints.path,
                },
                libc::ENOENT => LaunchError::NotExecutable {
                    command,
                    reason,
                    hint: "; the interpreter it names (its first line, or its dynamic loader) does not exist",
                },
                libc::EACCES | libc::EPERM => LaunchError::NotExecutable {
                    command,
                    reason,
                    hint: self.hints.permission,
                },
                _ => LaunchError::NotExecutable {
                    command,
                    reason,
                    hint: "",
                },
            },
            Stage::User => LaunchError::User {
                uid: invoker.map_or(0, |invoker| invoker.uid),
                reason,
            },
            Stage::Ready | Stage::Wait => LaunchError::System(reason),
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some((mut process, mut go, report)) = self.parts.take() {
            // Told instead of left to notice: another process forked meanwhile would keep the pipe open.
            let _ = go.write_all(&[CANCEL]);
            drop((go, report));
            let _ = process.wait(0);
        }
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.process.pid.unsigned_abs()
    }

    /// How the command ended, or `None` if it has not. Never waits; can be asked again.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process.wait(libc::WNOHANG)
    }

    /// Waits for the command's end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.process.wait(0)? {
                return Ok(status);
            }
        }
    }

    /// Whether the command is known to have ended.
    pub fn has_ended(&self) -> bool {
        self.process.status.is_some()
    }

    /// Sends `signal` to the command, unless it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        if self.process.status.is_some() {
            return Ok(());
        }
        // SAFETY: the descriptor is a pidfd that outlives the call, and no siginfo is given.
        let answer = unsafe {
            let info: *const libc::siginfo_t = ptr::null();
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.process.pidfd.as_raw_fd(),
                signal,
                info,
                0,
            )
        };
        match answer {
            0 => Ok(()),
            // It has ended and waits to be reaped.
            _ if io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH) => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Readable when the command has ended: for `AsyncFd`. Reaping is still [`try_wait`](Self::try_wait)'s.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }
}

/// Whether a signal that reached us has to be passed on to the command.
///
/// SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 come from kill(1) to one process, so they do. SIGINT and SIGQUIT come from the
/// terminal's keys to the whole foreground process group, the command included: passing them on would interrupt it
/// twice, which cuts off a program that cleans up on the first. So they are passed on only when we are not in the
/// foreground of a terminal (a service, CI, `&` in a script), where they can only have come from kill(1). What this
/// gets wrong is `kill -INT` to the profiler alone while it runs in the foreground: the recording ends, the command
/// does not. tokio does not tell who sent a signal, and guessing would be worse.
pub fn must_forward(signal: i32) -> bool {
    match signal {
        libc::SIGTERM | libc::SIGHUP | libc::SIGUSR1 | libc::SIGUSR2 => true,
        libc::SIGINT | libc::SIGQUIT => !in_foreground(),
        _ => false,
    }
}

/// Whether `signal` was ignored when we started, as SIGHUP is under nohup(1). A handler must not be installed over
/// that: it would take the protection from us and from the command.
pub fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null pointer means that nothing is changed, and `action` has room for the answer.
    if unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call succeeded, so `action` is written.
    unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Whether the keys of a terminal reach our process group.
fn in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else {
        return false;
    };
    // SAFETY: the descriptor outlives the call; getpgrp cannot fail.
    unsafe { libc::tcgetpgrp(terminal.as_raw_fd()) == libc::getpgrp() }
}

impl Process {
    fn wait(&mut self, options: libc::c_int) -> io::Result<Option<ExitStatus>> {
        while self.status.is_none() {
            let mut status = 0;
            // SAFETY: `status` is live and writable. The pid is our child's: it was not reaped, as `status` is `None`.
            match unsafe { libc::waitpid(self.pid, &raw mut status, options) } {
                0 => return Ok(None),
                pid if pid == self.pid => self.status = Some(ExitStatus::from_raw(status)),
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
        Ok(self.status)
    }
}

/// What the child tells: eight bytes, which a pipe carries whole (PIPE_BUF).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Report {
    stage: Stage,
    errno: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
enum Stage {
    Ready = 0,
    User = 1,
    Find = 2,
    Wait = 3,
    Exec = 4,
}

impl Report {
    const BYTES: usize = 8;

    fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        let stage = match i32::from_ne_bytes([a, b, c, d]) {
            0 => Stage::Ready,
            1 => Stage::User,
            2 => Stage::Find,
            3 => Stage::Wait,
            _ => Stage::Exec,
        };
        Self {
            stage,
            errno: i32::from_ne_bytes([e, f, g, h]),
        }
    }

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let [a, b, c, d] = (self.stage as i32).to_ne_bytes();
        let [e, f, g, h] = self.errno.to_ne_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

/// Everything the child needs, made before the fork.
struct Plan {
    /// What execvp would try, in order. Each is tried until one can be executed.
    candidates: Vec<Candidate>,
    /// NULL-terminated, pointing into `_strings`.
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    identity: Option<(u32, u32, Vec<u32>)>,
    /// Signals whose handlers are taken away: all but those that are ignored.
    defaults: Vec<libc::c_int>,
    /// Keeps what `argv` and `envp` point at. A `CString`'s bytes do not move with it.
    _strings: Vec<CString>,
}

struct Candidate {
    path: CString,
    /// `/bin/sh path args…`, for a script without `#!`. NULL-terminated.
    shell_argv: Vec<*const libc::c_char>,
}

impl Plan {
    fn new(program: &OsStr, command: &[OsString], surroundings: &Surroundings) -> Result<Self, LaunchError> {
        let c_string = |text: &[u8]| CString::new(text).map_err(|_| LaunchError::NulByte);
        let arguments = command
            .iter()
            .map(|word| c_string(word.as_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        let variables = surroundings.child_variables();
        let environment = variables
            .iter()
            .map(|(name, value)| c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<Result<Vec<_>, _>>()?;
        let path = variables
            .iter()
            .find(|(name, _)| name == "PATH")
            .map(|(_, value)| value.as_os_str());
        let candidates = candidates(program, path.unwrap_or(OsStr::new(DEFAULT_PATH)))
            .into_iter()
            .map(|path| {
                let path = c_string(&path)?;
                let shell_argv = [SHELL.as_ptr(), path.as_ptr()]
                    .into_iter()
                    .chain(arguments.iter().skip(1).map(|argument| argument.as_ptr()))
                    .chain([ptr::null()])
                    .collect();
                Ok(Candidate { path, shell_argv })
            })
            .collect::<Result<Vec<_>, LaunchError>>()?;
        let null_terminated = |strings: &[CString]| -> Vec<_> {
            strings
                .iter()
                .map(|string| string.as_ptr())
                .chain([ptr::null()])
                .collect()
        };
        Ok(Self {
            candidates,
            argv: null_terminated(&arguments),
            envp: null_terminated(&environment),
            identity: surroundings
                .invoker
                .as_ref()
                .map(|invoker| (invoker.uid, invoker.gid, invoker.groups.clone())),
            // SIGPIPE is the one that Rust's runtime ignores before `main`; std::process gives it back, too.
            defaults: (1..=libc::SIGRTMAX())
                .filter(|&signal| signal == libc::SIGPIPE || !is_ignored(signal))
                .collect(),
            _strings: arguments.into_iter().chain(environment).collect(),
        })
    }
}

/// The paths that execvp(3) would try for `program`: itself if it has a slash, else in each directory of `path`, where
/// an empty one is the current directory.
fn candidates(program: &OsStr, path: &OsStr) -> Vec<Vec<u8>> {
    let program = program.as_bytes();
    if program.is_empty() {
        return vec![];
    }
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let in_directory = |directory: &[u8]| match directory {
        [] => program.to_vec(),
        [.., b'/'] => [directory, program].concat(),
        _ => [directory, b"/", program].concat(),
    };
    path.as_bytes().split(|&byte| byte == b':').map(in_directory).collect()
}

fn fork(
    plan: &Plan,
    go_read: &PipeReader,
    go_write: &PipeWriter,
    report_read: &PipeReader,
    report_write: &PipeWriter,
) -> io::Result<Process> {
    // A handler of ours must not run in the child: tokio's writes into a pipe the child shares with us, and we would
    // believe the signal was ours. So signals wait until the child has taken the handlers away.
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset writes the whole of `all`, and pthread_sigmask the whole of `before`.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    // SAFETY: the child only makes system calls on memory that `plan` holds ready, and never returns from `child`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: this is the child of the fork above, and `plan` is the parent's, unchanged.
        unsafe {
            libc::close(go_write.as_raw_fd());
            libc::close(report_read.as_raw_fd());
            child(plan, go_read.as_raw_fd(), report_write.as_raw_fd())
        }
    }
    let error = io::Error::last_os_error();
    // SAFETY: `before` was written above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    if pid < 0 {
        return Err(error);
    }
    // SAFETY: pidfd_open(2) (Linux 5.3 and later) has no preconditions. The pid is our child's, which nobody has reaped.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match RawFd::try_from(pidfd) {
        Ok(pidfd) if pidfd >= 0 => {
            // SAFETY: the descriptor is new (close-on-exec by itself) and nobody else's.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Process {
                pid,
                pidfd,
                status: None,
            })
        }
        _ => {
            let error = io::Error::last_os_error();
            // The caller drops the pipe, which ends the child, but it is ours to reap: killed, so as not to wait.
            // SAFETY: the pid is our child's, unreaped, and a null status is allowed.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, ptr::null_mut(), 0);
            }
            Err(error)
        }
    }
}

/// The child's life until exec. Only system calls and memory that is already there; nothing that can panic.
///
/// # Safety
///
/// To be called in a forked child only, with its two ends of the pipes.
unsafe fn child(plan: &Plan, go: RawFd, report: RawFd) -> ! {
    // Handlers first, then the mask: the other way around a signal that waited would meet the parent's handler.
    // SAFETY: `default` is a whole `sigaction` and `none` a whole set. Signals that cannot be set (SIGKILL, SIGSTOP, two
    // of libc's own) answer with an error that changes nothing.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for &signal in &plan.defaults {
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }

    // Groups before the uid, which takes the right to set them. Plain system calls: libc's wrappers tell every thread,
    // with locks; here there is one thread.
    if let Some((uid, gid, groups)) = &plan.identity {
        // SAFETY: `groups` has the length that is given.
        let done = unsafe {
            libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0
                && libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) == 0
                && libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) == 0
        };
        if !done {
            fail(report, Stage::User, errno());
        }
    }

    // EACCES says more than ENOENT, so one candidate that may not be executed outweighs all that are not there.
    let mut refusal = libc::ENOENT;
    let mut found = false;
    for candidate in &plan.candidates {
        match executable(&candidate.path) {
            0 => {
                found = true;
                break;
            }
            libc::ENOENT | libc::ENOTDIR => {}
            error => refusal = error,
        }
    }
    if !found {
        fail(report, Stage::Find, refusal);
    }

    send(
        report,
        Report {
            stage: Stage::Ready,
            errno: 0,
        },
    );
    let mut byte = CANCEL;
    let got = loop {
        // SAFETY: one byte is asked for, and there is room for one.
        let got = unsafe { libc::read(go, (&raw mut byte).cast(), 1) };
        if got >= 0 || errno() != libc::EINTR {
            break got;
        }
    };
    if got != 1 || byte != GO {
        // The profiler has died or changed its mind. Nobody asks for this status.
        // SAFETY: _exit(2) has no preconditions.
        unsafe { libc::_exit(0) };
    }

    let mut refusal = libc::ENOENT;
    for candidate in &plan.candidates {
        // SAFETY: `argv`, `envp` and `shell_argv` are NULL-terminated arrays of strings that `plan` keeps.
        let error = unsafe {
            libc::execve(candidate.path.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr());
            if errno() == libc::ENOEXEC {
                libc::execve(SHELL.as_ptr(), candidate.shell_argv.as_ptr(), plan.envp.as_ptr());
            }
            errno()
        };
        match error {
            // As in the search above, except that a file which is there but lacks its interpreter ends it.
            libc::ENOENT | libc::ENOTDIR if executable(&candidate.path) != 0 => {}
            libc::EACCES => refusal = error,
            error => fail(report, Stage::Exec, error),
        }
    }
    fail(report, Stage::Exec, refusal)
}

/// 0 if `path` is a file that we, with our effective ids, may execute, else why not.
fn executable(path: &CStr) -> i32 {
    let mut metadata = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `path` is NUL-terminated and `metadata` has room for the answer; zeroes are a value of `stat`.
    unsafe {
        if libc::stat(path.as_ptr(), metadata.as_mut_ptr()) != 0 {
            return errno();
        }
        if metadata.assume_init_ref().st_mode & libc::S_IFMT != libc::S_IFREG {
            return libc::EACCES;
        }
        // Real and effective ids are the same by now, so the plain call, which needs no emulation, asks for the right one.
        if libc::access(path.as_ptr(), libc::X_OK) != 0 {
            errno()
        } else {
            0
        }
    }
}

fn fail(report: RawFd, stage: Stage, errno: i32) -> ! {
    send(report, Report { stage, errno });
    // SAFETY: _exit(2) has no preconditions. Nothing of the parent's is flushed or dropped, as it must be.
    unsafe { libc::_exit(i32::from(exit::NOT_FOUND)) }
}

fn send(report: RawFd, message: Report) {
    let bytes = message.to_bytes();
    // SAFETY: the buffer has the length that is given. The pipe is empty, so eight bytes go in whole; if the parent is
    // gone, SIGPIPE ends us, which is what should happen.
    let _ = unsafe { libc::write(report, bytes.as_ptr().cast(), bytes.len()) };
}

fn errno() -> i32 {
    // SAFETY: the pointer is to this thread's errno and always valid.
    unsafe { *libc::__errno_location() }
}

#[cfg(test)]
mod tests;
