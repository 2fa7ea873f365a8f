//! The CPythons to measure with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Interpreters by minor version.
pub struct Interpreters {
    versions: PathBuf,
    /// The one that most is measured with.
    pub main: Interpreter,
}

#[derive(Clone)]
pub struct Interpreter {
    pub executable: PathBuf,
    /// Such as 3.12.1.
    pub version: String,
}

/// 3.11 was the first whose frames lie beside each other; this is the newest of that kind on every machine we test on.
const MAIN: &str = "3.12";

impl Interpreters {
    pub fn find() -> Result<Self> {
        let root = std::env::var_os("PYENV_ROOT")
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".pyenv")));
        let versions = root
            .context("neither PYENV_ROOT nor HOME is set: set one of them to find pyenv's interpreters")?
            .join("versions");
        let main = find(&versions, MAIN).with_context(|| {
            format!(
                "there is no CPython {MAIN} in {}: `pyenv install {MAIN}` makes one",
                versions.display()
            )
        })?;
        Ok(Self { versions, main })
    }

    /// The newest of a minor version, such as 3.8.
    pub fn minor(&self, minor: &str) -> Option<Interpreter> {
        find(&self.versions, minor)
    }
}

fn find(versions: &Path, minor: &str) -> Option<Interpreter> {
    let mut found: Vec<(u32, Interpreter)> = fs::read_dir(versions)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().into_string().ok()?;
            let patch = version.strip_prefix(minor)?.strip_prefix('.')?.parse().ok()?;
            let executable = entry.path().join("bin").join(format!("python{minor}"));
            executable
                .exists()
                .then_some((patch, Interpreter { executable, version }))
        })
        .collect();
    found.sort_by_key(|(patch, _)| *patch);
    found.pop().map(|(_, interpreter)| interpreter)
}
