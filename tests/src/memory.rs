//! `profiler memory`, run as a user runs it; what it wrote, summed up by line; and what the kernel says of the target.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use profiler::{profile::Profile, report::pprof::read};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    pprof::PprofFrame,
    python::Python,
    recorder::{Recorder, Summary, Taken},
    workload::{self, Workload},
};

/// `profiler memory …`, about to be run.
#[derive(Debug)]
pub struct Memory;

impl Memory {
    /// With a profile in pprof's format, which has all four values of each stack, exactly.
    pub fn record(arguments: &[&str]) -> Result<Recorder> {
        Ok(Self::command(arguments)?.to("heap.pb.gz"))
    }

    /// With whatever the arguments ask for: without `-o` a table.
    pub fn command(arguments: &[&str]) -> Result<Recorder> {
        Recorder::new("memory", arguments)
    }
}

impl Taken {
    /// The profile of [`Memory::record`].
    pub fn heap(&self) -> Result<Heap> {
        Heap::load(&self.file("heap.pb.gz")).with_context(|| self.outcome.stderr.clone())
    }
}

/// The rows of the table on standard output: what comes below the heading.
pub fn rows(taken: &Taken) -> Result<Vec<&str>> {
    let lines = taken.below(|line| line.trim_start().starts_with("live ") && line.contains(" share "))?;
    Ok(lines.collect())
}

/// What `profiler memory` says in its summary.
impl Summary {
    /// How much more was resident in the end than in the beginning, by the profiler's reading of smaps_rollup.
    pub fn growth(&self) -> Result<f64> {
        Ok(self.of_processes("rss_after")? - self.of_processes("rss_before")?)
    }

    /// What part of that it can say the origin of.
    pub fn explained(&self) -> Result<f64> {
        Ok(self.of_processes("explained_bytes")? / self.growth()?.abs().max(1.0))
    }

    /// The sum of all processes.
    fn of_processes(&self, name: &str) -> Result<f64> {
        let processes = self.0["memory"]["processes"].as_array();
        let processes = processes.with_context(|| format!("no processes in the summary: {}", self.0))?;
        let numbers = processes.iter().map(|process| process[name].as_f64());
        let sum: Option<f64> = numbers.sum();
        sum.with_context(|| format!("no {name} in the summary: {}", self.0))
    }

    /// What exact mode has counted of the whole target: allocations or frees.
    pub fn exact(&self, what: &str) -> Result<f64> {
        self.number(&format!("/memory/exact/{what}"))
    }

    /// The share of the interpreter's allocations that this build hides from probes.
    pub fn hidden_share(&self) -> Result<f64> {
        self.number("/memory/exact/hidden_share")
    }

    /// What was lost, in the profiler's words, memory that was not accounted for among it.
    pub fn lost_memory(&self) -> Result<Vec<String>> {
        const MORE: [&str; 5] = [
            "lost_events",
            "forgotten_bytes",
            "forgotten_pools",
            "forgotten_mappings",
            "exact/lost_blocks",
        ];
        let more = MORE.map(|name| (name, self.number(&format!("/memory/{name}")).unwrap_or(0.0)));
        let more = more.iter().filter(|(_, count)| *count > 0.0);
        let mut lost = self.lost()?;
        lost.extend(more.map(|(name, count)| format!("{name}: {count}")));
        Ok(lost)
    }
}

/// A number of things and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub count: i64,
    pub bytes: i64,
}

/// What came, and what of it is still there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub allocated: Amount,
    pub live: Amount,
}

/// One stack of one thread.
#[derive(Clone, Debug)]
pub struct Row {
    pub pid: u32,
    /// Root first.
    pub stack: Vec<PprofFrame>,
    pub account: Account,
}

/// A memory profile.
#[derive(Clone, Debug, Default)]
pub struct Heap {
    pub rows: Vec<Row>,
}

/// pprof's names for the four values, in the order in which Go's heap profiles have them.
pub const KINDS: [&str; 4] = ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"];

