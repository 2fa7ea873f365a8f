//! `cargo xtask test`: the whole proof, which is also what CI runs.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Error, Result};
use clap::Args;

use crate::beside::{self, Task};
use crate::ebpf_tools::EbpfTools;
use crate::failures::Failures;
use crate::steps::Steps;
use crate::{build, cargo, claims, command, lint, root, setup, unit, workspace};

/// Set up what is missing, then lint, unit tests and end-to-end tests
///
/// The end-to-end tests profile real interpreters: they are built as the user and run as root (through sudo, unless
/// this is run as root). Lint and unit tests run beside them, at idle priority, on the CPU time that they leave; what
/// these print is in target/beside. A summary of what ran and what failed comes last.
#[derive(Args)]
pub struct Options {
    /// Make a skipped end-to-end test a failure
    #[arg(long)]
    strict: bool,

    /// First make what `cargo xtask pythons` makes, beside the builds; if that fails, go on without
    #[arg(long, conflicts_with_all = ["without_pythons", "no_e2e"])]
    pythons: bool,

    /// Also boot these kernels, as `cargo xtask vm --kernel` does, after the end-to-end tests
    #[arg(long, value_delimiter = ',', value_name = "SERIES", conflicts_with_all = ["no_e2e", "filters"])]
    vm: Vec<String>,

    /// Also try the parsers of foreign bytes with damaged ones, as `cargo xtask fuzz` does, each for so many seconds
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["no_e2e", "filters"])]
    fuzz: Option<u64>,

    /// Even then, let the tests skip the interpreters that `cargo xtask pythons` would have made
    #[arg(long)]
    without_pythons: bool,

    /// Try every claim with every interpreter, also those that the kernel decides
    #[arg(long)]
    full: bool,

    /// Leave out the end-to-end tests, which need root
    #[arg(long)]
    no_e2e: bool,

    /// Run only the tests whose name contains one of these, and no lint
    filters: Vec<String>,
}

const END_TO_END: &str = "end-to-end tests";
const LINT: &str = "lint";
const UNIT: &str = "unit tests";
const PYTHONS: &str = "interpreters";
/// How long each claim took, below `target`.
const TIMES: &str = "claims.tsv";
/// What tasks beside others printed, below `target`.
const BESIDE: &str = "beside";
/// How often claims that failed are asked again.
const TIMES_AGAIN: u32 = 2;
/// For a task beside others: CI itself has 90.
const MINUTES: u32 = 80;

pub fn run(options: &Options) -> Result<()> {
    let mut steps = Steps::default();
    let mut failed = Failed::default();
    if let Some(tools) = steps.step("set-up", setup::ensure) {
        all(&mut steps, &mut failed, &tools, options)?;
    } else {
        steps.skip("everything else", "nothing can be built without the tools");
    }
    let became = steps.finish("test");
    eprint!("{}", failed.unit.shown("failed beside the end-to-end tests"));
    match &failed.again {
        None => eprint!("{}", failed.first.shown("failed")),
        Some(again) => {
            eprint!("{}", failed.first.shown("failed at first and was asked again"));
            eprint!("{}", again.shown("failed again"));
        }
    }
    became
}

/// The unit tests that failed beside the others, the end-to-end tests that failed, and those of these that failed again
/// where they were asked again.
#[derive(Default)]
struct Failed {
    unit: Failures,
    first: Failures,
    again: Option<Failures>,
}

fn all(steps: &mut Steps, failed: &mut Failed, tools: &EbpfTools, options: &Options) -> Result<()> {
    let mut beside = Vec::new();
    if options.no_e2e {
        lint::all(steps, tools);
        steps.step(UNIT, || unit::all(&options.filters));
        steps.skip(END_TO_END, "--no-e2e");
        return Ok(());
    } else if !options.filters.is_empty() {
        steps.skip(LINT, "only some tests are wanted");
        steps.step(UNIT, || unit::all(&options.filters));
    } else {
        beside.push(beside::this(LINT, MINUTES, &["lint"])?.idle());
        beside.push(beside::this(UNIT, MINUTES, &["unit"])?.idle());
        beside.push(beside::this("store", MINUTES, &["store"])?.idle());
    }
    let fetching = beside::begin(folder(), fetched(options)?);
    let profiler = steps.step("build of the profiler", || build::profiler(true));
    let tests = steps.step("build of the end-to-end tests", || {
        let build = ["--package", "profiler-tests", "--test", "e2e", "--no-run"];
        cargo::executable(&cargo::messages(cargo::command("test").args(build))?, "e2e")
    });
    let mut without_pythons = options.without_pythons;
    for done in fetching.end() {
        if done.name != PYTHONS {
            // Without it, the tests say that they are skipped, and why that is a failure here.
            done.tell(steps);
        } else if !done.tell_if_it_passed(steps, "going on without CPython 3.14 and 3.15") {
            without_pythons = true;
        }
    }
    if let Some(seconds) = options.fuzz {
        let words = ["fuzz", "--seconds", &seconds.to_string()];
        beside.push(beside::this("parsers of foreign bytes", MINUTES, &words)?.idle());
    }
    let beside = beside::begin(folder(), beside);
    let kernels = profiler.as_deref().and_then(|profiler| kernels(profiler, options));
    let claims = profiler.zip(tests).map(|(profiler, tests)| Claims {
        profiler,
        tests,
        times: workspace::root().join("target").join(TIMES),
        without_pythons,
        options,
    });
    let start = Instant::now();
    let became = claims.as_ref().map(|claims| claims.all(&mut failed.first));
    let took = start.elapsed();
    for done in beside.end() {
        let tests = done.failures();
        if done.name == UNIT && !tests.is_empty() {
            done.show();
            failed.unit = tests;
        } else {
            done.tell(steps);
        }
    }
    // By itself: an emulated guest that gets a CPU now and then has half of its samples.
    if let Some(kernels) = kernels {
        for done in beside::begin(folder(), vec![kernels?]).end() {
            done.tell(steps);
        }
    }
    // Quiet now, and at a usual priority. All of them: they take a minute, and which failed stays in the log.
    if !failed.unit.is_empty() {
        steps.step("unit tests, asked again", || unit::all(&options.filters));
    }
    let (Some(claims), Some(became)) = (claims, became) else {
        steps.skip(END_TO_END, "their build failed");
        return Ok(());
    };
    // Only now: who failed beside a compiler is asked again without one.
    let start = Instant::now();
    let became = became.or_else(|error| claims.again(error, failed));
    steps.told(END_TO_END, took + start.elapsed(), became);
    match claims::read(&claims.times) {
        Ok(all) => eprint!("\n{}", claims::slowest(&all, &failed.first, &claims.times)),
        Err(error) => eprintln!("xtask: {error:#}"),
    }
    Ok(())
}

