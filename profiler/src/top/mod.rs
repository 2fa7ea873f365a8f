//! `profiler top`: what all Pythons of the machine do now, refreshed while one looks.
//!
//! ```text
//! session::live ──Look──▶ digest ──Snapshot──▶ view ──▶ screen        (or view::text, json: --once)
//!  the engine's thread     its own thread       the screen's thread, with what was typed (state)
//! ```
//!
//! | module | does |
//! |---|---|
//! | `options` | what is asked for |
//! | `facts`, `gil` | what /proc says; looks at who has the GIL |
//! | `digest` | windows to snapshots: `samples`, `lines` (the one of each process), `names` |
//! | `snapshot` | plain values, all that is shown |
//! | `rows`, `state` | which rows in which order; what was typed, and what keys do |
//! | `view` | both to cells (ratatui) |
//! | `screen`, `faults` | the terminal (crossterm); what a panic has to say |
//! | `json` | a snapshot for programs |

pub mod digest;
pub mod facts;
mod faults;
pub mod gil;
pub mod json;
pub mod options;
pub mod rows;
pub mod screen;
pub mod snapshot;
pub mod state;
pub mod view;

use std::{
    io::{self, Write as _},
    sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    thread,
};

use anyhow::{Context as _, anyhow};

use self::{
    digest::{Digest, Look},
    gil::GilLooks,
    options::Options,
    screen::Screen,
    snapshot::Snapshot,
    state::State,
};
use crate::{
    exit, progress,
    recording::Recording,
    session::live::{self, Seen, Walked, Watcher, Whom, Wishes},
};

/// Columns where nobody says how many there are.
const COLUMNS: u16 = 160;
/// Windows that wait to be named. When more do, the next ones are left out, which the refresh after them says.
const MOST_WAITING: usize = 2;

/// Watches as `options` says; returns the program's exit status.
pub fn run(options: &Options) -> anyhow::Result<u8> {
    if !options.once {
        screen::check()?;
    }
    let prepared = live::prepare(&options.config(), options.whom())?;
    let shows_all = options.whom() == Whom::Targets;
    let mut digest = Digest::new(options.period_ns(), shows_all);
    let processes = prepared.processes();
    digest.begin(processes.iter().map(|(pid, _)| *pid));
    if shows_all && !processes.is_empty() && processes.iter().all(|(_, walked)| *walked != Walked::Yes) {
        return Err(nothing_to_see(&processes));
    }

    let wishes = Wishes::default();
    let (looks, to_do) = sync_channel::<Box<Look>>(MOST_WAITING);
    let (snapshots, shown) = channel::<Snapshot>();
    let instruments = instruments(options);
    let digests = thread::Builder::new()
        .name("digest".to_owned())
        .spawn(move || work(digest, &instruments, &to_do, &snapshots))
        .context("failed to start the thread that names")?;
    let mut watching = Watching::new(looks, options.once);
    if options.once {
        prepared.run(options.interval, &wishes, &mut watching)?;
        drop(watching);
        let snapshot = shown.recv().ok();
        digests.join().map_err(|_| anyhow!("the thread that names has died"))?;
        let snapshot = snapshot.context("it was ended before the first refresh")?;
        return print(options, &snapshot);
    }
    let screen = Screen::start(shown, State::new(options.group), wishes.clone())?;
    let watched = prepared.run(options.interval, &wishes, &mut watching);
    // First the terminal is given back, then what went wrong is said there.
    let drawn = screen.finish();
    drop(watching);
    watched.and(drawn)?;
    Ok(exit::SUCCESS)
}

fn nothing_to_see(processes: &[(u32, Walked)]) -> anyhow::Error {
    let why: Vec<String> = processes
        .iter()
        .take(4)
        .map(|(pid, walked)| match walked {
            Walked::Refused(reason) => format!("process {pid} runs {reason}"),
            Walked::Yes | Walked::No => format!("process {pid} runs no CPython"),
        })
        .collect();
    anyhow!(
        "there is no Python to watch: {}; -s watches what it has started, and `profiler top` without a pid all Pythons",
        why.join("; ")
    )
}

