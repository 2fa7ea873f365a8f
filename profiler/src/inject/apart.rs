//! The process that stops others: `profiler-tracer`, a child of the profiler that does nothing else.
//!
//! Why: the kernel lets a thread go with whatever registers it has when its tracer dies. If that is the profiler, whoever kills
//! it within a stop ends the program that it looks at. So a stop is never the profiler's: from the seizing of a thread to its
//! release all is done by a process that nobody aims at, and that ends a step which it has begun, whatever becomes of its parent.
//!
//! | what could end it within a stop | why it does not |
//! |---|---|
//! | SIGKILL, a crash or a panic of the profiler | it is another process; nothing ties it to its parent's life (`PR_SET_PDEATHSIG` would be what this is about) |
//! | Ctrl-C, Ctrl-Z or a hangup of the terminal | it is in a session of its own |
//! | SIGTERM to a group, a service or all processes | all signals are blocked before it runs |
//! | want of memory | `oom_score_adj` is -1000 where it may be set so, which also exempts it where the kernel ends a cgroup as one |
//! | a reader that has gone, a full disk | it writes nothing but answers, and SIGPIPE is blocked |
//!
//! Left is SIGKILL of this very process, or of all processes of its cgroup, within a stop, and the loss of the machine.
//!
//! It runs the same program again instead of going on in a fork: of a process with threads, a fork may be left with an
//! allocator or a lock that a thread which does not exist there was about to release. It starts before the first stop and ends
//! with its parent's end of the socket, so that nothing that can fail at starting (no process, no memory) stands before the
//! last stop, which puts things back. Should it have been killed in between, another is started.
//!
//! Orders and answers are JSON with its length before it, bounded. An order that changes something is not carried out if the
//! profiler is gone by then. What a profiler that was killed leaves installed stays so, for two reasons: stubs whose allowance
//! is not renewed go to sleep by themselves, and `profiler undo` must be able to do the rest anyway, because what ends the
//! profiler (a container, a service) often ends this process, too. Two that put back at a time, one of them without being asked,
//! would get into each other's way.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    journal::{Identity, Journal},
    layout, stops,
    tracer::TraceError,
};
use crate::exit;

/// Its name in `ps`, as long as the kernel lets names be. Who is started under it is the tracer.
pub const NAME: &str = "profiler-tracer";
/// A journal is the largest part of a message, and no larger than this.
const LARGEST: u32 = 64 << 10;
/// The kernel ends others first, and never this one.
const SPARED: &str = "-1000";

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Map {
        process: Identity,
        originals: [u64; 4],
        bytes_per_sample: u64,
    },
    Swap {
        journal: Journal,
        list: u64,
        jobs: usize,
    },
}

impl Order {
    /// It leaves less behind than there was.
    fn puts_back(&self) -> bool {
        matches!(
            self,
            Self::Swap {
                list: layout::REMOVE,
                ..
            }
        )
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// The file stays open under that number until the next order.
    Mapped {
        base: u64,
        descriptor: RawFd,
        took: Duration,
    },
    /// Nothing if the process is gone.
    Swapped {
        done: Option<(u64, Duration)>,
    },
    Gone {
        tid: u32,
    },
    Failed {
        why: String,
    },
}

/// The tracer, from the profiler's side: started with the first order, or by [`Self::start`].
#[derive(Debug, Default)]
pub struct Tracer(Option<Running>);

#[derive(Debug)]
struct Running {
    child: Child,
    /// Closed before the child is waited for.
    socket: Option<UnixStream>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends by that, when it has finished what it is at.
        drop(self.socket.take());
        let _ = self.child.wait();
    }
}

impl Tracer {
    /// Starts it, so that nothing has to be started any more when something must be put back.
    ///
    /// # Errors
    /// If no process can be started.
    pub fn start(&mut self) -> Result<(), TraceError> {
        if self.0.is_none() {
            self.0 = Some(start().map_err(TraceError::Start)?);
        }
        Ok(())
    }

