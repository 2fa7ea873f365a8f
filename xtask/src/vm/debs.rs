//! Fetching Debian's packages, of any release, and unpacking them without installing them: an apt with package lists
//! and a state of its own in `target/vm/apt`. It needs no root, leaves the machine's apt alone, and checks signatures.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{command, debian};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The releases that have the kernels between them, and which of Debian's two archives they are in.
const SUITES: [(&str, &str); 6] = [
    ("debian", "bullseye"),
    ("debian-security", "bullseye-security"),
    ("debian", "bookworm"),
    ("debian", "trixie"),
    ("debian", "trixie-backports"),
    ("debian", "sid"),
];

/// An apt of our own. Its package lists are downloaded when they are first needed: 36 MB, ten seconds.
pub struct Debs {
    directory: PathBuf,
    is_fresh: Cell<bool>,
}

/// A package that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
}

impl Debs {
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            is_fresh: Cell::new(false),
        }
    }

    /// Every version of every package whose name begins and ends like this.
    pub fn packages(&self, begins: &[&str], ends: &str) -> Result<Vec<Package>> {
        self.update()?;
        let names = command::output(self.apt("apt-cache").arg("pkgnames"))?;
        let names = names
            .lines()
            .filter(|name| begins.iter().any(|begin| name.starts_with(begin)) && name.ends_with(ends));
        let mut madison = self.apt("apt-cache");
        Ok(packages(&command::output(madison.arg("madison").args(names))?))
    }

    /// Unpacks a package into a directory of its own. Remove it afterwards.
    pub fn unpack(&self, Package { name, version }: &Package) -> Result<PathBuf> {
        self.update()?;
        eprintln!("xtask: fetching {name} {version}");
        let directory = self.directory.join("unpacked").join(name);
        remove(&directory)?;
        make_directory(&directory)?;
        let mut download = self.apt("apt-get");
        download.args(["download", "--quiet", &format!("{name}={version}")]);
        command::output(download.current_dir(&directory))?;
        for deb in debs(&directory)? {
            extract(&deb, &directory)?;
        }
        Ok(directory)
    }

    /// Unpacks a package of a release and everything it depends on, the C library included, into a directory.
    pub fn unpack_whole(&self, name: &str, release: &str, directory: &Path) -> Result<()> {
        self.update()?;
        eprintln!("xtask: fetching {release}'s {name} and what it depends on");
        let mut download = self.apt("apt-get");
        download.args(["install", "--download-only", "--yes", "--no-install-recommends"]);
        command::output(download.args(["--target-release", release, name]))?;
        let partial = directory.with_extension("partial");
        remove(&partial)?;
        make_directory(&partial)?;
        let archives = self.directory.join("cache/archives");
        for deb in debs(&archives)? {
            extract(&deb, &partial)?;
            fs::remove_file(&deb).with_context(|| format!("cannot remove {}", deb.display()))?;
        }
        // What has the name is whole.
        remove(directory)?;
        fs::rename(&partial, directory).with_context(|| format!("cannot rename {}", partial.display()))
    }

    fn update(&self) -> Result<()> {
        if self.is_fresh.get() {
            return Ok(());
        }
        if !Path::new("/usr/bin/apt-get").exists() {
            bail!("this machine has no apt-get, which would fetch Debian's packages");
        }
        if !Path::new(KEYRING).exists() {
            eprintln!("xtask: about to install debian-archive-keyring with apt-get");
            debian::apt_install(["debian-archive-keyring"])?;
        }
        let directory = &self.directory;
        for part in ["lists/partial", "cache/archives/partial"] {
            make_directory(&directory.join(part))?;
        }
        let mut sources = String::new();
        for (archive, suite) in SUITES {
            let mirror = mirror(archive);
            // Writing to a string cannot fail.
            let _ = writeln!(sources, "deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main");
        }
        for (name, content) in [("sources.list", &*sources), ("status", "")] {
            let file = directory.join(name);
            fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        }
        eprintln!("xtask: fetching Debian's package lists into {}", directory.display());
        if let Err(error) = command::output(self.apt("apt-get").arg("update")) {
            // One release that has moved to the archive fails the whole update, and the others may do.
            eprintln!("xtask: {error:#}");
        }
        self.is_fresh.set(true);
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        let options = [
            ("Dir::Etc::sourcelist", self.directory.join("sources.list")),
            ("Dir::Etc::sourceparts", PathBuf::from("-")),
            ("Dir::State", self.directory.clone()),
            ("Dir::State::Lists", self.directory.join("lists")),
            // As if nothing were installed: this machine's packages neither count nor stand in the way.
            ("Dir::State::status", self.directory.join("status")),
            ("Dir::Cache", self.directory.join("cache")),
        ];
        for (name, value) in options {
            apt.arg("-o").arg(format!("{name}={}", value.display()));
        }
        for option in [
            "Acquire::Languages=none",
            // AppStream's data, which a desktop's configuration asks for.
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            // Run by root, apt would drop to a user who may not write here.
            "APT::Sandbox::User=root",
        ] {
            apt.args(["-o", option]);
        }
        apt.env("LC_ALL", "C").stdin(Stdio::null());
        apt
    }
}

/// The packages in a directory.
fn debs(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    let paths = entries.into_iter().map(|entry| entry.path());
    Ok(paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect())
}

fn extract(deb: &Path, directory: &Path) -> Result<()> {
    command::output(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(directory)).map(drop)
}

/// Where this machine gets one of Debian's archives from, or Debian's own address where it uses none.
fn mirror(archive: &str) -> String {
    let targets = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"];
    let listed = command::output(Command::new("apt-get").args(targets)).unwrap_or_default();
    let uri = listed
        .lines()
        .map(|uri| uri.trim_end_matches('/'))
        .find(|uri| uri.rsplit('/').next() == Some(archive));
    uri.map_or_else(|| format!("http://deb.debian.org/{archive}"), str::to_owned)
}

/// The packages of `apt-cache madison`: lines of name, version and origin, between bars.
fn packages(madison: &str) -> Vec<Package> {
    madison
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('|').map(str::trim);
            let (name, version, origin) = (fields.next()?, fields.next()?, fields.next()?);
            (!origin.ends_with("Sources")).then(|| Package {
                name: name.to_owned(),
                version: version.to_owned(),
            })
        })
        .collect()
}

pub fn make_directory(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}

pub fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_packages_of_a_listing_are_found() {
        let listing = "linux-image-6.1.0-50-cloud-amd64 | 6.1.176-1 | http://x/debian bookworm/main amd64 Packages\n\
                       linux-signed-amd64 | 6.1.176+1 | http://x/debian bookworm/main Sources\n\
                       nonsense\n";
        let expected = Package {
            name: "linux-image-6.1.0-50-cloud-amd64".to_owned(),
            version: "6.1.176-1".to_owned(),
        };
        assert_eq!(packages(listing), [expected]);
    }
}
