//! What has been written into a process, on disk before it is: so that it can be taken back whatever becomes of us.
//!
//! A file for each process, `PID.json` in a directory that only root may enter. A process that has the same number later is told
//! apart by when it began and by the boot.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::layout::{self, Job};
use crate::process::stat::Stat;

/// Where journals are; tests have their own.
const DIRECTORY: &str = "/run/profiler";
const LARGEST: u64 = 64 << 10;

/// A program in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: u32,
    /// In clock ticks since the boot.
    pub began: u64,
}

impl Identity {
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::read(Path::new("/proc"), pid)?;
        Some(Self {
            pid,
            began: stat.began_ticks(),
        })
    }

    pub fn is_there(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// A word that was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub address: u64,
    pub original: u64,
    pub stub: u64,
}

impl Slot {
    pub fn install(self) -> Job {
        Job {
            address: self.address,
            expected: self.original,
            new: self.stub,
        }
    }

    pub fn remove(self) -> Job {
        Job {
            address: self.address,
            expected: self.stub,
            new: self.original,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    boot: String,
    pub process: Identity,
    /// Who writes to it.
    pub profiler: Identity,
    /// Where its range lies, once that is known; nothing is changed before.
    pub base: u64,
    /// The code that swaps, as it must be found.
    pub swap: u64,
    pub swap_code: Vec<u8>,
    pub slots: Vec<Slot>,
}

const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: it is not what this profiler writes; it was left alone", path.display())]
    Foreign { path: PathBuf },
    #[error("{}: others than root may write there", path.display())]
    Exposed { path: PathBuf },
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Journals {
    directory: PathBuf,
}

impl Default for Journals {
    fn default() -> Self {
        Self {
            directory: DIRECTORY.into(),
        }
    }
}

impl Journals {
    #[cfg(test)]
    fn within(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    fn path(&self, pid: u32) -> PathBuf {
        self.directory.join(format!("{pid}.json"))
    }

    /// Writes the first one of a process, unless there is one of it: another profiler may have begun in this very moment.
    ///
    /// # Errors
    /// As [`Self::write`]; and if there is one.
    pub fn begin(&self, journal: &Journal) -> Result<(), JournalError> {
        let pid = journal.process.pid;
        let path = self.path(pid);
        // Of one that had its number before.
        if matches!(self.read(pid), Ok(Some(other)) if !other.is_of_a_living_process()) {
            self.remove(pid);
        }
        let new = self.half(journal)?;
        let linked = fs::hard_link(&new, &path);
        let _ = fs::remove_file(&new);
        linked.map_err(|source| JournalError::File { path, source })
    }

    /// Writes one, in place of what was there of the process.
    ///
    /// # Errors
    /// If it cannot be written, or not where only root can.
    pub fn write(&self, journal: &Journal) -> Result<(), JournalError> {
        let path = self.path(journal.process.pid);
        let new = self.half(journal)?;
        fs::rename(&new, &path).map_err(|source| JournalError::File { path, source })
    }

    /// A file with all of it that nobody reads yet.
    fn half(&self, journal: &Journal) -> Result<PathBuf, JournalError> {
        let of = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::File { path, source }
        };
        let directory = &self.directory;
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(of(directory)(error)),
            _ => {}
        }
        self.check()?;
        // Named by us as well: two profilers can be at it.
        let new = directory.join(format!(".{}.{}.new", journal.process.pid, std::process::id()));
        let text = serde_json::to_vec(journal).map_err(|error| of(&new)(error.into()))?;
        // What an earlier run left half written.
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .map_err(of(&new))?;
        file.write_all(&text).map_err(of(&new))?;
        Ok(new)
    }

    /// Nobody else's words are taken for ours.
    fn check(&self) -> Result<(), JournalError> {
        let path = &self.directory;
        let found = fs::symlink_metadata(path).map_err(|source| JournalError::File {
            path: path.clone(),
            source,
        })?;
        // SAFETY: a plain system call.
        let own = unsafe { libc::geteuid() };
        if !found.is_dir() || found.uid() != own || found.mode() & 0o022 != 0 {
            return Err(JournalError::Exposed { path: path.clone() });
        }
        Ok(())
    }

    pub fn remove(&self, pid: u32) {
        // Not there: that is what was wanted.
        let _ = fs::remove_file(self.path(pid));
    }

    /// Of a process, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, or is not ours.
    pub fn read(&self, pid: u32) -> Result<Option<Journal>, JournalError> {
        use std::io::Read as _;
        let path = self.path(pid);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(JournalError::File { path, source }),
            Ok(file) => file,
        };
        self.check()?;
        let mut text = Vec::new();
        if let Err(source) = file.take(LARGEST).read_to_end(&mut text) {
            return Err(JournalError::File { path, source });
        }
        let journal = serde_json::from_slice(&text).ok();
        match journal.filter(|journal: &Journal| journal.is_plausible(pid)) {
            Some(journal) => Ok(Some(journal)),
            None => Err(JournalError::Foreign { path }),
        }
    }

