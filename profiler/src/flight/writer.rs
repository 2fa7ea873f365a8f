//! The thread that gives windows their names and writes them, while the recording goes on.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use profiler_common::stats::COUNTERS;

use super::{keep::Keep, names};
use crate::{
    humanize,
    instruments::{content::Content, measured::Measured},
    name::Namer,
    output::Written as InFile,
    summary::Summary,
    window::Window,
};

/// How often to look whether something is to be kept.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A window that is over.
pub struct Cut {
    pub number: u64,
    pub began: SystemTime,
    pub length: Duration,
    pub window: Window,
    pub measured: Measured,
    /// What it came to, what is missing, what it cost, as far as that is known without names: for its file.
    pub summary: Summary,
    /// What the kernel side counted in it.
    pub counters: [u64; COUNTERS],
}

/// A window that has its names.
pub struct Named {
    /// From 1 on.
    pub number: u64,
    pub began: SystemTime,
    pub length: Duration,
    /// What was measured: one for each joint, or of the only instrument.
    pub contents: Vec<Content>,
    pub summary: Summary,
    /// Somebody wants it for longer than others.
    pub kept: bool,
}

/// Where windows go.
pub trait Sink: Send {
    /// Takes a window, whole or not at all.
    fn take(&mut self, window: &Named) -> anyhow::Result<InFile>;

    /// Gives those that are kept their name, and removes what is too old. Returns how many became kept.
    fn tidy(&mut self, _keep: &Keep) -> anyhow::Result<u64> {
        Ok(0)
    }

    /// No more windows will come.
    fn finish(&mut self) {}
}

/// What became of the windows.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub written: u64,
    pub bytes: u64,
    pub kept: u64,
    pub failed: u64,
    /// The longest that naming and writing one took.
    pub longest: Duration,
    pub named_in: Duration,
}

pub struct Writer {
    pub sink: Box<dyn Sink>,
    pub keep: Arc<Mutex<Keep>>,
    /// The command line, which each file has.
    pub command: String,
    /// Windows that wait for us.
    pub waiting: Arc<AtomicUsize>,
    /// What is to be said to the user, who may have a progress line that must not be torn.
    pub messages: Arc<Mutex<Vec<String>>>,
    /// Each file is told of.
    pub verbose: bool,
}

impl Writer {
    /// Works until nothing more can come.
    pub fn work(mut self, cuts: &Receiver<Box<Cut>>) -> Written {
        let mut namer = Namer::keeping();
        let mut done = Written::default();
        loop {
            match cuts.recv_timeout(LOOK_EVERY) {
                Ok(cut) => {
                    self.write(&mut namer, *cut, &mut done);
                    give_back();
                    self.waiting.fetch_sub(1, Ordering::Release);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tidy(&mut done);
        }
        self.sink.finish();
        done
    }

    fn write(&mut self, namer: &mut Namer, cut: Cut, done: &mut Written) {
        let Cut {
            number,
            began,
            length,
            mut window,
            measured,
            mut summary,
            counters,
        } = cut;
        let started = Instant::now();
        let mut contents = measured.name(&mut window, namer, &counters, length, &mut summary);
        let nanos = |time: u128| i64::try_from(time).unwrap_or(i64::MAX);
        let about = format!(
            "window {number}: from {} on, {}",
            names::stamp(began),
            humanize::duration(length)
        );
        for line in summary.memory.iter().flat_map(|memory| &memory.victims) {
            self.say(line.clone());
        }
        let comments: Vec<String> = [self.command.clone(), about]
            .into_iter()
            .chain(summary.lines())
            .collect();
        for profile in contents.iter_mut().filter_map(Content::profile_mut) {
            profile.started_at_ns = nanos(began.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos());
            profile.duration_ns = nanos(length.as_nanos());
            profile.comments.clone_from(&comments);
        }
        // Its files are closed before those of the next one are opened.
        drop(window);
        let kept = self.keep.lock().is_ok_and(|keep| keep.is_kept(number));
        done.named_in += started.elapsed();
        let named = Named {
            number,
            began,
            length,
            contents,
            summary,
            kept,
        };
        let written = self.sink.take(&named);
        done.longest = done.longest.max(started.elapsed());
        match written {
            Ok(written) => {
                done.written += 1;
                done.kept += u64::from(kept);
                done.bytes += written.bytes;
                if let (true, Some(path)) = (self.verbose, &written.path) {
                    self.say(format!(
                        "wrote {} ({}) in {}",
                        path.display(),
                        humanize::bytes(written.bytes),
                        humanize::duration(started.elapsed())
                    ));
                }
            }
            Err(error) => {
                done.failed += 1;
                self.say(format!(
                    "error: the window from {} on is lost: {error:#}",
                    names::stamp(began)
                ));
            }
        }
        if let Ok(mut keep) = self.keep.lock() {
            // The one that is before the next is the oldest that can still be asked for.
            keep.forget_before(number.saturating_sub(1));
        }
    }

    fn tidy(&mut self, done: &mut Written) {
        // A copy: who asks must not wait for a disk.
        let Ok(keep) = self.keep.lock().map(|keep| keep.clone()) else {
            return;
        };
        match self.sink.tidy(&keep) {
            Ok(kept) => done.kept += kept,
            Err(error) => self.say(format!("error: {error:#}")),
        }
    }

    fn say(&self, line: String) {
        if let Ok(mut messages) = self.messages.lock() {
            messages.push(line);
        }
    }
}

/// Gives the memory that naming took back to the system: symbols of one window are as large as all the rest, and pieces of
/// them would stay between what is kept.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
