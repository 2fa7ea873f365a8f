//! `cargo xtask pythons --musl`: CPythons with the C library of Alpine, which no registry of this project's has.
//!
//! They are built from Debian's source, each into a root of its own, which is what a container is to a profiler.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::debootstrap::{mirror, remove};
use crate::{command, debian, workspace};

/// What is done, step by step.
const RECIPE: &str = include_str!("musl.sh");

/// Frames by an entry flag and a `_PyCFrame`, and a layout that the file itself says.
const SERIES: [&str; 2] = ["3.13", "3.11"];

/// Makes those that are not there: a minute each on two free CPUs.
pub fn run(again: bool) -> Result<()> {
    for series in SERIES {
        let root = workspace::pythons().join(format!("musl-{series}"));
        if again || !root.exists() {
            make(series, &root)?;
        }
        eprintln!(
            "xtask: {} is CPython {series} with musl",
            root.join("usr/local/bin/python3").display()
        );
    }
    Ok(())
}

fn make(series: &str, root: &Path) -> Result<()> {
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("this machine has no apt-get, which the source is had by");
    }
    debian::apt_install(["musl-tools", "patchelf", "debian-archive-keyring", "gcc", "make"])?;
    eprintln!(
        "xtask: about to build CPython {series} with musl into {} (a minute or two)",
        root.display()
    );
    // Beside what it becomes, so that what is called so is whole.
    let partial = workspace::pythons().join(format!("musl-{series}.partial"));
    remove(&partial)?;
    let (work, made) = (partial.join("work"), partial.join("root"));
    std::fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let recipe = partial.join("musl.sh");
    std::fs::write(&recipe, RECIPE).with_context(|| format!("cannot write {}", recipe.display()))?;
    command::run(
        Command::new("sh")
            .arg(&recipe)
            .arg(series)
            .args([&made, &work])
            .arg(mirror()),
    )
    .with_context(|| format!("{} may say why", work.join("log").display()))?;
    remove(root)?;
    std::fs::rename(&made, root).with_context(|| format!("cannot rename {}", made.display()))?;
    remove(&partial)
}
