//! The flight recorder: a recording that is cut into windows, the last of which are there when something has happened.
//!
//! The recording's loop cuts and goes on; a thread of its own names and writes (`writer`). When that one lags, a few
//! windows wait; then the window that runs is not cut when its time is up, and becomes longer.

mod keep;
pub(crate) mod names;
mod shelf;
mod trigger;
mod writer;

pub use self::{
    keep::Keep,
    shelf::Shelf,
    writer::{Named, Sink},
};

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow};
use profiler_common::stats::COUNTERS;

use self::writer::{Cut, Writer, Written};
use crate::{
    humanize::{bytes, count, duration},
    instruments::measured::Measured,
    summary::Summary,
    window::Window,
};

/// What `--every` and its like ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// How long a window is.
    pub every: Duration,
    /// How many stay.
    pub last: usize,
    pub directory: PathBuf,
    /// A file that asks for the windows around now to be kept.
    pub trigger: Option<PathBuf>,
}

/// Windows that wait to be named, the one at work included. Each holds what it met in memory, and its files open.
const MOST_WAITING: usize = 3;

/// A window that could not be cut so many times is dropped: it takes up ever more memory.
const MOST_MERGED: u64 = 10;

/// Windows of a recording, from the side of its loop.
#[derive(Debug)]
pub struct FlightRecorder {
    every: Duration,
    jobs: SyncSender<Box<Cut>>,
    thread: JoinHandle<Written>,
    keep: Arc<Mutex<Keep>>,
    waiting: Arc<AtomicUsize>,
    messages: Arc<Mutex<Vec<String>>>,
    number: u64,
    began: Instant,
    began_at: SystemTime,
    due: Instant,
    /// Times at which the window that runs was not cut.
    not_cut: u64,
    told: Told,
}

/// What became of all windows.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Where they went.
    pub place: String,
    pub done: Written,
    /// Windows that are longer than was asked for.
    pub merged: u64,
    pub dropped: u64,
}

/// A window that has ended.
pub struct Ended {
    pub window: Window,
    pub measured: Measured,
    /// Without what the instrument has to say.
    pub summary: Summary,
    pub counters: [u64; COUNTERS],
}

/// What is to be done with a window whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    No,
    Cut,
    /// Cut it, and let go of it.
    Drop,
}

impl FlightRecorder {
    /// Starts the thread. `place`: what is said of where windows go. `verbose`: each file is told of.
    pub fn start(
        every: Duration,
        sink: Box<dyn Sink>,
        place: String,
        trigger: Option<PathBuf>,
        command: String,
        verbose: bool,
    ) -> Result<Self> {
        let keep = Arc::new(Mutex::new(Keep::default()));
        let waiting = Arc::new(AtomicUsize::new(0));
        let messages = Arc::new(Mutex::new(Vec::new()));
        let writer = Writer {
            sink,
            keep: Arc::clone(&keep),
            command,
            waiting: Arc::clone(&waiting),
            messages: Arc::clone(&messages),
            verbose,
        };
        // The last window goes in, however many wait.
        let (jobs, to_do) = sync_channel(MOST_WAITING + 1);
        let thread = thread::Builder::new()
            .name("windows".to_owned())
            .spawn(move || writer.work(&to_do))
            .context("failed to start the thread that writes windows")?;
        if let Some(path) = trigger {
            let messages = Arc::clone(&messages);
            trigger::watch(path, &keep, move || say(&messages, KEPT.to_owned()))
                .context("failed to start the thread that watches --trigger")?;
        }
        Ok(Self {
            every,
            jobs,
            thread,
            keep,
            waiting,
            messages,
            number: 0,
            began: Instant::now(),
            began_at: SystemTime::now(),
            due: Instant::now(),
            not_cut: 0,
            told: Told {
                place,
                ..Told::default()
            },
        })
    }

    /// The first window begins.
    pub fn restart(&mut self, now: Instant, now_at: SystemTime) {
        self.number = 0;
        self.due = now;
        self.begin(now, now_at);
    }

