//! Whether stacks are whole: what the summary says, and what can be seen in the stacks themselves.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    folded::{Folded, is},
    pattern::{Pattern, file_of, user_part},
    process,
    profiler::{Outcome, Profiler},
};

const PATIENCE: Duration = Duration::from_secs(120);

/// A recording, with what its summary says of native stacks. Those that came before their unwind tables are left out.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub outcome: Outcome,
    pub folded: Folded,
    pub native: NativeStacks,
}

/// What `--summary-json` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NativeStacks {
    /// Samples with native frames.
    pub samples: u64,
    /// Those that reach the thread's real start.
    pub complete: u64,
    /// Those that do not because a table was still being made.
    pub early: u64,
}

impl NativeStacks {
    /// The one place that knows how the summary calls them.
    fn from_json(summary: &Value) -> Result<Self> {
        let number = |name: &str| {
            summary[name]
                .as_u64()
                .with_context(|| format!("no {name} in {summary}"))
        };
        Ok(Self {
            samples: number("native")?,
            complete: number("native_complete")?,
            early: summary["native_incomplete"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|reason| {
                    reason["what"]
                        .as_str()
                        .is_some_and(|text| text.contains("unwind table"))
                })
                .filter_map(|reason| reason["count"].as_u64())
                .sum(),
        })
    }

    /// The complete ones' share of those that could be.
    pub fn share(&self) -> f64 {
        self.complete as f64 / self.samples.saturating_sub(self.early).max(1) as f64
    }
}

/// Records a process until it has used so much CPU time, however long that takes: where others run as well, a second is
/// not a second of its own.
pub fn record(pid: u32, cpu_seconds: f64, rate: &str) -> Result<Recorded> {
    recorded(&["-p", &pid.to_string()], pid, cpu_seconds, rate)
}

/// Records the machine until a process has used so much CPU time.
pub fn record_machine(pid: u32, cpu_seconds: f64, rate: &str) -> Result<Recorded> {
    recorded(&["-a"], pid, cpu_seconds, rate)
}

/// Waits until a process has used so much more CPU time.
pub fn let_run(pid: u32, cpu_seconds: f64) -> Result<()> {
    let enough = process::cpu_seconds(pid)? + cpu_seconds;
    process::until(PATIENCE, "it has used its CPU time", || {
        process::cpu_seconds(pid).is_ok_and(|used| used >= enough)
    })
}

/// Sampling does not wait for tables for ever, and says at each stack that has none yet. How soon they are there is a matter
/// of the machine, and of how the profiler was built: claims about stacks are about the others.
fn is_early(stack: &[String]) -> bool {
    stack.iter().any(|frame| frame.contains("unwind table not ready"))
}

fn recorded(target: &[&str], pid: u32, cpu_seconds: f64, rate: &str) -> Result<Recorded> {
    let directory = tempfile::tempdir()?;
    let summary = directory.path().join("summary.json");
    let recording = Profiler::record(target)
        .args(["-r", rate, "-f", "folded", "-o", "-", "--summary-json"])
        .arg(&summary)
        .start()?;
    let_run(pid, cpu_seconds)?;
    let outcome = recording.stop()?;
    let summary = serde_json::from_str(&fs::read_to_string(&summary)?)?;
    let native = NativeStacks::from_json(&summary)?;
    ensure!(
        native.early == 0 || native.early * 2 < native.samples,
        "{} of {} samples came before their unwind tables\n{}",
        native.early,
        native.samples,
        outcome.stderr
    );
    Ok(Recorded {
        folded: outcome.folded()?.only(|stack| !is_early(stack)),
        native,
        outcome,
    })
}

impl Recorded {
    /// Fails unless this share of the stacks is whole, by the summary and by what is to be seen: one that says so and
    /// one that is so are two things.
    pub fn ensure_complete(&self, least: f64, program: &Path) -> Result<()> {
        let start = Start::of(program)?;
        let starts = |stack: &[String]| stack.first().is_some_and(|root| start.is(root));
        let (said, seen) = (self.native.share(), self.folded.share(starts));
        ensure!(
            self.folded.total() > 50 && self.native.samples * 20 >= self.folded.total() * 19,
            "{} samples, {} with native frames\n{}",
            self.folded.total(),
            self.native.samples,
            self.folded
        );
        ensure!(
            said >= least && seen >= least,
            "{:.1} % are complete by the summary, {:.1} % by their roots; not: {}\n{}",
            said * 100.0,
            seen * 100.0,
            self.folded.only(|stack| !starts(stack)),
            self.outcome.stderr
        );
        Ok(())
    }
}

