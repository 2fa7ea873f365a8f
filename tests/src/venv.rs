//! Virtual environments with packages from PyPI, made once and kept in `target/venvs`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    python::{Python, workspace},
    skip::skip_pythons,
    workshop::run,
};

/// The interpreter of an environment with these packages. `None`, said aloud, if they cannot be had: offline.
pub fn with(python: &Python, packages: &[&str]) -> Result<Option<PathBuf>> {
    let (major, minor) = python.version;
    // Two interpreters of one version are two environments.
    let who = python.executable.display().to_string().replace('/', "-");
    let names: Vec<&str> = packages.iter().map(|package| name_of(package)).collect();
    let place = workspace().join(format!("target/venvs/{major}.{minor}{who}-{}", names.join("-")));
    let stamp = place.join("stamp");
    let interpreter = place.join("bin/python");
    let wanted = packages.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) && interpreter.exists() {
        return Ok(Some(interpreter));
    }
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    match make(python, packages, &place) {
        Ok(()) => {
            fs::write(&stamp, wanted)?;
            Ok(Some(interpreter))
        }
        Err(error) => {
            skip_pythons(format!("no {} for {python}: {error:#}", names.join(" and ")));
            Ok(None)
        }
    }
}

fn make(python: &Python, packages: &[&str], place: &Path) -> Result<()> {
    run(python.command().args(["-m", "venv"]).arg(place))?;
    // Nothing is compiled here: a package without a wheel for this interpreter is one we do without.
    let install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--only-binary=:all:",
        "--retries=1",
        "--timeout=20",
    ];
    run(Command::new(place.join("bin/python")).args(install).args(packages)).map(drop)
}

/// `numpy` of `numpy>=1.24,<3`.
fn name_of(package: &str) -> &str {
    let end = package
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
        .unwrap_or(package.len());
    &package[..end]
}
