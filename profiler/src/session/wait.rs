//! What a recording waits for: its time, its command, the kernel's buffers, and signals.

use std::{
    io::{self, Write as _},
    os::fd::{BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::Context as _;
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc::Receiver},
    time::sleep_until,
};

use super::StoppedBy;
use crate::{
    exit,
    launch::{self, Running},
    output,
};

/// Registers a copy of a file descriptor, so that its owner can go on using it.
pub(super) fn watch(fd: BorrowedFd<'_>, what: &str) -> anyhow::Result<AsyncFd<OwnedFd>> {
    let fd = fd
        .try_clone_to_owned()
        .with_context(|| format!("failed to watch {what}"))?;
    // SAFETY: the descriptor is owned, and stays open until the `AsyncFd` around it is dropped.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(io::Error::from)
        .with_context(|| format!("failed to watch {what}"))
}

pub(super) async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Who else can end a recording does so.
pub(super) async fn asked(control: Option<&mut Receiver<StoppedBy>>) -> StoppedBy {
    let asked = match control {
        Some(control) => control.recv().await,
        None => None,
    };
    match asked {
        Some(why) => why,
        // Nobody can, or can any more.
        None => std::future::pending().await,
    }
}

pub(super) async fn ended(child: Option<&AsyncFd<OwnedFd>>) -> anyhow::Result<()> {
    match child {
        Some(child) => {
            child
                .readable()
                .await
                .context("failed to watch the command")?
                .retain_ready();
            Ok(())
        }
        None => std::future::pending().await,
    }
}

/// Waits for the command, passing on signals that are meant for it; its exit status.
pub(super) async fn wait(child: &mut Running, signals: &mut Signals) -> anyhow::Result<u8> {
    let ended_fd = watch(child.pidfd(), "the command")?;
    loop {
        tokio::select! {
            ended = ended(Some(&ended_fd)) => {
                ended?;
                return Ok(exit::of_child(child.wait().context("failed to wait for the command")?));
            }
            received = signals.next() => {
                if launch::must_forward(received) {
                    child.signal(received).context("failed to forward a signal to the command")?;
                }
            }
        }
    }
}

/// Set while a pipe has no reader: nothing is lost that anybody waits for.
static WAITS_FOR_READER: AtomicBool = AtomicBool::new(false);

/// Runs `work` in which the signals are only looked after by us.
pub(super) fn waits_for_reader<T>(work: impl FnOnce() -> T) -> T {
    WAITS_FOR_READER.store(true, Ordering::Relaxed);
    let result = work();
    WAITS_FOR_READER.store(false, Ordering::Relaxed);
    result
}

/// Does the last part of a recording, which computes and writes, while another thread looks after signals: what blocks,
/// or takes long, can be given up. The first Ctrl-C may have been meant for the recording, and only the second ends it;
/// where a pipe has no reader, the first one does.
pub(super) fn finishing<T>(
    runtime: &Runtime,
    signals: Option<&mut Signals>,
    child: Option<&Running>,
    work: impl FnOnce() -> T,
) -> T {
    let Some(signals) = signals else { return work() };
    // While a command runs, a signal is its affair.
    let child = child.filter(|child| !child.has_ended());
    let done = Notify::new();
    /// Also if the work panics: the thread is waited for.
    struct Done<'a>(&'a Notify);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    thread::scope(|scope| {
        let look = || {
            runtime.block_on(async {
                tokio::select! {
                    () = done.notified() => {}
                    () = until_given_up(signals, child) => {
                        output::remove_partial();
                        let _ = writeln!(io::stderr(), "error: given up before everything was written");
                        std::process::exit(exit::FAILURE.into());
                    }
                }
            });
        };
        // Without the thread, signals wait until all is written.
        let _ = thread::Builder::new().spawn_scoped(scope, look);
        let _done = Done(&done);
        work()
    })
}

async fn until_given_up(signals: &mut Signals, child: Option<&Running>) {
    let mut asked = false;
    loop {
        let received = signals.next().await;
        if let Some(child) = child
            && launch::must_forward(received)
        {
            // One that is gone needs none.
            let _ = child.signal(received);
        }
        if !matches!(received, libc::SIGINT | libc::SIGTERM | libc::SIGHUP) {
            continue;
        }
        let waits = WAITS_FOR_READER.load(Ordering::Relaxed);
        if waits || (asked && child.is_none()) {
            return;
        }
        if child.is_none() {
            let _ = writeln!(
                io::stderr(),
                "the recording is over and is being written; once more gives it up"
            );
            asked = true;
        }
    }
}

/// A shell without job control starts `profiler … &` with SIGINT ignored, and its scripts stop it with `kill -INT`, as
/// they do perf. SIGHUP stays ignored under nohup.
const ALWAYS_HANDLED: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

/// The signals that mean something to a recording.
pub(super) struct Signals {
    signals: Vec<(i32, Signal)>,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let wanted = [
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGUSR1,
            libc::SIGUSR2,
        ];
        let signals = wanted
            .into_iter()
            .filter(|&number| ALWAYS_HANDLED.contains(&number) || !launch::is_ignored(number))
            .map(|number| {
                Ok((
                    number,
                    signal(SignalKind::from_raw(number)).context("failed to handle signals")?,
                ))
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { signals })
    }

    pub(super) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.signals {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