/// A process's stacks, without the frame that says whose they are. In a recording of one process, if only that one ran,
/// there is no such frame.
pub fn of_process(folded: &Folded, pid: u32) -> Folded {
    let is_labelled = |stack: &Vec<String>| stack[0].contains(" (process ");
    if !folded.stacks.keys().any(is_labelled) {
        return folded.clone();
    }
    let mut stacks = BTreeMap::new();
    for (stack, count) in folded.below(&format!("process {pid}:")).stacks {
        *stacks.entry(stack[1..].to_vec()).or_default() += count;
    }
    Folded { stacks }
}

/// The stacks without what interrupts did on top of them, and without system calls.
pub fn user_parts(folded: &Folded) -> Folded {
    let mut stacks = BTreeMap::new();
    for (stack, count) in &folded.stacks {
        *stacks.entry(user_part(stack).to_vec()).or_default() += count;
    }
    Folded { stacks }
}

/// Fails unless this share of the stacks is of one of these shapes.
pub fn ensure_shapes(folded: &Folded, patterns: &[&str], least: f64) -> Result<()> {
    let patterns: Vec<Pattern> = patterns.iter().map(|text| Pattern::new(*text)).collect();
    let known = |stack: &[String]| patterns.iter().any(|pattern| pattern.is(stack));
    let share = folded.share(known);
    ensure!(
        folded.total() > 50 && share >= least,
        "{:.1} % of {} samples are as expected; not: {}",
        share * 100.0,
        folded.total(),
        folded.only(|stack| !known(stack))
    );
    Ok(())
}

/// What a program's threads begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The program's file, and the address of `_start` in it, which its header tells where the symbols are gone.
    file: String,
    entry: u64,
}

impl Start {
    pub fn of(program: &Path) -> Result<Self> {
        let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        // `e_entry`: the eight bytes at 24.
        let entry = bytes.get(24..32).context("no ELF header")?;
        let name = fs::canonicalize(program)?;
        Ok(Self {
            file: name.file_name().context("no name")?.to_string_lossy().into_owned(),
            entry: u64::from_le_bytes(entry.try_into()?),
        })
    }

    /// Whether a frame is a thread's first: a process's is `_start` of the program or of the dynamic loader; any other
    /// thread's is glibc's `clone`, which only debug symbols name.
    pub fn is(&self, frame: &str) -> bool {
        let named = [
            "_start",
            "_dl_start_user",
            "clone",
            "__clone",
            "clone3",
            "__clone3",
            "_rt0_amd64_linux",
        ];
        if named.iter().any(|name| is(frame, name)) {
            return true;
        }
        let Some(file) = file_of(frame).filter(|_| frame.starts_with('[')) else {
            return false;
        };
        let address = frame
            .rsplit_once("+0x")
            .and_then(|(_, address)| address.strip_suffix(']'));
        let address = address.and_then(|address| u64::from_str_radix(address, 16).ok());
        // `_start` is 34 bytes long.
        let is_entry = address.is_some_and(|address| (self.entry..self.entry.saturating_add(64)).contains(&address));
        file == self.file && is_entry || file.starts_with("libc.so")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_begin_at_the_entry_or_in_glibc() {
        let start = Start {
            file: "a".to_owned(),
            entry: 0x1000,
        };
        for frame in ["_start (a)", "[a+0x1020]", "clone3 (libc.so.6)", "[libc.so.6+0x1234]"] {
            assert!(start.is(frame), "{frame}");
        }
        for frame in [
            "main (a)",
            "[a+0x2020]",
            "[b+0x1020]",
            "qsort (libc.so.6)",
            "f (a.py:1)",
            "[truncated]",
        ] {
            assert!(!start.is(frame), "{frame}");
        }
    }
}
