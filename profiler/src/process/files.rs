//! The files that processes map as code: each opened and looked at once, however many processes map it.

use std::{
    ops::Deref as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    rc::Rc,
};

use rustc_hash::FxHashMap;

use crate::{
    foreign,
    process::{
        file::{ElfHeaders, FileKey, MappedFile},
        maps::{self, MapEntry},
    },
    python::binary::{PythonBinary, Refusal, inspect},
    symbolize,
};

/// Disk space, or memory of a tmpfs, that files may keep which are deleted while they are open here.
const MOST_DELETED_BYTES: u64 = 1 << 30;

/// An entry of [`Files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(u32);

impl FileId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A mapped file.
#[derive(Debug)]
pub struct File {
    /// As the process that was seen first calls it.
    pub path: PathBuf,
    /// `None` if it could not be opened: its frames stay addresses.
    pub opened: Option<MappedFile>,
    /// `None` if it is no ELF file.
    pub headers: Option<ElfHeaders>,
    /// Its debug file in the container it was first seen in, which can be gone when names are wanted.
    pub debug_file: Option<std::fs::File>,
    pub python: PythonFile,
    /// It was deleted, and kept more than it may.
    let_go: bool,
}

impl File {
    fn open(pid: u32, entry: &MapEntry) -> Option<Self> {
        let path = entry.path()?.to_owned();
        let opened = MappedFile::open(pid, entry).ok();
        let headers = opened.as_ref().and_then(MappedFile::elf_headers);
        let python = match opened
            .as_ref()
            .filter(|_| headers.is_some())
            .and_then(|file| file.map().ok())
        {
            Some(bytes) => match foreign::parsed(|| inspect(bytes.deref())).unwrap_or(Err(UNREADABLE)) {
                Ok(binary) => PythonFile::Yes(Rc::new(binary)),
                Err(Refusal::NotPython) => PythonFile::No,
                Err(refusal) => PythonFile::Refused(refusal),
            },
            None => PythonFile::No,
        };
        let debug_file = opened
            .as_ref()
            .filter(|_| headers.is_some())
            .and_then(|file| foreign::parsed(|| symbolize::debug_file_in_container(pid, &path, file.file()))?);
        Some(Self {
            path,
            opened,
            headers,
            debug_file,
            python,
            let_go: false,
        })
    }

    /// What it keeps on its disk only because it is open here.
    fn deleted_bytes(&self) -> u64 {
        let files = self.opened.iter().map(MappedFile::file).chain(&self.debug_file);
        let deleted = files
            .filter_map(|file| file.metadata().ok())
            .filter(|metadata| metadata.nlink() == 0);
        // `stat` counts in blocks of 512 bytes, whatever the file system's are.
        deleted.map(|metadata| metadata.blocks().saturating_mul(512)).sum()
    }

    /// The CPython in it, if there is one that is supported.
    pub fn cpython(&self) -> Option<&Rc<PythonBinary>> {
        match &self.python {
            PythonFile::Yes(binary) => Some(binary),
            PythonFile::No | PythonFile::Refused(_) => None,
        }
    }
}

const UNREADABLE: Refusal = Refusal::Damaged {
    what: "it cannot be read",
};

/// Whether there is a CPython in a file.
#[derive(Debug)]
pub enum PythonFile {
    No,
    Yes(Rc<PythonBinary>),
    /// There is one, and it is not supported.
    Refused(Refusal),
}

/// The files seen so far. Ids stay valid: a recording needs the names at its end.
///
/// Every file stays open, which also keeps its inode number from being given to another; deleted files up to a limit.
#[derive(Debug, Default)]
pub struct Files {
    files: Vec<File>,
    ids: FxHashMap<FileKey, FileId>,
}

impl Files {
    /// The file that `entry` of `pid` maps; `None` if it maps none.
    pub fn of_mapping(&mut self, pid: u32, entry: &MapEntry) -> Option<FileId> {
        let key = FileKey::of(entry)?;
        let known = self.ids.get(&key).copied();
        if let Some(id) = known
            && (self.files[id.index()].opened.is_some() || self.files[id.index()].let_go)
        {
            return Some(id);
        }
        let file = File::open(pid, entry)?;
        let id = match known {
            // It could not be opened before.
            Some(id) => {
                self.files[id.index()] = file;
                id
            }
            None => {
                self.files.push(file);
                FileId((self.files.len() - 1) as u32)
            }
        };
        self.ids.insert(key, id);
        Some(id)
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
        let deleted = self.files.iter().enumerate();
        let deleted = deleted.map(|(index, file)| (file.deleted_bytes(), index));
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
        let file = &mut self.files[index];
        (file.opened, file.debug_file) = (None, None);
        file.let_go = true;
        let nothing = File {
            path: file.path.clone(),
            opened: None,
            headers: None,
            debug_file: None,
            python: PythonFile::No,
            let_go: true,
        };
        let next = FileId(self.files.len() as u32);
        if let Some(id) = self.ids.values_mut().find(|id| id.index() == index) {
            *id = next;
            self.files.push(nothing);
        }
    }

    /// What to say of them.
    pub fn let_go_warning(&self) -> Option<String> {
        let count = self
            .files
            .iter()
            .filter(|file| file.let_go && file.headers.is_some())
            .count();
        let files = crate::summary::many(count as u64, "deleted file");
        (count > 0).then(|| format!("{files} took more than 1 GiB of disk: let go, so their code has no names"))
    }

    /// Files that could not be opened: their code has no names, and a CPython in one is not seen.
    pub fn unopened(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.opened.is_none() && !file.let_go)
    }

    /// The file with this index, if there is one.
    pub fn at(&self, index: usize) -> Option<&File> {
        self.files.get(index)
    }

    pub fn get(&self, id: FileId) -> &File {
        &self.files[id.index()]
    }

    /// All files, in the order of their ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (FileId, &File)> {
        self.files
            .iter()
            .enumerate()
            .map(|(index, file)| (FileId(index as u32), file))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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
