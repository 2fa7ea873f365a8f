//! A recording in windows stays as it is, whatever comes and goes. `cargo xtask soak` is the same for longer.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    pprof, process,
    profiler::Profiler,
    python,
    serial::serial,
    workload::{Workload, sources},
    workshop::{LIKE_DISTRIBUTIONS, Workshop},
};

const SECONDS: u32 = 35;
const PROCESSES: u32 = 1500;
const EXECUTABLES: u32 = 400;

#[derive(Clone, Copy, Debug)]
struct Held {
    /// Not of files: what is being read at a moment says nothing.
    anonymous_mib: f64,
    descriptors: usize,
}

fn held(pid: u32) -> Result<Held> {
    let anonymous = process::status_field(pid, "RssAnon")?;
    let kib: f64 = anonymous.trim_end_matches("kB").trim().parse()?;
    Ok(Held {
        anonymous_mib: kib / 1024.0,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
    })
}

/// What the profiler says that it holds, in lines of `-v`: numbers of files, code objects, unwind tables (fifty
/// interpreters have 12 MiB of them), entries of the kernel side's maps.
const SAID: [&str; 4] = [" files of ", " numbers, ", "unwind tables of ", " and "];

/// The number after these words; memory in MiB.
fn number_after(line: &str, words: &str) -> Option<f64> {
    let text = line.split_once(words)?.1;
    let mut parts = text.split([' ', ',']);
    let number: f64 = parts.next()?.parse().ok()?;
    Some(match parts.next()? {
        "KiB" => number / 1024.0,
        "B" => number / 1048576.0,
        _ => number,
    })
}

/// What is let go of makes room for what comes: then there is seldom more than ever before. What is not is more in every
/// window. Whatever else begins on the machine makes for a step or two.
fn ensure_stays(stderr: &str) -> Result<()> {
    let cuts: Vec<String> = stderr
        .lines()
        .filter(|line| line.starts_with("cut in "))
        // 1,234
        .map(|line| {
            let mut parts = line.split(',').peekable();
            let mut joined = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let is_digits = part.starts_with(|c: char| c.is_ascii_digit());
                joined.push_str(if is_digits { "" } else { "," });
                joined.push_str(part);
            }
            joined
        })
        .collect();
    ensure!(cuts.len() >= 30, "only {} windows\n{stderr}", cuts.len());
    for words in SAID {
        let figures = cuts.iter().map(|line| number_after(line, words));
        let figures: Vec<f64> = figures
            .collect::<Option<_>>()
            .with_context(|| format!("no {words:?} in {cuts:?}"))?;
        // In the first ones everything is new (what is not met again goes after ten), and the last ones are of the last
        // programs, which run for longer.
        let (beginning, rest) = figures[..figures.len() - 3].split_at(13);
        let mut most = beginning.iter().copied().fold(0.0, f64::max);
        let mut records = 0;
        for &figure in rest {
            records += usize::from(figure > most);
            most = most.max(figure);
        }
        ensure!(
            records * 3 <= rest.len(),
            "{words:?}: more than ever before in {records} of {} windows: {figures:?}",
            rest.len()
        );
    }
    Ok(())
}

fn windows(directory: &Path) -> Result<usize> {
    Ok(fs::read_dir(directory)?.count())
}

/// Of the samples of processes of this name, how many there are, and in how many these functions call each other, leaf
/// first.
fn called(directory: &Path, comm: &str, chain: &[&str]) -> Result<(i64, i64)> {
    let (mut all, mut found) = (0, 0);
    for entry in fs::read_dir(directory)? {
        let profile = pprof::load(&entry?.path())?;
        for (key, values) in profile.samples() {
            if profile.string(key.labels.comm) != comm {
                continue;
            }
            let stack = profile.stack(key.stack).iter();
            let names: Vec<&str> = stack
                .map(|&frame| profile.string(profile.frame(frame).function))
                .collect();
            all += values[0];
            found += if names.windows(chain.len()).any(|part| part == chain) {
                values[0]
            } else {
                0
            };
        }
    }
    Ok((all, found))
}

#[test]
fn what_comes_and_goes_leaves_nothing_behind_and_the_last_is_named_like_the_first() -> Result<()> {
    let _serial = serial();
    let python = python::debian()?.map_or_else(python::any, Ok)?;
    let workshop = Workshop::new()?;
    let burn = workshop.path().join("burn");
    let compiled = Command::new("gcc")
        .args(LIKE_DISTRIBUTIONS)
        .arg("-o")
        .arg(&burn)
        .arg(sources().join("soak/burn.c"))
        .status()?;
    ensure!(compiled.success(), "burn.c does not compile");
    let (load, directory) = (workshop.path().join("load"), workshop.path().join("windows"));
    fs::create_dir(&load)?;
    fs::create_dir(&directory)?;
    let executable = fs::canonicalize(python.command().get_program())?;
    let home = executable
        .parent()
        .and_then(Path::parent)
        .context("an interpreter has a prefix")?;
    let mut command = Command::new(&executable);
    command
        .arg(sources().join("soak/load.py"))
        .args([&load, &burn, &executable])
        .args([SECONDS, PROCESSES, EXECUTABLES].map(|number| number.to_string()))
        .env("LOAD_PYTHONHOME", home)
        .env("LOAD_EACH_PYTHON", "8")
        .stdin(Stdio::null());

    let recording = Profiler::record(&["-v", "-a", "-r", "199", "--every", "1s", "--keep", "1000", "-o"])
        .arg(&directory)
        .start()?;
    let mut workload = Workload::command(command, None)?;
    let after = |count: usize| {
        let what = format!("{count} windows");
        process::until(Duration::from_secs(60), &what, || {
            windows(&directory).is_ok_and(|there| there >= count)
        })
    };
    after(8)?;
    let early = held(recording.pid())?;
    after(SECONDS as usize - 1)?;
    let late = held(recording.pid())?;
    let told = workload.value()?;
    let outcome = recording.stop()?;

    ensure!(
        told["made"] == PROCESSES && told["copies"].as_u64() >= Some(EXECUTABLES.into()),
        "{told}"
    );
    // Files stay open as long as a process maps them, or a window that met them waits: not for longer.
    ensure!(
        late.descriptors <= early.descriptors + 20 && late.anonymous_mib <= early.anonymous_mib * 1.15 + 6.0,
        "{early:?}, then {late:?}\n{}",
        outcome.stderr
    );
    ensure_stays(&outcome.stderr)?;
    for (comm, chain) in [
        (
            "last-burn",
            &["native_leaf", "native_middle", "native_outer", "main"][..],
        ),
        ("last-python", &["last_inner", "last_outer", "<module>"]),
    ] {
        let (all, found) = called(&directory, comm, chain)?;
        ensure!(all >= 100, "{comm} has {all} samples\n{}", outcome.stderr);
        ensure!(found * 100 >= all * 90, "{comm}: {found} of {all}\n{}", outcome.stderr);
    }
    Ok(())
}