    /// A window begins.
    pub fn begin(&mut self, now: Instant, now_at: SystemTime) {
        self.number += 1;
        self.began = now;
        self.began_at = now_at;
        // From when it should have begun, so that an hour has sixty minutes; but none is made up for.
        let on_time = self.due + self.every;
        self.due = if on_time > now { on_time } else { now + self.every };
        self.not_cut = 0;
        if let Ok(mut keep) = self.keep.lock() {
            keep.begin(self.number);
        }
    }

    /// When the window that runs is over.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// What to do now. Says so once where it is not what was asked for.
    pub fn is_due(&mut self, now: Instant) -> Due {
        if now < self.due {
            return Due::No;
        }
        if self.waiting.load(Ordering::Acquire) < MOST_WAITING {
            return Due::Cut;
        }
        self.due = now + self.every;
        self.not_cut += 1;
        if self.not_cut == 1 {
            self.told.merged += 1;
            self.say(format!(
                "the window from {} on becomes longer: those before are still being written",
                names::stamp(self.began_at)
            ));
        }
        if self.not_cut < MOST_MERGED {
            return Due::No;
        }
        self.told.dropped += 1;
        self.say(format!(
            "error: the window from {} on is lost: nothing has been written for {}",
            names::stamp(self.began_at),
            duration(now.duration_since(self.began)),
        ));
        Due::Drop
    }

    /// How long the window that runs is by now.
    pub fn length(&self, now: Instant) -> Duration {
        now.duration_since(self.began)
    }

    /// Hands over the window that ran until now, and begins the next.
    pub fn hand_over(&mut self, ended: Ended, now: Instant) {
        let Ended {
            window,
            measured,
            summary,
            counters,
        } = ended;
        let cut = Cut {
            number: self.number,
            began: self.began_at,
            length: self.length(now),
            window,
            measured,
            summary,
            counters,
        };
        // First: while the window that ended counts as the one that runs, whoever asks is promised the one before it, which
        // the writer may be removing already.
        self.begin(now, SystemTime::now());
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // There is room. Should the thread have died, that is found out in the end.
        let _ = self.jobs.send(Box::new(cut));
    }

    /// Keeps the windows around now from being removed.
    pub fn keep(&mut self) {
        if let Ok(mut keep) = self.keep.lock() {
            keep.ask();
        }
        self.say(KEPT.to_owned());
    }

    /// What there is to say since the last time.
    pub fn messages(&self) -> Vec<String> {
        taken(&self.messages)
    }

    /// Whether windows are still written.
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    pub fn say(&self, line: String) {
        say(&self.messages, line);
    }

    /// Waits until all windows are written.
    pub fn finish(self) -> Result<(Told, Vec<String>)> {
        let Self {
            jobs,
            thread,
            messages,
            mut told,
            ..
        } = self;
        // The thread ends when nothing more can come.
        drop(jobs);
        told.done = thread
            .join()
            .map_err(|_| anyhow!("the thread that writes windows has died"))?;
        Ok((told, taken(&messages)))
    }
}

const KEPT: &str = "the windows around now are kept";

fn say(messages: &Mutex<Vec<String>>, line: String) {
    if let Ok(mut messages) = messages.lock() {
        messages.push(line);
    }
}

fn taken(messages: &Mutex<Vec<String>>) -> Vec<String> {
    messages
        .lock()
        .map(|mut messages| std::mem::take(&mut *messages))
        .unwrap_or_default()
}

impl Told {
    /// What became of the windows, in a line.
    pub fn line(&self) -> String {
        let Written {
            written,
            bytes: size,
            kept,
            failed,
            ..
        } = self.done;
        let mut line = format!("wrote {} to {} ({})", windows(written), self.place, bytes(size));
        let parts = [
            (kept, "kept"),
            (self.merged, "longer than asked for, because writing lagged"),
            (failed + self.dropped, "lost"),
        ];
        for (number, what) in parts.into_iter().filter(|&(number, _)| number > 0) {
            line.push_str(&format!(", {} {what}", count(number)));
        }
        line
    }

    /// Windows that are nowhere.
    pub fn lost(&self) -> u64 {
        self.done.failed + self.dropped
    }
}

