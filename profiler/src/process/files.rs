//! The files that processes map as code: each opened and looked at once, however many processes map it.

use std::{
    ops::Deref as _,
    path::{Path, PathBuf},
    rc::Rc,
};

use rustc_hash::FxHashMap;

use crate::{
    process::{
        file::{ElfHeaders, FileKey, MappedFile},
        maps::{self, MapEntry},
    },
    python::binary::{PythonBinary, Refusal, inspect},
    symbolize,
};

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
            Some(bytes) => match inspect(bytes.deref()) {
                Ok(binary) => PythonFile::Yes(Rc::new(binary)),
                Err(Refusal::NotPython) => PythonFile::No,
                Err(refusal) => PythonFile::Refused(refusal),
            },
            None => PythonFile::No,
        };
        let debug_file = opened
            .as_ref()
            .filter(|_| headers.is_some())
            .and_then(|file| symbolize::debug_file_in_container(pid, &path, file.file()));
        Some(Self {
            path,
            opened,
            headers,
            debug_file,
            python,
        })
    }
}

impl File {
    /// The CPython in it, if there is one that is supported.
    pub fn cpython(&self) -> Option<&Rc<PythonBinary>> {
        match &self.python {
            PythonFile::Yes(binary) => Some(binary),
            PythonFile::No | PythonFile::Refused(_) => None,
        }
    }
}

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
/// Every file stays open, which also keeps its inode number from being given to another.
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
            && self.files[id.index()].opened.is_some()
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

    /// Files that could not be opened: their code has no names, and a CPython in one is not seen.
    pub fn unopened(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.opened.is_none())
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
