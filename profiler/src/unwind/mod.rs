//! Native stacks without frame pointers: the tables the kernel side unwinds with.
//!
//! `table` makes one of a file's `.eh_frame` (`rule` says which rules there are), `builder` does so beside the
//! recording, and `store` keeps them in the kernel side's memory, with who maps what.

mod builder;
mod decoded;
#[cfg(test)]
mod own_stack;
mod places;
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
use profiler_common::unwind::{NO_FILE, UnwindMapping};
use rustc_hash::FxHashMap;

use self::{
    builder::{Builder, Image, Made, Original},
    places::Places,
    store::{Store, StoreTally, TableMemory},
    table::NoTable,
};
use crate::{
    process::{
        self,
        files::{File, FileId, Files},
    },
    symbolize::vdso_image,
};

/// [`UnwindMapping::file`] of the vDSO, here and in the kernel side's memory. Files follow.
pub const VDSO: u32 = 0;

/// [`UnwindMapping::file`] of a file, before it has a place in the kernel side's memory.
pub fn file_index(file: FileId) -> u32 {
    file.index() as u32 + 1
}

/// Keeps the kernel side supplied.
pub struct Unwinder<M> {
    store: Store<M>,
    builder: Builder,
    /// Of files' indices ([`file_index`]).
    places: Places,
    /// By place.
    files: Vec<Asked>,
    /// Files that have a build id, but are not the same.
    originals: FxHashMap<String, Vec<u32>>,
    cost: TableCost,
    room_looked_for: Instant,
}

/// A file as tables are asked for it.
#[derive(Clone, Debug, Default)]
struct Asked {
    /// Which one: [`file_index`].
    index: u32,
    /// Its table is there or on its way.
    asked: bool,
    /// How many files had this place before: a table can be on its way to one that is gone.
    generation: u32,
    /// What files with one table have in common. `None`: it is not known yet whether this is a copy of another.
    key: Option<String>,
}

