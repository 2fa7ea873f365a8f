//! Exceptions: a probe where one is set, another where one comes through a frame, all the time or in windows.

mod windows;

use std::{io, time::Duration};

use profiler_common::{mark::MARK_RAISE, stats::Counter};

use self::windows::Windows;
use crate::{
    config::{Config, ExceptionsConfig, MemoryFormat},
    exceptions::{account::Account, handling::Handling, report},
    governor::{Governor, TrapCost},
    instruments::{
        Change, Instrument, Needs, Picture, Tells, Told, Turn,
        content::Content,
        mark_probes::{MarkProbes, hits, tell_hits},
    },
    name::Namer,
    orders::Orders,
    process::files::FileId,
    progress::stdout_columns,
    python::marks,
    recording::Recording,
    report::{
        Interpreter, View,
        exceptions::{ExceptionsReport, export, table},
    },
    summary::Summary,
    window::Window,
};

pub struct Exceptions {
    wanted: ExceptionsConfig,
    probes: MarkProbes,
    governor: Option<Governor>,
    windows: Windows,
    account: Account,
    handling: Handling,
    /// Set in place of others, and lost, by the kernel side's counters.
    replaced: u64,
    lost: u64,
}

impl Exceptions {
    pub fn new(config: &Config, wanted: &ExceptionsConfig) -> Self {
        Self {
            wanted: wanted.clone(),
            probes: MarkProbes::new(config, marks::raises, "its exceptions are not seen"),
            governor: None,
            windows: Windows::new(wanted.max_overhead),
            account: Account::default(),
            handling: Handling::new(),
            replaced: 0,
            lost: 0,
        }
    }

    fn take_in(&mut self, host: &mut Recording) {
        for marked in host.drain_marks(&[MARK_RAISE]) {
            let header = &marked.header;
            if !self.windows.counts(header.time_ns) {
                continue;
            }
            match self.windows.is_whole_at(header.time_ns) {
                true => self.account.raised(
                    (header.pid, header.tid),
                    (marked.site, header.stack),
                    &marked.event,
                    |stack| host.frames(stack),
                ),
                false => self.account.drawn(header.pid, marked.site, &marked.event),
            }
        }
    }

    /// Looks at what was spent. Returns whether it is more than may be.
    fn look(&mut self, kernel: &dyn Orders) -> anyhow::Result<bool> {
        let Some(governor) = &mut self.governor else {
            return Ok(false);
        };
        let hits = hits(kernel)?;
        let used_ns = self.windows.used_ns(self.probes.pids());
        let spent = governor.look(hits, used_ns);
        self.windows.note(
            governor.used_ns() as f64,
            governor.spent().as_nanos() as f64,
            governor.worn_ns(),
        );
        Ok(spent)
    }

    fn follow_windows(&mut self, host: &Recording, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        if !self.windows.is_due() {
            return Ok(());
        }
        let spent = self.look(kernel)?;
        if self.windows.must_close(spent) {
            self.probes.detach_all();
            self.probes.thin(marks::some_raises);
            // What was used until here is the window's.
            self.look(kernel)?;
            self.windows.close();
        } else if self.windows.may_open() && kernel.probes_are_gone() {
            if let Some(own_ns) = self.windows.take_ended() {
                self.account.end_window(own_ns);
            }
            self.probes.attach_all(host, kernel);
            self.look(kernel)?;
            self.windows.open();
        }
        Ok(())
    }
}

impl Instrument for Exceptions {
    fn needs(&self) -> Needs {
        Needs {
            marks: true,
            ..Needs::default()
        }
    }

    fn expect(&mut self, host: &Recording, kernel: &mut dyn Orders, file: FileId) {
        self.probes.probe_file(host, kernel, file);
    }

    fn start(&mut self, _host: &mut Recording, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        let trap = TrapCost::measure(kernel)?;
        let mut governor = Governor::new(trap, self.wanted.max_overhead, self.windows.used_ns(self.probes.pids()));
        if self.probes.has_stepped() {
            governor.expect_stepped(kernel)?;
        }
        self.governor = Some(governor);
        self.windows.start();
        Ok(())
    }