fn instruments(options: &Options) -> Vec<String> {
    let mut on = vec![format!("on: CPU clock {} Hz", options.rate_hz)];
    if options.waits {
        on.push("waits".to_owned());
    }
    on.push("GIL".to_owned());
    on
}

/// Names what was measured until nothing more comes.
fn work(mut digest: Digest, instruments: &[String], looks: &Receiver<Box<Look>>, snapshots: &Sender<Snapshot>) {
    while let Ok(look) = looks.recv() {
        let mut snapshot = digest.take(*look);
        snapshot.instruments = instruments.to_vec();
        if snapshots.send(snapshot).is_err() {
            break;
        }
    }
}

/// From the engine's loop: looks at the GIL, and hands windows over.
struct Watching {
    gil: GilLooks,
    looks: SyncSender<Box<Look>>,
    once: bool,
    /// Windows that found no room since one did.
    left_out: u64,
}

impl Watching {
    fn new(looks: SyncSender<Box<Look>>, once: bool) -> Self {
        Self {
            gil: GilLooks::default(),
            looks,
            once,
            left_out: 0,
        }
    }
}

impl Watcher for Watching {
    fn look(&mut self, host: &Recording) {
        self.gil.look(host);
    }

    fn take(&mut self, seen: Seen) -> bool {
        let gil = self
            .gil
            .cut(|pid| seen.processes.iter().any(|(other, _)| *other == pid));
        self.gil.learn(&seen.measured, seen.length);
        let left_out = self.left_out;
        let look = Look { seen, gil, left_out };
        self.left_out = match self.looks.try_send(Box::new(look)) {
            Ok(()) => 0,
            Err(TrySendError::Full(_)) => left_out + 1,
            Err(TrySendError::Disconnected(_)) => return false,
        };
        !self.once
    }
}

/// Whoever reads may leave early.
fn print(options: &Options, snapshot: &Snapshot) -> anyhow::Result<u8> {
    let state = State::new(options.group);
    let mut out = io::stdout().lock();
    let written = match options.json {
        true => json::write(snapshot, &state, &mut out),
        false => {
            let columns = u16::try_from(progress::stdout_columns()).unwrap_or(COLUMNS);
            let text = view::text(snapshot, &state, screen::look(), columns);
            out.write_all(text.as_bytes())
        }
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("failed to write"),
        _ => Ok(exit::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use profiler_common::stats::COUNTERS;

    use super::*;
    use crate::{instruments::measured::Measured, window::Window};

    fn seen() -> Seen {
        Seen {
            window: Window::default(),
            measured: Measured::Samples { period_ns: 1 },
            counters: [0; COUNTERS],
            not_unwound: 0,
            length: Duration::from_secs(1),
            ended: Instant::now(),
            processes: Vec::new(),
        }
    }

    #[test]
    fn the_refresh_after_those_that_found_no_room_says_so_first_and_later_ones_do_not() {
        let (looks, to_do) = sync_channel(MOST_WAITING);
        let mut watching = Watching::new(looks, false);
        for _ in 0..MOST_WAITING + 2 {
            assert!(watching.take(seen()), "it goes on");
        }
        let mut digest = Digest::new(1, true);
        let mut notes = || digest.take(*to_do.recv().expect("a window")).notes;
        for _ in 0..MOST_WAITING {
            assert_eq!(notes(), [""; 0]);
        }
        assert!(watching.take(seen()) && watching.take(seen()));
        let said = "2 screens left out, naming took too long (-d 2s looks less often)";
        assert_eq!((notes(), notes()), (vec![said.to_owned()], Vec::new()));
        drop(to_do);
        assert!(!watching.take(seen()), "nobody looks any more");
    }
}
