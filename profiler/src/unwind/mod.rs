//! Native stacks without frame pointers: the tables the kernel side unwinds with.
//!
//! `table` makes one of a file's `.eh_frame` (`rule` says which rules there are), `builder` does so beside the
//! recording, and `store` keeps them in the kernel side's memory, with who maps what.

mod builder;
mod decoded;
#[cfg(test)]
mod own_stack;
mod rule;
mod rules;
pub mod runs;
pub mod store;
pub mod table;

use std::{
    mem,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use memmap2::Mmap;
use profiler_common::unwind::UnwindMapping;
use rustc_hash::FxHashMap;

use self::{
    builder::{Builder, Image, Made, Original},
    store::{Store, StoreTally, TableMemory},
    table::NoTable,
};
use crate::{
    process::{
        self,
        files::{FileId, Files},
    },
    symbolize::vdso_image,
};

/// [`UnwindMapping::file`] of the vDSO. Files follow.
pub const VDSO: u32 = 0;

/// A file's index in the kernel side's memory.
pub fn file_index(file: FileId) -> u32 {
    file.index() as u32 + 1
}

/// Keeps the kernel side supplied.
pub struct Unwinder<M> {
    store: Store<M>,
    builder: Builder,
    /// By index.
    files: Vec<Asked>,
    /// Files that have a build id, but are not the same.
    originals: FxHashMap<String, Vec<u32>>,
    cost: TableCost,
    room_looked_for: Instant,
}

/// A file as tables are asked for it.
#[derive(Clone, Debug, Default)]
struct Asked {
    /// Its table is there or on its way.
    asked: bool,
    /// How many files had this index before: a table can be on its way to one that is gone.
    generation: u32,
    /// What files with one table have in common. `None`: it is not known yet whether this is a copy of another.
    key: Option<String>,
}

/// How often to look whether there is room now for what found none before.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

/// What making the tables has cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct TableCost {
    /// CPU time in all.
    pub cpu: Duration,
    /// CPU time for the largest one.
    pub longest: Duration,
    /// Memory the rows take up.
    pub bytes: u64,
    /// Other entries of the kernel side's maps.
    pub entries: u64,
}

impl<M: TableMemory> Unwinder<M> {
    pub fn new(memory: M) -> std::io::Result<Self> {
        Ok(Self {
            store: Store::new(memory),
            builder: Builder::start()?,
            files: Vec::new(),
            originals: FxHashMap::default(),
            cost: TableCost::default(),
            room_looked_for: Instant::now(),
        })
    }

    /// Says what a process has mapped as code, in order of address.
    pub fn set_mappings(&mut self, files: &Files, pid: u32, mappings: &[UnwindMapping]) {
        let now = Instant::now();
        self.store.advance(now);
        if let Some(owner) = process::user(pid) {
            self.store.set_owner(pid, owner);
        }
        self.store.set_mappings(pid, mappings);
        for mapping in mappings {
            self.want(files, mapping.file);
        }
        if now.duration_since(self.room_looked_for) >= LOOK_FOR_ROOM {
            self.room_looked_for = now;
            let mut again = self.store.retry();
            again.extend(self.store.without_room());
            for file in again {
                self.want(files, file);
            }
        }
    }

    /// Forgets a process.
    pub fn remove(&mut self, pid: u32) {
        self.store.advance(Instant::now());
        self.store.remove(pid);
    }

    /// Forgets a file that no process maps any more: its index becomes another's, after the grace that `Files` gives.
    pub fn forget(&mut self, file: FileId) {
        let index = file_index(file);
        self.store.advance(Instant::now());
        self.store.forget(index);
        let Some(file) = self.files.get_mut(index as usize) else {
            return;
        };
        let generation = file.generation.wrapping_add(1);
        let gone = mem::replace(
            file,
            Asked {
                generation,
                ..Asked::default()
            },
        );
        // The next copy of it is compared with nobody, and is the original.
        if let Some((build_id, _)) = gone.key.as_deref().and_then(|key| key.rsplit_once('/'))
            && let Some(originals) = self.originals.get_mut(build_id)
        {
            originals.retain(|&original| original != index);
            if originals.is_empty() {
                self.originals.remove(build_id);
            }
        }
    }

    fn key(&self, index: u32) -> Option<&str> {
        self.files.get(index as usize)?.key.as_deref()
    }

    /// Hands over the tables that are made; those that are asked for are waited for until `deadline`.
    pub fn install(&mut self, deadline: Option<Instant>) {
        while let Some(built) = self.builder.next(deadline) {
            self.cost.cpu += built.took;
            self.cost.longest = self.cost.longest.max(built.took);
            self.store.advance(Instant::now());
            let current = self.files.get(built.file as usize).map(|file| file.generation);
            if current != Some(built.generation) {
                continue; // Of a file that is gone.
            }
            match built.made {
                Made::Table(table) => {
                    self.is_original(built.file);
                    let key = self.key(built.file).unwrap_or_default().to_owned();
                    self.store.install(built.file, &key, table);
                }
                Made::SameAs((original, generation), image) => {
                    // The original may be gone meanwhile, and another have its index.
                    let is_there = self.files.get(original as usize).map(|file| file.generation) == Some(generation);
                    let same = if is_there { original } else { built.file };
                    let key = self.key(same).unwrap_or_default().to_owned();
                    // The original's table may have been thrown out meanwhile.
                    if !self.store.adopt(built.file, &key) {
                        self.builder.ask(built.file, built.generation, image, Vec::new());
                    }
                    if let Some(known) = self.files.get_mut(built.file as usize) {
                        known.key = Some(key);
                    }
                }
            }
        }
    }

