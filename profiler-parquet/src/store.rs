//! A directory of sets: how one comes in whole or not at all, and how an hour goes.
//!
//! Both files of a set are written and synced under `v1/.tmp`, then renamed, frames first. Who sees a file of samples can
//! therefore read its frames; who listed the directory between the two renames sees frames that no sample has, which changes no
//! answer. A set's name comes from its content: the same message twice is the same set.
//!
//! `v1/.lock` is held shared while a set is renamed into its hour, and exclusively while an hour is replaced or taken away,
//! so that no set is renamed into a directory that has just been taken out. Readers need no lock.
//!
//! What is below `v1/.tmp` is nobody's to read. Directories there have one more level than hours, so that who globs
//! `v1/*/*/*.samples.parquet` does not meet an hour that is being put together. Who writes there holds a lock on what he
//! writes (`flock`), which goes with him: what is old and not locked is of a crash, and is swept (`Store::sweep`).

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parquet::errors::ParquetError;
use sha2::{Digest as _, Sha256};

use crate::{
    convert::Refused,
    limits::Limits,
    rows::{Lost, Rows},
    when::Hour,
    write,
};

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("another has put {} together in the meantime", path.display())]
    Overtaken { path: PathBuf },
    /// Trying again with the same message will not help.
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("cannot write {}: {source}", path.display())]
    Parquet { path: PathBuf, source: ParquetError },
}

/// A store: a directory that is ours below `v1`.
#[derive(Debug)]
pub struct Store {
    /// `DIR/v1`.
    root: PathBuf,
    pub(crate) limits: Limits,
}

/// What came into the store.
#[derive(Clone, Debug, Default)]
pub struct Appended {
    pub samples: u64,
    /// Of all files that were written.
    pub bytes: u64,
    /// One set for each hour that the message is of.
    pub files: Vec<Files>,
    /// What was left out or cut.
    pub lost: Lost,
}

/// A set's files.
#[derive(Clone, Debug)]
pub struct Files {
    pub frames: PathBuf,
    pub samples: PathBuf,
    /// The same set had come before, and was not written again.
    pub known: bool,
}

/// What is in `.tmp` for less may be of a writer that has not yet locked what it made.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// So many different hours that have windows say what time it is, if they are as many (`Store::forget_older`).
const WITNESSES: usize = 24;
const WEEK_US: i64 = 7 * 24 * 3_600_000_000;

/// Files with these endings are read; nothing else is.
pub(crate) const SAMPLES: &str = "samples.parquet";
pub(crate) const FRAMES: &str = "frames.parquet";

