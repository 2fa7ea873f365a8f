//! The process that is looked at: whether it may be, and which CPython is in it.

use std::{fs, io, path::Path};

use anyhow::{Result, anyhow, bail};

use crate::{
    preflight::status_field,
    process::{
        ancestry,
        files::{Files, PythonFile},
        maps::{self, MapEntry},
        pythons::PythonIn,
        stat::Stat,
        table::is_greenlet_module,
        who,
    },
    python::{
        c_library::Musl,
        memory::{ProcessMemory, ReadMemory as _},
    },
    report::path,
};

const PROC: &str = "/proc";

/// What there is of Python in a process.
#[derive(Debug)]
pub enum Found {
    Python(Box<PythonIn>),
    /// One that is not supported: why.
    Refused(String),
    Nothing,
    /// It is being found out what is in its files.
    Later,
}

/// Which files of a process are opened to find out whether they are a CPython.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// The program, and what is called like an interpreter. For the whole machine.
    Likely,
    /// All, if none of those is one.
    Thorough,
}

/// Whether a process can be looked at; if not, why, and what to do about it.
pub fn check(pid: u32) -> Result<()> {
    let folder = Path::new(PROC).join(pid.to_string());
    let status = match fs::read(folder.join("status")) {
        Ok(status) => status,
        Err(error) if is_gone(&error) => {
            bail!("there is no process {pid}; it may have ended, ps -e lists those there are")
        }
        Err(error) => bail!("process {pid} is not ours to see: {error}; run with sudo"),
    };
    // /proc answers for threads, too, though it does not list them.
    if let Some(process) = status_field(&status, "Tgid").and_then(|tgid| tgid.parse::<u32>().ok())
        && process != pid
    {
        bail!("{pid} is a thread of process {process}; use -p {process}");
    }
    let name = who::process(Path::new(PROC), pid);
    if status_field(&status, "State").is_some_and(|state| state.starts_with(['Z', 'X'])) {
        bail!("process {name} has ended and only waits for its parent to notice; there is nothing to see of it");
    }
    if Stat::read(Path::new(PROC), pid).is_some_and(|stat| stat.is_kernel) {
        bail!("process {name} is a thread of the kernel: it has no memory of its own and runs no Python");
    }
    let entries = match maps::read(pid) {
        Ok(maps) => maps.entries,
        Err(error) if is_gone(&error) => bail!("process {name} has ended meanwhile"),
        Err(error) => return Err(not_ours(&name, &error)),
    };
    // What /proc lets one see need not be what one may read: Yama has a say in that (ptrace_scope).
    let Some(first) = entries.iter().find(|entry| entry.executable && entry.inode != 0) else {
        bail!("process {name} has no program mapped: it has just begun, or ended; try again");
    };
    if !(ProcessMemory { pid }).read(first.start, &mut [0]) {
        return match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EPERM) => Err(not_ours(&name, &error)),
            _ => Err(anyhow!("process {name} has ended meanwhile")),
        };
    }
    Ok(())
}

fn not_ours(name: &str, error: &io::Error) -> anyhow::Error {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let why = match scope.trim() {
        "" | "0" => String::new(),
        scope => format!(" (kernel.yama.ptrace_scope is {scope})"),
    };
    anyhow!(
        "the memory of process {name} is not ours to read: {error}{why}; run with sudo, or in a container with \
         --cap-add=SYS_PTRACE"
    )
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Finds the CPython of a process; of several, one that runs.
pub fn find(files: &mut Files, pid: u32, search: Search) -> Found {
    let entries = maps::read(pid).map(|maps| maps.entries).unwrap_or_default();
    let program = fs::read_link(format!("{PROC}/{pid}/exe")).unwrap_or_default();
    let code = entries
        .iter()
        .filter(|entry| entry.executable && entry.path().is_some());
    let is_likely = |entry: &&&MapEntry| {
        entry
            .path()
            .is_some_and(|path| path == program || path::is_interpreter(&path.to_string_lossy()))
    };
    let (likely, others): (Vec<&MapEntry>, Vec<&MapEntry>) = code.partition(|entry| is_likely(&entry));
    let found = match (among(files, pid, &likely), search) {
        (Found::Nothing, Search::Thorough) => among(files, pid, &others),
        (found, _) => found,
    };
    match found {
        Found::Python(mut python) => {
            let mut libraries = others.into_iter().filter(|entry| Musl::may_be_called(entry.path()));
            let musl = libraries.find_map(|entry| {
                let id = files.of_mapping(pid, entry)?;
                files.get(id).musl()
            });
            if let Some(musl) = musl {
                python.use_musl(musl);
            }
            Found::Python(python)
        }
        found => found,
    }
}

fn among(files: &mut Files, pid: u32, entries: &[&MapEntry]) -> Found {
    let memory = ProcessMemory { pid };
    let mut found: Option<PythonIn> = None;
    let mut refused = None;
    let mut asked = false;
    for entry in entries {
        let Some(id) = files.of_mapping(pid, entry) else {
            continue;
        };
        let file = files.get(id);
        match file.python() {
            PythonFile::No => {}
            PythonFile::Asked => asked = true,
            PythonFile::Refused(refusal) => refused = Some(refusal.to_string()),
            PythonFile::Yes(binary) => {
                let Some(bias) = file.headers.as_ref().and_then(|headers| headers.load_bias(entry)) else {
                    continue;
                };
                let python = PythonIn::new(id, binary, bias, 1);
                if python.is_in_use(&memory) == Some(true) {
                    return Found::Python(Box::new(python));
                }
                found = found.or(Some(python));
            }
        }
    }
    match (found, refused) {
        (Some(python), _) => Found::Python(Box::new(python)),
        (None, Some(refusal)) => Found::Refused(refusal),
        (None, None) if asked => Found::Later,
        (None, None) => Found::Nothing,
    }
}

/// Whether a process has loaded `greenlet`, as gevent and eventlet do.
pub fn has_greenlets(pid: u32) -> bool {
    let entries = maps::read(pid).map(|maps| maps.entries).unwrap_or_default();
    entries.iter().any(is_greenlet_module)
}

/// All processes but this one, with those of the kernel left out.
pub fn all() -> Result<Vec<u32>> {
    let own = std::process::id();
    let pids = ancestry::pids(Path::new(PROC))?;
    Ok(pids
        .into_iter()
        .filter(|&pid| pid != own && fs::read_link(format!("{PROC}/{pid}/exe")).is_ok())
        .collect())
}

/// Those that were named, and with `subprocesses` those that they have started.
pub fn family(pids: &[u32], subprocesses: bool) -> Result<Vec<u32>> {
    let mut family = pids.to_vec();
    if subprocesses {
        let mut below = ancestry::descendants(Path::new(PROC), pids)?;
        below.sort_unstable();
        family.extend(below);
    }
    Ok(family)
}
