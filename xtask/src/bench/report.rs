//! `cargo xtask bench report`: how long reading a large recording takes, and how much memory, against the goals.

mod large;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{
    child::Child,
    machine::Machine,
    scratch::Scratch,
    site,
    table::{Table, Unit},
};
use crate::workspace;

/// Build the profiler and measure how fast it reads a recording of 1,000,000 samples and 100,000 stacks
///
/// Takes a minute and needs no root. speedscope's importer is measured beside if `tests/` has fetched it into target/npm. A
/// missed goal is no failure.
#[derive(Args)]
pub struct Options {
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,

    /// Measure although the machine is busy
    #[arg(long)]
    anyway: bool,

    /// Measure this binary: build nothing
    #[arg(long, value_name = "FILE")]
    profiler: Option<PathBuf>,
}

/// A command by its name, with the goals in milliseconds and MiB, as far as there are any.
type Measured = (&'static str, &'static [&'static str], Option<f64>, Option<f64>);

const COMMANDS: [Measured; 6] = [
    ("report", &["report", "large.pb"], Some(1000.0), Some(300.0)),
    (
        "report --by function",
        &["report", "large.pb", "--by", "function"],
        Some(1000.0),
        Some(300.0),
    ),
    (
        "report -o page.html",
        &["report", "large.pb", "--force", "-o", "page.html"],
        Some(2000.0),
        None,
    ),
    (
        "convert -o x.svg",
        &["convert", "large.pb", "--force", "-o", "x.svg"],
        None,
        None,
    ),
    (
        "convert -o x.speedscope.json",
        &["convert", "large.pb", "--force", "-o", "x.speedscope.json"],
        None,
        None,
    ),
    ("diff with itself", &["diff", "large.pb", "large.pb"], None, None),
];
/// What a page of 100,000 stacks may take, in MiB.
const PAGE_MIB: f64 = 2.0;
const PATIENCE: Duration = Duration::from_secs(120);

pub fn run(options: &Options) -> Result<()> {
    let binary = site::binary(options.profiler.as_deref())?;
    let mut table = Table::default();
    site::note_machine(&mut table, &Machine::of_this()?, options.anyway)?;
    let scratch = Scratch::new()?;
    let there = scratch.path();
    let recording = large::recording();
    fs::write(there.join("large.pb"), &recording).context("cannot write the recording")?;
    table.group(format!(
        "a recording of {} samples and {} stacks, {:.1} MiB unpacked",
        large::SAMPLES,
        large::STACKS,
        recording.len() as f64 / f64::from(1 << 20)
    ));
    for (name, arguments, goal_ms, goal_mib) in COMMANDS {
        let (times, sizes) = measure(&binary, arguments, there, options.runs)?;
        table.figure(name, Unit::Milliseconds, times, goal_ms);
        table.figure(format!("… {name}, most memory"), Unit::Mebibytes, sizes, goal_mib);
    }
    let page = fs::metadata(there.join("page.html")).context("there is no page")?.len();
    table.figure(
        "size of the page",
        Unit::Mebibytes,
        vec![page as f64 / f64::from(1 << 20)],
        Some(PAGE_MIB),
    );
    beside(there, options.runs, &mut table)?;
    print!("{}", table.text());
    Ok(())
}

/// How long a command took each time, in milliseconds, and how much it had resident at most, in MiB.
fn measure(program: &Path, arguments: &[&str], there: &Path, runs: u32) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut times, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(there)
            .env("NODE_PATH", node_modules())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let began = Instant::now();
        let ended = Child::spawn(&mut command)?.wait(PATIENCE)?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        sizes.push(ended.max_resident_bytes as f64 / f64::from(1 << 20));
        if !ended.status.success() {
            bail!("{} {} failed", program.display(), arguments.join(" "));
        }
    }
    Ok((times, sizes))
}

fn node_modules() -> PathBuf {
    workspace::root().join("target/npm/speedscope-1.25.0/node_modules")
}

/// speedscope's importer, as the tests run it.
fn beside(there: &Path, runs: u32, table: &mut Table) -> Result<()> {
    let what = "speedscope 1.25.0 reads it (node)";
    if !node_modules().is_dir() {
        table.absent(what, "not in target/npm: run the end-to-end tests `readers` first");
        return Ok(());
    }
    let script = workspace::root().join("tests/workloads/read_speedscope.js");
    let (times, sizes) = measure(
        Path::new("node"),
        &[&script.display().to_string(), "large.pb"],
        there,
        runs,
    )?;
    table.figure(what, Unit::Milliseconds, times, None);
    table.figure(format!("… {what}, most memory"), Unit::Mebibytes, sizes, None);
    Ok(())
}
