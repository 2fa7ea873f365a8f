//! The `profiler` command.

use std::process::ExitCode;

use profiler::{
    cli::{self, Command, completions},
    config::Config,
    exit, session, shown,
};

fn main() -> ExitCode {
    match run() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let remedy = exit::remedy(&error).map(|remedy| format!("; {remedy}"));
            let text = format!("error: {error:#}{}", remedy.unwrap_or_default());
            eprintln!("{}", shown::lines(&text));
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
        Command::Completions { shell } => {
            // A reader that leaves early has what it wanted.
            match completions::write(shell, &mut std::io::stdout().lock()) {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
                _ => Ok(exit::SUCCESS),
            }
        }
    }
}