    /// Has a process map the range: [`stops::map`].
    ///
    /// # Errors
    /// As there, and if the tracer was killed.
    pub fn map(
        &mut self,
        process: Identity,
        originals: [u64; 4],
        bytes_per_sample: u64,
    ) -> Result<(u64, File, Duration), TraceError> {
        let order = Order::Map {
            process,
            originals,
            bytes_per_sample,
        };
        match self.order(process.pid, &order)? {
            Answer::Mapped { base, descriptor, took } => {
                let file = self.open(descriptor).map_err(|source| TraceError::Call {
                    what: "opening its memfd",
                    source,
                })?;
                Ok((base, file, took))
            }
            other => Err(failure(process.pid, other)),
        }
    }

    /// Has a process do a list of jobs: [`stops::swap`].
    ///
    /// # Errors
    /// As there, and if the tracer was killed.
    pub fn swap(&mut self, journal: &Journal, list: u64, jobs: usize) -> Result<Option<(u64, Duration)>, TraceError> {
        let pid = journal.process.pid;
        let journal = journal.clone();
        match self.order(pid, &Order::Swap { journal, list, jobs })? {
            Answer::Swapped { done } => Ok(done),
            other => Err(failure(pid, other)),
        }
    }

    fn order(&mut self, pid: u32, order: &Order) -> Result<Answer, TraceError> {
        self.start()?;
        let socket = self.0.as_mut().and_then(|running| running.socket.as_mut());
        let answered = socket.map(|socket| {
            send(socket, order)?;
            receive(socket)
        });
        match answered {
            Some(Ok(Some(answer))) => Ok(answer),
            // The next order has another one.
            _ => {
                self.0 = None;
                Err(TraceError::Lost { pid })
            }
        }
    }

    /// A file that the tracer has open. It is opened through /proc, like that of the process before it: no more than a
    /// number has to be passed.
    fn open(&self, descriptor: RawFd) -> io::Result<File> {
        let tracer = self.0.as_ref().map_or(0, |running| running.child.id());
        let path = PathBuf::from(format!("/proc/{tracer}/fd/{descriptor}"));
        if fs::read_link(&path)? != Path::new(stops::FILE_NAME) {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        OpenOptions::new().read(true).write(true).open(path)
    }
}

fn failure(pid: u32, answer: Answer) -> TraceError {
    match answer {
        Answer::Gone { tid } => TraceError::Gone { tid },
        Answer::Failed { why } => TraceError::Told(why),
        Answer::Mapped { .. } | Answer::Swapped { .. } => TraceError::Lost { pid },
    }
}

fn start() -> io::Result<Running> {
    let (ours, theirs) = UnixStream::pair()?;
    // The program that runs, also if its file was replaced or removed since.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(NAME)
        .current_dir("/")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: what it calls may be called between fork and exec, and it uses nothing but its own stack.
    unsafe { command.pre_exec(set_apart) };
    let child = command.spawn()?;
    Ok(Running {
        child,
        socket: Some(ours),
    })
}

/// Between fork and exec.
fn set_apart() -> io::Result<()> {
    /// What libc does not name everywhere (include/uapi/linux/close_range.h).
    const CLOSE_ON_EXEC: libc::c_uint = 1 << 2;
    // SAFETY: system calls, and a set on the stack. What a child may not do after a fork is not among them.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        if libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) != 0 || libc::setsid() < 0 {
            return Err(io::Error::last_os_error());
        }
        // Probes and the like end with the profiler, not with us. Ours are closed on exec anyway; a kernel that does not know
        // the call (before 5.11) changes nothing in that.
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOSE_ON_EXEC);
    }
    Ok(())
}

/// Whether this process was started to be the tracer.
pub fn is_wanted() -> bool {
    let mut words = std::env::args_os();
    words.next().is_some_and(|name| name == NAME) && words.next().is_none()
}