    /// Processes of which there are any.
    pub fn pids(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut pids: Vec<u32> = entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok())
            .collect();
        pids.sort_unstable();
        pids
    }
}

impl Journal {
    /// Of a process to which nothing was done so far.
    pub fn begun(process: Identity, profiler: Identity) -> Self {
        Self {
            version: VERSION,
            boot: boot(),
            process,
            profiler,
            base: 0,
            swap: 0,
            swap_code: Vec::new(),
            slots: Vec::new(),
        }
    }

    /// The same of a child that a fork made.
    #[must_use]
    pub fn of(&self, process: Identity) -> Self {
        Self {
            process,
            ..self.clone()
        }
    }

    fn is_plausible(&self, pid: u32) -> bool {
        self.version == VERSION
            && self.process.pid == pid
            && self.slots.len() <= layout::MOST_JOBS
            && self.swap_code.len() <= layout::PAGE as usize
            && self.base.checked_add(layout::ALL).is_some()
            && self.swap < layout::PAGE
    }

    /// Whether its process is the one that it was written of.
    pub fn is_of_a_living_process(&self) -> bool {
        self.boot == boot() && self.process.is_there()
    }

    pub fn is_in_use(&self) -> bool {
        self.boot == boot() && self.profiler.is_there()
    }
}

fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn journal(pid: u32) -> Journal {
        let us = Identity::of(pid).unwrap();
        let slot = Slot {
            address: 8,
            original: 1,
            stub: 2,
        };
        Journal {
            slots: vec![slot; 8],
            ..Journal::begun(us, us)
        }
    }

    #[test]
    fn a_journal_is_read_as_it_was_written_and_is_gone_when_removed() {
        let place = tempfile::tempdir().unwrap();
        let journals = Journals::within(&place.path().join("profiler"));
        let pid = std::process::id();
        assert_eq!(journals.read(pid).unwrap(), None);
        let written = journal(pid);
        journals.write(&written).unwrap();
        journals.write(&written).unwrap();
        let read = journals.read(pid).unwrap().unwrap();
        assert_eq!((&read, journals.pids()), (&written, vec![pid]));
        assert!(read.is_of_a_living_process() && read.is_in_use());
        journals.remove(pid);
        assert!(journals.pids().is_empty());
    }

    #[test]
    fn a_process_that_has_the_number_later_is_another_one() {
        let mut journal = journal(std::process::id());
        journal.process.began += 1;
        assert!(!journal.is_of_a_living_process());
    }

    #[test]
    fn what_others_may_write_is_not_believed() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("profiler");
        let journals = Journals::within(&directory);
        journals.write(&journal(std::process::id())).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        let read = journals.read(std::process::id());
        assert!(matches!(read, Err(JournalError::Exposed { .. })), "{read:?}");
        let written = journals.write(&journal(std::process::id()));
        assert!(matches!(written, Err(JournalError::Exposed { .. })));
    }

    proptest::proptest! {
        #[test]
        fn damaged_journals_are_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let place = tempfile::tempdir().unwrap();
            let directory = place.path().join("profiler");
            let journals = Journals::within(&directory);
            journals.write(&journal(std::process::id())).unwrap();
            fs::write(directory.join("1.json"), bytes).unwrap();
            let is_refused = matches!(journals.read(1), Err(JournalError::Foreign { .. }));
            proptest::prop_assert!(is_refused);
        }
    }
}
