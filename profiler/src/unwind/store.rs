//! What the kernel side unwinds with: which process maps what, and the tables of those files.
//!
//! The memory is the kernel's and bounded. Tables are shared by all processes that map a file, and by all files with
//! the same build id; lists of mappings are shared by processes that have the same (forked workers do). A table that no
//! process needs stays until its room is needed.

use std::{
    mem,
    time::{Duration, Instant},
};

use indexmap::IndexMap;
use profiler_common::unwind::{
    CFA_NONE, CFA_UNSUPPORTED, FILE_FRAME_POINTERS, FILE_NO_ROOM, FILE_TABLE, MAX_RULES, NO_FILE, RULE_NONE,
    RULE_UNSUPPORTED, SHARD_ROWS, UnwindFile, UnwindMapping, UnwindPage, UnwindProcess, UnwindRule, row, row_low,
    row_rule,
};
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    runs::Runs,
    table::{NoTable, Table},
};

/// Memory shared with the kernel side. Writes beyond its end are ignored: what was not written is not found.
pub trait TableMemory {
    fn sizes(&self) -> Sizes;
    fn write_rows(&mut self, at: u32, rows: &[u32]);
    fn write_pages(&mut self, at: u32, pages: &[UnwindPage]);
    fn write_file(&mut self, at: u32, file: UnwindFile);
    fn write_rule(&mut self, at: u32, rule: UnwindRule);
    fn write_mappings(&mut self, at: u32, mappings: &[UnwindMapping]);
    /// `false` if there is no room for another process.
    fn set_process(&mut self, pid: u32, process: UnwindProcess) -> bool;
    fn remove_process(&mut self, pid: u32);
}

/// Elements of each array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Times [`SHARD_ROWS`] rows.
    pub row_shards: u32,
    pub pages: u32,
    pub files: u32,
    pub mappings: u32,
}

impl Sizes {
    /// For a recording of the whole machine. 16 MiB of rows are 4 million: a hundred times libpython's.
    pub const MACHINE: Self = Self {
        row_shards: 64,
        pages: 64 << 10,
        files: 16 << 10,
        mappings: 64 << 10,
    };
    /// For a recording of some processes.
    pub const PROCESSES: Self = Self {
        row_shards: 32,
        pages: 32 << 10,
        files: 4 << 10,
        mappings: 16 << 10,
    };
}

/// How long the kernel side may still read what it found before it was replaced. A sample takes microseconds; one that
/// is interrupted by the hypervisor in the middle can take milliseconds.
const GRACE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Store<M> {
    memory: M,
    rows: Runs,
    pages: Runs,
    mappings: Runs,
    rules: FxHashMap<UnwindRule, u16>,
    tables: Vec<Option<Installed>>,
    by_build_id: FxHashMap<String, usize>,
    files: FxHashMap<u32, FileState>,
    lists: IndexMap<Box<[UnwindMapping]>, List, FxBuildHasher>,
    processes: FxHashMap<u32, Box<[UnwindMapping]>>,
    /// Replaced, but perhaps still being read.
    retired: Vec<(Instant, Retired)>,
    /// Counts what was released, to evict the oldest first.
    clock: u64,
    pub tally: StoreTally,
}

/// What the store has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreTally {
    pub tables: u64,
    pub evicted: u64,
    /// Files whose table found no room.
    pub no_room: u64,
    /// Processes whose mappings found no room.
    pub not_unwound: u64,
}

/// A file as the store knows it.
#[derive(Debug, Default)]
struct FileState {
    table: Option<usize>,
    /// Lists of mappings it occurs in.
    users: u32,
    released: u64,
    evicted: bool,
}

/// A table in the kernel side's memory.
#[derive(Debug)]
struct Installed {
    file: UnwindFile,
    /// First row and number of rows of each piece.
    rows: Vec<(u32, u32)>,
    build_id: String,
}

/// Mappings in the kernel side's memory.
#[derive(Debug)]
struct List {
    at: u32,
    /// Processes that have exactly these.
    users: u32,
}

#[derive(Debug)]
enum Retired {
    Mappings(u32, u32),
    Table(Installed),
}

impl<M: TableMemory> Store<M> {
    pub fn new(mut memory: M) -> Self {
        let sizes = memory.sizes();
        let none = UnwindRule {
            cfa: CFA_NONE,
            ..UnwindRule::default()
        };
        let unsupported = UnwindRule {
            cfa: CFA_UNSUPPORTED,
            ..UnwindRule::default()
        };
        memory.write_rule(RULE_NONE.into(), none);
        memory.write_rule(RULE_UNSUPPORTED.into(), unsupported);
        Self {
            memory,
            rows: Runs::new(sizes.row_shards, SHARD_ROWS as u32),
            pages: Runs::new(1, sizes.pages),
            mappings: Runs::new(1, sizes.mappings),
            rules: FxHashMap::from_iter([(none, RULE_NONE), (unsupported, RULE_UNSUPPORTED)]),
            tables: Vec::new(),
            by_build_id: FxHashMap::default(),
            files: FxHashMap::default(),
            lists: IndexMap::default(),
            processes: FxHashMap::default(),
            retired: Vec::new(),
            clock: 0,
            tally: StoreTally::default(),
        }
    }

