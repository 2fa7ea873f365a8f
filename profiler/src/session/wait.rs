//! What a recording waits for: its time, its command, the kernel's buffers, and signals.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use anyhow::Context as _;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time::sleep_until,
};

use crate::{
    exit,
    launch::{self, Running},
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