/// Whether this can be a set's name: nothing that a path or an SQL text minds.
pub fn is_set_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl Store {
    /// Makes what is missing of the directory.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let root = directory.join("v1");
        let temporary = root.join(".tmp");
        fs::create_dir_all(&temporary).map_err(io_error("make the store's directory", &temporary))?;
        Ok(Self {
            root,
            limits: Limits::default(),
        })
    }

    /// `DIR/v1`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// One message: the bytes of an `ExportProfilesServiceRequest`.
    pub fn append(&self, otlp: &[u8]) -> Result<Appended, StoreError> {
        let mut rows = Rows::default();
        rows.add(otlp, &self.limits)?;
        let hash: [u8; 32] = Sha256::digest(otlp).into();
        self.write(&rows, hash)
    }

    /// Rows of any number of messages, as a set for each hour. `hash`: what tells them from all other rows.
    pub fn write(&self, rows: &Rows, hash: [u8; 32]) -> Result<Appended, StoreError> {
        let mut appended = Appended {
            lost: rows.lost,
            ..Appended::default()
        };
        let texts = write::Texts::of(rows);
        let mut ready = Vec::new();
        // Of all the rows, and told once: in the first hour's set.
        let mut lost = rows.lost;
        for (hour, mut samples) in by_hour(rows) {
            let lost = std::mem::take(&mut lost);
            let name = name(hour, hash);
            let files = self.files(hour, &name);
            if files.samples.exists() {
                appended.files.push(Files { known: true, ..files });
                continue;
            }
            write::sort(rows, &mut samples);
            let frames = self.temporary(|out| write::frames(rows, &texts, &samples, &name, out))?;
            let written = self.temporary(|out| write::samples(rows, &texts, &samples, &name, &lost, out))?;
            appended.samples += samples.len() as u64;
            appended.bytes += frames.bytes + written.bytes;
            ready.push((hour, frames, written, files));
        }
        let _shared = self.lock(Lock::Shared)?;
        for (hour, frames, samples, files) in ready {
            appended.files.push(files.clone());
            let placed = self.place(hour, frames, samples, &files);
            if let Err(error) = placed {
                // All of it or nothing: who is told that it failed sends it again, perhaps among other messages, whose set
                // has another name.
                for files in appended.files.iter().filter(|files| !files.known) {
                    let _ = fs::remove_file(&files.samples);
                    let _ = fs::remove_file(&files.frames);
                }
                return Err(error);
            }
        }
        Ok(appended)
    }

    fn place(&self, hour: Hour, frames: Temporary, samples: Temporary, files: &Files) -> Result<(), StoreError> {
        self.make_hour(hour)?;
        frames.rename(&files.frames)?;
        samples.rename(&files.samples)?;
        sync_directory(&self.hour(hour))
    }

    /// The hours that the store has, in order.
    pub fn hours(&self) -> Result<Vec<Hour>, StoreError> {
        let mut hours = Vec::new();
        for day in names(&self.root)? {
            if !day.starts_with("day=") {
                continue;
            }
            hours.extend(
                names(&self.root.join(&day))?
                    .iter()
                    .filter_map(|hour| Hour::parse(&day, hour)),
            );
        }
        hours.sort_unstable();
        Ok(hours)
    }

    /// The names of the sets of an hour, in order.
    pub fn sets(&self, hour: Hour) -> Result<Vec<String>, StoreError> {
        let names = names(&self.hour(hour))?;
        let sets = names
            .iter()
            .filter_map(|name| name.strip_suffix(SAMPLES)?.strip_suffix('.'));
        let mut sets: Vec<String> = sets.filter(|name| is_set_name(name)).map(str::to_owned).collect();
        sets.sort_unstable();
        Ok(sets)
    }

    /// The directory of an hour.
    pub fn hour(&self, hour: Hour) -> PathBuf {
        self.root.join(hour.day()).join(hour.hour())
    }

    pub fn files(&self, hour: Hour, set: &str) -> Files {
        let directory = self.hour(hour);
        Files {
            frames: directory.join(format!("{set}.{FRAMES}")),
            samples: directory.join(format!("{set}.{SAMPLES}")),
            known: false,
        }
    }

    /// Takes away the hours that ended longer than `keep` ago, each at once, and tells how many those were.
    ///
    /// Ago by the clock and by the store, whichever is earlier: a clock that has jumped ahead would take all of it away. The
    /// store's time is the newest hour that is one of 24 within a week which have windows, or else the 24th newest (fewer
    /// than 24, if `keep` is shorter): a writer whose clock has jumped puts windows into the future itself, and a few such
    /// hours must not count. So a store that nobody writes to keeps what it has.
    pub fn forget_older(&self, keep: Duration, now_us: i64) -> Result<usize, StoreError> {
        let keep_us = i64::try_from(keep.as_micros()).unwrap_or(i64::MAX);
        let hours = self.hours()?;
        let kept = usize::try_from(keep.as_secs() / 3600).unwrap_or(usize::MAX);
        let witnesses = kept.clamp(1, WITNESSES);
        let within_a_week = |hours: &&[Hour]| match hours {
            [first, .., last] => last.start_us() - first.start_us() < WEEK_US,
            _ => true,
        };
        let runs = || hours.windows(witnesses).rev();
        let by_week = runs().find(within_a_week).and_then(<[Hour]>::last);
        let by_number = runs().next().and_then(<[Hour]>::first);
        let Some(by_store) = by_week.max(by_number) else {
            return Ok(0);
        };
        match Hour::of(now_us.min(by_store.end_us()).saturating_sub(keep_us)) {
            Some(first) => self.forget_before(first),
            None => Ok(0),
        }
    }

    /// Takes away the hours before this one, whatever time it is.
    pub(crate) fn forget_before(&self, first: Hour) -> Result<usize, StoreError> {
        let mut count = 0;
        for hour in self.hours()?.into_iter().filter(|hour| *hour < first) {
            let away = self.aside()?;
            let _exclusive = self.lock(Lock::Exclusive)?;
            let directory = self.hour(hour);
            // In the place of the empty directory.
            fs::rename(&directory, &away.inner).map_err(io_error("take away", &directory))?;
            // A day goes with its last hour; until then it is not empty.
            let _ = fs::remove_dir(self.root.join(hour.day()));
            drop(_exclusive);
            away.remove()?;
            count += 1;
        }
        Ok(count)
    }

    /// Puts a directory with other files into an hour's place, at once: who lists it sees one or the other. Sets that came
    /// into the hour since `known` was listed are kept beside the new ones, and so are those that are not of `known`.
    pub(crate) fn replace_hour(&self, hour: Hour, with: Aside, known: &[String]) -> Result<(), StoreError> {
        let directory = self.hour(hour);
        {
            let _exclusive = self.lock(Lock::Exclusive)?;
            let there = self.sets(hour)?;
            // What has become of them is in another set by now, and would be there twice.
            if known.iter().any(|set| !there.contains(set)) {
                return Err(StoreError::Overtaken {
                    path: directory.clone(),
                });
            }
            for set in there.iter().filter(|set| !known.contains(set)) {
                let files = self.files(hour, set);
                for file in [files.frames, files.samples] {
                    let to = with.inner.join(file.file_name().unwrap_or_default());
                    fs::hard_link(&file, &to).map_err(io_error("link", &to))?;
                }
            }
            sync_directory(&with.inner)?;
            exchange(&with.inner, &directory).map_err(io_error("replace", &directory))?;
            sync_directory(&self.root.join(hour.day()))?;
        }
        with.remove()
    }

    /// A directory that nobody reads, in the same file system.
    pub(crate) fn aside(&self) -> Result<Aside, StoreError> {
        let outer = self.unused_name();
        fs::create_dir(&outer).map_err(io_error("make", &outer))?;
        let lock = File::open(&outer).and_then(|directory| directory.lock_shared().map(|()| directory));
        let inner = outer.join("hour");
        // Removed again if anything fails from here on.
        let aside = |lock| Aside { outer, inner, lock };
        match lock {
            Ok(lock) => {
                let aside = aside(Some(lock));
                fs::create_dir(&aside.inner).map_err(io_error("make", &aside.inner))?;
                Ok(aside)
            }
            Err(error) => Err(io_error("lock", &aside(None).outer)(error)),
        }
    }

    /// Removes what writers left that crashed: what is old and locked by nobody. Returns how many that were.
    pub fn sweep(&self) -> Result<usize, StoreError> {
        let temporary = self.root.join(".tmp");
        let mut count = 0;
        for name in names(&temporary)?.iter().filter(|name| name.ends_with(".tmp")) {
            let path = temporary.join(name);
            let old = |metadata: &fs::Metadata| {
                let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
                age.is_some_and(|age| age > ABANDONED_AFTER)
            };
            // What is gone has been renamed, or swept by another.
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            if !(metadata.is_dir() || metadata.is_file()) || !old(&metadata) {
                continue;
            }
            // The lock is held until it is gone, so that two do not sweep the same.
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_err() {
                continue;
            }
            match metadata.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            }
            .map_err(io_error("remove", &path))?;
            count += 1;
        }
        Ok(count)
    }

    /// One set of an hour, into a directory that nobody reads yet; its samples and bytes.
    pub(crate) fn write_aside(&self, rows: &Rows, aside: &Aside, name: &str) -> Result<(u64, u64), StoreError> {
        let texts = write::Texts::of(rows);
        let mut samples: Vec<u32> = (0..crate::rows::number(rows.samples.len())).collect();
        write::sort(rows, &mut samples);
        let frames = self.temporary(|out| write::frames(rows, &texts, &samples, name, out))?;
        let written = self.temporary(|out| write::samples(rows, &texts, &samples, name, &rows.lost, out))?;
        let bytes = frames.bytes + written.bytes;
        frames.rename(&aside.inner.join(format!("{name}.{FRAMES}")))?;
        written.rename(&aside.inner.join(format!("{name}.{SAMPLES}")))?;
        Ok((samples.len() as u64, bytes))
    }

    fn make_hour(&self, hour: Hour) -> Result<(), StoreError> {
        let day = self.root.join(hour.day());
        let directory = self.hour(hour);
        if directory.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(&directory).map_err(io_error("make", &directory))?;
        sync_directory(&day)?;
        sync_directory(&self.root)
    }

    fn lock(&self, lock: Lock) -> Result<File, StoreError> {
        let path = self.root.join(".lock");
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(io_error("open", &path))?;
        match lock {
            Lock::Shared => file.lock_shared(),
            Lock::Exclusive => file.lock(),
        }
        .map_err(io_error("lock", &path))?;
        Ok(file)
    }

    fn unused_name(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.root
            .join(".tmp")
            .join(format!("{}-{}-{next}.tmp", std::process::id(), now.as_nanos()))
    }

    /// A file nobody reads yet, written and synced.
    fn temporary(
        &self,
        write: impl FnOnce(io::BufWriter<File>) -> Result<io::BufWriter<File>, ParquetError>,
    ) -> Result<Temporary, StoreError> {
        let path = self.unused_name();
        let file = File::create_new(&path).map_err(io_error("make", &path))?;
        let lock = file.try_clone().and_then(|file| file.lock_shared());
        // Removed again if anything fails from here on.
        let mut temporary = Temporary {
            path: path.clone(),
            bytes: 0,
            file: None,
        };
        // Of the open file, which both handles are of.
        lock.map_err(io_error("lock", &path))?;
        let written = write(io::BufWriter::new(file)).map_err(|source| StoreError::Parquet {
            path: path.clone(),
            source,
        });
        let mut out = written?;
        out.flush().map_err(io_error("write", &path))?;
        let file = out
            .into_inner()
            .map_err(|error| io_error("write", &path)(error.into_error()))?;
        file.sync_all().map_err(io_error("sync", &path))?;
        temporary.bytes = file.metadata().map_err(io_error("look at", &path))?.len();
        temporary.file = Some(file);
        Ok(temporary)
    }
}

