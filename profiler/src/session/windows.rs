//! What a recording does besides when it is cut into windows: it says what each of them came to.

use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, anyhow};
use profiler_common::stats::{COUNTERS, Counter};

use super::{StoppedBy, command_line, compiled, shrunk, unopened, unsuited::UnmatchedName};
use crate::{
    bpf::{Kernel, Tables},
    config::{Config, Verbosity},
    cost,
    engine::Engine,
    flight::{self, Due, FlightRecorder, Shelf, Sink, Windows, windows},
    foreign, humanize,
    instruments::{Instrument, measured::Measured},
    invoker::Invoker,
    notify::Watchdog,
    output::Output,
    recording::Recording,
    summary::{Children, Cost, Summary, WindowsSummary, many},
    unwind::{Unwinder, store::StoreTally},
    window::Window,
};

/// Cuts, and knows how far everything that is counted was at the last cut.
pub(super) struct Cutter {
    recorder: FlightRecorder,
    before: Counted,
    quiet: bool,
    verbose: bool,
    watchdog: Option<Watchdog>,
}

/// What is only ever added to.
#[derive(Clone)]
struct Counted {
    kernel: [u64; COUNTERS],
    unreadable: u64,
    store: StoreTally,
    cpu: Duration,
}

impl Cutter {
    /// Windows that go into a directory.
    pub(super) fn start(config: &Config, wanted: &Windows, owner: Option<&Invoker>) -> anyhow::Result<Self> {
        let shelf = Shelf::open(&wanted.directory, owner.cloned(), wanted.last)?;
        let place = wanted.directory.display().to_string();
        Self::into(config, wanted.every, Box::new(shelf), place, wanted.trigger.clone())
    }

    /// Windows that go anywhere. `place`: what is said of where that is.
    pub(super) fn into(
        config: &Config,
        every: Duration,
        sink: Box<dyn Sink>,
        place: String,
        trigger: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let verbose = config.verbosity >= Verbosity::Verbose;
        // What an agent was told on its command line can be a password of a receiver's, and every window goes to all.
        let command = match config.agent {
            Some(_) => "profiler agent".to_owned(),
            None => command_line(),
        };
        let recorder = FlightRecorder::start(every, sink, place, trigger, command, verbose)?;
        Ok(Self {
            recorder,
            before: Counted {
                kernel: [0; COUNTERS],
                unreadable: 0,
                store: StoreTally::default(),
                cpu: cost::cpu_time(),
            },
            quiet: config.verbosity == Verbosity::Quiet,
            verbose,
            watchdog: Watchdog::of_this_process(),
        })
    }

    /// The recording has begun.
    pub(super) fn begin(&mut self) {
        self.recorder.restart(Instant::now(), SystemTime::now());
        self.before.cpu = cost::cpu_time();
    }