    fn follow(&mut self, change: Change, host: &Recording, kernel: &mut dyn Orders) {
        match change {
            Change::Python { pid } => {
                self.probes.probe(host, kernel, pid, self.windows.is_open());
                if let Some((python, _)) = host.python(pid) {
                    self.handling.follow(pid, python);
                }
                // Of a process that was there before, what it has used is not ours.
                let before_ns = self.windows.meet(pid);
                if let (Some(governor), None) = (&mut self.governor, host.began_ns(pid)) {
                    governor.leave_out(before_ns);
                }
            }
            Change::NotPython { pid } => self.handling.forget(pid),
            Change::Mapped { .. } | Change::Joined { .. } => {}
        }
    }

    fn turn(&mut self, host: &mut Recording, kernel: &mut dyn Orders) -> anyhow::Result<Turn> {
        self.take_in(host);
        self.handling.look();
        self.follow_windows(host, kernel)?;
        Ok(Turn::Goes)
    }

    fn look_soon(&self) -> Option<Duration> {
        match (self.handling.due_in(), self.windows.due_in()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn stop(&mut self, _host: &mut Recording, kernel: &mut dyn Orders, _recorded: Duration) -> anyhow::Result<()> {
        self.probes.detach_all();
        self.look(kernel)?;
        self.windows.end();
        Ok(())
    }

    fn finish(&mut self, host: &mut Recording, kernel: &dyn Orders) {
        self.take_in(host);
        if let Some(own_ns) = self.windows.take_ended() {
            self.account.end_window(own_ns);
        }
        // What is raised in windows is not followed.
        let unwinding = if self.windows.is_partial() {
            Vec::new()
        } else {
            kernel.unwinding()
        };
        for (tid, unwinding) in unwinding {
            self.account
                .settle(tid, unwinding.frames, unwinding.code, |stack| host.frames(stack));
        }
        self.replaced = kernel.counter(Counter::RaisesReplaced).unwrap_or_default();
        self.lost = kernel.counter(Counter::LostMarks).unwrap_or_default();
    }

    fn refusal(&self, window: &Window) -> Option<String> {
        self.probes.refusal(window, "exceptions")
    }

    fn content(&mut self, namer: &mut Namer, window: &Window, length: Duration) -> (Content, Vec<String>) {
        let slow_down = self.windows.slow_down();
        let estimate = self
            .windows
            .unseen_ns()
            .and_then(|unseen_ns| self.account.estimate(unseen_ns, self.windows.error()));
        let (profile, details, warnings) = report::report(window, namer, &self.account, estimate.as_ref());
        let report = ExceptionsReport {
            profile,
            details,
            length,
            observed: self.windows.observed(),
            windows: self.windows.is_partial().then(|| self.account.windows()),
            estimated: estimate.is_some(),
            counted: self.account.counted(),
            in_c: self.replaced + self.account.in_c(),
            lost: self.lost,
            slow_down,
            handling: self.handling.looks(),
        };
        (Content::Exceptions(Box::new(report)), warnings)
    }

    fn tell(&self, summary: &mut Summary, content: &Content, told: &Told<'_>) {
        if let Content::Exceptions(report) = content {
            // The table says the same above its first row.
            let lines = match self.wanted.format {
                MemoryFormat::Text => Vec::new(),
                _ => table::heading(report),
            };
            tell_hits(summary, lines, told, self.governor.as_ref(), report.slow_down);
        }
        summary.warnings.extend(self.probes.warnings.iter().cloned());
    }
}

impl Tells for Exceptions {
    fn opening(&self, what: &str) -> String {
        format!("counting the exceptions of {what}")
    }

    fn picture(&self) -> Picture {
        Picture {
            headline: "Exceptions",
            value: 0,
            interpreter: Interpreter::Full,
        }
    }

    fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        let Content::Exceptions(report) = content else {
            return Ok(());
        };
        if let Some(format) = self.wanted.format.stacks() {
            return format.writer().write(&report.profile, view, out);
        }
        match self.wanted.format {
            MemoryFormat::Csv => export::write_csv(report, out),
            MemoryFormat::Json => export::write_json(report, out),
            _ => Ok(out.write_all(table::text(report, self.wanted.top, stdout_columns()).as_bytes())?),
        }
    }
}
