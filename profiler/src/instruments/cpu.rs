//! CPU time, by samples at the ticks of a clock.

use std::{io, path::Path, time::Duration};

use rustc_hash::FxHashMap;

use super::{Change, Instrument, Needs, Picture, Tells, Told, Turn, content::Content, measured::Measured};
use crate::{
    config::{Config, NativeFrames, Target, Verbosity},
    cpu_use::{self, Clock, CpuUse, Whose},
    humanize,
    name::Namer,
    orders::Orders,
    process::comm,
    progress,
    recording::Recording,
    report::{Interpreter, View, hottest, label},
    source,
    summary::{self, Summary},
    waits::gil,
    window::Window,
};

const PROC: &str = "/proc";

pub struct Cpu {
    config: Config,
    /// What the kernel's clock said of the only target before and after.
    before: Option<Clock>,
    after: Option<Clock>,
    warnings: Vec<String>,
}

impl Cpu {
    pub fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            before: None,
            after: None,
            warnings: Vec::new(),
        }
    }

    /// Tells where the GIL of a process is that is a CPython now.
    fn find_gil(&mut self, change: Change, host: &Recording, kernel: &mut dyn Orders) {
        let (pid, facts) = match change {
            Change::Python { pid } => {
                let Some((python, file)) = host.python(pid) else { return };
                let facts = gil::facts(python);
                if facts.is_none() {
                    let why = match python.is_free_threaded() {
                        true => "a free-threaded build, whose threads need no GIL",
                        false => "where it has its GIL is not known",
                    };
                    self.warn(format!(
                        "{}: CPython {}: {why}; its samples are left out",
                        file.path.display(),
                        python.binary.version
                    ));
                }
                (pid, facts)
            }
            Change::NotPython { pid } => (pid, None),
            Change::Mapped { .. } | Change::Joined { .. } => return,
        };
        if kernel.set_gil(pid, facts.as_ref()).is_err() {
            self.warn("there was no room for the GILs of all processes: samples of some are left out".to_owned());
        }
    }

    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    fn clock(&self) -> Option<Clock> {
        clocked(&self.config).and_then(|pid| Clock::read(Path::new(PROC), pid))
    }
}

impl Instrument for Cpu {
    fn needs(&self) -> Needs {
        Needs {
            clock: Some(self.config.period_ns),
            counts_ticks: true,
            slices: self.config.format.shows_time(),
            gil: self.config.gil,
            ..Needs::default()
        }
    }