/// [`UnwindMapping::file`] of a file without a place: beyond the last one, and not [`NO_FILE`].
const NO_PLACE: u32 = NO_FILE - 1;

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
        let sizes = memory.sizes();
        let mut places = Places::new(sizes.files, sizes.parts);
        // Everybody has it: it comes first, and stays.
        places.take(VDSO, rules::ROOT, Instant::now());
        Ok(Self {
            store: Store::new(memory),
            builder: Builder::start()?,
            places,
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
        let mappings: Vec<UnwindMapping> = mappings
            .iter()
            .map(|mapping| UnwindMapping {
                file: self.place(files, pid, mapping.file, now),
                ..*mapping
            })
            .collect();
        self.store.set_mappings(pid, &mappings);
        for mapping in mappings {
            self.want(files, mapping.file);
        }
        if now.duration_since(self.room_looked_for) >= LOOK_FOR_ROOM {
            self.room_looked_for = now;
            let mut again = self.store.retry();
            again.extend(self.store.without_room());
            for place in again {
                self.want(files, place);
            }
        }
    }

    /// The place of a file that a process has mapped, where it finds one. Else one that the kernel side knows to be none.
    fn place(&mut self, files: &Files, pid: u32, index: u32, now: Instant) -> u32 {
        if index == NO_FILE || index as usize > files.ids() {
            return NO_FILE;
        }
        if let Some(place) = self.places.get(index) {
            return place;
        }
        let opened = (index as usize)
            .checked_sub(1)
            .and_then(|at| files.at(at)?.opened.as_ref());
        // Of a file that could not be opened, it is known who maps it.
        let owner = match opened.and_then(|opened| opened.file().metadata().ok()) {
            Some(metadata) => metadata.uid(),
            None => self.store.owner(pid),
        };
        let Some(place) = self.places.take(index, owner, now) else {
            if self.places.refuse(index) {
                self.store.refuse();
            }
            return NO_PLACE;
        };
        self.store.set_file_owner(place, owner);
        if self.files.len() <= place as usize {
            self.files.resize(place as usize + 1, Asked::default());
        }
        self.files[place as usize].index = index;
        place
    }

    /// Forgets a process.
    pub fn remove(&mut self, pid: u32) {
        self.store.advance(Instant::now());
        self.store.remove(pid);
    }

    /// Forgets a file that no process maps any more: its index becomes another's, after the grace that `Files` gives.
    pub fn forget(&mut self, file: FileId) {
        let now = Instant::now();
        let Some(place) = self.places.give_back(file_index(file), now) else {
            return;
        };
        self.store.advance(now);
        self.store.forget(place);
        let Some(file) = self.files.get_mut(place as usize) else {
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
            originals.retain(|&original| original != place);
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

    fn want(&mut self, files: &Files, place: u32) {
        let Some(known) = self.files.get_mut(place as usize) else {
            return; // Code of no file, or of one without a place.
        };
        if known.asked && !self.store.take_missing(place) {
            return;
        }
        known.asked = true;
        let generation = known.generation;
        if place == VDSO {
            match vdso_image() {
                Ok(bytes) => self.builder.ask(VDSO, generation, Image::Owned(bytes), Vec::new()),
                Err(_) => self.store.install(VDSO, "", Err(NoTable::Damaged)),
            }
            return;
        }
        let Some(file) = known.file(files) else {
            return;
        };
        if let Some(key) = &known.key
            && self.store.adopt(place, key)
        {
            return;
        }
        let Some(opened) = &file.opened else {
            // The next process that maps it may show the way to it.
            known.asked = false;
            self.store.install(place, "", Err(NoTable::Damaged));
            return;
        };
        match opened.map() {
            Ok(bytes) => {
                let alike = self.alike(files, place, bytes.len());
                self.builder.ask(place, generation, Image::Mapped(bytes), alike);
            }
            Err(_) => self.store.install(place, "", Err(NoTable::Damaged)),
        }
    }

    /// The files that a new one may be a copy of, as it says itself.
    fn alike(&mut self, files: &Files, place: u32, bytes: usize) -> Vec<(Original, Mmap)> {
        let known = &mut self.files[place as usize];
        let headers = known.file(files).and_then(|file| file.headers.as_ref());
        let build_id = headers.map_or("", |headers| &*headers.build_id);
        if known.key.is_some() || build_id.is_empty() {
            return Vec::new();
        }
        // Until it is known to be the same as another.
        known.key = Some(key_of(build_id, place, known.generation));
        let originals = self.originals.entry(build_id.to_owned()).or_default();
        let image = |&original: &u32| {
            let known = self.files.get(original as usize)?;
            let map = known.file(files)?.opened.as_ref()?.map().ok()?;
            (map.len() == bytes).then_some(((original, known.generation), map))
        };
        let alike = originals.iter().filter_map(image).collect();
        if originals.is_empty() {
            originals.push(place);
        }
        alike
    }

    /// A file is none of those that it was compared with.
    fn is_original(&mut self, place: u32) {
        /// Who gives files the build id of another, and makes sure that they come first, takes nothing but memory.
        const MOST_ORIGINALS: usize = 4;

        let Some(file) = self.files.get(place as usize) else {
            return;
        };
        let known = file.key.as_deref();
        let Some((build_id, _)) = known.and_then(|key| key.rsplit_once('/')) else {
            return;
        };
        if let Some(originals) = self.originals.get_mut(build_id)
            && originals.len() < MOST_ORIGINALS
            && !originals.contains(&place)
            && known == Some(&*key_of(build_id, place, file.generation))
        {
            originals.push(place);
        }
    }
}

impl Asked {
    fn file<'a>(&self, files: &'a Files) -> Option<&'a File> {
        files.at((self.index as usize).checked_sub(1)?)
    }
}

/// What a file and its copies have in common.
fn key_of(build_id: &str, place: u32, generation: u32) -> String {
    format!("{build_id}/{place}.{generation}")
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
        let has_table = |&file: &u32| {
            unwinder
                .places
                .get(file)
                .is_some_and(|place| unwinder.store.has_table(place))
        };
        assert!(indices.iter().all(has_table));
    }
}
