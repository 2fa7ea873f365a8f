//! The `profiler` command.

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::{io, process::ExitCode};

use anyhow::Context as _;
use profiler::{
    agent,
    cli::{self, Command, completions, manual},
    config::{Config, ObjectsConfig},
    dump, exit, inject, query, reread, session, shown, top,
};

fn main() -> ExitCode {
    // No command of the user's: what `inject` starts, before anything else of this program runs in it.
    if inject::apart::is_wanted() {
        return ExitCode::from(inject::apart::serve());
    }
    match run() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let remedy = exit::remedy(&error).map(|remedy| format!("; {remedy}"));
            let text = format!("error: {error:#}{}", remedy.unwrap_or_default());
            shown::say(&text);
            ExitCode::from(exit::of_error(&error))
        }
    }
}

fn run() -> anyhow::Result<u8> {
    match cli::parse().command {
        Command::Record(typed) => session::record(&Config::from_cli(typed)?),
        Command::Memory(typed) => session::record(&Config::from_memory_cli(typed)?),
        Command::Calls(typed) => session::record(&Config::from_calls_cli(typed)?),
        Command::Waits(typed) => session::record(&Config::from_waits_cli(typed)?),
        Command::Why(typed) => session::record(&Config::from_why_cli(typed)?),
        Command::Exceptions(typed) => session::record(&Config::from_exceptions_cli(typed)?),
        Command::Imports(typed) => session::record(&Config::from_imports_cli(typed)?),
        Command::Undo(typed) => inject::undo::run(typed.pid),
        Command::Gc(typed) => session::record(&Config::from_gc_cli(typed)?),
        Command::Dump(typed) => dump::run(&dump::Options::from_cli(typed)?),
        Command::Top(typed) => top::run(&top::options::Options::from_cli(typed)?),
        Command::Objects(typed) => session::objects::look(&ObjectsConfig::from_cli(typed)?),
        Command::Report(typed) => reread::report(&reread::options::Options::from_cli(typed)?),
        Command::Diff(typed) => reread::diff::run(&reread::diff::Options::from_cli(typed)?),
        Command::Agent(typed) => agent::run(&typed),
        Command::Query { question } => Err(query::run(&question)),
        Command::Merge(typed) => reread::merge::run(typed),
        Command::Convert(typed) => reread::convert(&reread::options::Conversion::from_cli(typed)?),
        Command::Completions { shell } => printed(completions::write(shell, &mut io::stdout().lock())),
        Command::Man {
            all: Some(directory), ..
        } => {
            manual::write_all(&directory).with_context(|| format!("cannot write into {}", directory.display()))?;
            Ok(exit::SUCCESS)
        }
        Command::Man { command, all: None } => printed(manual::write(command.as_deref(), &mut io::stdout().lock())),
    }
}

/// A reader that leaves early has what it wanted.
fn printed(result: io::Result<()>) -> anyhow::Result<u8> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(exit::SUCCESS),
    }
}
