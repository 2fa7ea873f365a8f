//! The files that processes map as code: each opened and looked at once, however many processes map it.
//!
//! A file is shared between those who know it: the recording, as long as a process maps it, and the windows that met its
//! code, until they are named. Its descriptor goes with the last of them.

use std::{
    collections::VecDeque,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    process::{
        file::{ElfHeaders, FileKey, MappedFile},
        inspector::{Inspected, Inspector},
        maps::{self, MapEntry},
    },
    python::{
        binary::{PythonBinary, Refusal},
        c_library::Musl,
    },
};

/// Disk space, or memory of a tmpfs, that files may keep which are deleted while they are open here.
const MOST_DELETED_BYTES: u64 = 1 << 30;

/// An entry of [`Files`]. The number of one that is gone becomes another's (see [`Files::keep`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(u32);

impl FileId {
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// An id of a window's own, for a file that nobody need map any more. The others come from below.
    pub fn of_window(number: u32) -> Self {
        Self(u32::MAX - number)
    }
}

/// A mapped file.
#[derive(Debug, Default)]
pub struct File {
    /// Tells it from every other file, also from one that had its id before.
    pub serial: u64,
    /// As the process that was seen first calls it.
    pub path: PathBuf,
    /// `None` if it could not be opened: its frames stay addresses.
    pub opened: Option<MappedFile>,
    /// `None` if it is no ELF file.
    pub headers: Option<ElfHeaders>,
    /// Somebody looks into it, or has.
    asked: bool,
    inspected: OnceLock<Inspected>,
    /// It was deleted, and kept more than it may.
    let_go: bool,
}

impl File {
    /// What is needed of it at once, while the process lives: the file itself, and where its segments lie.
    fn open(serial: u64, pid: u32, entry: &MapEntry) -> Option<Self> {
        let path = entry.path()?.to_owned();
        let opened = MappedFile::open(pid, entry).ok();
        let headers = opened.as_ref().and_then(MappedFile::elf_headers);
        Some(Self {
            serial,
            path,
            asked: headers.is_some(),
            opened,
            headers,
            ..Self::default()
        })
    }

    /// Whether there is a CPython in it.
    pub fn python(&self) -> &PythonFile {
        match self.inspected.get() {
            Some(inspected) => &inspected.python,
            None if self.asked => &ASKED,
            None => &NONE,
        }
    }

    /// What of musl's C library it is, if it is that.
    pub fn musl(&self) -> Option<Musl> {
        self.inspected.get()?.musl
    }

    /// Its debug file in the container it was first seen in, as soon as it was looked for.
    pub fn debug_file(&self) -> Option<&std::fs::File> {
        self.inspected.get()?.debug_file.as_ref()
    }

    /// What it keeps on its disk only because it is open here.
    fn deleted_bytes(&self) -> u64 {
        let files = self.opened.iter().map(MappedFile::file).chain(self.debug_file());
        let deleted = files
            .filter_map(|file| file.metadata().ok())
            .filter(|metadata| metadata.nlink() == 0);
        // `stat` counts in blocks of 512 bytes, whatever the file system's are.
        deleted.map(|metadata| metadata.blocks().saturating_mul(512)).sum()
    }

    /// The CPython in it, if there is one that is supported.
    pub fn cpython(&self) -> Option<&Arc<PythonBinary>> {
        match self.python() {
            PythonFile::Yes(binary) => Some(binary),
            PythonFile::Asked | PythonFile::No | PythonFile::Refused(_) => None,
        }
    }
}

static ASKED: PythonFile = PythonFile::Asked;
static NONE: PythonFile = PythonFile::No;

/// Whether there is a CPython in a file.
#[derive(Clone, Debug, Default)]
pub enum PythonFile {
    #[default]
    No,
    /// That is being found out.
    Asked,
    Yes(Arc<PythonBinary>),
    /// There is one, and it is not supported.
    Refused(Refusal),
}

/// How long it took to open files and to look at what is in them: meanwhile no samples are taken in.
#[derive(Clone, Debug)]
pub struct Looks {
    pub count: u64,
    pub all: Duration,
    pub longest: Duration,
    /// By the power of two of its nanoseconds, in quarters.
    quarters: [u64; 4 * 64],
}

impl Default for Looks {
    fn default() -> Self {
        Self {
            count: 0,
            all: Duration::ZERO,
            longest: Duration::ZERO,
            quarters: [0; 4 * 64],
        }
    }
}

impl Looks {
    fn note(&mut self, took: Duration) {
        self.count += 1;
        self.all += took;
        self.longest = self.longest.max(took);
        let ns = took.as_nanos() as f64;
        let quarter = (4.0 * ns.max(1.0).log2()) as usize;
        if let Some(count) = self.quarters.get_mut(quarter) {
            *count += 1;
        }
    }