    /// Says what a process has mapped as code, in order of address.
    pub fn set_mappings(&mut self, pid: u32, mappings: &[UnwindMapping]) {
        if self.processes.get(&pid).is_some_and(|known| **known == *mappings) {
            return;
        }
        let at = match self.lists.get_mut(mappings) {
            Some(list) => {
                list.users += 1;
                list.at
            }
            None => {
                self.reclaim();
                let Some(at) = self.mappings.take(mappings.len() as u32) else {
                    self.tally.not_unwound += 1;
                    self.remove(pid);
                    return;
                };
                self.memory.write_mappings(at, mappings);
                for file in files_of(mappings) {
                    self.files.entry(file).or_default().users += 1;
                }
                self.lists.insert(mappings.into(), List { at, users: 1 });
                at
            }
        };
        let process = UnwindProcess {
            first_mapping: at,
            mappings: mappings.len() as u32,
        };
        if !self.memory.set_process(pid, process) {
            self.tally.not_unwound += 1;
        }
        if let Some(before) = self.processes.insert(pid, mappings.into()) {
            self.release(&before);
        }
    }

    /// Forgets a process.
    pub fn remove(&mut self, pid: u32) {
        if let Some(before) = self.processes.remove(&pid) {
            self.memory.remove_process(pid);
            self.release(&before);
        }
    }

    /// Whether a file has a table, because another one with the same build id has.
    pub fn adopt(&mut self, file: u32, build_id: &str) -> bool {
        let Some(&table) = self.by_build_id.get(build_id).filter(|_| !build_id.is_empty()) else {
            return false;
        };
        let Some(Some(installed)) = self.tables.get(table) else { return false };
        self.memory.write_file(file, installed.file);
        let state = self.files.entry(file).or_default();
        state.table = Some(table);
        state.evicted = false;
        true
    }

    /// Hands a file's table to the kernel side.
    pub fn install(&mut self, file: u32, build_id: &str, table: Result<Table, NoTable>) {
        let state = |state| UnwindFile {
            state,
            ..UnwindFile::default()
        };
        match table {
            Ok(table) => match self.place(&table) {
                Some(mut installed) => {
                    installed.build_id = build_id.to_owned();
                    self.tally.tables += 1;
                    self.memory.write_file(file, installed.file);
                    self.tables.push(Some(installed));
                    let index = self.tables.len() - 1;
                    let state = self.files.entry(file).or_default();
                    state.table = Some(index);
                    state.evicted = false;
                    if !build_id.is_empty() {
                        self.by_build_id.insert(build_id.to_owned(), index);
                    }
                }
                None => {
                    self.tally.no_room += 1;
                    self.memory.write_file(file, state(FILE_NO_ROOM));
                }
            },
            Err(NoTable::NoUnwindInformation) => self.memory.write_file(file, state(FILE_FRAME_POINTERS)),
            // Nothing is known of its code: an empty table says so for each of its addresses.
            Err(_) => self.memory.write_file(file, state(FILE_TABLE)),
        }
    }

    /// Finds room for a table and writes it; `None` if there is none.
    fn place(&mut self, table: &Table) -> Option<Installed> {
        self.reclaim();
        // Pages that are neighbours stay together, as far as a shard reaches.
        let mut pieces: Vec<(u32, u32)> = Vec::new();
        for page in &table.pages {
            // Pages without code share a row.
            if pieces.iter().any(|(first, rows)| (*first..*first + *rows).contains(&page.first)) {
                continue;
            }
            match pieces.last_mut() {
                Some((first, rows)) if *first + *rows == page.first && *rows + page.rows <= SHARD_ROWS as u32 => {
                    *rows += page.rows;
                }
                _ => pieces.push((page.first, page.rows)),
            }
        }
        let mut placed: Vec<(u32, u32)> = Vec::new();
        let room = 'room: loop {
            if let Some(first_page) = self.pages.take(table.pages.len() as u32) {
                for &(_, rows) in &pieces {
                    match self.rows.take(rows) {
                        Some(at) => placed.push((at, rows)),
                        None => break,
                    }
                }
                if placed.len() == pieces.len() {
                    break 'room Some(first_page);
                }
                for (at, rows) in placed.drain(..) {
                    self.rows.give(at, rows);
                }
                self.pages.give(first_page, table.pages.len() as u32);
            }
            if !self.evict() {
                break None;
            }
        };
        let first_page = room?;