fn folder() -> PathBuf {
    workspace::root().join("target").join(BESIDE)
}

/// What comes over the network and is needed by the end-to-end tests only: the compiler does not wait for it.
fn fetched(options: &Options) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    if options.strict {
        tasks.push(beside::this("a browser", 10, &["setup", "--browser"])?);
    }
    if options.pythons {
        tasks.push(beside::this(PYTHONS, 10, &["pythons"])?);
    }
    Ok(tasks)
}

/// What loads on this machine's kernel need not load on an older one: verifiers differ.
fn kernels(profiler: &Path, options: &Options) -> Option<Result<Task>> {
    if options.vm.is_empty() {
        return None;
    }
    let series = options.vm.join(",");
    let words: [&OsStr; 5] = [
        "vm".as_ref(),
        "--kernel".as_ref(),
        series.as_ref(),
        "--profiler".as_ref(),
        profiler.as_ref(),
    ];
    Some(beside::this("other kernels", MINUTES, &words))
}

/// The end-to-end tests as they were built.
struct Claims<'a> {
    profiler: PathBuf,
    tests: PathBuf,
    times: PathBuf,
    without_pythons: bool,
    options: &'a Options,
}

impl Claims<'_> {
    fn all(&self, failed: &mut Failures) -> Result<()> {
        eprintln!("\nxtask: {END_TO_END}");
        // Of the last run. What cannot be removed is written on to, and seen in the table.
        let _ = std::fs::remove_file(&self.times);
        let mut all = self.as_root(&self.times);
        all.args(&self.options.filters);
        command::watched(&mut all, |line| failed.take(line))
    }

    /// Asks those once more that may have failed by chance, and once again those that fail then: of some hundred claims
    /// about samples, on a machine that others have as well, two can fail by chance in a row. `error` is why this is
    /// needed.
    fn again(&self, error: Error, failed: &mut Failed) -> Result<()> {
        let mut became = Err(error);
        for time in 1..=TIMES_AGAIN {
            let names = failed.again.as_ref().unwrap_or(&failed.first).to_ask_again();
            if names.is_empty() {
                break;
            }
            eprintln!("\nxtask: asking again ({time} of {TIMES_AGAIN}): {}", names.join(", "));
            let mut few = self.as_root(&self.times.with_extension("again.tsv"));
            few.arg("--exact").args(names);
            let mut still = Failures::default();
            became = command::watched(&mut few, |line| still.take(line));
            failed.again = Some(still);
            if became.is_ok() {
                break;
            }
        }
        became
    }

    /// The test binary itself, not `sudo cargo test`: that would leave root's files in the user's target directory.
    fn as_root(&self, times: &Path) -> std::process::Command {
        let package: PathBuf = workspace::root().join("tests");
        let mut variables = vec![
            ("PROFILER_BIN", self.profiler.as_os_str().to_owned()),
            ("CARGO_MANIFEST_DIR", package.as_os_str().to_owned()),
            ("PROFILER_CLAIM_TIMES", times.as_os_str().to_owned()),
            ("RUST_BACKTRACE", OsString::from("1")),
        ];
        let said = [
            (self.options.strict, "PROFILER_STRICT"),
            (self.without_pythons, "PROFILER_WITHOUT_PYTHONS"),
            (self.options.full, "PROFILER_FULL"),
        ];
        variables.extend(
            said.iter()
                .filter(|(said, _)| *said)
                .map(|(_, name)| (*name, OsString::from("1"))),
        );
        // sudo changes it, and pyenv's interpreters are below it.
        variables.extend(std::env::var_os("HOME").map(|home| ("HOME", home)));
        let mut command = root::command(&self.tests, &variables);
        cargo::leave(&mut command);
        command
            // One at a time: each of them samples every CPU, and some load them on purpose.
            .arg("--test-threads=1")
            // A test that skips something says why on its own output, which libtest hides when it passes.
            .arg("--show-output")
            .current_dir(package);
        command
    }
}