    /// What half of them took at most, to a fifth.
    pub fn median(&self) -> Duration {
        if self.count == 0 {
            return Duration::ZERO;
        }
        let mut left = self.count.div_ceil(2);
        let reached = self.quarters.iter().position(|&count| {
            left = left.saturating_sub(count);
            left == 0
        });
        Duration::from_nanos(reached.map_or(0.0, |quarter| 2f64.powf((quarter + 1) as f64 / 4.0)) as u64)
    }
}

/// How long the kernel side may still look up a file that no process maps any more, as in `unwind::store`.
const GRACE: Duration = Duration::from_millis(100);

/// The files that are known. An id is valid as long as a process maps its file, and until the window is cut in which it
/// was met; in a recording of one window, to its end.
///
/// Every file stays open, which also keeps its inode number from being given to another; deleted files up to a limit.
#[derive(Debug, Default)]
pub struct Files {
    files: Vec<Option<Arc<File>>>,
    ids: FxHashMap<FileKey, FileId>,
    /// Ids that are free, and since when.
    free: VecDeque<(Instant, FileId)>,
    opened: u64,
    /// How long that took.
    pub looks: Looks,
    /// Who looks into them, if it is not whoever asks.
    inspector: Option<Inspector>,
    /// In the place of one that is not known.
    none: File,
}

impl Files {
    /// The file that `entry` of `pid` maps; `None` if it maps none.
    pub fn of_mapping(&mut self, pid: u32, entry: &MapEntry) -> Option<FileId> {
        let key = FileKey::of(entry)?;
        let known = self.ids.get(&key).copied();
        if let Some(id) = known
            && (self.get(id).opened.is_some() || self.get(id).let_go)
        {
            return Some(id);
        }
        self.opened += 1;
        let began = Instant::now();
        let file = Arc::new(File::open(self.opened, pid, entry)?);
        // It could not be opened before, or has never been seen.
        let id = known.unwrap_or_else(|| self.free_id(Instant::now()));
        let is_asked = |inspector: &mut Inspector| inspector.ask(id, Arc::clone(&file), pid);
        if file.asked && !self.inspector.as_mut().is_some_and(is_asked) {
            file.inspected.get_or_init(|| Inspected::of(&file, pid));
        }
        self.looks.note(began.elapsed());
        self.files[id.index()] = Some(file);
        self.ids.insert(key, id);
        Some(id)
    }

    /// From now on files are looked into by another thread, and nobody waits for it.
    pub fn inspect_elsewhere(&mut self) -> std::io::Result<()> {
        self.inspector = Some(Inspector::start()?);
        Ok(())
    }

    /// How many files are being looked into.
    pub fn asked(&self) -> usize {
        self.inspector.as_ref().map_or(0, Inspector::waiting)
    }

    /// Takes in what was found out. Returns the files that have a CPython in them, or one that is refused, or are musl.
    pub fn take_inspected(&mut self) -> Vec<FileId> {
        let mut found = Vec::new();
        while let Some(answer) = self.inspector.as_mut().and_then(Inspector::take_next) {
            let file = self.files.get(answer.id.index()).and_then(Option::as_deref);
            // Else it is gone, and another has its id.
            let Some(file) = file.filter(|file| file.serial == answer.serial) else {
                continue;
            };
            if !matches!(answer.inspected.python, PythonFile::No) || answer.inspected.musl.is_some() {
                found.push(answer.id);
            }
            // Nobody else sets it.
            let _ = file.inspected.set(answer.inspected);
        }
        found
    }

    fn free_id(&mut self, now: Instant) -> FileId {
        match self.free.front() {
            Some(&(since, id)) if now.duration_since(since) >= GRACE => {
                self.free.pop_front();
                id
            }
            Some(_) | None => {
                self.files.push(None);
                FileId((self.files.len() - 1) as u32)
            }
        }
    }

    /// Lets go of all files but these. Returns those that are gone: their ids are other files' soon.
    pub fn keep(&mut self, kept: &FxHashSet<FileId>, now: Instant) -> Vec<FileId> {
        let mut gone = Vec::new();
        for (index, file) in self.files.iter_mut().enumerate() {
            let id = FileId(index as u32);
            if !kept.contains(&id) && file.take().is_some() {
                gone.push(id);
                self.free.push_back((now, id));
            }
        }
        self.ids.retain(|_, id| kept.contains(id));
        gone
    }

