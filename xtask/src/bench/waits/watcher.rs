//! Who looks at a process while it is measured.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::bench::child::{Child, log_to};
use crate::bench::empty::EmptyPrograms;
use crate::bench::py_spy;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Watcher {
    Nobody,
    Waits,
    /// `profiler waits` that takes the stack of every wait, as profilers do that have no draw.
    EveryWait,
    /// Stacks of threads that wait, too, a hundred times a second, without pausing the process.
    PySpy,
    /// Every switch of the machine, into a file.
    PerfSched,
    /// Programs that do nothing, where `waits` has two: less than that nobody can take who looks at switches.
    Empty,
}

impl Watcher {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody, once more",
            Self::Waits => "profiler waits",
            Self::EveryWait => "a stack at every wait (--every-wait)",
            Self::PySpy => "py-spy record --idle --nonblocking",
            Self::PerfSched => "perf sched record",
            Self::Empty => "two BPF programs that do nothing",
        }
    }
}

/// The binaries, and where their files go.
pub struct Watchers {
    pub profiler: PathBuf,
    directory: PathBuf,
}

/// One at work.
pub enum Watching {
    Profiler { child: Child, log: PathBuf },
    Nothing(EmptyPrograms),
}

const TRACEPOINTS: [&str; 2] = ["sched_switch", "sched_exit_tp"];

/// When a watcher has said that it has begun, this is for what else it does once at the start.
const SETTLE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(60);

impl Watchers {
    pub fn find(profiler: PathBuf, directory: PathBuf) -> Self {
        Self { profiler, directory }
    }

    /// Has one look at a process, and waits until it does. `None` for nobody.
    pub fn attach(&self, watcher: Watcher, pid: u32) -> Result<Option<Watching>> {
        let file = |name: &str| self.directory.join(name);
        let pid = pid.to_string();
        let (mut command, says) = match watcher {
            Watcher::Nobody => return Ok(None),
            Watcher::Empty => return Ok(Some(Watching::Nothing(EmptyPrograms::attach(&TRACEPOINTS)?))),
            Watcher::Waits | Watcher::EveryWait => {
                let mut command = Command::new(&self.profiler);
                command.args(["waits", "--force", "--pid", &pid, "-f", "json", "-o"]);
                command.arg(file("waits.json"));
                if watcher == Watcher::EveryWait {
                    command.arg("--every-wait");
                }
                (command, Some("following the waits"))
            }
            Watcher::PySpy => {
                let mut command = Command::new(py_spy::binary());
                command.args(["record", "--idle", "--nonblocking", "--rate", "100", "--pid", &pid]);
                command.args(["--duration", "unlimited", "--format", "raw", "--output"]);
                command.arg(file("py-spy.raw"));
                (command, Some("sampling process"))
            }
            Watcher::PerfSched => {
                let mut command = Command::new("perf");
                command.args(["sched", "record", "--output"]).arg(file("perf.data"));
                (command, None)
            }
        };
        let log = file("watcher.log");
        let mut child = Child::spawn(log_to(command.stdin(Stdio::null()), &log)?)?;
        if let Some(says) = says {
            child.wait_for_text(&log, says, PATIENCE)?;
        }
        thread::sleep(SETTLE);
        Ok(Some(Watching::Profiler { child, log }))
    }
}

impl Watching {
    /// What Ctrl-C does.
    pub fn stop(self) -> Result<()> {
        let (mut child, log) = match self {
            Self::Profiler { child, log } => (child, log),
            Self::Nothing(programs) => {
                drop(programs);
                return Ok(());
            }
        };
        child.signal(libc::SIGINT)?;
        let ended = child.wait(PATIENCE)?;
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        // perf ends by the signal.
        let is_well = ended.status.success() || said.contains("Captured and wrote");
        is_well
            .then_some(())
            .with_context(|| format!("{}: {}", ended.status, said.trim()))
    }
}