/// `1 window`, `2 windows`.
pub fn windows(number: u64) -> String {
    format!("{} window{}", count(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use profiler_common::stats::Counter;

    use super::*;
    use crate::{report::pprof, session::StoppedBy, summary::Cost};

    fn recorder(directory: &std::path::Path) -> FlightRecorder {
        let shelf = Shelf::open(directory, None, 10).unwrap();
        let mut recorder = FlightRecorder::start(
            Duration::from_secs(60),
            Box::new(shelf),
            directory.display().to_string(),
            None,
            "profiler record".to_owned(),
            false,
        )
        .unwrap();
        recorder.restart(
            Instant::now(),
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_961_100),
        );
        recorder
    }

    fn ended(lost: u64) -> Ended {
        let mut counters = [0; COUNTERS];
        counters[Counter::LostRingFull as usize] = lost;
        let window = Window::default();
        let length = Duration::from_secs(60);
        Ended {
            summary: Summary::new(&window, &counters, Cost::default(), length, StoppedBy::Duration, 0),
            window,
            measured: Measured::Samples { period_ns: 10_101_010 },
            counters,
        }
    }

    #[test]
    fn each_window_is_written_under_its_time_and_the_last_one_too() {
        let directory = tempfile::tempdir().unwrap();
        let mut recorder = recorder(directory.path());
        let began = recorder.began;
        recorder.keep();
        recorder.hand_over(ended(7), began + Duration::from_secs(60));
        recorder.hand_over(ended(0), began + Duration::from_secs(70));
        let (told, messages) = recorder.finish().unwrap();
        assert_eq!((told.done.written, told.done.kept, told.lost()), (2, 2, 0));
        assert_eq!(messages, [KEPT]);
        let first = directory.path().join("2026-11-29T14-05-00Z.kept.pb.gz");
        let profile = pprof::read(&std::fs::read(first).unwrap()).unwrap();
        assert_eq!(
            profile.comments[1],
            "window 1: from 2026-11-29T14-05-00Z on, 1 min 00 s"
        );
        let lost = "lost: 7 samples because the ring buffer was full";
        assert!(
            profile.comments.iter().any(|line| line == lost),
            "{:?}",
            profile.comments
        );
        assert_eq!(profile.duration_ns, 60_000_000_000);
    }

    #[test]
    fn a_window_is_due_when_its_time_is_up_and_an_hour_has_sixty_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let mut recorder = recorder(directory.path());
        let began = recorder.began;
        let minutes = |minutes: u64| began + Duration::from_secs(60 * minutes);
        assert_eq!(recorder.is_due(minutes(1) - Duration::from_millis(1)), Due::No);
        // Each is seen a little late.
        for minute in 1..=60 {
            let seen = minutes(minute) + Duration::from_millis(40);
            assert_eq!(recorder.is_due(seen), Due::Cut);
            recorder.begin(seen, SystemTime::now());
            assert_eq!(recorder.due(), minutes(minute + 1));
        }
        // What was slept through is not made up for.
        recorder.begin(minutes(100), SystemTime::now());
        assert_eq!(recorder.due(), minutes(101));
    }

    #[test]
    fn where_writing_lags_a_window_becomes_longer_then_it_is_lost_and_both_are_said() {
        let directory = tempfile::tempdir().unwrap();
        let mut recorder = recorder(directory.path());
        recorder.waiting.store(MOST_WAITING, Ordering::Relaxed);
        let mut now = recorder.due();
        for _ in 1..MOST_MERGED {
            assert_eq!(recorder.is_due(now), Due::No);
            assert!(recorder.due() > now, "the next time to try is to come");
            now = recorder.due();
        }
        assert_eq!(recorder.is_due(now), Due::Drop);
        recorder.begin(now, SystemTime::now());
        recorder.waiting.store(MOST_WAITING - 1, Ordering::Relaxed);
        assert_eq!(recorder.is_due(recorder.due()), Due::Cut);
        let messages = recorder.messages();
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert!(messages[0].ends_with("becomes longer: those before are still being written"));
        assert!(messages[1].starts_with("error: the window from ") && messages[1].contains("is lost"));
        let (told, _) = recorder.finish().unwrap();
        assert_eq!((told.merged, told.lost()), (1, 1));
    }
}