    /// The file at a path, which nobody need have mapped yet. `None` if there is none.
    pub fn foresee(&mut self, path: &Path) -> Option<FileId> {
        let file = MappedFile::open_path(path).ok()?;
        // The kernel's number of a file in maps is not always that in `stat` (`FileKey`): it is mapped here to have it.
        let map = file.map().ok()?;
        let own = std::process::id();
        let maps = maps::read(own).ok()?;
        self.of_mapping(own, maps.find(map.as_ptr() as u64)?)
    }

    /// Lets go of deleted files, the largest first, while they keep more than they may. Their code has no names then.
    pub fn let_go_of_deleted(&mut self) {
        self.let_go_beyond(MOST_DELETED_BYTES);
    }

    fn let_go_beyond(&mut self, most_bytes: u64) {
        let deleted = self.iter().map(|(id, file)| (file.deleted_bytes(), id.index()));
        let mut deleted: Vec<_> = deleted.filter(|&(bytes, _)| bytes > 0).collect();
        let mut kept_bytes = deleted.iter().fold(0_u64, |sum, (bytes, _)| sum.saturating_add(*bytes));
        deleted.sort_unstable();
        while kept_bytes > most_bytes
            && let Some((bytes, index)) = deleted.pop()
        {
            kept_bytes = kept_bytes.saturating_sub(bytes);
            self.let_go(index);
        }
    }

    /// From here on its inode number can be another file's, of which nothing is known, and which is not opened: it may be
    /// the same again.
    fn let_go(&mut self, index: usize) {
        let Some(file) = self.files.get(index).cloned().flatten() else {
            return;
        };
        // A window that met it has it until it is named.
        self.files[index] = Some(Arc::new(File {
            serial: file.serial,
            path: file.path.clone(),
            headers: file.headers.clone(),
            asked: file.asked,
            inspected: file.inspected.get().map_or_else(OnceLock::new, |inspected| {
                OnceLock::from(Inspected {
                    python: inspected.python.clone(),
                    debug_file: None,
                    musl: inspected.musl,
                })
            }),
            let_go: true,
            ..File::default()
        }));
        let nothing = File {
            path: file.path.clone(),
            let_go: true,
            ..File::default()
        };
        if self.ids.values().any(|id| id.index() == index) {
            let next = self.free_id(Instant::now());
            self.files[next.index()] = Some(Arc::new(nothing));
            self.ids
                .values_mut()
                .filter(|id| id.index() == index)
                .for_each(|id| *id = next);
        }
    }

    /// What to say of them.
    pub fn let_go_warning(&self) -> Option<String> {
        let count = self
            .iter()
            .filter(|(_, file)| file.let_go && file.headers.is_some())
            .count();
        let files = crate::summary::many(count as u64, "deleted file");
        (count > 0).then(|| format!("{files} took more than 1 GiB of disk: let go, so their code has no names"))
    }

    /// Files that could not be opened: their code has no names, and a CPython in one is not seen.
    pub fn unopened(&self) -> impl Iterator<Item = &File> {
        self.iter()
            .map(|(_, file)| file)
            .filter(|file| file.opened.is_none() && !file.let_go)
    }

    /// The file with this index, if there is one.
    pub fn at(&self, index: usize) -> Option<&File> {
        self.files.get(index)?.as_deref()
    }

    pub fn get(&self, id: FileId) -> &File {
        self.at(id.index()).unwrap_or(&self.none)
    }

    /// The same, to be held on to.
    pub fn share(&self, id: FileId) -> Option<Arc<File>> {
        self.files.get(id.index())?.clone()
    }

    /// How many ids there are, free ones included.
    pub fn ids(&self) -> usize {
        self.files.len()
    }

