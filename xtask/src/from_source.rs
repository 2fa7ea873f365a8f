//! `cargo xtask pythons --musl` and `--free-threaded`: CPythons that no registry of this project's has.
//!
//! They are built from Debian's source, each into a directory of its own.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::debootstrap::{mirror, remove};
use crate::{command, debian, workspace};

/// A way to build one.
pub struct Kind {
    /// What their directories begin with.
    name: &'static str,
    what: &'static str,
    /// What is done, step by step.
    recipe: &'static str,
    series: &'static [&'static str],
    packages: &'static [&'static str],
    /// Where in its directory the interpreter is.
    executable: fn(&str) -> String,
}

/// With the C library of Alpine, each in a root of its own, which is what a container is to a profiler: frames by an entry flag
/// and a `_PyCFrame`, and a layout that the file itself says.
pub const MUSL: Kind = Kind {
    name: "musl",
    what: "with musl",
    recipe: include_str!("musl.sh"),
    series: &["3.13", "3.11"],
    packages: &["musl-tools", "patchelf", "debian-archive-keyring", "gcc", "make"],
    executable: |_| "usr/local/bin/python3".to_owned(),
};

/// Without a GIL. Of 3.14 on there is no source to be had here.
pub const FREE_THREADED: Kind = Kind {
    name: "free-threaded",
    what: "without a GIL",
    recipe: include_str!("free_threaded.sh"),
    series: &["3.13"],
    packages: &["debian-archive-keyring", "gcc", "make"],
    executable: |series| format!("bin/python{series}t"),
};

/// Makes those that are not there: a minute or two each on two free CPUs.
pub fn run(kind: &Kind, again: bool) -> Result<()> {
    for series in kind.series {
        let root = workspace::pythons().join(format!("{}-{series}", kind.name));
        if again || !root.exists() {
            make(kind, series, &root)?;
        }
        eprintln!(
            "xtask: {} is CPython {series} {}",
            root.join((kind.executable)(series)).display(),
            kind.what
        );
    }
    Ok(())
}

fn make(kind: &Kind, series: &str, root: &Path) -> Result<()> {
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("this machine has no apt-get, which the source is had by");
    }
    debian::apt_install(kind.packages.iter().copied())?;
    eprintln!(
        "xtask: about to build CPython {series} {} into {} (a minute or two)",
        kind.what,
        root.display()
    );
    // Beside what it becomes, so that what is called so is whole.
    let partial = workspace::pythons().join(format!("{}-{series}.partial", kind.name));
    remove(&partial)?;
    let (work, made) = (partial.join("work"), partial.join("root"));
    std::fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let recipe = partial.join("recipe.sh");
    std::fs::write(&recipe, kind.recipe).with_context(|| format!("cannot write {}", recipe.display()))?;
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
