//! The guests' only file system: busybox, a CPython with its libraries, the profiler, and the job.
//!
//! Uncompressed, because unpacking lz4 takes a guest longer than reading more (measured: 8.4 s against 6). Everything
//! is where it is on this machine, so nothing in it needs to be told where it is now.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use object::elf;
use object::read::elf::{ElfFile64, FileHeader as _};

use super::cpio::Archive;
use super::debs::{self, Debs};
use crate::command;

/// Its own files.
const SCRIPTS: [(&str, &str); 4] = [
    ("/init", include_str!("init.sh")),
    ("/job/job.sh", include_str!("job.sh")),
    ("/job/workload.py", include_str!("workload.py")),
    ("/job/waits.py", include_str!("waits.py")),
];

/// Where `init.sh` mounts something.
const MOUNT_POINTS: [&str; 6] = ["/proc", "/sys", "/dev", "/tmp", "/out", "/run"];

/// Parts of the standard library that no job needs, 100 MB of them.
const LEFT_OUT: [&str; 9] = [
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "ensurepip",
    "site-packages",
    "dist-packages",
];

/// Writes the archive and tells its size.
pub fn write(archive: &Path, profiler: &Path, python: &Python, busybox: &Path) -> Result<u64> {
    let file = File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    for directory in MOUNT_POINTS {
        archive.directory(Path::new(directory))?;
    }
    for (path, text) in SCRIPTS {
        archive.file(Path::new(path), true, text.as_bytes())?;
    }
    let settings = format!("PYTHON='{}'\n", python.executable.display());
    archive.file(Path::new("/job/settings"), false, settings.as_bytes())?;
    archive.file(Path::new("/bin/busybox"), true, &read(busybox)?)?;
    archive.file(Path::new("/job/profiler"), true, &read(profiler)?)?;

    let mut files = vec![python.executable.clone()];
    walk(&python.library, &mut files)?;
    let mut linked: Vec<&Path> = files
        .iter()
        .map(|path| &**path)
        .filter(|path| is_linked(path))
        .collect();
    linked.push(profiler);
    files.extend(libraries(&linked)?);
    for path in files {
        let is_executable = fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
        archive.file(&path, is_executable, &read(&path)?)?;
    }
    archive.finish()
}

/// An interpreter and where its standard library is.
pub struct Python {
    /// Without symbolic links.
    pub executable: PathBuf,
    pub library: PathBuf,
}

impl Python {
    /// pyenv's 3.12, on which most else is measured, or this machine's own.
    pub fn find() -> Result<Self> {
        let pyenv = std::env::var_os("PYENV_ROOT")
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".pyenv")))
            .map(|root| root.join("versions/3.12.1/bin/python3.12"))
            .filter(|python| python.exists());
        let python = pyenv.unwrap_or_else(|| PathBuf::from("/usr/bin/python3"));
        let ask = "import os, sys, sysconfig; \
                   print(os.path.realpath(sys.executable)); print(sysconfig.get_path('stdlib'))";
        let answer = command::output(Command::new(&python).args(["-I", "-c", ask]))
            .context("the guests need a CPython from this machine")?;
        let mut lines = answer.lines().map(PathBuf::from);
        match (lines.next(), lines.next()) {
            (Some(executable), Some(library)) => Ok(Self { executable, library }),
            _ => bail!("{} does not tell where its library is", python.display()),
        }
    }
}

/// A busybox that needs no libraries: this machine's, or Debian's.
pub fn busybox(debs: &Debs, own: &Path) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let known = std::env::split_paths(&path).map(|directory| directory.join("busybox"));
    if let Some(busybox) = known.chain([own.to_owned()]).find(|path| is_static(path)) {
        return Ok(busybox);
    }
    // Not installed: the package excludes `busybox`, which may be there and wanted.
    let packages = debs.packages(&["busybox-static"], "busybox-static")?;
    let package = packages.first().context("Debian has no busybox-static")?;
    let unpacked = debs.unpack(package)?;
    let inside = ["bin/busybox", "usr/bin/busybox"].map(|path| unpacked.join(path));
    let busybox = inside
        .iter()
        .find(|path| is_static(path))
        .context("busybox-static has no busybox")?;
    // Renamed when whole.
    let partial = own.with_extension("partial");
    fs::copy(busybox, &partial)
        .and_then(|_| fs::rename(&partial, own))
        .with_context(|| format!("cannot write {}", own.display()))?;
    debs::remove(&unpacked)?;
    Ok(own.to_owned())
}