    /// What there is to say before the first window.
    pub(super) fn opening(&self, config: &Config) -> Option<String> {
        let wanted = config.windows.as_ref()?;
        let how = match &config.target {
            crate::config::Target::Command(_) => None,
            _ => Some(format!("kill -USR1 {}", std::process::id())),
        };
        let how: Vec<String> = how
            .into_iter()
            .chain(
                wanted
                    .trigger
                    .as_ref()
                    .map(|path| format!("a change of {}", path.display())),
            )
            .collect();
        let keeping = match how.is_empty() {
            true => String::new(),
            false => format!("; {} keeps those around that moment", how.join(" or ")),
        };
        Some(format!(
            "a file every {} in {}, of which the last {} stay{keeping}",
            humanize::duration(wanted.every),
            wanted.directory.display(),
            humanize::count(wanted.last as u64),
        ))
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> tokio::time::Instant {
        self.recorder.due().into()
    }

    /// Keeps the windows around now.
    pub(super) fn keep(&mut self) {
        self.recorder.keep();
    }

    /// What there is to say since the last time.
    pub(super) fn messages(&self) -> Vec<String> {
        let mut messages = self.recorder.messages();
        messages.retain(|line| !self.quiet || line.starts_with("error: "));
        messages
    }

    /// Cuts, if it is time to. To be called when everything that waited was taken in.
    pub(super) fn turn(&mut self, engine: &mut Engine) -> anyhow::Result<()> {
        for line in engine
            .instruments
            .iter_mut()
            .flat_map(|instrument| instrument.worth_keeping())
        {
            self.recorder.say(line);
            self.recorder.keep();
        }
        let now = Instant::now();
        // Nothing that is measured would be kept any more, and whoever watches us must not think otherwise.
        if !self.recorder.is_alive() {
            return Err(anyhow!("the thread that writes windows has died"));
        }
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.turn(now);
        }
        let due = self.recorder.is_due(now);
        if due == Due::No {
            return Ok(());
        }
        let (mut window, measured) = engine.cut()?;
        let source = &engine.source;
        let counted = Counted::now(&source.kernel, source.unreadable_events(), engine.unwinder())?;
        let length = self.recorder.length(now);
        let map_bytes = source.kernel.map_bytes() + source.sideband_bytes();
        let (summary, counters) = self.summary(&mut window, counted, map_bytes, length, StoppedBy::Duration);
        if self.verbose {
            let held = engine.host.held();
            let tables = engine.unwinder().cost();
            let sites: usize = engine.instruments.iter().map(|instrument| instrument.sites()).sum();
            self.recorder.say(format!(
                "cut in {}; held: {}, {} files of {} numbers, {} code objects, {} raw stacks ({}), {sites} sites, unwind \
                 tables of {} and {} entries, {} resident",
                humanize::duration(now.elapsed()),
                many(held.processes as u64, "process"),
                held.files,
                held.file_ids,
                held.codes,
                held.stacks,
                humanize::bytes(held.stack_bytes as u64),
                humanize::bytes(tables.bytes),
                tables.entries,
                humanize::bytes(cost::resident_bytes().0),
            ));
        }
        match due {
            Due::Cut => {
                let ended = flight::Ended {
                    window,
                    measured,
                    summary,
                    counters,
                };
                self.recorder.hand_over(ended, now);
            }
            Due::Drop | Due::No => self.recorder.begin(now, SystemTime::now()),
        }
        Ok(())
    }

    /// What a window came to, and what the kernel side counted in it.
    fn summary(
        &mut self,
        window: &mut Window,
        counted: Counted,
        map_bytes: u64,
        length: Duration,
        stopped_by: StoppedBy,
    ) -> (Summary, [u64; COUNTERS]) {
        let since = counted.since(&self.before);
        let tally = &mut window.ledger.tally;
        tally.not_unwound = since.store.not_unwound;
        tally.tables_without_room = since.store.no_room;
        tally.rules_refused = since.store.rules_refused;
        let cost = Cost {
            recording_cpu_s: since.cpu.as_secs_f64(),
            peak_bytes: cost::resident_bytes().0,
            map_bytes,
            ..Cost::default()
        };
        let mut summary = Summary::new(window, &since.kernel, cost, length, stopped_by, since.unreadable);
        summary.warnings.extend(unopened(&window.unopened));
        summary
            .warnings
            .extend(window.other_pythons("its frames are not shown"));
        summary.warnings.extend(compiled(window, false));
        summary.warnings.extend(window.refused_maps.iter().cloned());
        summary.warnings.extend(shrunk());
        self.before = counted;
        (summary, since.kernel)
    }

