//! The directory of a flight recorder: the last windows are in it, and those that are kept.
//!
//! What was there when we began counts as older than all we write, whatever the clock says: who starts anew goes on where
//! the last one stopped.

use std::{
    collections::VecDeque,
    ffi::CString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};

use super::{
    keep::Keep,
    names,
    writer::{Named, Sink},
};
use crate::{
    config::OutputTarget,
    instruments::content::Content,
    invoker::{Invoker, acting},
    output::{Output, Written},
    report::{Format, View},
};

/// How many windows may have begun in one second.
const MOST_OF_ONE_NAME: u32 = 1000;

#[derive(Debug)]
pub struct Shelf {
    directory: PathBuf,
    owner: Option<Invoker>,
    /// How many windows stay.
    last: usize,
    /// Oldest first.
    windows: VecDeque<Entry>,
    /// Held as long as we write there: two that count each other's windows would remove each other's.
    _lock: File,
}

/// A window that may have to be removed.
#[derive(Debug)]
struct Entry {
    /// `None` if it was there before.
    number: Option<u64>,
    name: String,
}

impl Shelf {
    /// Checks that files can be made in `directory`, and keeps others from doing what we do there.
    pub fn open(directory: &Path, owner: Option<Invoker>, last: usize) -> Result<Self> {
        let shown = directory.display();
        let lock = match acting(owner.as_ref(), || open_directory(directory)).flatten() {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("there is no directory {shown}; make it with mkdir -p, or name another with -o")
            }
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                bail!("{shown} is no directory, and --every writes a file for each window; name a directory with -o")
            }
            Err(error) => return Err(error).with_context(|| format!("cannot open {shown}; name another with -o")),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("another recording writes its windows to {shown}; name another directory with -o")
            }
            // A file system without locks.
            Err(TryLockError::Error(_)) => {}
        }
        let mut shelf = Self {
            directory: directory.to_owned(),
            owner,
            last,
            windows: VecDeque::new(),
            _lock: lock,
        };
        // Only trying tells whether a file can be made.
        shelf.free_place(SystemTime::now(), false)?;
        let mut there: Vec<String> = fs::read_dir(directory)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .with_context(|| format!("cannot read {shown}; name another with -o"))?
            .into_iter()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| names::is_window(name))
            .collect();
        there.sort_unstable();
        shelf.windows = there.into_iter().map(|name| Entry { number: None, name }).collect();
        Ok(shelf)
    }

    /// Writes a window, whole or not at all.
    pub fn write(
        &mut self,
        number: u64,
        began: SystemTime,
        kept: bool,
        content: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<Written> {
        let (output, name) = self.free_place(began, kept)?;
        let written = output.write(content)?;
        if !kept {
            self.windows.push_back(Entry {
                number: Some(number),
                name,
            });
        }
        Ok(written)
    }

    /// Where a window can be written that began then.
    fn free_place(&self, began: SystemTime, kept: bool) -> Result<(Output, String)> {
        if !self.directory.is_dir() {
            bail!("there is no directory {}; make it again", self.directory.display());
        }
        for again in 0..MOST_OF_ONE_NAME {
            let name = names::name(began, again, kept);
            let path = self.directory.join(&name);
            // Its other name would be taken when it is kept, or not kept.
            let other = self.directory.join(names::name(began, again, !kept));
            if fs::symlink_metadata(&path).is_ok() || fs::symlink_metadata(&other).is_ok() {
                continue;
            }
            let target = OutputTarget::File { path, force: false };
            return Ok((Output::prepare(&target, self.owner.as_ref(), "-o")?, name));
        }
        bail!("{} has too many windows of one second", self.directory.display())
    }

    /// As whoever asked may.
    pub fn tidy(&mut self, keep: &Keep) -> Result<u64> {
        let owner = self.owner.clone();
        acting(owner.as_ref(), || self.tidy_up(keep))?
    }

    fn tidy_up(&mut self, keep: &Keep) -> Result<u64> {
        let is_kept = |entry: &Entry| entry.number.is_some_and(|number| keep.is_kept(number));
        let surplus = self.windows.len().saturating_sub(self.last);
        let must_go = |(at, entry): (usize, &Entry)| at < surplus || is_kept(entry);
        if !self.windows.iter().enumerate().any(must_go) {
            return Ok(0);
        }
        let directory = open_directory(&self.directory).with_context(|| self.directory.display().to_string())?;
        let mut outcome = Ok(());
        let mut kept = 0;
        let mut stay = VecDeque::with_capacity(self.windows.len());
        for (at, entry) in self.windows.drain(..).enumerate() {
            let done = match names::kept(&entry.name).filter(|_| is_kept(&entry)) {
                Some(new) => rename(&directory, &entry.name, &new).inspect(|()| kept += 1),
                None if at < surplus => remove(&directory, &entry.name),
                None => {
                    stay.push_back(entry);
                    continue;
                }
            };
            match done {
                Ok(()) => {}
                // Somebody else has taken it away.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let path = self.directory.join(&entry.name);
                    outcome = Err(error).with_context(|| format!("cannot keep or remove {}", path.display()));
                    stay.push_back(entry);
                }
            }
        }
        self.windows = stay;
        outcome.map(|()| kept)
    }
}

impl Sink for Shelf {
    /// Writes the window's profile: a recording that goes to a shelf has one.
    fn take(&mut self, window: &Named) -> Result<Written> {
        let profile = window.contents.iter().find_map(Content::profile);
        let profile = profile.context("there is nothing to write")?;
        self.write(window.number, window.began, window.kept, |out| {
            Format::Pprof.writer().write(profile, &View::default(), out)
        })
    }

