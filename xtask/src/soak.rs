//! `cargo xtask soak`: whether a recording that goes on for weeks stays as it is.
//!
//! `tests/workloads/soak/load.py` makes a machine on which everything comes and goes, the profiler records all of it in
//! windows of a second, and what it takes up after a tenth of the time is held against what it takes up at the end.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::{build, command, root, setup, workspace};

/// Record short processes in windows of a second, and compare what the profiler takes up early and late
#[derive(Args)]
pub struct Options {
    /// How many windows
    #[arg(long, default_value_t = 600)]
    windows: u64,
    /// Processes that come and go meanwhile
    #[arg(long, default_value_t = 100_000)]
    processes: u64,
    /// Executables among them that nobody has seen before
    #[arg(long, default_value_t = 20_000)]
    executables: u64,
    /// The interpreter of which copies are run
    #[arg(long, default_value = "/usr/bin/python3.11")]
    python: PathBuf,
    /// The profiler, instead of one that is built first
    #[arg(long)]
    binary: Option<PathBuf>,
    /// What is recorded
    #[arg(long, default_value = "record", value_parser = ["record", "memory", "waits"])]
    command: String,
    /// What the last may be above the first
    #[arg(long, default_value_t = 1.05)]
    at_most: f64,
}

/// The first three of [`KINDS`], in /proc/PID/status.
const MEMORY: [&str; 3] = ["VmRSS", "RssAnon", "RssFile"];

/// What is measured of each window, and its unit.
const KINDS: [(&str, &str); 9] = [
    ("resident", "MiB"),
    ("of it anonymous", "MiB"),
    // Maps that are shared with the kernel, our own program, and what is being read.
    ("of it of files", "MiB"),
    ("descriptors", ""),
    ("unwind tables", "MiB"),
    ("entries of maps", ""),
    ("numbers of files", ""),
    ("cutting", "ms"),
    ("naming and writing", "ms"),
];

pub fn run(options: &Options) -> Result<()> {
    ensure!(
        root::is_root(),
        "run this task as root: it starts the profiler and looks into /proc"
    );
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => {
            setup::ensure()?;
            build::profiler(true)?
        }
    };
    let directory = PathBuf::from(format!("/dev/shm/profiler-soak-{}", std::process::id()));
    fs::create_dir_all(directory.join("windows"))?;
    fs::create_dir_all(directory.join("load"))?;
    let result = measure(options, &binary, &directory);
    fs::remove_dir_all(&directory).context("cannot clean up")?;
    result
}

