//! Installs each package in clean roots of old and new Debians, and records a Python there with it; runs the binary in a
//! root that has nothing else.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Built;
use crate::debootstrap::{self, mirror, remove};
use crate::steps::Steps;
use crate::{command, root, workspace};

pub struct Packages {
    pub tarball: PathBuf,
    pub deb: PathBuf,
    pub wheel: PathBuf,
}

const SUITES: [&str; 3] = ["bullseye", "bookworm", "sid"];
/// What a machine has on which people install this.
const PYTHON: [&str; 2] = ["python3", "python3-pip"];
/// Runs in each root, with the kind of package and its file.
const SCRIPT: &str = include_str!("../../../packaging/trial.sh");

pub fn run(steps: &mut Steps, built: &Built, packages: &Packages) {
    for suite in SUITES {
        let made = steps.step(&format!("root of {suite}"), || suite_root(suite));
        let Some(folder) = made else { continue };
        for (kind, package) in [
            ("tarball", &packages.tarball),
            ("deb", &packages.deb),
            ("wheel", &packages.wheel),
        ] {
            steps.step(&format!("{kind} in {suite}"), || {
                let name = package.file_name().context("a package has a name")?;
                put(package, &folder.join("tmp").join(name))?;
                std::fs::write(folder.join("tmp/trial.sh"), SCRIPT)?;
                let inside = Path::new("/tmp").join(name);
                within(&folder, &["sh", "/tmp/trial.sh", kind, &inside.display().to_string()])
            });
        }
    }
    steps.step("binary in an empty root", || {
        let empty = roots().join("empty");
        remove(&empty)?;
        for folder in ["proc", "sys", "tmp"] {
            std::fs::create_dir_all(empty.join(folder))?;
        }
        put(&built.binary, &empty.join("profiler"))?;
        within(
            &empty,
            &[
                "/profiler",
                "record",
                "-a",
                "-d",
                "1",
                "-f",
                "folded",
                "-o",
                "/tmp/all.folded",
            ],
        )?;
        let folded = std::fs::read_to_string(empty.join("tmp/all.folded"))?;
        anyhow::ensure!(!folded.is_empty(), "nothing was sampled");
        Ok(())
    });
}

fn roots() -> PathBuf {
    workspace::root().join("target/dist-roots")
}

/// Made once.
fn suite_root(suite: &str) -> Result<PathBuf> {
    let folder = roots().join(suite);
    if folder.exists() {
        return Ok(folder);
    }
    debootstrap::ensure()?;
    std::fs::create_dir_all(roots())?;
    let partial = roots().join(format!("{suite}.partial"));
    remove(&partial)?;
    debootstrap::make(suite, &PYTHON, &partial, &mirror()).map_err(|failed| failed.error)?;
    std::fs::rename(&partial, &folder).with_context(|| format!("cannot rename {}", partial.display()))?;
    Ok(folder)
}

fn put(from: &Path, to: &Path) -> Result<()> {
    command::run(root::command("cp", &[]).arg(from).arg(to))
}

/// Runs `words` in the root `folder`, with /proc and /sys, which are gone when it ends.
fn within(folder: &Path, words: &[&str]) -> Result<()> {
    let script = "mount -t proc proc \"$0/proc\" && mount --rbind /sys \"$0/sys\" && exec chroot \"$0\" \"$@\"";
    command::run(
        root::command("unshare", &[])
            .args(["--mount", "sh", "-c", script])
            .arg(folder)
            .args(words)
            // Debian's own, not those of this machine's shell.
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    )
}