    fn tidy(&mut self, keep: &Keep) -> Result<u64> {
        Self::tidy(self, keep)
    }
}

fn open_directory(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)
}

/// Both stay inside the directory, whatever its path leads to meanwhile.
fn remove(directory: &File, name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the descriptor is open, and the name NUL-terminated.
    match unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn rename(directory: &File, name: &str, new: &str) -> io::Result<()> {
    let (name, new) = (CString::new(name)?, CString::new(new)?);
    let directory = directory.as_raw_fd();
    // SAFETY: the descriptor is open, and the names NUL-terminated.
    match unsafe { libc::renameat(directory, name.as_ptr(), directory, new.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_961_100 + second)
    }

    fn files(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    fn write(shelf: &mut Shelf, number: u64, second: u64, kept: bool) {
        shelf
            .write(number, at(second), kept, |out| Ok(writeln!(out, "{number}")?))
            .unwrap();
    }

    #[test]
    fn the_last_windows_stay_and_so_does_what_is_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        let others = [
            "notes.txt",
            "2026-11-29T14-05-00Z.pb.gz.bak",
            "profile.pb.gz",
            "2026-11-29T14-04-00Z.kept.pb.gz",
        ];
        for name in others {
            fs::write(directory.path().join(name), "mine").unwrap();
        }
        let mut shelf = Shelf::open(directory.path(), None, 2).unwrap();
        for number in 1..=5 {
            write(&mut shelf, number, number, false);
            shelf.tidy(&Keep::default()).unwrap();
        }
        let mut expected = ["2026-11-29T14-05-04Z.pb.gz", "2026-11-29T14-05-05Z.pb.gz"].to_vec();
        expected.extend(others);
        expected.sort_unstable();
        assert_eq!(files(directory.path()), expected);
    }

    #[test]
    fn windows_around_a_moment_are_kept_whether_they_are_written_already_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(directory.path(), None, 1).unwrap();
        let mut keep = Keep::default();
        for number in 1..=2 {
            write(&mut shelf, number, number, keep.is_kept(number));
            shelf.tidy(&keep).unwrap();
        }
        keep.begin(3);
        keep.ask();
        // The second is there already.
        assert_eq!(shelf.tidy(&keep).unwrap(), 1);
        for number in 3..=6 {
            write(&mut shelf, number, number, keep.is_kept(number));
            assert_eq!(shelf.tidy(&keep).unwrap(), 0);
        }
        assert_eq!(
            files(directory.path()),
            [
                "2026-11-29T14-05-02Z.kept.pb.gz",
                "2026-11-29T14-05-03Z.kept.pb.gz",
                "2026-11-29T14-05-04Z.kept.pb.gz",
                "2026-11-29T14-05-06Z.pb.gz",
            ]
        );
    }

    #[test]
    fn who_starts_anew_goes_on_where_the_last_one_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(directory.path(), None, 3).unwrap();
        for number in 1..=3 {
            write(&mut shelf, number, 100 + number, false);
        }
        let again = Shelf::open(directory.path(), None, 3).unwrap_err();
        assert!(
            format!("{again:#}").starts_with("another recording writes its windows to "),
            "{again:#}"
        );
        drop(shelf);
        // Although the clock was set back meanwhile.
        let mut shelf = Shelf::open(directory.path(), None, 3).unwrap();
        for number in 1..=2 {
            write(&mut shelf, number, number, false);
            shelf.tidy(&Keep::default()).unwrap();
        }
        assert_eq!(
            files(directory.path()),
            [
                "2026-11-29T14-05-01Z.pb.gz",
                "2026-11-29T14-05-02Z.pb.gz",
                "2026-11-29T14-06-43Z.pb.gz"
            ]
        );
    }

    #[test]
    fn two_windows_of_one_second_are_two_files() {
        let directory = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(directory.path(), None, 9).unwrap();
        write(&mut shelf, 1, 7, true);
        write(&mut shelf, 2, 7, false);
        write(&mut shelf, 3, 7, false);
        assert_eq!(
            files(directory.path()),
            [
                "2026-11-29T14-05-07Z-2.pb.gz",
                "2026-11-29T14-05-07Z-3.pb.gz",
                "2026-11-29T14-05-07Z.kept.pb.gz"
            ]
        );
    }

    #[test]
    fn a_directory_that_vanishes_is_an_error_and_one_that_comes_back_is_used_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("windows");
        fs::create_dir(&path).unwrap();
        let mut shelf = Shelf::open(&path, None, 1).unwrap();
        write(&mut shelf, 1, 1, false);
        fs::remove_dir_all(&path).unwrap();
        let error = shelf.write(2, at(2), false, |_| Ok(())).unwrap_err();
        assert!(format!("{error:#}").contains("there is no directory"), "{error:#}");
        fs::create_dir(&path).unwrap();
        write(&mut shelf, 3, 3, false);
        shelf.tidy(&Keep::default()).unwrap();
        assert_eq!(files(&path), ["2026-11-29T14-05-03Z.pb.gz"]);
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(directory.path(), None, 1).unwrap();
        let failed = shelf.write(1, at(1), false, |out| {
            out.write_all(b"half")?;
            bail!("no more")
        });
        assert!(failed.is_err());
        assert_eq!(files(directory.path()), [""; 0]);
        assert!(shelf.windows.is_empty());
    }

    #[test]
    fn what_is_no_directory_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file, directory.path().join("missing")] {
            let error = format!("{:#}", Shelf::open(&path, None, 1).unwrap_err());
            assert!(error.contains("-o") && error.contains("directory"), "{error}");
        }
    }
}