    /// Writes the last window, and says what became of them all.
    pub(super) fn finish(
        mut self,
        config: &Config,
        ended: Ended<'_>,
        summary_output: Option<Output>,
    ) -> anyhow::Result<()> {
        let Ended {
            recording,
            instruments,
            mut window,
            measured,
            kernel,
            unreadable,
            children,
            unmatched_name,
            mut cost,
            length,
            stopped_by,
        } = ended;
        let counted = Counted {
            kernel,
            unreadable,
            cpu: cost::cpu_time(),
            store: StoreTally {
                not_unwound: window.ledger.tally.not_unwound,
                no_room: window.ledger.tally.tables_without_room,
                rules_refused: window.ledger.tally.rules_refused,
                ..self.before.store
            },
        };
        let mut all = Window::default();
        all.processes = recording.sampled_in_all();
        all.ledger.tally = recording.tally();
        all.ledger.tally.not_unwound = counted.store.not_unwound;
        all.ledger.tally.tables_without_room = counted.store.no_room;
        all.ledger.tally.rules_refused = counted.store.rules_refused;
        let now = Instant::now();
        let last = self.recorder.length(now);
        let (summary, counters) = self.summary(&mut window, counted, cost.map_bytes, last, stopped_by);
        let ended = flight::Ended {
            window,
            measured,
            summary,
            counters,
        };
        self.recorder.hand_over(ended, now);

        let (told, messages) = self.recorder.finish()?;
        let quiet = self.quiet;
        let say = |line: &str| {
            let _ = writeln!(std::io::stderr(), "{line}");
        };
        for line in messages.iter().filter(|line| !quiet || line.starts_with("error: ")) {
            say(line);
        }
        cost.naming_s = told.done.named_in.as_secs_f64();
        cost.peak_bytes = cost::resident_bytes().1;
        let mut summary = Summary::new(&all, &kernel, cost, length, stopped_by, unreadable);
        summary.warnings.extend(shrunk());
        summary.warnings.extend(foreign::warning());
        summary.children = children;
        for instrument in instruments {
            instrument.tell_windows(&mut summary, &kernel);
        }
        if summary.samples == 0 {
            let unmatched = unmatched_name.map(|unmatched| unmatched.at_the_end());
            summary.warnings.extend(unmatched);
        }
        summary.windows = Some(WindowsSummary {
            written: told.done.written,
            bytes: told.done.bytes,
            kept: told.done.kept,
            merged: told.merged,
            lost: told.lost(),
            longest_s: told.done.longest.as_secs_f64(),
        });
        let (lines, rest) = match config.verbosity {
            Verbosity::Verbose | Verbosity::Debug => (summary.lines(), Vec::new()),
            Verbosity::Quiet | Verbosity::Normal => summary.brief(),
        };
        lines.iter().chain(&rest).for_each(|line| say(line));
        say(&told.line());
        if let Some(output) = summary_output {
            output.write(|out| {
                serde_json::to_writer_pretty(&mut *out, &summary).context("failed to write the summary as JSON")?;
                Ok(writeln!(out)?)
            })?;
        }
        let failed = |lost: u64| {
            anyhow!(
                "{} of {} could not be written to {}",
                humanize::count(lost),
                windows(lost + told.done.written),
                told.place
            )
        };
        match (told.lost(), config.agent) {
            (0, _) => Ok(()),
            (lost, None) => Err(failed(lost)),
            // It goes on with another session, and each was said when it was lost.
            (lost, Some(_)) => {
                say(&format!("error: {}", failed(lost)));
                Ok(())
            }
        }
    }
}

/// A recording that is over.
pub(super) struct Ended<'a> {
    pub(super) recording: &'a Recording,
    pub(super) instruments: &'a [Box<dyn Instrument>],
    /// The last one, with what unwinding has refused in the whole recording.
    pub(super) window: Window,
    pub(super) measured: Measured,
    pub(super) kernel: [u64; COUNTERS],
    pub(super) unreadable: u64,
    pub(super) children: Option<Children>,
    pub(super) unmatched_name: Option<UnmatchedName>,
    pub(super) cost: Cost,
    pub(super) length: Duration,
    pub(super) stopped_by: StoppedBy,
}

impl Counted {
    fn now(kernel: &Kernel, unreadable: u64, unwinder: &Unwinder<Tables>) -> anyhow::Result<Self> {
        Ok(Self {
            kernel: kernel.counters()?,
            unreadable,
            store: unwinder.tally(),
            cpu: cost::cpu_time(),
        })
    }

    fn since(&self, before: &Self) -> Self {
        let mut kernel = self.kernel;
        for counter in Counter::ALL {
            let index = *counter as usize;
            kernel[index] = match counter {
                // The one that is no sum: if it has not grown, the longest was in an earlier window.
                Counter::LongestNs if kernel[index] > before.kernel[index] => kernel[index],
                Counter::LongestNs => 0,
                _ => kernel[index].saturating_sub(before.kernel[index]),
            };
        }
        Self {
            kernel,
            unreadable: self.unreadable.saturating_sub(before.unreadable),
            store: StoreTally {
                tables: self.store.tables.saturating_sub(before.store.tables),
                evicted: self.store.evicted.saturating_sub(before.store.evicted),
                no_room: self.store.no_room.saturating_sub(before.store.no_room),
                not_unwound: self.store.not_unwound.saturating_sub(before.store.not_unwound),
                rules_refused: self.store.rules_refused.saturating_sub(before.store.rules_refused),
            },
            cpu: self.cpu.saturating_sub(before.cpu),
        }
    }
}
