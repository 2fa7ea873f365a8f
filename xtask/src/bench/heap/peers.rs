//! memray from PyPI, and tracemalloc, which comes with CPython: what users have today. Both need a restart.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::programs::Programs;
use crate::bench::interpreters::{Interpreter, Interpreters};
use crate::{command, workspace};

/// Somebody else who watches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Memray,
    /// With `--trace-python-allocators`: small objects as well.
    MemrayPython,
    Tracemalloc,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Memray => "memray run",
            Self::MemrayPython => "memray run --trace-python-allocators",
            Self::Tracemalloc => "tracemalloc",
        }
    }

    /// The interpreter under which a script is watched.
    pub fn interpreter(
        self,
        programs: &Programs,
        main: &Interpreter,
        memray: &Result<Memray, String>,
        directory: &Path,
    ) -> Result<Interpreter> {
        if self == Self::Tracemalloc {
            return programs.wrapped(main, "tracemalloc.sh", &["-X", "tracemalloc=1"]);
        }
        let python = match memray {
            Ok(memray) => Interpreter {
                executable: memray.python.clone(),
                version: main.version.clone(),
            },
            Err(why) => bail!("{why}"),
        };
        let output = directory.join("memray.bin").display().to_string();
        let mut words = vec!["-m", "memray", "run", "--quiet", "--force", "--output", &output];
        let mut name = "memray.sh";
        if self == Self::MemrayPython {
            words.push("--trace-python-allocators");
            name = "memray-python.sh";
        }
        programs.wrapped(&python, name, &words)
    }
}

pub struct Memray {
    python: PathBuf,
    pub version: String,
}

impl Memray {
    pub fn find() -> Result<Self> {
        let python = venv().join("bin/python");
        if !venv().join("bin/memray").exists() {
            bail!("there is no memray in {}", venv().display());
        }
        let version = command::output(Command::new(&python).args(["-m", "memray", "--version"]))?;
        Ok(Self {
            python,
            version: format!("memray {}", version.trim()),
        })
    }
}

/// Installs memray if it is not there. A failure is told and is none of the benchmark's.
pub fn install() {
    if venv().join("bin/memray").exists() {
        return;
    }
    eprintln!("xtask: about to install memray from PyPI into {}", venv().display());
    if let Err(error) = make() {
        eprintln!("xtask: cannot install memray: {error:#}");
    }
}

fn make() -> Result<()> {
    let python = Interpreters::find()?.main.executable;
    command::output(Command::new(python).args(["-m", "venv", "--clear"]).arg(venv()))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "memray",
    ];
    command::output(Command::new(venv().join("bin/python")).args(pip)).map(drop)
}

fn venv() -> PathBuf {
    workspace::root().join("target/bench/memray")
}
