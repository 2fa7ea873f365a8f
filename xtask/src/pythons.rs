//! `cargo xtask pythons`: interpreters newer than the host's, in a root directory of their own.
//!
//! A root made by debootstrap holds Debian sid's CPythons with their own libc, so that testing against them is also
//! testing against a container.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{command, debian, root, workspace};

/// Make a root with CPython 3.13, 3.14 and 3.15 from Debian sid, for the end-to-end tests
///
/// It goes to target/pythons/sid, takes half a minute and 370 MB, and is made once. Needs root (through sudo, unless
/// this is run as root) and a Debian mirror; installs debootstrap when it is missing.
#[derive(Args)]
pub struct Options {
    /// Make it anew, with what Debian has today
    #[arg(long)]
    again: bool,
}

/// The interpreters to have, by package.
const INTERPRETERS: [&str; 3] = ["python3.13", "python3.14", "python3.15"];

pub fn run(options: &Options) -> Result<()> {
    let sid = workspace::pythons().join("sid");
    // Beside the root, not in it: it is the last thing written, and by the user.
    let stamp = workspace::pythons().join("sid.stamp");
    if options.again || !stamp.exists() {
        let made = make(&sid)?;
        std::fs::write(&stamp, made).with_context(|| format!("cannot write {}", stamp.display()))?;
    }
    let found = interpreters(&sid)?;
    if found.is_empty() {
        bail!(
            "there is no interpreter in {}: `cargo xtask pythons --again` makes it anew",
            sid.display()
        );
    }
    for (interpreter, version) in found {
        eprintln!(
            "xtask: {} is CPython {version}",
            sid.join("usr/bin").join(interpreter).display()
        );
    }
    Ok(())
}

/// Makes the root `sid` and returns what the stamp is to say.
fn make(sid: &Path) -> Result<String> {
    if !Path::new("/usr/bin/apt-get").exists() && !Path::new("/usr/sbin/debootstrap").exists() {
        bail!("debootstrap is missing and there is no apt-get to install it with");
    }
    if !Path::new("/usr/sbin/debootstrap").exists() {
        eprintln!("xtask: about to install debootstrap with apt-get");
        // The keyring is only recommended, and without it Debian's signature cannot be checked from another distribution.
        debian::apt_install(["debootstrap", "debian-archive-keyring"])?;
    }
    let parent = workspace::pythons();
    std::fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;

    // Made beside and renamed when whole: what is called `sid` is complete, and the old one lasts until then.
    let partial = parent.join("sid.partial");
    let mirror = mirror();
    let mut wanted = INTERPRETERS.to_vec();
    loop {
        remove(&partial)?;
        eprintln!(
            "xtask: about to make a root with {} from {mirror} in {}",
            wanted.join(", "),
            sid.display()
        );
        let mut debootstrap = root::command("/usr/sbin/debootstrap", &[]);
        debootstrap
            .args(["--variant=minbase", &format!("--include={}", wanted.join(",")), "sid"])
            .arg(&partial)
            .arg(&mirror);
        let Err(Failed { error, absent }) = bootstrap(&mut debootstrap) else {
            break;
        };
        // sid drops an old minor when a new one has settled. The others are still worth having.
        let before = wanted.len();
        wanted.retain(|package| !absent.iter().any(|absent| absent == package));
        if wanted.is_empty() || wanted.len() == before {
            // Best effort: the error that matters is the first.
            let _ = remove(&partial);
            return Err(error);
        }
        eprintln!("xtask: {mirror} no longer has {}: going on without", absent.join(", "));
    }
    remove(sid)?;
    std::fs::rename(&partial, sid).with_context(|| format!("cannot rename {}", partial.display()))?;
    Ok(format!("sid from {mirror} with {}\n", wanted.join(", ")))
}

/// A debootstrap that failed, and the packages it did not find.
struct Failed {
    error: anyhow::Error,
    absent: Vec<String>,
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
fn mirror() -> String {
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
fn remove(directory: &Path) -> Result<()> {
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

/// The interpreters in a root, by file name, with the versions its package manager knows.
fn interpreters(root: &Path) -> Result<Vec<(String, String)>> {
    let status = root.join("var/lib/dpkg/status");
    let status = std::fs::read_to_string(&status).with_context(|| format!("cannot read {}", status.display()))?;
    Ok(versions(&status)
        .into_iter()
        .filter(|(name, _)| root.join("usr/bin").join(name).exists())
        .collect())
}

/// The installed packages among [`INTERPRETERS`] and their versions, from dpkg's database.
fn versions(status: &str) -> Vec<(String, String)> {
    let field = |paragraph: &str, name: &str| {
        paragraph
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(str::to_owned)
    };
    status
        .split("\n\n")
        .filter(|paragraph| field(paragraph, "Status").as_deref() == Some("install ok installed"))
        .filter_map(|paragraph| Some((field(paragraph, "Package")?, field(paragraph, "Version")?)))
        .filter(|(package, _)| INTERPRETERS.contains(&package.as_str()))
        // Debian's revision is not part of CPython's version.
        .map(|(package, version)| (package, version.split('-').next().unwrap_or_default().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_interpreters_are_listed() {
        let status = "Package: python3.14\nStatus: install ok installed\nVersion: 3.14.10-1\n\n\
                      Package: python3.13\nStatus: deinstall ok config-files\nVersion: 3.13.18-1\n\n\
                      Package: python3.14-minimal\nStatus: install ok installed\nVersion: 3.14.10-1\n";
        assert_eq!(versions(status), [("python3.14".to_owned(), "3.14.10".to_owned())]);
    }

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
