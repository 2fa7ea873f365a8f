//! `cargo xtask pythons`: interpreters newer than the host's, in a root directory of their own.
//!
//! A root made by debootstrap holds Debian sid's CPythons with their own libc, so that testing against them is also
//! testing against a container.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::debootstrap::{self, Failed, mirror, remove};
use crate::{from_source, workspace};

/// Make a root with CPython 3.13, 3.14 and 3.15 from Debian sid, for the end-to-end tests
///
/// It goes to target/pythons/sid, takes half a minute and 370 MB, and is made once. Needs root (through sudo, unless
/// this is run as root) and a Debian mirror; installs debootstrap when it is missing.
#[derive(Args)]
pub struct Options {
    /// Make it anew, with what Debian has today
    #[arg(long)]
    again: bool,
    /// Build CPython 3.11 and 3.13 with the C library musl instead, into target/pythons/musl-3.x (a minute or two each)
    #[arg(long)]
    musl: bool,
    /// Build CPython 3.13 without a GIL instead, into target/pythons/free-threaded-3.13 (two minutes)
    #[arg(long)]
    free_threaded: bool,
}

/// The interpreters to have, by package.
const INTERPRETERS: [&str; 3] = ["python3.13", "python3.14", "python3.15"];

pub fn run(options: &Options) -> Result<()> {
    if options.musl || options.free_threaded {
        for (kind, is_wanted) in [
            (&from_source::MUSL, options.musl),
            (&from_source::FREE_THREADED, options.free_threaded),
        ] {
            if is_wanted {
                from_source::run(kind, options.again)?;
            }
        }
        return Ok(());
    }
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
    debootstrap::ensure()?;
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
        let Err(Failed { error, absent }) = debootstrap::make("sid", &wanted, &partial, &mirror) else {
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
}
