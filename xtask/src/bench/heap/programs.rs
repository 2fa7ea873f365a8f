//! The programs whose memory is watched, and the ways to start them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::bench::interpreters::Interpreter;
use crate::command;

const SOURCES: [(&str, &str); 5] = [
    (ALLOCATE, include_str!("programs/allocate.py")),
    (TOUCH, include_str!("programs/touch.py")),
    (HOLD, include_str!("programs/hold.py")),
    (TOUCH_C, include_str!("programs/touch.c")),
    (TRAP_C, include_str!("programs/trap.c")),
];

/// Allocates and frees small objects.
pub const ALLOCATE: &str = "allocate.py";
/// Touches new memory.
pub const TOUCH: &str = "touch.py";
/// Holds what it allocates.
pub const HOLD: &str = "hold.py";
const TOUCH_C: &str = "touch.c";
const TRAP_C: &str = "trap.c";

pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Writes them below `directory`.
    pub fn make(directory: &Path) -> Result<Self> {
        let directory = directory.join("programs");
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for (name, text) in SOURCES {
            let file = directory.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(Self { directory })
    }

    /// Where one of them is.
    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// The program in C that touches new memory. It is started as an interpreter is, and takes its script for nothing.
    pub fn touch_in_c(&self) -> Result<Interpreter> {
        Ok(Interpreter {
            executable: self.compile(TOUCH_C)?,
            version: "none".to_owned(),
        })
    }

    /// The program that measures what a trap costs.
    pub fn trap(&self) -> Result<PathBuf> {
        self.compile(TRAP_C)
    }

    fn compile(&self, source: &str) -> Result<PathBuf> {
        let program = self.directory.join(source).with_extension("");
        if !program.exists() {
            let source = self.directory.join(source);
            command::output(Command::new("gcc").args(["-O2", "-o"]).arg(&program).arg(&source))?;
        }
        Ok(program)
    }

    /// An interpreter that is started with more words in front of the script: `python -X tracemalloc script`.
    pub fn wrapped(&self, interpreter: &Interpreter, name: &str, words: &[&str]) -> Result<Interpreter> {
        let file = self.directory.join(name);
        let words = words.join(" ");
        // It execs, so the pid stays that of the child.
        let text = format!("#!/bin/sh\nexec {} {words} \"$@\"\n", interpreter.executable.display());
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        Ok(Interpreter {
            executable: file,
            version: interpreter.version.clone(),
        })
    }
}