    /// All files, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, &File)> {
        self.files
            .iter()
            .enumerate()
            .filter_map(|(index, file)| Some((FileId(index as u32), file.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A mapping of a new file, which is mapped here only for the kernel to number it.
    fn foreseen(files: &mut Files, directory: &Path, name: &str) -> FileId {
        let path = directory.join(name);
        fs::write(&path, name).unwrap();
        files.foresee(&path).expect("a file that is there")
    }

    fn descriptors() -> usize {
        let own = fs::canonicalize("/proc/self/fd").unwrap();
        fs::read_dir(own).unwrap().count()
    }

    #[test]
    fn a_file_that_nobody_has_is_closed_and_its_id_becomes_anothers_after_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files::default();
        let [a, b] = ["a", "b"].map(|name| foreseen(&mut files, directory.path(), name));
        let held = files.share(a).unwrap();
        let now = Instant::now();
        assert_eq!(files.keep(&FxHashSet::from_iter([b]), now), [a]);
        assert_eq!(files.get(a).path, PathBuf::new());
        // A window that met it can still read it.
        assert_eq!(&*held.opened.as_ref().unwrap().map().unwrap(), b"a");
        assert_eq!(files.get(b).path, directory.path().join("b"));

        assert_ne!(
            files.free_id(now + GRACE / 2),
            a,
            "the kernel side may be looking it up"
        );
        assert_eq!(files.free_id(now + GRACE), a);
    }

    #[test]
    fn what_is_in_a_file_is_found_out_elsewhere_and_not_taken_for_anothers() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files::default();
        files.inspect_elsewhere().unwrap();
        let path = |name| directory.path().join(name);
        let elf = fs::read("/bin/true").unwrap();
        let ids = ["a", "b"].map(|name| {
            fs::write(path(name), &elf).unwrap();
            files.foresee(&path(name)).unwrap()
        });
        let text = foreseen(&mut files, directory.path(), "text");
        assert!(matches!(files.get(text).python(), PythonFile::No), "it is no ELF file");
        assert_eq!(files.asked(), 2);
        // A window has the first; the second is gone, and its id another's.
        let held = files.share(ids[0]).unwrap();
        assert!(matches!(held.python(), PythonFile::Asked));
        files.keep(&FxHashSet::from_iter([ids[0], text]), Instant::now() - 2 * GRACE);
        fs::write(path("c"), &elf).unwrap();
        assert_eq!(files.foresee(&path("c")), Some(ids[1]));
        while files.asked() > 0 {
            assert!(files.take_inspected().is_empty(), "neither is a CPython");
            std::thread::yield_now();
        }
        assert!(matches!(held.python(), PythonFile::No));
        assert!(matches!(files.get(ids[1]).python(), PythonFile::No));
    }

    #[test]
    fn half_of_the_files_were_looked_at_within_the_median() {
        let mut looks = Looks::default();
        assert_eq!(looks.median(), Duration::ZERO);
        for ms in [1, 1, 1, 8, 100] {
            looks.note(Duration::from_millis(ms));
        }
        assert!((1.0..1.2).contains(&(looks.median().as_secs_f64() * 1e3)), "{looks:?}");
        looks.note(Duration::from_millis(8));
        looks.note(Duration::from_millis(8));
        assert!((8.0..9.6).contains(&(looks.median().as_secs_f64() * 1e3)), "{looks:?}");
        assert_eq!(looks.longest, Duration::from_millis(100));
    }

    #[test]
    fn ids_and_descriptors_do_not_grow_with_what_comes_and_goes() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files::default();
        let long_ago = Instant::now() - Duration::from_secs(10);
        let before = descriptors();
        for round in 0..20 {
            for name in 0..10 {
                foreseen(&mut files, directory.path(), &format!("{round}.{name}"));
            }
            files.keep(&FxHashSet::default(), long_ago);
        }
        assert_eq!((files.ids(), files.iter().count()), (10, 0));
        // Other tests open files at the same time, but not two hundred.
        assert!(descriptors() < before + 100, "{before} before, {} now", descriptors());
    }

    #[test]
    fn deleted_files_keep_their_disk_up_to_a_limit_and_those_that_are_there_as_long_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let elf = fs::read("/bin/true").unwrap();
        let mut files = Files::default();
        let (mut ids, mut maps_of) = (Vec::new(), Vec::new());
        for (name, times) in [("small", 1), ("large", 9), ("there", 20)] {
            fs::write(path(name), elf.repeat(times)).unwrap();
            ids.push(files.foresee(&path(name)).unwrap());
            maps_of.push(MappedFile::open_path(&path(name)).unwrap().map().unwrap());
        }
        fs::remove_file(path("small")).unwrap();
        fs::remove_file(path("large")).unwrap();
        let is_open = |files: &Files| [0, 1, 2].map(|at: usize| files.get(ids[at]).opened.is_some());
        files.let_go_of_deleted();
        assert_eq!(is_open(&files), [true; 3]);
        files.let_go_beyond(elf.len() as u64 * 3);
        assert_eq!(is_open(&files), [true, false, true]);
        assert_eq!(files.unopened().count(), 0);
        assert!(files.let_go_warning().unwrap().starts_with("1 deleted file took"));
        // It is still mapped, and not opened again; nor is another taken for it.
        let maps = maps::read(std::process::id()).unwrap();
        let entry = maps.find(maps_of[1].as_ptr() as u64).unwrap();
        let again = files.of_mapping(std::process::id(), entry).unwrap();
        assert_ne!(again, ids[1]);
        assert!(files.get(again).opened.is_none() && files.get(again).headers.is_none());
        assert_eq!(files.of_mapping(std::process::id(), entry), Some(again));
    }
}