/// The files below a directory, without what is left out.
fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = || format!("cannot read {}", directory.display());
    for entry in fs::read_dir(directory).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if !is_wanted(name) {
            continue;
        }
        // Links are followed: a library may be one to elsewhere. One to nowhere is not missed.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => walk(&path, files)?,
            Ok(metadata) if metadata.is_file() => files.push(path),
            _ => {}
        }
    }
    Ok(())
}

fn is_wanted(name: &str) -> bool {
    let needless_suffix = [".a", ".opt-1.pyc", ".opt-2.pyc"]
        .iter()
        .any(|suffix| name.ends_with(suffix));
    // `config-3.12-x86_64-linux-gnu` is for linking, and `_tkinter` would bring X with it.
    let needless_prefix = ["config-", "_tkinter."].iter().any(|prefix| name.starts_with(prefix));
    !(LEFT_OUT.contains(&name) || needless_suffix || needless_prefix)
}

/// The libraries that programs and other libraries need, directly or not, as the loader of this machine finds them.
fn libraries(files: &[&Path]) -> Result<BTreeSet<PathBuf>> {
    let listing = command::output(Command::new("ldd").args(files))?;
    Ok(libraries_in(&listing))
}

/// The libraries in what `ldd` prints: `libc.so.6 => /lib/libc.so.6 (0x…)`, or a path alone. What is not found and what
/// is no file (`linux-vdso.so.1`) is left out.
fn libraries_in(listing: &str) -> BTreeSet<PathBuf> {
    listing
        .lines()
        .filter_map(|line| line.trim().rsplit_once(" (0x"))
        .filter_map(|(library, _address)| library.rsplit(" => ").next())
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// Whether a file is an ELF file that the loader has something to do with.
fn is_linked(path: &Path) -> bool {
    has_segment(path, elf::PT_DYNAMIC).unwrap_or(false)
}

/// Whether a file is a program that needs no loader.
fn is_static(path: &Path) -> bool {
    has_segment(path, elf::PT_INTERP).is_some_and(|has| !has)
}

/// Nothing if it is no ELF file.
fn has_segment(path: &Path, kind: u32) -> Option<bool> {
    let bytes = fs::read(path).ok().filter(|bytes| bytes.starts_with(&elf::ELFMAG))?;
    let file = ElfFile64::<object::Endianness>::parse(&*bytes).ok()?;
    let segments = file.elf_header().program_headers(file.endian(), &*bytes).ok()?;
    Some(segments.iter().any(|segment| segment.p_type.get(file.endian()) == kind))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_a_listing_are_those_with_a_path() {
        let listing = "/x/bin/python3.12:\n\
                       \tlinux-vdso.so.1 (0x00007f10628b0000)\n\
                       \tlibpython3.12.so.1.0 => /x/lib/libpython3.12.so.1.0 (0x00007f1062000000)\n\
                       \tlibabsent.so.1 => not found\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f10628b2000)\n\
                       /x/lib/y.so:\n\
                       \tstatically linked\n\
                       \tlibpython3.12.so.1.0 => /x/lib/libpython3.12.so.1.0 (0x00007f1062000000)\n";
        let expected = ["/lib64/ld-linux-x86-64.so.2", "/x/lib/libpython3.12.so.1.0"].map(PathBuf::from);
        assert_eq!(libraries_in(listing), BTreeSet::from(expected));
    }

    #[test]
    fn what_runs_is_wanted_and_what_tests_is_not() {
        assert!(
            [
                "os.py",
                "os.cpython-312.pyc",
                "encodings",
                "_ctypes.cpython-312-x86_64-linux-gnu.so"
            ]
            .iter()
            .all(|name| is_wanted(name))
        );
        assert!(
            ![
                "test",
                "site-packages",
                "libpython3.12.a",
                "_tkinter.so",
                "os.cpython-312.opt-1.pyc"
            ]
            .iter()
            .any(|name| is_wanted(name))
        );
    }

    #[test]
    fn this_test_needs_a_loader_and_a_script_is_no_program() {
        let own = std::env::current_exe().unwrap();
        assert!(is_linked(&own) && !is_static(&own));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/vm/init.sh");
        assert!(!is_linked(&script) && !is_static(&script));
    }
}