/// Serves its parent until that closes its end, or is gone. What standard input is, who started it has decided.
pub fn serve() -> u8 {
    // SAFETY: a terminated name; of the calling thread.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"profiler-tracer".as_ptr()) };
    // Where that is not permitted, it has the chances of any process of its size.
    let _ = fs::write("/proc/self/oom_score_adj", SPARED);
    // SAFETY: standard input is nobody else's here, and is used by this value only.
    let mut socket = UnixStream::from(unsafe { OwnedFd::from_raw_fd(libc::STDIN_FILENO) });
    let mut kept = None;
    loop {
        let order = match receive::<Order>(&mut socket) {
            Ok(Some(order)) => order,
            Ok(None) => return exit::SUCCESS,
            Err(_) => return exit::FAILURE,
        };
        if !order.puts_back() && is_alone(&socket) {
            return exit::SUCCESS;
        }
        let answer = carry_out(order, &mut kept);
        if send(&mut socket, &answer).is_err() {
            return exit::SUCCESS;
        }
    }
}

fn carry_out(order: Order, kept: &mut Option<File>) -> Answer {
    let done = match order {
        Order::Map {
            process,
            originals,
            bytes_per_sample,
        } => stops::map(process, originals, bytes_per_sample).map(|(base, file, took)| Answer::Mapped {
            base,
            descriptor: kept.insert(file).as_raw_fd(),
            took,
        }),
        Order::Swap { journal, list, jobs } => {
            // It has been opened by now.
            *kept = None;
            stops::swap(&journal, list, jobs).map(|done| Answer::Swapped { done })
        }
    };
    done.unwrap_or_else(|error| match error {
        TraceError::Gone { tid } => Answer::Gone { tid },
        other => Answer::Failed { why: other.to_string() },
    })
}

/// Whether the other end is closed.
fn is_alone(socket: &UnixStream) -> bool {
    let mut asked = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: one structure, which is live and writable.
    let told = unsafe { libc::poll(&raw mut asked, 1, 0) };
    told > 0 && asked.revents & (libc::POLLHUP | libc::POLLERR) != 0
}

fn send(socket: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).ok().filter(|&length| length <= LARGEST);
    let length = length.ok_or(io::ErrorKind::InvalidData)?;
    // In one piece: who dies in between has not asked.
    socket.write_all(&[&length.to_le_bytes()[..], &text].concat())
}

/// Nothing if the other end was closed before a message began.
fn receive<T: DeserializeOwned>(socket: &mut UnixStream) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match socket.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length > LARGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length as usize];
    socket.read_exact(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    #[test]
    fn orders_and_answers_arrive_as_they_were_sent_and_an_end_between_two_is_no_error() {
        let (mut ours, mut theirs) = pair();
        let us = Identity::of(std::process::id()).unwrap();
        let journal = Journal::begun(us, us);
        let order = |list| Order::Swap {
            journal: journal.clone(),
            list,
            jobs: 8,
        };
        for (list, puts_back) in [(layout::INSTALL, false), (layout::REMOVE, true)] {
            send(&mut ours, &order(list)).unwrap();
            let got: Order = receive(&mut theirs).unwrap().unwrap();
            assert_eq!(format!("{got:?}"), format!("{:?}", order(list)));
            assert_eq!(got.puts_back(), puts_back);
        }
        assert!(!is_alone(&theirs));
        send(&mut ours, &order(layout::INSTALL)).unwrap();
        drop(ours);
        // What was asked can still be read, and who asked is known to be gone.
        assert!(is_alone(&theirs));
        assert!(receive::<Order>(&mut theirs).unwrap().is_some());
        assert!(receive::<Order>(&mut theirs).unwrap().is_none());
    }

    #[test]
    fn a_message_that_is_too_long_is_neither_sent_nor_read() {
        let (mut ours, mut theirs) = pair();
        let why = "x".repeat(LARGEST as usize);
        assert!(send(&mut ours, &Answer::Failed { why }).is_err());
        ours.write_all(&(LARGEST + 1).to_le_bytes()).unwrap();
        assert!(receive::<Answer>(&mut theirs).is_err());
    }

    proptest::proptest! {
        #[test]
        fn bytes_that_are_no_message_are_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 4..100)) {
            let (mut ours, mut theirs) = pair();
            ours.write_all(&bytes).unwrap();
            drop(ours);
            proptest::prop_assert!(receive::<Order>(&mut theirs).is_err());
        }
    }
}
