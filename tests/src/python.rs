//! The interpreters to test with.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::skip::{skip, skip_pythons};

/// What pyenv must have, and what the debootstrapped root must.
const PYENV: [&str; 6] = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"];
const DEBOOTSTRAPPED: [&str; 3] = ["3.13", "3.14", "3.15"];
/// What `cargo xtask pythons --musl` makes.
const MUSL: [&str; 2] = ["3.13", "3.11"];
/// What `cargo xtask pythons --free-threaded` makes.
const FREE_THREADED: &str = "3.13";

/// A CPython and how it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Python {
    /// Major and minor.
    pub version: (u32, u32),
    /// Inside `root`, if there is one.
    pub executable: PathBuf,
    /// It lives in a root of its own, and runs in a mount namespace of its own: what a container is to a profiler.
    pub root: Option<PathBuf>,
}

impl fmt::Display for Python {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.root {
            Some(root) => write!(f, "{} in {}", self.executable.display(), root.display()),
            None => write!(f, "{}", self.executable.display()),
        }
    }
}

impl Python {
    /// A command that runs it. Arguments that are paths are as the interpreter sees them ([`Python::seen`]).
    pub fn command(&self) -> Command {
        let mut command = match &self.root {
            // chroot(8) and unshare(1) exec, so the pid stays that of the child.
            Some(root) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "chroot"]).arg(root).arg(&self.executable);
                command
            }
            None => Command::new(&self.executable),
        };
        // What files are called must not depend on the language of whoever runs the tests.
        command
            .env("PYTHONUTF8", "1")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("PYTHONPATH")
            .env_remove("PYTHONHOME");
        command
    }

    /// A directory that this interpreter can see.
    pub fn directory(&self) -> Result<TempDir> {
        let parent = match &self.root {
            Some(root) => root.join("tmp"),
            None => std::env::temp_dir(),
        };
        tempfile::Builder::new()
            .prefix("profiler-e2e-")
            .tempdir_in(&parent)
            .context("cannot make a directory")
    }

    /// What the interpreter calls a file of ours.
    pub fn seen(&self, path: &Path) -> PathBuf {
        match &self.root {
            Some(root) => Path::new("/").join(path.strip_prefix(root).unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    fn new(executable: PathBuf, root: Option<PathBuf>) -> Result<Self> {
        let mut python = Self {
            version: (0, 0),
            executable,
            root,
        };
        let output = python
            .command()
            .args(["-c", "import sys; print(*sys.version_info[:2])"])
            .output();
        let output = output.with_context(|| format!("cannot run {python}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut numbers = text.split_whitespace().map(str::parse);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            anyhow::bail!(
                "{python} does not tell its version: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        python.version = (major, minor);
        Ok(python)
    }
}

/// Every interpreter there is. Those that should be there and are not are skipped, aloud.
pub fn all() -> Result<Vec<Python>> {
    let mut pythons = Vec::new();
    for version in PYENV {
        match pyenv(version) {
            Some(executable) => pythons.push(Python::new(executable, None)?),
            None => skip(format!("pyenv has no CPython {version}")),
        }
    }
    pythons.extend(debian()?);
    let root = workspace().join("target/pythons/sid");
    for version in DEBOOTSTRAPPED {
        let executable = PathBuf::from(format!("/usr/bin/python{version}"));
        if root.join(format!("usr/bin/python{version}")).exists() {
            pythons.push(Python::new(executable, Some(root.clone()))?);
        } else {
            skip_pythons(format!(
                "no CPython {version} in {}; cargo xtask pythons makes it",
                root.display()
            ));
        }
    }
    ensure!(!pythons.is_empty(), "there is no CPython to test with");
    // For whoever works on one version.
    if let Ok(wanted) = std::env::var("PROFILER_E2E_PYTHON") {
        // Of the one without a GIL, claims about a GIL do not hold: it is here for whoever asks for it.
        if wanted.contains("free-threaded") {
            pythons.extend(free_threaded()?);
        }
        pythons.retain(|python| python.to_string().contains(&wanted));
    }
    Ok(pythons)
}

/// Those with the C library of Alpine. They take minutes to build, so a run without them is as good as any.
pub fn musl() -> Result<Vec<Python>> {
    let mut pythons = Vec::new();
    for version in MUSL {
        let root = workspace().join(format!("target/pythons/musl-{version}"));
        if root.join("usr/local/bin/python3").exists() {
            pythons.push(Python::new(PathBuf::from("/usr/local/bin/python3"), Some(root))?);
        } else {
            println!("no CPython {version} with musl; cargo xtask pythons --musl makes it");
        }
    }
    Ok(pythons)
}

/// The one without a GIL. Two minutes to build, so a run without it is as good as any.
pub fn free_threaded() -> Result<Option<Python>> {
    let root = format!("target/pythons/free-threaded-{FREE_THREADED}");
    let executable = workspace().join(root).join(format!("bin/python{FREE_THREADED}t"));
    if executable.exists() {
        return Python::new(executable, None).map(Some);
    }
    println!("no CPython {FREE_THREADED} without a GIL; cargo xtask pythons --free-threaded makes it");
    Ok(None)
}

/// Debian's, which is static, optimized across modules, and stripped.
pub fn debian() -> Result<Option<Python>> {
    let executable = PathBuf::from("/usr/bin/python3.11");
    if executable.exists() {
        return Python::new(executable, None).map(Some);
    }
    skip("there is no /usr/bin/python3.11");
    Ok(None)
}

/// One that is always there, for tests in which the version does not matter.
pub fn any() -> Result<Python> {
    let executable = PYENV.iter().rev().find_map(|version| pyenv(version));
    Python::new(executable.context("there is no CPython of pyenv")?, None)
}

/// The interpreter of pyenv's newest release of a minor version.
pub fn pyenv(minor: &str) -> Option<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT").map_or_else(|| PathBuf::from("/root/.pyenv"), PathBuf::from);
    let releases = fs::read_dir(root.join("versions")).ok()?.flatten();
    let micro = |name: &str| name.strip_prefix(minor)?.strip_prefix('.')?.parse::<u32>().ok();
    let newest = releases
        .filter_map(|entry| Some((micro(entry.file_name().to_str()?)?, entry.path())))
        .max()?;
    // Not `python`, which is a link: the tests of links make their own.
    let executable = newest.1.join(format!("bin/python{minor}"));
    executable.exists().then_some(executable)
}

/// Does `test` with every interpreter, all of them even if one fails, and then says which did.
///
/// Two at a time: each records processes of its own, in which a second is a second of their own CPU time.
pub fn each(test: impl Fn(&Python) -> Result<()> + Sync) -> Result<()> {
    each_of(&all()?, test)
}

/// Like [`each`], with one of each kind, for claims that the kernel decides and not the interpreter: frames that are objects
/// (3.8), optimized across modules and stripped (Debian's 3.11), code that is numbered (3.12), one that says its layout
/// itself, with a libc of its own (3.14). `PROFILER_FULL` (`cargo xtask test --full`) takes all.
pub fn each_kind(test: impl Fn(&Python) -> Result<()> + Sync) -> Result<()> {
    let mut pythons = all()?;
    if std::env::var_os("PROFILER_FULL").is_none() && std::env::var_os("PROFILER_E2E_PYTHON").is_none() {
        let is_of_a_kind = |python: &Python| match python.version {
            (3, 8 | 12 | 14) => true,
            (3, 11) => python.executable.starts_with("/usr"),
            _ => false,
        };
        pythons.retain(is_of_a_kind);
        ensure!(!pythons.is_empty(), "there is no CPython of any kind to test with");
    }
    each_of(&pythons, test)
}

/// Like [`each`], with these interpreters or other things.
pub fn each_of<T: fmt::Display + Sync>(subjects: &[T], test: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failures = Vec::new();
        while let Some(subject) = subjects.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = test(subject) {
                failures.push(format!("with {subject}: {error:#}"));
            }
        }
        failures
    };
    let failures = thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut failures = work();
        match other.join() {
            Ok(others) => failures.extend(others),
            Err(panic) => std::panic::resume_unwind(panic),
        }
        failures
    });
    ensure!(
        failures.is_empty(),
        "{} of {} failed\n{}",
        failures.len(),
        subjects.len(),
        failures.join("\n")
    );
    Ok(())
}

/// The workspace's directory.
pub fn workspace() -> PathBuf {
    let tests = package();
    tests.parent().map_or(tests.clone(), Path::to_owned)
}

/// This package's directory.
pub fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}