impl Heap {
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::of_profile(&read(&bytes)?)
    }

    fn of_profile(profile: &Profile) -> Result<Self> {
        let place = |wanted: &str| {
            let found = profile.sample_types.iter().position(|kind| kind.kind == wanted);
            found.with_context(|| format!("no values of type {wanted}"))
        };
        let places = [place(KINDS[0])?, place(KINDS[1])?, place(KINDS[2])?, place(KINDS[3])?];
        let rows = profile.samples().map(|(key, values)| {
            let frames = profile.stack(key.stack).iter().rev().map(|&frame| {
                let frame = profile.frame(frame);
                PprofFrame {
                    name: profile.string(frame.function).to_owned(),
                    file: profile.string(frame.file).to_owned(),
                    line: frame.line,
                    first_line: frame.first_line,
                }
            });
            let [allocated_count, allocated, live_count, live] = places.map(|place| values[place]);
            Row {
                pid: key.labels.pid,
                stack: frames.collect(),
                account: Account {
                    allocated: Amount {
                        count: allocated_count,
                        bytes: allocated,
                    },
                    live: Amount {
                        count: live_count,
                        bytes: live,
                    },
                },
            }
        });
        Ok(Self { rows: rows.collect() })
    }

    /// What the rows that are wanted come to.
    pub fn sum(&self, wanted: impl Fn(&Row) -> bool) -> Account {
        let mut sum = Account::default();
        for row in self.rows.iter().filter(|row| wanted(row)) {
            for (to, from) in [
                (&mut sum.allocated, row.account.allocated),
                (&mut sum.live, row.account.live),
            ] {
                to.count += from.count;
                to.bytes += from.bytes;
            }
        }
        sum
    }

    pub fn total(&self) -> Account {
        self.sum(|_| true)
    }

    /// What a line of a script brought, whatever it called: the script's frame nearest the leaf is at that line.
    pub fn line(&self, script: &str, line: u32) -> Account {
        self.sum(|row| row.innermost(script).is_some_and(|frame| frame.line == line))
    }

    /// What came below a function.
    pub fn function(&self, name: &str) -> Account {
        self.sum(|row| row.stack.iter().any(|frame| frame.name == name))
    }

    /// The rows of one process.
    pub fn of(&self, pid: u32) -> Self {
        let rows = self.rows.iter().filter(|row| row.pid == pid).cloned();
        Self { rows: rows.collect() }
    }

    /// The largest rows, for messages.
    pub fn top(&self) -> String {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.account.live.bytes.max(row.account.allocated.bytes)));
        let shown = rows.iter().take(15).map(|row| {
            let frames: Vec<String> = row
                .stack
                .iter()
                .rev()
                .take(4)
                .map(|frame| format!("{}:{}", frame.name, frame.line))
                .collect();
            let Account { allocated, live } = row.account;
            format!(
                "  {:>12} live of {:>12} in {}: {}",
                live.bytes,
                allocated.bytes,
                row.pid,
                frames.join(" < ")
            )
        });
        shown.collect::<Vec<_>>().join("\n")
    }
}

impl Row {
    /// The frame of a script that is nearest the leaf.
    pub fn innermost(&self, script: &str) -> Option<&PprofFrame> {
        let is_of = |frame: &&PprofFrame| frame.file.rsplit('/').next() == Some(script);
        self.stack.iter().rev().find(is_of)
    }
}

/// What is resident of a process, in bytes, by the kernel's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    pub all: i64,
    pub anonymous: i64,
    pub huge: i64,
}

impl Resident {
    /// Of a process that waits: while it runs, no two readings agree.
    pub fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let field = |name: &str| -> Result<i64> {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let value = value.with_context(|| format!("no {name} in smaps_rollup"))?;
            Ok(value.trim().trim_end_matches(" kB").parse::<i64>()? * 1024)
        };
        Ok(Self {
            all: field("Rss")?,
            anonymous: field("Anonymous")?,
            huge: field("AnonHugePages")?,
        })
    }
}

