//! A folder to unpack anywhere: the binary, its manual, completions, licences and documents.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Built, TARGET};
use crate::{command, workspace};

/// What of the repository goes in.
const DOCUMENTS: [&str; 5] = ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "docs"];

pub fn make(built: &Built) -> Result<PathBuf> {
    let name = format!("profiler-{}-{TARGET}", built.version);
    let folder = built.folder.join(&name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    copy(&built.binary, &folder)?;
    copy(&built.extras.join("man"), &folder)?;
    copy(&built.extras.join("completions"), &folder)?;
    for document in DOCUMENTS {
        copy(&workspace::root().join(document), &folder)?;
    }
    let archive = built.folder.join(format!("{name}.tar.gz"));
    // The same input gives the same bytes: no names, times or orders of this machine.
    command::run(
        Command::new("tar")
            .args([
                "--create",
                "--gzip",
                "--sort=name",
                "--owner=0",
                "--group=0",
                "--numeric-owner",
            ])
            .arg("--mtime=@0")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(&built.folder)
            .arg(&name),
    )?;
    Ok(archive)
}

fn copy(from: &Path, into: &Path) -> Result<()> {
    command::run(Command::new("cp").arg("--recursive").arg(from).arg(into))
}
