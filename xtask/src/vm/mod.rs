//! `cargo xtask vm`: the profiler on kernels other than this machine's.
//!
//! What loads on one kernel need not load on another: verifiers differ. Each kernel boots under QEMU from one archive
//! that holds a CPython and the profiler, loads every program in several configurations, and records a workload whose
//! shares are known, and one that measures how long it waits.

mod cpio;
mod debs;
mod initramfs;
mod kernels;
mod qemu;
mod table;
mod tar;
mod verdict;
mod waits;

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::debs::Debs;
use self::initramfs::Python;
use self::kernels::Kernel;
use self::qemu::{Ending, Qemu, Run};
use self::table::{Outcome, Row};
use crate::{build, setup, workspace};

/// Boot other kernels under QEMU, and load and record with the profiler in each
///
/// The kernels are Debian's, the newest of each series. They and, where they are missing, QEMU and busybox are unpacked
/// below target/vm and kept there: nothing is installed, and root is not needed. A table of what happened comes last.
#[derive(Args)]
pub struct Options {
    /// Kernels by series
    #[arg(long, value_delimiter = ',', value_name = "SERIES", default_values = kernels::MATRIX)]
    kernel: Vec<String>,

    /// Guests at a time: each keeps one CPU busy
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    jobs: u8,

    /// Fetch the kernels anew, as Debian has them today
    #[arg(long)]
    again: bool,

    /// Test this profiler instead of building one
    #[arg(long, value_name = "FILE")]
    profiler: Option<PathBuf>,
}

pub fn run(options: &Options) -> Result<()> {
    let directory = workspace::root().join("target/vm");
    debs::make_directory(&directory)?;
    // Kept to the end.
    let _alone = alone(&directory)?;
    let debs = Debs::new(directory.join("apt"));
    let qemu = Qemu::find(&debs, &directory.join("qemu"))?;
    let busybox = initramfs::busybox(&debs, &directory.join("busybox"))?;
    let kernels = kernels::fetch(&options.kernel, &debs, &directory.join("kernels"), options.again)?;
    let profiler = match &options.profiler {
        Some(profiler) => profiler.clone(),
        None => {
            setup::ensure()?;
            build::profiler(true)?
        }
    };
    let python = Python::find()?;
    let initramfs = directory.join("initramfs.cpio");
    let size = initramfs::write(&initramfs, &profiler, &python, &busybox)?;
    eprintln!(
        "xtask: {}; {} has {} and {} ({} MB)",
        qemu.version()?,
        initramfs.display(),
        profiler.display(),
        python.executable.display(),
        size / 1_000_000
    );

    let guests = Guests {
        qemu: &qemu,
        initramfs: &initramfs,
        directory: &directory,
    };
    let rows = guests.all(&kernels, options.jobs.into());
    print!("{}", table::text(&rows));
    let failed: Vec<&str> = rows
        .iter()
        .filter(|row| row.outcome.is_failure())
        .map(|row| &*row.kernel)
        .collect();
    if !failed.is_empty() {
        bail!(
            "vm: {} of {} kernels failed: {}",
            failed.len(),
            rows.len(),
            failed.join(", ")
        );
    }
    Ok(())
}

/// Waits until no other `cargo xtask vm` uses the directory. Two at once wrote each other's archive while guests booted
/// from it, which looked like crashes; and four guests on two CPUs measure nothing.
fn alone(directory: &Path) -> Result<File> {
    let path = directory.join("lock");
    let failed = || format!("cannot lock {}", path.display());
    let file = File::create(&path).with_context(failed)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => eprintln!("xtask: waiting for another `cargo xtask vm` to end"),
        Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
    }
    file.lock().with_context(failed)?;
    Ok(file)
}

/// What a guest needs on a machine with nothing else to do: with less there is no use in another.
const LEAST: Duration = Duration::from_secs(90);

/// What all guests have in common.
struct Guests<'a> {
    qemu: &'a Qemu,
    initramfs: &'a Path,
    directory: &'a Path,
}