/// Runs a script of `workloads/memory/`, from a copy that its interpreter can see.
pub fn run(python: &Python, script: &str, arguments: &[&str]) -> Result<Workload> {
    run_with(python, script, arguments, |_| ())
}

/// Like [`run`], and with what `change` makes of the command.
pub fn run_with(python: &Python, script: &str, arguments: &[&str], change: impl Fn(&mut Command)) -> Result<Workload> {
    let directory = copy(python)?;
    let mut command = python.command();
    command.arg(python.seen(&directory.path().join(script))).args(arguments);
    change(&mut command);
    Workload::command(command, Some(directory)).with_context(|| format!("{script} did not start"))
}

/// A directory with the workloads about memory that the interpreter can see.
pub fn copy(python: &Python) -> Result<TempDir> {
    let directory = python.directory()?;
    for entry in fs::read_dir(sources())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), directory.path().join(entry.file_name()))?;
        }
    }
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(directory)
}

/// Where their sources are.
pub fn sources() -> PathBuf {
    workload::sources().join("memory")
}

/// The number of the line of one of them that ends in a comment.
pub fn line_of(script: &str, comment: &str) -> Result<u32> {
    workload::line_of(&format!("memory/{script}"), comment)
}

/// Tells a workload to do something and returns what it says of it.
pub fn ask(workload: &mut Workload, what: &str) -> Result<Value> {
    workload.tell(what)?;
    workload.value().with_context(|| format!("told to {what}"))
}

/// A number of what a workload has said.
pub fn number(truth: &Value, pointer: &str) -> Result<i64> {
    let number = truth.pointer(pointer).and_then(Value::as_i64);
    number.with_context(|| format!("no {pointer} in {truth}"))
}

/// Fails unless a number of bytes is within a share of what is known.
pub fn ensure_within(what: &str, found: i64, known: i64, share: f64) -> Result<()> {
    let off = (found - known) as f64 / known as f64;
    ensure!(
        off.abs() <= share,
        "{what}: {found} bytes, not {known}: {:+.2} %",
        off * 100.0
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(name: &str, file: &str, line: u32) -> PprofFrame {
        PprofFrame {
            name: name.to_owned(),
            file: file.to_owned(),
            line,
            first_line: 1,
        }
    }

    fn row(pid: u32, bytes: i64, stack: Vec<PprofFrame>) -> Row {
        let allocated = Amount { count: 2, bytes };
        let live = Amount {
            count: 1,
            bytes: bytes / 2,
        };
        Row {
            pid,
            stack,
            account: Account { allocated, live },
        }
    }

    #[test]
    fn a_line_has_what_it_called_and_not_what_called_it() {
        let own = |line| frame("leak", "/tmp/x/leak.py", line);
        let heap = Heap {
            rows: vec![
                row(1, 100, vec![own(3), own(7), frame("memset", "libc.so.6", 0)]),
                row(1, 10, vec![own(3), own(7)]),
                row(2, 1000, vec![own(7), own(3)]),
                row(2, 1, vec![frame("f", "/tmp/x/not_leak.py", 7)]),
            ],
        };
        assert_eq!(heap.line("leak.py", 7).allocated, Amount { count: 4, bytes: 110 });
        assert_eq!(heap.line("leak.py", 7).live, Amount { count: 2, bytes: 55 });
        assert_eq!(heap.of(2).line("leak.py", 3).allocated.bytes, 1000);
        assert_eq!(heap.function("memset").live.bytes, 50);
        assert_eq!(heap.total().allocated.bytes, 1111);
    }

    #[test]
    fn this_process_is_resident() {
        let resident = Resident::of(std::process::id()).unwrap();
        assert!(resident.all >= resident.anonymous && resident.anonymous > 0 && resident.huge >= 0);
    }
}