        let rules: Vec<u16> = table.rules.iter().map(|rule| self.intern_rule(*rule)).collect();
        let global = |local: u32| {
            let rule = rules.get(usize::from(row_rule(local))).copied();
            row(row_low(local), rule.unwrap_or(RULE_UNSUPPORTED))
        };
        for (&(from, len), &(at, _)) in pieces.iter().zip(&placed) {
            let from = table.rows.get(from as usize..).and_then(|rows| rows.get(..len as usize));
            let rows: Vec<u32> = from.unwrap_or_default().iter().map(|&local| global(local)).collect();
            self.memory.write_rows(at, &rows);
        }
        let place = |page: &UnwindPage| {
            let piece = pieces
                .iter()
                .zip(&placed)
                .find(|((first, rows), _)| (*first..*first + *rows).contains(&page.first));
            UnwindPage {
                first: piece.map_or(0, |((first, _), (at, _))| at + (page.first - first)),
                rows: piece.map_or(0, |_| page.rows),
            }
        };
        let pages: Vec<UnwindPage> = table.pages.iter().map(place).collect();
        self.memory.write_pages(first_page, &pages);
        Some(Installed {
            file: UnwindFile {
                base: table.base,
                first_page,
                pages: pages.len() as u32,
                state: FILE_TABLE,
                reserved: 0,
            },
            rows: placed,
            build_id: String::new(),
        })
    }

    /// The index of a rule in the kernel side's memory.
    fn intern_rule(&mut self, rule: UnwindRule) -> u16 {
        if let Some(&index) = self.rules.get(&rule) {
            return index;
        }
        let index = self.rules.len();
        if index >= MAX_RULES {
            return RULE_UNSUPPORTED;
        }
        self.memory.write_rule(index as u32, rule);
        self.rules.insert(rule, index as u16);
        index as u16
    }

    /// One process less has these mappings.
    fn release(&mut self, mappings: &[UnwindMapping]) {
        let Some(list) = self.lists.get_mut(mappings) else { return };
        list.users -= 1;
        if list.users > 0 {
            return;
        }
        let retired = Retired::Mappings(list.at, mappings.len() as u32);
        self.lists.swap_remove(mappings);
        self.retired.push((Instant::now(), retired));
        self.clock += 1;
        for file in files_of(mappings) {
            if let Some(state) = self.files.get_mut(&file) {
                state.users -= 1;
                state.released = self.clock;
            }
        }
    }

    /// Throws out the table that was needed least recently, if any is not needed now.
    fn evict(&mut self) -> bool {
        let in_use = |table: usize| {
            self.files
                .values()
                .any(|state| state.table == Some(table) && state.users > 0)
        };
        let oldest = self
            .files
            .values()
            .filter(|state| state.users == 0)
            .filter_map(|state| Some((state.released, state.table?)))
            .filter(|&(_, table)| !in_use(table))
            .min();
        let Some((_, table)) = oldest else { return false };
        for (&file, state) in &mut self.files {
            if state.table == Some(table) {
                state.table = None;
                state.evicted = true;
                self.memory.write_file(file, UnwindFile::default());
            }
        }
        if let Some(installed) = self.tables[table].take() {
            self.by_build_id.remove(&installed.build_id);
            // No process maps it, so the kernel side finds no way to it any more, and none was found lately.
            self.free(Retired::Table(installed));
            self.tally.evicted += 1;
        }
        true
    }

    /// Makes room of what was replaced long enough ago.
    fn reclaim(&mut self) {
        let now = Instant::now();
        let (old, young) = mem::take(&mut self.retired)
            .into_iter()
            .partition::<Vec<_>, _>(|(since, _)| now.duration_since(*since) >= GRACE);
        self.retired = young;
        for (_, retired) in old {
            self.free(retired);
        }
    }

    fn free(&mut self, retired: Retired) {
        match retired {
            Retired::Mappings(at, len) => self.mappings.give(at, len),
            Retired::Table(installed) => {
                self.pages.give(installed.file.first_page, installed.file.pages);
                for (at, len) in installed.rows {
                    self.rows.give(at, len);
                }
            }
        }
    }

    /// Whether a file had a table and has none now.
    pub fn was_evicted(&self, file: u32) -> bool {
        self.files.get(&file).is_some_and(|state| state.evicted)
    }

    /// Bytes of rows in use.
    pub fn row_bytes(&self) -> u64 {
        let sizes = self.memory.sizes();
        (u64::from(sizes.row_shards) * SHARD_ROWS as u64 - self.rows.free()) * 4
    }
}

/// The files in a list of mappings, each once.
fn files_of(mappings: &[UnwindMapping]) -> Vec<u32> {
    let mut files: Vec<u32> = mappings
        .iter()
        .map(|mapping| mapping.file)
        .filter(|&file| file != NO_FILE)
        .collect();
    files.sort_unstable();
    files.dedup();
    files
}
