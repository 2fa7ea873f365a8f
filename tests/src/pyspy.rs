//! py-spy from PyPI: another profiler's word for the same program.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{folded::Folded, python, venv, workshop::run};

#[derive(Clone, Debug)]
pub struct PySpy {
    program: PathBuf,
}

impl PySpy {
    /// `None`, said aloud, if it cannot be had: offline. Once for all interpreters: two tests at a time would install it
    /// into one place.
    pub fn find() -> Result<Option<Self>> {
        let interpreter = venv::with(&python::any()?, &["py-spy"])?;
        Ok(interpreter.map(|interpreter| Self {
            program: interpreter.with_file_name("py-spy"),
        }))
    }

    /// What it says of a process after so many seconds: samples by stack.
    pub fn record(&self, pid: u32, rate_hz: u32, seconds: u32, flags: &[&str]) -> Result<Folded> {
        let file = tempfile::NamedTempFile::new()?;
        let mut command = Command::new(&self.program);
        command.args(["record", "--format", "raw", "--rate", &rate_hz.to_string()]);
        command.args(["--pid", &pid.to_string(), "--duration", &seconds.to_string()]);
        command.arg("--output").arg(file.path()).args(flags);
        run(&mut command)?;
        let text = std::fs::read_to_string(file.path()).context("py-spy wrote nothing")?;
        Folded::parse(&text)
    }
}