    pub fn tally(&self) -> StoreTally {
        self.store.tally
    }

    /// What making the tables has cost.
    pub fn cost(&self) -> TableCost {
        TableCost {
            bytes: self.store.row_bytes(),
            entries: self.store.entries(),
            ..self.cost
        }
    }

    /// Tables that are asked for and not there yet.
    pub fn waiting(&self) -> usize {
        self.builder.waiting()
    }

    fn want(&mut self, files: &Files, index: u32) {
        let count = files.ids() + 1;
        if index as usize >= count {
            return; // Code of no file.
        }
        if self.files.len() < count {
            self.files.resize(count, Asked::default());
        }
        let known = &mut self.files[index as usize];
        if known.asked && !self.store.take_missing(index) {
            return;
        }
        known.asked = true;
        let generation = known.generation;
        if index == VDSO {
            match vdso_image() {
                Ok(bytes) => self.builder.ask(VDSO, generation, Image::Owned(bytes), Vec::new()),
                Err(_) => self.store.install(VDSO, "", Err(NoTable::Damaged)),
            }
            return;
        }
        let Some(file) = files.at(index as usize - 1) else {
            return;
        };
        if let Some(key) = &known.key
            && self.store.adopt(index, key)
        {
            return;
        }
        let Some(opened) = &file.opened else {
            // The next process that maps it may show the way to it.
            self.files[index as usize].asked = false;
            self.store.install(index, "", Err(NoTable::Damaged));
            return;
        };
        match opened.map() {
            // A table that the kernel side cannot be told of need not be made.
            Ok(bytes) if self.store.has_place(index) => {
                if let Ok(metadata) = opened.file().metadata() {
                    self.store.set_file_owner(index, metadata.uid());
                }
                let alike = self.alike(files, index, bytes.len());
                self.builder.ask(index, generation, Image::Mapped(bytes), alike);
            }
            Ok(_) => self.store.refuse(),
            Err(_) => self.store.install(index, "", Err(NoTable::Damaged)),
        }
    }

    /// The files that a new one may be a copy of, as it says itself.
    fn alike(&mut self, files: &Files, index: u32, bytes: usize) -> Vec<(Original, Mmap)> {
        let known = &mut self.files[index as usize];
        let headers = files.at(index as usize - 1).and_then(|file| file.headers.as_ref());
        let build_id = headers.map_or("", |headers| &*headers.build_id);
        if known.key.is_some() || build_id.is_empty() {
            return Vec::new();
        }
        // Until it is known to be the same as another.
        known.key = Some(key_of(build_id, index, known.generation));
        let originals = self.originals.entry(build_id.to_owned()).or_default();
        let image = |&original: &u32| {
            let generation = self.files.get(original as usize)?.generation;
            let opened = files.at(original as usize - 1)?.opened.as_ref()?;
            let map = opened.map().ok()?;
            (map.len() == bytes).then_some(((original, generation), map))
        };
        let alike = originals.iter().filter_map(image).collect();
        if originals.is_empty() {
            originals.push(index);
        }
        alike
    }

    /// A file is none of those that it was compared with.
    fn is_original(&mut self, index: u32) {
        /// Who gives files the build id of another, and makes sure that they come first, takes nothing but memory.
        const MOST_ORIGINALS: usize = 4;

        let Some(file) = self.files.get(index as usize) else {
            return;
        };
        let known = file.key.as_deref();
        let Some((build_id, _)) = known.and_then(|key| key.rsplit_once('/')) else {
            return;
        };
        if let Some(originals) = self.originals.get_mut(build_id)
            && originals.len() < MOST_ORIGINALS
            && !originals.contains(&index)
            && known == Some(&*key_of(build_id, index, file.generation))
        {
            originals.push(index);
        }
    }
}

/// What a file and its copies have in common.
fn key_of(build_id: &str, index: u32, generation: u32) -> String {
    format!("{build_id}/{index}.{generation}")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::{
        store::{Sizes, fake::Fake},
        *,
    };

    #[test]
    fn a_file_that_claims_to_be_another_neither_gets_its_table_nor_gives_it_its_own() {
        let directory = tempfile::tempdir().expect("a directory");
        let original = fs::read("/bin/true").expect("read");
        let mut liar = original.clone();
        // Anywhere but in the headers: the build id is the same.
        let last = liar.len() - 1;
        liar[last] ^= 1;
        let mut files = Files::default();
        let mut add = |name: &str, bytes: &[u8]| {
            let path: PathBuf = directory.path().join(name);
            fs::write(&path, bytes).expect("write");
            file_index(files.foresee(&path).expect("a file"))
        };
        // The liar comes first.
        let indices = [add("liar", &liar), add("original", &original), add("copy", &original)];
        let build_ids: Vec<_> = files
            .iter()
            .map(|(_, file)| file.headers.clone().expect("ELF").build_id)
            .collect();
        assert!(!build_ids[0].is_empty() && build_ids.iter().all(|id| *id == build_ids[0]));

        let mut unwinder = Unwinder::new(Fake::new(Sizes::for_code(0), 16)).expect("a thread");
        let mappings = indices.map(|file| UnwindMapping {
            start: u64::from(file) << 32,
            end: (u64::from(file) << 32) + 4096,
            file,
            ..UnwindMapping::default()
        });
        for count in 1..=3 {
            unwinder.set_mappings(&files, 1, &mappings[..count]);
            unwinder.install(Some(Instant::now() + Duration::from_secs(600)));
            assert_eq!(unwinder.waiting(), 0);
        }
        // One for the liar, and one for those that are the same.
        assert_eq!(unwinder.tally().tables, 2);
        assert!(indices.iter().all(|&file| unwinder.store.has_table(file)));
    }
}