fn measure(options: &Options, binary: &Path, directory: &Path) -> Result<()> {
    let sources = workspace::root().join("tests/workloads/soak");
    let burn = directory.join("burn");
    command::run(
        Command::new("cc")
            .args(["-O2", "-fomit-frame-pointer", "-o"])
            .arg(&burn)
            .arg(sources.join("burn.c")),
    )?;
    let home = options
        .python
        .parent()
        .and_then(Path::parent)
        .context("the interpreter has no prefix")?;
    let mut load = Kill(
        Command::new("python3")
            .arg(sources.join("load.py"))
            .arg(directory.join("load"))
            .arg(&burn)
            .arg(&options.python)
            .args([options.windows, options.processes, options.executables].map(|number| number.to_string()))
            .env("LOAD_PYTHONHOME", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start python3")?,
    );
    let from_load = lines(load.0.stdout.take().context("no output")?);
    ensure!(from_load.recv()? == "READY", "the load did not start");
    let mut profiler = Kill(
        Command::new(binary)
            .args([&*options.command, "-v", "-a", "--every", "1s", "--keep", "60", "-o"])
            .arg(directory.join("windows"))
            .args(["-r", "199"].into_iter().filter(|_| options.command == "record"))
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the profiler")?,
    );
    let from_profiler = lines(profiler.0.stderr.take().context("no standard error")?);
    let pid = profiler.0.id();

    let mut windows: Vec<[f64; KINDS.len()]> = Vec::new();
    // While a window is named, tens of megabytes come and go: the least in each is what is held on to.
    let mut least = [f64::MAX; MEMORY.len()];
    let (mut errors, mut longer) = (0, 0);
    let deadline = Instant::now() + Duration::from_secs(2 * options.windows + 120);
    let ended = loop {
        ensure!(Instant::now() < deadline, "the load did not end");
        if let Ok(line) = from_load.try_recv() {
            break line;
        }
        let line = from_profiler.recv_timeout(Duration::from_millis(50));
        for (least, field) in least.iter_mut().zip(MEMORY) {
            *least = least.min(kib(pid, field)? / 1024.0);
        }
        let Ok(line) = line else { continue };
        if let Some(cut) = line.strip_prefix("cut in ") {
            let mut figures = [f64::NAN; KINDS.len()];
            for (figure, least) in figures.iter_mut().zip(&mut least) {
                *figure = std::mem::replace(least, f64::MAX);
            }
            figures[3] = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64;
            let tables = after(cut, "unwind tables of ").context("no tables")?;
            figures[4] = mebibytes(tables).context("no size of tables")?;
            figures[5] = after(tables, " and ").and_then(number).context("no entries")?;
            figures[6] = after(cut, " files of ").and_then(number).context("no files")?;
            figures[7] = milliseconds(cut).context("no time")?;
            windows.push(figures);
            if windows.len().is_multiple_of(60) {
                eprintln!("after {} windows: {}", windows.len(), shown(&figures));
            }
        } else if let (Some(took), Some(last)) = (after(&line, ") in "), windows.last_mut()) {
            last[8] = milliseconds(took).context("no time")?;
        } else if line.starts_with("error") {
            errors += 1;
            eprintln!("the profiler: {line}");
        } else if line.contains("becomes longer") {
            longer += 1;
        }
    };
    eprintln!("the load: {ended}");
    // SAFETY: a signal to a process that is ours.
    unsafe { libc::kill(pid.try_into()?, libc::SIGINT) };
    let status = profiler.0.wait()?;
    ensure!(status.success(), "the profiler failed: {status}");
    for line in from_profiler
        .try_iter()
        .filter(|line| !line.starts_with("cut in ") && !line.starts_with("wrote /"))
    {
        eprintln!("the profiler: {line}");
    }

    if options.command == "record" {
        check_last(&directory.join("windows"))?;
    }

    let tenth = (windows.len() / 10).max(1);
    ensure!(windows.len() >= 20, "only {} windows", windows.len());
    // Averages over a tenth each: one window more or less busy is no trend.
    let early = mean(&windows[tenth..2 * tenth]);
    let late = mean(&windows[windows.len() - tenth..]);
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:>20} {:>12} {:>12} {:>7}",
        "", "after 10 %", "at the end", "ratio"
    )?;
    let mut above = Vec::new();
    for (((kind, unit), early), late) in KINDS.iter().zip(early).zip(late) {
        let ratio = late / early;
        writeln!(
            out,
            "{kind:>20} {early:>8.1} {unit:<3} {late:>8.1} {unit:<3} {ratio:>7.3}"
        )?;
        if ratio > options.at_most {
            above.push(*kind);
        }
    }
    writeln!(
        out,
        "{} windows, {longer} of them longer than a second, {errors} errors",
        windows.len()
    )?;
    if !above.is_empty() || errors > 0 {
        bail!(
            "above {:.2} times what it was: {}; {errors} errors",
            options.at_most,
            above.join(", ")
        );
    }
    Ok(())
}

