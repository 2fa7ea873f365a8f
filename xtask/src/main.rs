//! `cargo xtask <task>`: everything that is done to this repository. One file per task; this one only dispatches.
//!
//! What a task says goes to standard error, so that `cargo xtask run -- record -o - …` can be piped.

mod bench;
mod beside;
mod bless;
mod browser;
mod build;
mod cargo;
mod claims;
mod command;
mod debian;
mod debootstrap;
mod dist;
mod ebpf_tools;
mod failures;
mod from_source;
mod fuzz;
mod lint;
mod pythons;
mod root;
mod run;
mod setup;
mod soak;
mod steps;
mod store;
mod test;
mod unit;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, checks and runs the profiler
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Setup(setup::Options),
    Build(build::Options),
    Run(run::Options),
    Lint(lint::Options),
    Test(test::Options),
    Unit(unit::Options),
    Bless(bless::Options),
    Bench(bench::Options),
    Fuzz(fuzz::Options),
    Pythons(pythons::Options),
    Vm(vm::Options),
    Soak(soak::Options),
    Dist(dist::Options),
    Store(store::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup(options) => setup::run(&options),
        Task::Build(options) => build::run(&options),
        Task::Run(options) => run::run(&options),
        Task::Lint(options) => lint::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Unit(options) => unit::run(&options),
        Task::Bless(options) => bless::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Pythons(options) => pythons::run(&options),
        Task::Vm(options) => vm::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Dist(options) => dist::run(&options),
        Task::Store(options) => store::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