impl Guests<'_> {
    /// Boots every kernel, so many at a time. The rows are in the order of the kernels.
    fn all(&self, kernels: &[Kernel], jobs: usize) -> Vec<Row> {
        let waiting: Mutex<VecDeque<(usize, &Kernel)>> = Mutex::new(kernels.iter().enumerate().collect());
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let work = || {
            let mut rows = Vec::new();
            while let Some((place, kernel)) = next() {
                rows.push((place, self.one(kernel)));
            }
            rows
        };
        let mut rows: Vec<(usize, Row)> = thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            let done = workers.into_iter().map(|worker| worker.join());
            // A thread that panicked has said so, and its kernels are missing below.
            done.filter_map(Result::ok).flatten().collect()
        });
        for (place, kernel) in kernels.iter().enumerate() {
            if !rows.iter().any(|(done, _)| *done == place) {
                rows.push((place, not_run(kernel, "the thread that booted it panicked".to_owned())));
            }
        }
        rows.sort_by_key(|(place, _)| *place);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    fn one(&self, kernel: &Kernel) -> Row {
        let row = self
            .attempts(kernel)
            .unwrap_or_else(|error| not_run(kernel, format!("{error:#}")));
        eprintln!(
            "xtask: {} ended after {:.1} s: {:?}",
            kernel.version,
            row.took.as_secs_f64(),
            row.outcome
        );
        row
    }

    /// QEMU itself has crashed guests, so a crash is tried again, and so is a guest that says nothing any more, while there
    /// is time; never in silence, because the profiler could have done it, too.
    fn attempts(&self, kernel: &Kernel) -> Result<Row> {
        let mut remarks = Vec::new();
        let mut left = qemu::PATIENCE;
        for attempt in ["first", "second"] {
            eprintln!("xtask: booting {}", kernel.version);
            let directory = self.directory.join("runs").join(&kernel.series).join(attempt);
            debs::remove(&directory)?;
            debs::make_directory(&directory)?;
            let run = qemu::boot(self.qemu, kernel, self.initramfs, &directory, left)?;
            left = left.saturating_sub(run.took);
            let row = judge(kernel, &run, &directory)?;
            let what = match row.outcome {
                Outcome::Crashed => "crashed",
                Outcome::Hung => "hung",
                _ => "",
            };
            let is_over = what.is_empty() || left < LEAST || attempt == "second";
            remarks.extend(row.remarks);
            if is_over {
                return Ok(Row { remarks, ..row });
            }
            eprintln!("xtask: {}: the guest {what}; trying once more", kernel.version);
        }
        bail!("no attempt was made")
    }
}

fn not_run(kernel: &Kernel, why: String) -> Row {
    Row {
        kernel: kernel.version.clone(),
        outcome: Outcome::NotRun,
        findings: None,
        took: Duration::ZERO,
        remarks: vec![why],
    }
}

/// What a guest's end means.
fn judge(kernel: &Kernel, run: &Run, directory: &Path) -> Result<Row> {
    let row = |outcome, findings, remarks| Row {
        kernel: kernel.version.clone(),
        outcome,
        findings,
        took: run.took,
        remarks,
    };
    let ended = match run.ending {
        Ending::Finished(status) => status,
        Ending::Crashed => return Ok(row(Outcome::Crashed, None, vec![last_words("crashed", &run.console)])),
        Ending::Hung => return Ok(row(Outcome::Hung, None, vec![last_words("hung", &run.console)])),
    };
    let sent = fs::read(&run.sent).with_context(|| format!("cannot read {}", run.sent.display()))?;
    let files = match tar::files(&sent) {
        Ok(files) => files,
        Err(error) => {
            return Ok(row(
                Outcome::Failed,
                None,
                vec![format!("what the guest sent: {error:#}")],
            ));
        }
    };
    // For whoever wants to know more. The names came from a guest.
    for (name, bytes) in files.iter().filter(|(name, _)| !name.contains('/')) {
        let file = directory.join(name);
        fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let findings = verdict::look(&files, &kernels::refused(&kernel.series));
    let mut remarks = Vec::new();
    if ended != 0 {
        remarks.push(last_words(&format!("ended its job with status {ended}"), &run.console));
    }
    let outcome = if ended != 0 || !findings.complaints.is_empty() {
        Outcome::Failed
    } else if findings.refusals.is_empty() {
        Outcome::Passed
    } else {
        Outcome::PassedInPart
    };
    if outcome == Outcome::Failed {
        remarks.push(format!("see {}", directory.display()));
    }
    Ok(row(outcome, Some(findings), remarks))
}

/// The end of a guest's console, or what follows a kernel's first complaint.
fn last_words(what: &str, console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    format!(
        "the guest {what}; from {}:\n{}",
        console.display(),
        telling(&text).join("\n")
    )
}

fn telling(console: &str) -> Vec<&str> {
    const LINES: usize = 20;
    const COMPLAINTS: [&str; 5] = ["Kernel panic", "Oops", "BUG: ", "int3: ", "double fault"];
    let lines: Vec<&str> = console.lines().map(str::trim_end).collect();
    let complaint = lines
        .iter()
        .position(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)));
    let from = complaint.unwrap_or(lines.len().saturating_sub(LINES));
    lines.into_iter().skip(from).take(LINES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_waits_for_the_other() {
        let directory = std::env::temp_dir().join(format!("xtask-vm-{}", std::process::id()));
        debs::make_directory(&directory).unwrap();
        let first = alone(&directory).unwrap();
        let again = File::create(directory.join("lock")).unwrap();
        assert!(matches!(again.try_lock(), Err(TryLockError::WouldBlock)));
        drop(first);
        assert!(again.try_lock().is_ok());
        debs::remove(&directory).unwrap();
    }

    #[test]
    fn a_kernels_first_complaint_tells_more_than_its_last_line() {
        let console: String = (0..50)
            .map(|line| match line {
                20 => "[ 1.0] BUG: unable to handle page fault\r\n".to_owned(),
                40 => "[ 1.1] Kernel panic - not syncing\r\n".to_owned(),
                line => format!("{line}\r\n"),
            })
            .collect();
        let told = telling(&console);
        assert_eq!((told[0], told.len()), ("[ 1.0] BUG: unable to handle page fault", 20));
        assert_eq!(telling("a\r\nb\r\n"), ["a", "b"]);
        assert_eq!(telling(""), [""; 0]);
    }
}
