//! `cargo xtask test`: the whole proof, which is also what CI runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::steps::Steps;
use crate::{build, cargo, command, lint, root, setup, workspace};

/// Set up what is missing, then lint, unit tests and end-to-end tests
///
/// The end-to-end tests profile real interpreters: they are built as the user and run as root (through sudo, unless
/// this is run as root). A summary of what ran and what failed comes last.
#[derive(Args)]
pub struct Options {
    /// Make a skipped end-to-end test a failure
    #[arg(long)]
    strict: bool,

    /// Even then, let the tests skip the interpreters that `cargo xtask pythons` would have made
    #[arg(long)]
    without_pythons: bool,

    /// Leave out the end-to-end tests, which need root
    #[arg(long)]
    no_e2e: bool,

    /// Run only the tests whose name contains one of these, and no lint
    filters: Vec<String>,
}

const END_TO_END: &str = "end-to-end tests";

pub fn run(options: &Options) -> Result<()> {
    let mut steps = Steps::default();
    match steps.step("set-up", setup::ensure) {
        Some(tools) => {
            if options.filters.is_empty() {
                lint::all(&mut steps, &tools);
            } else {
                steps.skip("lint", "only some tests are wanted");
            }
            steps.step("unit tests", || unit(options));
            end_to_end(&mut steps, options);
        }
        None => steps.skip("everything else", "nothing can be built without the tools"),
    }
    steps.finish("test")
}

/// The eBPF crate's library is tested apart: its features must not be unified with those of the host's crates.
fn unit(options: &Options) -> Result<()> {
    let test = |packages: &[&str]| {
        let mut test = cargo::command("test");
        command::run(
            test.args(packages)
                .arg("--no-fail-fast")
                .arg("--")
                .args(&options.filters),
        )
    };
    let host = test(&[
        "--workspace",
        "--exclude",
        "profiler-tests",
        "--exclude",
        "profiler-ebpf",
    ]);
    // A failure among the first says nothing about the second.
    let ebpf = test(&["--package", "profiler-ebpf", "--lib"]);
    host.and(ebpf)
}

fn end_to_end(steps: &mut Steps, options: &Options) {
    if options.no_e2e {
        return steps.skip(END_TO_END, "--no-e2e");
    }
    let profiler = steps.step("build of the profiler", || build::profiler(true));
    let tests = steps.step("build of the end-to-end tests", || {
        let build = ["--package", "profiler-tests", "--test", "e2e", "--no-run"];
        cargo::executable(&cargo::messages(cargo::command("test").args(build))?, "e2e")
    });
    match (profiler, tests) {
        (Some(profiler), Some(tests)) => {
            steps.step(END_TO_END, || command::run(&mut as_root(&profiler, &tests, options)));
        }
        _ => steps.skip(END_TO_END, "their build failed"),
    }
}

/// The test binary itself, not `sudo cargo test`: that would leave root's files in the user's target directory.
fn as_root(profiler: &Path, tests: &Path, options: &Options) -> std::process::Command {
    let package: PathBuf = workspace::root().join("tests");
    let mut variables = vec![
        ("PROFILER_BIN", profiler.as_os_str().to_owned()),
        ("CARGO_MANIFEST_DIR", package.as_os_str().to_owned()),
        ("RUST_BACKTRACE", OsString::from("1")),
    ];
    if options.strict {
        variables.push(("PROFILER_STRICT", OsString::from("1")));
    }
    if options.without_pythons {
        variables.push(("PROFILER_WITHOUT_PYTHONS", OsString::from("1")));
    }
    // sudo changes it, and pyenv's interpreters are below it.
    variables.extend(std::env::var_os("HOME").map(|home| ("HOME", home)));
    let mut command = root::command(tests, &variables);
    cargo::leave(&mut command);
    command
        // One at a time: each of them samples every CPU, and some load them on purpose.
        .arg("--test-threads=1")
        // A test that skips something says why on its own output, which libtest hides when it passes.
        .arg("--show-output")
        .args(&options.filters)
        .current_dir(package);
    command
}