/// Whether the executables that came last have stacks and names as if they had come first.
fn check_last(windows: &Path) -> Result<()> {
    const CHAINS: [(&str, &[&str]); 2] = [
        // All that run burn have these.
        (
            "native stacks",
            &["main", "native_outer", "native_middle", "native_leaf"],
        ),
        // Only the very last has these.
        ("Python names", &["last_outer", "last_inner"]),
    ];
    let mut files: Vec<PathBuf> = fs::read_dir(windows)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort_unstable();
    let mut counts = [[0; 2]; CHAINS.len()];
    // They run for two seconds each, at the same time.
    for file in files.iter().rev().take(8) {
        let mut read = Command::new("python3");
        read.arg(workspace::root().join("tests/workloads/read_pprof.py"))
            .arg(file);
        let profile: Value = serde_json::from_str(&command::output(&mut read)?)?;
        for stack in profile["stacks"].as_array().context("no stacks")? {
            let names: Vec<&str> = (stack["frames"].as_array().context("no frames")?.iter())
                .filter_map(|frame| frame[0].as_str())
                .collect();
            let samples = stack["count"].as_u64().context("no count")?;
            for ((_, chain), [all, whole]) in CHAINS.iter().zip(&mut counts) {
                if names.contains(chain.last().context("a chain")?) {
                    *all += samples;
                    *whole += if names.windows(chain.len()).any(|part| part == *chain) {
                        samples
                    } else {
                        0
                    };
                }
            }
        }
    }
    for ((what, _), [all, whole]) in CHAINS.iter().zip(counts) {
        eprintln!("the last executable: {what} in {whole} of {all} samples");
        ensure!(all >= 100 && whole * 10 >= all * 9, "the last executable has no {what}");
    }
    Ok(())
}

/// Ends with us, however we end.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        // Usually it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

fn kib(pid: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .context("no such field")?;
    number(line.trim_start_matches(':').trim()).context("no number")
}

fn after<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    text.split_once(what).map(|(_, after)| after)
}

/// `1,234 …`
fn number(text: &str) -> Option<f64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != ',' && c != '.')
        .unwrap_or(text.len());
    text[..end].replace(',', "").trim_end_matches('.').parse().ok()
}

fn mebibytes(text: &str) -> Option<f64> {
    let unit = text.split_whitespace().nth(1)?;
    let factor = match unit.trim_end_matches(',') {
        "B" => 1.0 / 1048576.0,
        "KiB" => 1.0 / 1024.0,
        "MiB" => 1.0,
        "GiB" => 1024.0,
        _ => return None,
    };
    Some(number(text)? * factor)
}

fn milliseconds(text: &str) -> Option<f64> {
    let unit = text.split_whitespace().nth(1)?;
    let factor = match unit.trim_end_matches(';') {
        "ns" => 1e-6,
        "µs" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        _ => return None,
    };
    Some(number(text)? * factor)
}

fn mean(windows: &[[f64; KINDS.len()]]) -> [f64; KINDS.len()] {
    std::array::from_fn(|kind| {
        let known: Vec<f64> = windows
            .iter()
            .map(|window| window[kind])
            .filter(|value| !value.is_nan())
            .collect();
        known.iter().sum::<f64>() / known.len().max(1) as f64
    })
}

fn shown(figures: &[f64; KINDS.len()]) -> String {
    let parts: Vec<String> = KINDS
        .iter()
        .zip(figures)
        .map(|((kind, unit), value)| format!("{kind} {value:.1} {unit}"))
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_profiler_says_of_a_window_is_understood() {
        let cut = "3.1 ms; held: 41 processes, 63 files of 1,080 numbers, 12 code objects, 3 raw stacks (2.0 KiB), \
                   4 sites, unwind tables of 512.0 KiB and 1234 entries, 31.0 MiB resident";
        assert_eq!(milliseconds(cut), Some(3.1));
        assert_eq!(after(cut, " files of ").and_then(number), Some(1080.0));
        let tables = after(cut, "unwind tables of ").unwrap();
        assert_eq!(mebibytes(tables), Some(0.5));
        assert_eq!(after(tables, " and ").and_then(number), Some(1234.0));
        assert_eq!(milliseconds("850 µs"), Some(0.85));
    }

    #[test]
    fn what_is_not_known_of_a_window_is_not_in_the_mean() {
        let window = |value| [value; KINDS.len()];
        assert_eq!(mean(&[window(1.0), window(f64::NAN), window(3.0)])[0], 2.0);
    }
}
