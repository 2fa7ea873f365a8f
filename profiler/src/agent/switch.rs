//! What stops an agent from looking at all: a file that somebody makes.

use std::{
    path::PathBuf,
    sync::mpsc::{RecvTimeoutError, Sender as Hold, channel as hold},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::mpsc::Sender;

use super::options::Options;
use crate::session::StoppedBy;

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
pub struct Switch {
    stop_file: Option<PathBuf>,
}

/// The thread that looks; it ends with this.
pub struct Watcher {
    hold: Option<Hold<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    pub fn of(options: &Options) -> Self {
        Self {
            stop_file: options.stop_file.clone(),
        }
    }

    /// Why nothing is to be looked at, if so. What cannot be looked for is not there: a switch in a directory that was
    /// removed must not keep the agent from working for good.
    pub fn off(&self) -> Option<String> {
        let path = self.stop_file.as_ref()?;
        path.symlink_metadata()
            .is_ok()
            .then(|| format!("{} is there", path.display()))
    }

    /// Asks for the end of a session when the switch goes off.
    pub fn watch(&self, ask: Sender<StoppedBy>) -> anyhow::Result<Watcher> {
        let (hold, held) = hold::<()>();
        let switch = self.clone();
        let work = move || {
            while held.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                if switch.off().is_some() {
                    // Asked once already, or the session is over.
                    let _ = ask.try_send(StoppedBy::Switch);
                    return;
                }
            }
        };
        let thread = thread::Builder::new()
            .name("switch".to_owned())
            .spawn(work)
            .context("failed to start the thread that watches --stop-file")?;
        Ok(Watcher {
            hold: Some(hold),
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.hold.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