    fn start(&mut self, _host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<()> {
        self.before = self.clock();
        Ok(())
    }

    fn follow(&mut self, change: Change, host: &Recording, kernel: &mut dyn Orders) {
        if self.config.gil {
            self.find_gil(change, host, kernel);
        }
    }

    fn turn(&mut self, _host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<Turn> {
        Ok(Turn::Goes)
    }

    fn stop(&mut self, _host: &mut Recording, _kernel: &mut dyn Orders, _recorded: Duration) -> anyhow::Result<()> {
        self.after = self.clock();
        Ok(())
    }

    fn cut(&mut self, _window: &Window) -> anyhow::Result<Measured> {
        Ok(Measured::Samples {
            period_ns: self.config.period_ns,
        })
    }

    fn content(&mut self, namer: &mut Namer, window: &Window, _length: Duration) -> (Content, Vec<String>) {
        let (profile, warnings) = namer.name(window, self.config.period_ns);
        (Content::Profile(profile), warnings)
    }

    fn tell(&self, summary: &mut Summary, _content: &Content, told: &Told<'_>) {
        let clocks = self.before.as_ref().zip(self.after.as_ref());
        summary.warnings.extend(self.warnings.iter().cloned());
        summary.cpu = Some(cpu_use(&self.config, told, summary, clocks));
    }
}

impl Tells for Cpu {
    fn opening(&self, what: &str) -> String {
        let whose = match self.config.gil {
            true => ", threads that have the GIL",
            false => "",
        };
        format!(
            "sampling {what} {} times a second{whose}",
            humanize::count(self.config.rate_hz.into())
        )
    }

    fn picture(&self) -> Picture {
        Picture {
            headline: if self.config.gil {
                "CPU time with the GIL"
            } else {
                "CPU time"
            },
            value: 0,
            interpreter: match self.config.native_frames {
                NativeFrames::Full => Interpreter::Full,
                NativeFrames::Work => Interpreter::Work,
            },
        }
    }

    /// What was used, where, and what is to be known of the numbers.
    fn screen(&self, summary: &Summary, content: &Content) -> Vec<String> {
        let Content::Profile(profile) = content else {
            return summary.lines();
        };
        let (mut lines, rest) = summary.brief();
        if self.config.verbosity != Verbosity::Quiet {
            let table = hottest::text(profile, 0, progress::stderr_columns());
            if !table.is_empty() {
                lines.extend([String::new(), table]);
            }
        }
        match self.config.verbosity {
            Verbosity::Verbose | Verbosity::Debug => {
                // The first lines are there already.
                let told = lines.len().min(2);
                lines.extend(summary.lines().into_iter().skip(told));
            }
            Verbosity::Quiet | Verbosity::Normal => lines.extend(rest),
        }
        lines
    }

    fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        match content {
            Content::Profile(profile) => self.config.format.writer().write(profile, view, out),
            _ => Ok(()),
        }
    }
}

/// The process whose clock says what the target used: if it is one, and all of it.
fn clocked(config: &Config) -> Option<u32> {
    let all = !config.subprocesses && config.tids.is_empty() && config.comm.is_none() && config.cgroup.is_none();
    match &config.target {
        Target::Pids(pids) if all => match pids[..] {
            [pid] => Some(pid),
            _ => None,
        },
        _ => None,
    }
}

/// What was used meanwhile: by the kernel's clock if it was asked, else by samples.
fn cpu_use(config: &Config, told: &Told<'_>, summary: &Summary, clocks: Option<(&Clock, &Clock)>) -> CpuUse {
    let ledger = &told.window.ledger;
    let period_s = config.period_ns as f64 / 1e9;
    let mut by_process: FxHashMap<u32, (u32, u64)> = FxHashMap::default();
    for (sampled, count) in &ledger.samples {
        by_process.entry(sampled.pid).or_insert((sampled.comm, 0)).1 += count;
    }
    let mut by_process: Vec<_> = by_process.into_iter().collect();
    by_process.sort_unstable_by_key(|&(pid, (_, count))| (std::cmp::Reverse(count), pid));
    let named = |pid: u32, comm: &str| label::clean(format!("{comm} ({pid})"));
    let busiest: Vec<(String, f64)> = by_process
        .iter()
        .map(|&(pid, (comm, count))| (named(pid, ledger.name(comm)), count as f64 * period_s))
        .collect();
    let filtered = !config.tids.is_empty() || config.comm.is_some() || config.cgroup.is_some();
    let one = match &config.target {
        Target::Pids(pids) if pids.len() == 1 => Some(pids[0]),
        _ => None,
    };
    let whose = match &config.target {
        Target::All if !filtered => Whose::Machine,
        Target::All => Whose::Several,
        _ if filtered || busiest.len() > 1 => Whose::Several,
        Target::Pids(pids) if pids.len() > 1 => Whose::Several,
        Target::Pids(_) | Target::Command(_) => Whose::Process,
    };
    let samples = match whose {
        // Whatever ran, also what is not recorded.
        Whose::Machine => summary.ticks,
        Whose::Several | Whose::Process => summary.samples + summary.left_out.all(),
    };
    let subject = match (&whose, busiest.first(), one) {
        (Whose::Process, Some((name, _)), _) => name.clone(),
        (Whose::Process, None, Some(pid)) => match comm::of(Path::new(PROC), pid).as_str() {
            "" => format!("process {pid}"),
            comm => named(pid, comm),
        },
        (Whose::Process, None, None) => "the command".to_owned(),
        (Whose::Several, None, _) => "what was chosen".to_owned(),
        _ => summary::many(busiest.len() as u64, "process"),
    };
    let mut used = CpuUse {
        busiest: match whose {
            Whose::Process => Vec::new(),
            Whose::Several | Whose::Machine => busiest,
        },
        whose,
        subject,
        length_s: told.length.as_secs_f64(),
        cpu_s: samples as f64 * period_s,
        // Of no sample at all it is likely that less than three were due: e⁻³ is 5 %.
        error_s: cpu_use::error_of(samples).max(if samples == 0 { 3.0 } else { 0.0 }) * period_s,
        at_least: !summary.lost.is_empty(),
        threads: None,
        ready_s: None,
        cpus: source::online_cpus().map_or(1, |cpus| cpus.len()),
    };
    if let Some((before, after)) = clocks {
        used.by_clock(before, after);
    }
    used
}
