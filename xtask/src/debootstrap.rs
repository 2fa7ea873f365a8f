//! Making a root directory with another Debian in it.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{command, debian, root};

/// Installs debootstrap, unless it is there.
pub fn ensure() -> Result<()> {
    let there = Path::new("/usr/sbin/debootstrap").exists();
    if !there && !Path::new("/usr/bin/apt-get").exists() {
        bail!("debootstrap is missing and there is no apt-get to install it with");
    }
    if !there {
        eprintln!("xtask: about to install debootstrap with apt-get");
        // The keyring is only recommended, and without it Debian's signature cannot be checked from another distribution.
        debian::apt_install(["debootstrap", "debian-archive-keyring"])?;
    }
    Ok(())
}

/// Makes the smallest root of `suite` that has `packages`.
pub fn make(suite: &str, packages: &[&str], into: &Path, mirror: &str) -> Result<(), Failed> {
    let mut debootstrap = root::command("/usr/sbin/debootstrap", &[]);
    debootstrap
        .args(["--variant=minbase", &format!("--include={}", packages.join(",")), suite])
        .arg(into)
        .arg(mirror);
    bootstrap(&mut debootstrap)
}

/// A debootstrap that failed, and the packages it did not find.
pub struct Failed {
    pub error: anyhow::Error,
    pub absent: Vec<String>,
}

/// Runs debootstrap. It prints a line per package: only its complaints and its stages are passed on.
fn bootstrap(debootstrap: &mut Command) -> Result<(), Failed> {
    let fail = |error| Failed {
        error,
        absent: Vec::new(),
    };
    // In the language in which its messages are looked for below.
    debootstrap
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = debootstrap
        .spawn()
        .map_err(|error| fail(command::cannot_start(debootstrap, error)))?;
    let mut told = String::new();
    let mut absent = Vec::new();
    for line in child
        .stdout
        .take()
        .into_iter()
        .flat_map(|stdout| BufReader::new(stdout).lines().map_while(Result::ok))
    {
        if let Some(packages) = line.strip_prefix("E: Couldn't find these debs: ") {
            absent.extend(packages.split_whitespace().map(str::to_owned));
        }
        if line.starts_with("E: ") || line.starts_with("W: ") {
            // Writing to a string cannot fail.
            let _ = write!(told, "; {line}");
        } else if matches!(line.strip_prefix("I: "), Some(stage) if is_stage(stage)) {
            eprintln!("xtask: debootstrap: {line}");
        }
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let error = anyhow::anyhow!("`{}` failed: {status}{told}", command::shown(debootstrap));
            Err(Failed { error, absent })
        }
        Err(error) => Err(fail(anyhow::Error::new(error).context("cannot wait for debootstrap"))),
    }
}

/// Whether debootstrap's line begins one of its few long stages.
fn is_stage(line: &str) -> bool {
    [
        "Retrieving Packages",
        "Resolving dependencies",
        "Extracting core",
        "Unpacking the base",
        "Base system installed",
    ]
    .iter()
    .any(|stage| line.starts_with(stage))
}

/// The mirror this machine uses for Debian, or Debian's own where it uses none.
pub fn mirror() -> String {
    let targets = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"];
    let listed = command::output(Command::new("apt-get").args(targets)).unwrap_or_default();
    // Not `debian-security` and the like, nor another vendor's repository.
    let debian = listed
        .lines()
        .map(|uri| uri.trim_end_matches('/'))
        .find(|uri| uri.ends_with("/debian"));
    debian.unwrap_or("http://deb.debian.org/debian").to_owned()
}

/// Removes a root made by debootstrap, which belongs to root.
pub fn remove(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let mut rm = root::command("rm", &[]);
    // One file system: a debootstrap that was killed leaves the host's /proc and /sys mounted below.
    command::run(
        rm.args(["--recursive", "--force", "--one-file-system", "--"])
            .arg(directory),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_sid_has_dropped_is_named() {
        let script = "echo 'I: Retrieving Packages'; echo \"E: Couldn't find these debs: python3.13\"; exit 1";
        let Err(failed) = bootstrap(Command::new("sh").args(["-c", script])) else {
            panic!("it succeeded")
        };
        assert_eq!(failed.absent, ["python3.13"]);
        assert!(format!("{:#}", failed.error).contains("Couldn't find these debs: python3.13"));
    }
}
