//! What stops an agent from looking at all: a file that somebody makes, or a machine that has no CPU time to spare.

use std::{
    fs,
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

/// Once there was too much pressure, it is on again at this part of the limit: else it would come and go.
const WELL_BELOW: f64 = 0.5;

#[derive(Clone, Debug)]
pub struct Switch {
    stop_file: Option<PathBuf>,
    /// In percent.
    max_pressure: Option<f64>,
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
            max_pressure: options.max_pressure,
        }
    }

    /// Why nothing is to be looked at, if so. `is_off`: nothing is.
    ///
    /// What cannot be looked for is not there: a switch in a directory that was removed, or a kernel that does not tell of
    /// pressure, must not keep the agent from working for good.
    pub fn off(&self, is_off: bool) -> Option<String> {
        let by_file = self.stop_file.as_ref().filter(|path| path.symlink_metadata().is_ok());
        if let Some(path) = by_file {
            return Some(format!("{} is there", path.display()));
        }
        let limit = self.max_pressure?;
        let pressure = cpu_pressure(&fs::read_to_string("/proc/pressure/cpu").ok()?)?;
        let from = if is_off { limit * WELL_BELOW } else { limit };
        (pressure > from)
            .then(|| format!("something waits for a CPU {pressure:.0} % of the time (cpu-pressure: {limit:.0})"))
    }

    /// Asks for the end of a session when the switch goes off.
    pub fn watch(&self, ask: Sender<StoppedBy>) -> anyhow::Result<Watcher> {
        let (hold, held) = hold::<()>();
        let switch = self.clone();
        let work = move || {
            while held.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                if switch.off(false).is_some() {
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

/// `some avg10=12.34 avg60=…` (Documentation/accounting/psi.rst).
fn cpu_pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ')
        .find_map(|field| field.strip_prefix("avg10="))?
        .parse()
        .ok()
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.hold.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_turns_it_off_and_one_that_cannot_be_looked_for_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stop");
        let switch = Switch {
            stop_file: Some(path.clone()),
            max_pressure: None,
        };
        assert_eq!(switch.off(false), None);
        fs::write(&path, "").unwrap();
        assert_eq!(switch.off(false), Some(format!("{} is there", path.display())));
        drop(directory);
        assert_eq!(switch.off(true), None);
    }

    #[test]
    fn pressure_is_what_the_kernel_says_of_the_last_ten_seconds() {
        let text = "some avg10=12.34 avg60=1.00 avg300=0.10 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(cpu_pressure(text), Some(12.34));
        for other in ["", "some", "some avg10=", "full avg10=1.00"] {
            assert_eq!(cpu_pressure(other), None, "{other}");
        }
    }
}