#[derive(Clone, Copy, Debug)]
enum Lock {
    Shared,
    Exclusive,
}

/// A directory that nobody reads. It is removed when this goes.
#[derive(Debug)]
pub(crate) struct Aside {
    outer: PathBuf,
    /// What takes an hour's place.
    inner: PathBuf,
    lock: Option<File>,
}

impl Aside {
    fn remove(self) -> Result<(), StoreError> {
        fs::remove_dir_all(&self.outer).map_err(io_error("remove", &self.outer))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Gone already, or it will be swept.
        let _ = fs::remove_dir_all(&self.outer);
        self.lock = None;
    }
}

/// Removed unless it was renamed.
struct Temporary {
    path: PathBuf,
    bytes: u64,
    /// Holds the lock.
    file: Option<File>,
}

impl Temporary {
    fn rename(mut self, to: &Path) -> Result<(), StoreError> {
        fs::rename(&self.path, to).map_err(io_error("rename a file to", to))?;
        self.file = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone if it was renamed; what cannot be removed is in a directory that nobody reads.
        let _ = fs::remove_file(&self.path);
    }
}

fn by_hour(rows: &Rows) -> std::collections::BTreeMap<Hour, Vec<u32>> {
    let mut hours = std::collections::BTreeMap::<Hour, Vec<u32>>::new();
    for (at, sample) in (0_u32..).zip(&rows.samples) {
        // Samples of no hour were refused.
        if let Some(hour) = Hour::of(sample.start_us) {
            hours.entry(hour).or_default().push(at);
        }
    }
    hours
}

pub(crate) fn name(hour: Hour, hash: [u8; 32]) -> String {
    let hex: String = hash.iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    format!("{hour}-{hex}")
}

fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("list", directory)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", directory))?;
        // Ours are ASCII.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error("sync", path))
}

/// Swaps two directories (`renameat2`, Linux 3.15).
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use std::{ffi::CString, os::unix::ffi::OsStrExt as _};
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
    let (one, other) = (path(one)?, path(other)?);
    // SAFETY: both are texts that end in NUL and outlive the call, which keeps neither.
    let became = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    match became {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}
