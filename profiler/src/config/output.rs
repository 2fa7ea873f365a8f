//! Where a profile goes, and what it is called if nobody says.

use std::{
    ffi::OsString,
    mem::MaybeUninit,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Config, Target};
use crate::process::comm;

/// Where the profile is wanted. A name by default needs the pid of a command that has not been started yet, so it is
/// made later, by [`Config::output_target`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputChoice {
    Stdout,
    File { path: PathBuf, force: bool },
    ByDefault { force: bool },
}

/// Where the profile goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputTarget {
    Stdout,
    File { path: PathBuf, force: bool },
}

impl OutputTarget {
    /// Of what `-o` names, if it was given.
    pub fn of(path: Option<PathBuf>, force: bool) -> Self {
        match path {
            Some(path) if !is_stdout(&path) => Self::File { path, force },
            _ => Self::Stdout,
        }
    }

    /// Of what is written besides the profile: `-` is standard output, and a file is replaced.
    pub fn replacing(path: &Path) -> Self {
        match is_stdout(path) {
            true => Self::Stdout,
            false => Self::File {
                path: path.to_owned(),
                force: true,
            },
        }
    }
}

/// /dev/stdout would open the file behind a redirection a second time, and cut off what is in it.
pub(super) fn is_stdout(path: &Path) -> bool {
    path == Path::new("-") || path == Path::new("/dev/stdout")
}

/// Whether the output has a name that can say its format. /dev/null, and /dev/fd/63 of a shell's `>(…)`, have no ending
/// to go by.
pub(super) fn says_format(output: &OutputChoice) -> bool {
    match output {
        OutputChoice::File { path, .. } => !path.starts_with("/dev") || path.extension().is_some(),
        OutputChoice::Stdout | OutputChoice::ByDefault { .. } => false,
    }
}

/// Whether what is written to can only be a directory of windows.
pub(super) fn names_directory(output: &OutputChoice) -> bool {
    matches!(output, OutputChoice::File { path, .. } if path.is_dir())
}

impl Config {
    /// Where the profile goes, now that a command has its pid. `proc` is /proc; `now` names the file.
    pub fn output_target(&self, command_pid: Option<u32>, proc: &Path, now: SystemTime) -> OutputTarget {
        match &self.output {
            OutputChoice::Stdout => OutputTarget::Stdout,
            OutputChoice::File { path, force } => OutputTarget::File {
                path: path.clone(),
                force: *force,
            },
            OutputChoice::ByDefault { force } => {
                let subject = match (&self.target, command_pid) {
                    (Target::Pids(pids), _) => pids.first().map(|&pid| (comm::of(proc, pid), pid)),
                    (Target::Command(command), Some(pid)) => Some((program_name(command), pid)),
                    (Target::Command(_), None) | (Target::All, _) => None,
                };
                let time = local_time(now);
                let ending = self.format.extension();
                let name = match subject {
                    Some((comm, pid)) => format!("{}-{pid}-{time}.{ending}", file_name_part(&comm)),
                    None => format!("system-{time}.{ending}"),
                };
                OutputTarget::File {
                    path: PathBuf::from(name),
                    force: *force,
                }
            }
        }
    }
}

pub(super) fn program_name(command: &[OsString]) -> String {
    let name = command.first().and_then(|program| Path::new(program).file_name());
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A name someone else chose, made safe and short for a file's name: it can hold slashes, spaces, newlines, escape
/// sequences, or start with a dash.
pub(super) fn file_name_part(comm: &str) -> String {
    let safe: String = comm
        .chars()
        .take(32)
        .map(|c| {
            if c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+') {
                c
            } else {
                '_'
            }
        })
        .collect();
    let safe = safe.trim_start_matches(['-', '.']);
    if safe.is_empty() {
        "process".to_owned()
    } else {
        safe.to_owned()
    }
}

/// `20261121-101500` in the user's time zone.
pub(super) fn local_time(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = libc::time_t::try_from(seconds).unwrap_or_default();
    let mut time = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live variables of the right types. localtime_r reads TZ from the environment, which
    // this program never changes.
    let found = unsafe { libc::localtime_r(&raw const seconds, time.as_mut_ptr()) };
    if found.is_null() {
        // A year beyond 32 bits. Seconds are as good a name as any.
        return seconds.to_string();
    }
    // SAFETY: `tm` is integers and a pointer, for which the zeroes it started with are a value.
    let time = unsafe { time.assume_init() };
    format!(
        "{:04}{:02}{:02}-{:02}{:02}{:02}",
        i64::from(time.tm_year) + 1900,
        time.tm_mon + 1,
        time.tm_mday,
        time.tm_hour,
        time.tm_min,
        time.tm_sec,
    )
}
