//! What the kernel side unwinds with: which process maps what, and the tables of those files.
//!
//! The memory is the kernel's and bounded. Tables are shared by all processes that map a file, and by all files with
//! the same build id; lists of mappings are shared by processes that have the same (forked workers do). A table that no
//! process needs stays until its room is needed.
//!
//! What finds no room is tried again: a recording goes on for hours, and the crowd that took the room is gone in minutes.

#[cfg(test)]
pub(super) mod fake;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use indexmap::IndexMap;
use profiler_common::unwind::{
    CFA_NONE, CFA_UNSUPPORTED, FILE_FRAME_POINTERS, FILE_NO_ROOM, FILE_TABLE, NO_FILE, RULE_NONE, RULE_UNSUPPORTED,
    SHARD_ROWS, UnwindFile, UnwindMapping, UnwindPage, UnwindProcess, UnwindRule, row, row_low, row_rule,
};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use super::{
    rules::{ROOT, Rules},
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
    /// Into so many parts rows and pages are shared out: one user's files may have one. See `USERS_SHARE`.
    pub parts: u32,
}

impl Sizes {
    /// For a recording of the whole machine. 32 MiB of rows are 8 million: rustc's driver, LLVM and gcc's cc1plus
    /// have a million each, libpython 62 thousand.
    pub const MACHINE: Self = Self {
        row_shards: 128,
        pages: 64 << 10,
        files: 16 << 10,
        mappings: 64 << 10,
        parts: USERS_SHARE,
    };
    /// For a recording without native stacks.
    pub const NONE: Self = Self {
        row_shards: 1,
        pages: 1,
        files: 1,
        mappings: 1,
        parts: 1,
    };

    /// For a recording of some processes that have mapped so many bytes of code, and may map more.
    pub fn for_code(bytes: u64) -> Self {
        /// 8 MiB: for what is mapped later.
        const MORE: u64 = 32;
        /// 64 MiB.
        const MOST: u64 = 256;
        // Rows take 3 (node) to 10 (libpython) percent of the code.
        let shards = bytes / 8 / (4 * SHARD_ROWS as u64) + MORE;
        Self {
            row_shards: shards.min(MOST) as u32,
            pages: 32 << 10,
            files: 4 << 10,
            mappings: 16 << 10,
            // It is made for these processes, which are often of one user.
            parts: 1,
        }
    }
}

/// How long the kernel side may still read what it found before it was replaced. A sample takes microseconds; one that
/// is interrupted by the hypervisor in the middle can take milliseconds.
const GRACE: Duration = Duration::from_millis(100);

/// How long a file whose table found no room is left alone: making it again can take a second of CPU. Doubled each time.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY_DOUBLINGS: u32 = 8;

/// One process may have a quarter of all mappings: it can map 65,530 pieces (`vm.max_map_count`), and if it does, that
/// should not cost all others their stacks.
const MAPPINGS_SHARE: u32 = 4;

/// One user may have half of all mappings and of all rules, however many processes and files they have, and where the whole
/// machine is recorded half of the rows and pages. Root may have all: who is root needs no profiler to do harm.
const USERS_SHARE: u32 = 2;

/// Processes without room that are tried again at a time.
const RETRIED_AT_ONCE: usize = 64;

#[derive(Debug)]
pub struct Store<M> {
    memory: M,
    /// See [`Store::advance`].
    now: Instant,
    rows: Runs,
    pages: Runs,
    mappings: Runs,
    rules: Rules,
    tables: Vec<Option<Installed>>,
    /// Indices in `tables` that hold none.
    unused: Vec<usize>,
    /// Tables that no process needs, oldest first.
    idle: BTreeSet<(u64, usize)>,
    /// Of those, the ones whose files are all forgotten: nobody will ask for them again. Oldest first.
    orphans: VecDeque<(Instant, usize)>,
    idle_rows: u64,
    idle_pages: u64,
    by_build_id: FxHashMap<String, usize>,
    files: FxHashMap<u32, FileState>,
    /// Those that are [`Missing::NoRoom`].
    no_room: FxHashSet<u32>,
    lists: IndexMap<Box<[UnwindMapping]>, List, FxBuildHasher>,
    processes: FxHashMap<u32, Box<[UnwindMapping]>>,
    /// Processes that found no room, and what they have mapped, unless it is more than there can ever be room for.
    refused: IndexMap<u32, Option<Box<[UnwindMapping]>>, FxBuildHasher>,
    /// Mappings (since when, where, how many, whose) that were replaced, but are perhaps still being read. Oldest first.
    retired: VecDeque<(Instant, u32, u32, u32)>,
    /// Users of processes, and of files, where they are known; others are root's.
    owners: FxHashMap<u32, u32>,
    file_owners: FxHashMap<u32, u32>,
    /// Mappings of each user, those included that were replaced.
    held: FxHashMap<u32, u32>,
    /// Rows and pages of each user's files, of tables that nobody needs as well.
    placed: FxHashMap<u32, (u64, u64)>,
    /// Counts what was released, to evict the oldest first.
    clock: u64,
    pub tally: StoreTally,
}

/// What the store has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreTally {
    pub tables: u64,
    pub evicted: u64,
    /// Files whose table found no room, at first or ever.
    pub no_room: u64,
    /// Processes whose mappings found no room, at first or ever.
    pub not_unwound: u64,
    /// Rules there was no number left for: addresses of theirs count as unsupported.
    pub rules_refused: u64,
}

/// A file as the store knows it.
#[derive(Debug, Default)]
struct FileState {
    table: Option<usize>,
    /// Lists of mappings it occurs in.
    users: u32,
    missing: Option<Missing>,
    /// How often its table has found no room.
    refusals: u32,
}

/// Why a file has no table (any more).
#[derive(Clone, Copy, Debug)]
enum Missing {
    Evicted,
    NoRoom {
        rows: u64,
        pages: u64,
        again_at: Instant,
    },
    /// It does not fit at all.
    TooLarge,
}

/// A table in the kernel side's memory.
#[derive(Debug)]
struct Installed {
    file: UnwindFile,
    /// The user of the file that it was made for.
    owner: u32,
    /// First row and number of rows of each piece.
    rows: Vec<(u32, u32)>,
    build_id: String,
    /// Those that have this table: one, or several that are the same.
    files: Vec<u32>,
    /// Indices of its rules.
    rules: Vec<u16>,
    /// The sum of theirs.
    users: u32,
    /// When the last of them was gone.
    released: u64,
    idle_since: Instant,
}

impl Installed {
    /// Whether nobody has it, nor can come to have it.
    fn is_orphan(&self) -> bool {
        self.users == 0 && self.files.is_empty()
    }

    fn rows(&self) -> u64 {
        self.rows.iter().map(|&(_, rows)| u64::from(rows)).sum()
    }
}

/// Mappings in the kernel side's memory.
#[derive(Debug)]
struct List {
    at: u32,
    /// The user of the process that had them first.
    owner: u32,
    /// Processes that have exactly these.
    users: u32,
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
            now: Instant::now(),
            rows: Runs::new(sizes.row_shards, SHARD_ROWS as u32),
            pages: Runs::new(1, sizes.pages),
            mappings: Runs::new(1, sizes.mappings),
            rules: Rules::new([none, unsupported]),
            tables: Vec::new(),
            unused: Vec::new(),
            idle: BTreeSet::new(),
            orphans: VecDeque::new(),
            idle_rows: 0,
            idle_pages: 0,
            by_build_id: FxHashMap::default(),
            files: FxHashMap::default(),
            no_room: FxHashSet::default(),
            lists: IndexMap::default(),
            processes: FxHashMap::default(),
            refused: IndexMap::default(),
            retired: VecDeque::new(),
            owners: FxHashMap::default(),
            file_owners: FxHashMap::default(),
            held: FxHashMap::default(),
            placed: FxHashMap::default(),
            clock: 0,
            tally: StoreTally::default(),
        }
    }

    /// Says how late it is; to be called before anything else that has happened since. What was replaced long enough ago
    /// makes room.
    pub fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while let Some(&(since, at, len, owner)) = self.retired.front()
            && self.now.duration_since(since) >= GRACE
        {
            self.mappings.give(at, len);
            if let Some(held) = self.held.get_mut(&owner) {
                *held = held.saturating_sub(len);
            }
            self.retired.pop_front();
        }
        while let Some(&(since, table)) = self.orphans.front()
            && self.now.duration_since(since) >= GRACE
        {
            self.orphans.pop_front();
            // Its place may be another's by now: that it was thrown out for room, and one came that has files.
            if self.tables[table].as_ref().is_some_and(Installed::is_orphan) {
                self.throw_out(table);
            }
        }
    }

    /// Says which user a process is of, before it says what it maps.
    pub fn set_owner(&mut self, pid: u32, owner: u32) {
        self.owners.insert(pid, owner);
    }

    /// Which user a process is of, as it was said.
    pub fn owner(&self, pid: u32) -> u32 {
        self.owners.get(&pid).copied().unwrap_or(ROOT)
    }

    /// Says which user a file is of, before its table comes.
    pub fn set_file_owner(&mut self, file: u32, owner: u32) {
        self.file_owners.insert(file, owner);
    }

    /// Says what a process has mapped as code, in order of address.
    pub fn set_mappings(&mut self, pid: u32, mappings: &[UnwindMapping]) {
        if self.processes.get(&pid).is_some_and(|known| **known == *mappings) {
            return;
        }
        let was_refused = self.refused.swap_remove(&pid).is_some();
        // Without any code (yet) it is unknown. The kernel side need not tell a list of none from its neighbour's.
        if mappings.is_empty() {
            self.remove(pid);
            return;
        }
        match self.try_set_mappings(pid, mappings) {
            Ok(()) => {}
            Err(again) => {
                self.tally.not_unwound += u64::from(!was_refused);
                let owner = self.owners.get(&pid).copied();
                self.remove(pid);
                // For when it is tried again.
                self.owners.extend(owner.map(|owner| (pid, owner)));
                self.refused.insert(pid, again.then(|| mappings.into()));
            }
        }
    }

    /// The error is whether there can be room another time.
    fn try_set_mappings(&mut self, pid: u32, mappings: &[UnwindMapping]) -> Result<(), bool> {
        let len = mappings.len() as u32;
        if mappings.len() > (self.memory.sizes().mappings / MAPPINGS_SHARE) as usize {
            return Err(false);
        }
        let owner = self.owner(pid);
        let known = self.lists.get(mappings).map(|list| list.at);
        let at = match known {
            Some(at) => at,
            None => {
                let held = self.held.get(&owner).map_or(len, |held| held.saturating_add(len));
                if owner != ROOT && held > self.memory.sizes().mappings / USERS_SHARE {
                    return Err(true);
                }
                self.mappings.take(len).ok_or(true)?
            }
        };
        if known.is_none() {
            self.memory.write_mappings(at, mappings);
        }
        let process = UnwindProcess {
            first_mapping: at,
            mappings: len,
        };
        if !self.memory.set_process(pid, process) {
            if known.is_none() {
                self.mappings.give(at, len);
            }
            return Err(true);
        }
        match self.lists.get_mut(mappings) {
            Some(list) => list.users += 1,
            None => {
                self.lists.insert(mappings.into(), List { at, owner, users: 1 });
                *self.held.entry(owner).or_default() += len;
                for file in files_of(mappings) {
                    self.use_file(file);
                }
            }
        }
        if let Some(before) = self.processes.insert(pid, mappings.into()) {
            self.release(&before);
        }
        Ok(())
    }

    /// Forgets a process.
    pub fn remove(&mut self, pid: u32) {
        self.refused.swap_remove(&pid);
        self.owners.remove(&pid);
        // Also of a process that was never set here: at a fork the kernel side copies the parent's entry (`track_fork`), and
        // a child that ends before it is seen would leave it to whoever gets its pid.
        self.memory.remove_process(pid);
        if let Some(before) = self.processes.remove(&pid) {
            self.release(&before);
        }
    }

    /// Forgets a file that no process maps any more. Its table stays as long as another file has it, too, and goes with the
    /// last: of a machine that runs ever new files all room would be written to in the end, which is memory of ours.
    pub fn forget(&mut self, file: u32) {
        self.no_room.remove(&file);
        self.file_owners.remove(&file);
        self.memory.write_file(file, UnwindFile::default());
        let Some(state) = self.files.get_mut(&file) else { return };
        let (table, users) = (state.table, state.users);
        // Should a process have it all the same, that counts on.
        *state = FileState {
            users,
            ..FileState::default()
        };
        if users == 0 {
            self.files.remove(&file);
        }
        if let Some(table) = table
            && let Some(Some(installed)) = self.tables.get_mut(table)
        {
            installed.files.retain(|&other| other != file);
            if users > 0 {
                installed.users -= users;
                if installed.users == 0 {
                    self.rest(table);
                }
            }
            if self.tables[table].as_ref().is_some_and(Installed::is_orphan) {
                self.orphans.push_back((self.now, table));
            }
        }
    }

    /// Tries processes again that found no room. Returns the files of those that found some: their tables may have been
    /// thrown out meanwhile.
    pub fn retry(&mut self) -> Vec<u32> {
        let mut files = Vec::new();
        for _ in 0..self.refused.len().min(RETRIED_AT_ONCE) {
            // If it finds none again, it goes to the end of the queue.
            let Some((pid, mappings)) = self.refused.shift_remove_index(0) else {
                break;
            };
            let tried = mappings.as_ref().map(|mappings| self.try_set_mappings(pid, mappings));
            match (tried, mappings) {
                (Some(Ok(())), Some(mappings)) => files.extend(files_of(&mappings)),
                (tried, mappings) => {
                    self.refused.insert(pid, mappings);
                    if tried.is_some() {
                        break;
                    }
                }
            }
        }
        files.sort_unstable();
        files.dedup();
        files
    }

    /// Whether a file has a table, because another one with the same build id has.
    pub fn adopt(&mut self, file: u32, build_id: &str) -> bool {
        if self.has_table(file) {
            return true;
        }
        let Some(&table) = self.by_build_id.get(build_id).filter(|_| !build_id.is_empty()) else {
            return false;
        };
        if !self.has_place(file) {
            return false;
        }
        self.assign(file, table);
        true
    }

    pub(super) fn has_table(&self, file: u32) -> bool {
        self.files.get(&file).is_some_and(|state| state.table.is_some())
    }

    /// Hands a file's table to the kernel side.
    pub fn install(&mut self, file: u32, build_id: &str, table: Result<Table, NoTable>) {
        // It may have been asked for twice, and so may files with the same build id.
        if self.adopt(file, build_id) {
            return;
        }
        let state = |state| UnwindFile {
            state,
            ..UnwindFile::default()
        };
        match table {
            Ok(_) if !self.has_place(file) => self.tally.no_room += 1,
            Ok(table) => match self.place(&table, self.file_owners.get(&file).copied().unwrap_or(ROOT)) {
                Ok(mut installed) => {
                    installed.build_id = build_id.to_owned();
                    self.tally.tables += 1;
                    let index = self.unused.pop().unwrap_or_else(|| {
                        self.tables.push(None);
                        self.tables.len() - 1
                    });
                    self.tables[index] = Some(installed);
                    self.rest(index);
                    if !build_id.is_empty() {
                        self.by_build_id.insert(build_id.to_owned(), index);
                    }
                    self.assign(file, index);
                }
                Err(missing) => {
                    let known = self.files.entry(file).or_default();
                    self.tally.no_room += u64::from(known.refusals == 0);
                    known.missing = Some(missing);
                    known.refusals += 1;
                    if matches!(missing, Missing::NoRoom { .. }) {
                        self.no_room.insert(file);
                    }
                    self.memory.write_file(file, state(FILE_NO_ROOM));
                }
            },
            // Not ELF: code that was generated at run time, into a file (a JIT with a memfd).
            Err(NoTable::NoUnwindInformation | NoTable::NotElf) => {
                self.memory.write_file(file, state(FILE_FRAME_POINTERS))
            }
            // Nothing is known of its code: an empty table says so for each of its addresses.
            Err(_) => self.memory.write_file(file, state(FILE_TABLE)),
        }
    }

    /// This file has that table from now on.
    fn assign(&mut self, file: u32, table: usize) {
        let Some(Some(installed)) = self.tables.get_mut(table) else {
            return;
        };
        let state = self.files.entry(file).or_default();
        state.table = Some(table);
        state.missing = None;
        state.refusals = 0;
        self.no_room.remove(&file);
        let users = state.users;
        installed.files.push(file);
        self.memory.write_file(file, installed.file);
        self.add_users(table, users);
    }

    /// One list more has this file.
    fn use_file(&mut self, file: u32) {
        let state = self.files.entry(file).or_default();
        state.users += 1;
        if let Some(table) = state.table {
            self.add_users(table, 1);
        }
    }

    fn add_users(&mut self, table: usize, users: u32) {
        let Some(Some(installed)) = self.tables.get_mut(table) else {
            return;
        };
        installed.users += users;
        if installed.users > 0 && self.idle.remove(&(installed.released, table)) {
            self.idle_rows -= installed.rows();
            self.idle_pages -= u64::from(installed.file.pages);
        }
    }

    /// One list less has this file.
    fn disuse_file(&mut self, file: u32) {
        let Some(state) = self.files.get_mut(&file) else { return };
        state.users -= 1;
        let Some(table) = state.table else { return };
        if let Some(Some(installed)) = self.tables.get_mut(table) {
            installed.users -= 1;
            if installed.users == 0 {
                self.rest(table);
            }
        }
    }

    /// No process needs this table now.
    fn rest(&mut self, table: usize) {
        let Some(Some(installed)) = self.tables.get_mut(table) else {
            return;
        };
        installed.released = self.clock;
        installed.idle_since = self.now;
        self.idle_rows += installed.rows();
        self.idle_pages += u64::from(installed.file.pages);
        self.idle.insert((self.clock, table));
    }

    /// Finds room for a table and writes it.
    fn place(&mut self, table: &Table, owner: u32) -> Result<Installed, Missing> {
        // Pages that are neighbours stay together, as far as a shard reaches.
        let mut pieces: Vec<(u32, u32)> = Vec::new();
        for page in &table.pages {
            // Pages without code share a row.
            if pieces
                .iter()
                .any(|(first, rows)| (*first..*first + *rows).contains(&page.first))
            {
                continue;
            }
            match pieces.last_mut() {
                Some((first, rows)) if *first + *rows == page.first && *rows + page.rows <= SHARD_ROWS as u32 => {
                    *rows += page.rows;
                }
                _ => pieces.push((page.first, page.rows)),
            }
        }
        let (wanted_rows, wanted_pages) = (
            pieces.iter().map(|&(_, rows)| u64::from(rows)).sum::<u64>(),
            table.pages.len() as u64,
        );
        let (most_rows, most_pages) = self.most_of(owner);
        if wanted_rows > most_rows || wanted_pages > most_pages {
            return Err(Missing::TooLarge);
        }
        let no_room = Missing::NoRoom {
            rows: wanted_rows,
            pages: wanted_pages,
            again_at: self.now + RETRY,
        };
        if owner != ROOT && !self.make_room_among_own(owner, wanted_rows, wanted_pages) {
            return Err(no_room);
        }
        // What cannot succeed should not throw out anything.
        let possible =
            wanted_rows <= self.rows.free() + self.idle_rows && wanted_pages <= self.pages.free() + self.idle_pages;
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
            if !possible || !self.evict(|_| true) {
                break None;
            }
        };
        let first_page = room.ok_or(no_room)?;
        let of_owner = self.placed.entry(owner).or_default();
        of_owner.0 += wanted_rows;
        of_owner.1 += wanted_pages;

        let rules: Vec<u16> = table.rules.iter().map(|rule| self.take_rule(*rule, owner)).collect();
        let global = |local: u32| {
            let rule = rules.get(usize::from(row_rule(local))).copied();
            row(row_low(local), rule.unwrap_or(RULE_UNSUPPORTED))
        };
        for (&(from, len), &(at, _)) in pieces.iter().zip(&placed) {
            let from = table
                .rows
                .get(from as usize..)
                .and_then(|rows| rows.get(..len as usize));
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
        Ok(Installed {
            file: UnwindFile {
                base: table.base,
                first_page,
                pages: pages.len() as u32,
                state: FILE_TABLE,
                reserved: 0,
            },
            owner,
            rows: placed,
            build_id: String::new(),
            files: Vec::new(),
            rules,
            users: 0,
            released: 0,
            idle_since: self.now,
        })
    }

    /// Whether so much more is within the share of a user, whose tables that nobody needs are thrown out for it.
    fn make_room_among_own(&mut self, owner: u32, more_rows: u64, more_pages: u64) -> bool {
        let (most_rows, most_pages) = self.most_of(owner);
        let fits = |(rows, pages): (u64, u64)| rows + more_rows <= most_rows && pages + more_pages <= most_pages;
        let placed = |store: &Self| store.placed.get(&owner).copied().unwrap_or_default();
        if fits(placed(self)) {
            return true;
        }
        let idle = self
            .idle
            .iter()
            .filter_map(|&(_, table)| self.tables.get(table)?.as_ref());
        let (mut rows, mut pages) = placed(self);
        for installed in idle.filter(|installed| installed.owner == owner) {
            rows -= installed.rows();
            pages -= u64::from(installed.file.pages);
        }
        // What cannot succeed should not throw out anything.
        fits((rows, pages)) && {
            while !fits(placed(self)) && self.evict(|installed| installed.owner == owner) {}
            fits(placed(self))
        }
    }

    /// How many rows and pages the files of one user may have.
    fn most_of(&self, owner: u32) -> (u64, u64) {
        let sizes = self.memory.sizes();
        let parts = if owner == ROOT { 1 } else { u64::from(sizes.parts) };
        let rows = u64::from(sizes.row_shards) * SHARD_ROWS as u64;
        (rows / parts, u64::from(sizes.pages) / parts)
    }

    /// The index of a rule in the kernel side's memory, for one table more. Where there is none left, a table that nobody
    /// needs makes room.
    fn take_rule(&mut self, rule: UnwindRule, owner: u32) -> u16 {
        loop {
            match self.rules.take(rule, owner) {
                Some((index, is_new)) => {
                    if is_new {
                        self.memory.write_rule(index.into(), rule);
                    }
                    return index;
                }
                None if self.rules.is_full() && self.evict(|_| true) => {}
                None => {
                    self.tally.rules_refused += 1;
                    return RULE_UNSUPPORTED;
                }
            }
        }
    }

    /// One process less has these mappings.
    fn release(&mut self, mappings: &[UnwindMapping]) {
        let Some(list) = self.lists.get_mut(mappings) else {
            return;
        };
        list.users -= 1;
        if list.users > 0 {
            return;
        }
        self.retired
            .push_back((self.now, list.at, mappings.len() as u32, list.owner));
        self.lists.swap_remove(mappings);
        self.clock += 1;
        for file in files_of(mappings) {
            self.disuse_file(file);
        }
    }

    /// Throws out the table that has not been needed for longest, of those that are `wanted`, if there is one that the kernel
    /// side cannot be reading any more.
    fn evict(&mut self, wanted: impl Fn(&Installed) -> bool) -> bool {
        // They are in order of age.
        let oldest = self.idle.iter().find_map(|&(_, table)| {
            let installed = self.tables.get(table)?.as_ref()?;
            wanted(installed).then_some((table, installed.idle_since))
        });
        let Some((table, idle_since)) = oldest else {
            return false;
        };
        if self.now.duration_since(idle_since) < GRACE {
            return false;
        }
        self.throw_out(table);
        true
    }

    /// Throws out a table that no process needs.
    fn throw_out(&mut self, table: usize) {
        let Some(installed) = self.tables[table].take() else {
            return;
        };
        self.idle.remove(&(installed.released, table));
        self.unused.push(table);
        self.idle_rows -= installed.rows();
        self.idle_pages -= u64::from(installed.file.pages);
        if let Some((rows, pages)) = self.placed.get_mut(&installed.owner) {
            *rows -= installed.rows();
            *pages -= u64::from(installed.file.pages);
            if *pages == 0 {
                self.placed.remove(&installed.owner);
            }
        }
        for file in installed.files {
            if let Some(state) = self.files.get_mut(&file) {
                state.table = None;
                state.missing = Some(Missing::Evicted);
            }
            self.memory.write_file(file, UnwindFile::default());
        }
        if self.by_build_id.get(&installed.build_id) == Some(&table) {
            self.by_build_id.remove(&installed.build_id);
        }
        self.pages.give(installed.file.first_page, installed.file.pages);
        for (at, len) in installed.rows {
            self.rows.give(at, len);
        }
        // Nobody can be reading its rows, and so its rules, any more.
        for rule in installed.rules {
            self.rules.give(rule);
        }
        self.tally.evicted += 1;
    }

    /// Whether a file's table should be made again, because it was thrown out or found no room. `true` only once: it is
    /// up to who asked.
    pub fn take_missing(&mut self, file: u32) -> bool {
        let free = self.rows.free() + self.idle_rows;
        let free_pages = self.pages.free() + self.idle_pages;
        let Some(state) = self.files.get_mut(&file) else {
            return false;
        };
        let again = match state.missing {
            Some(Missing::Evicted) => true,
            Some(Missing::NoRoom { rows, pages, again_at }) => {
                let wait = RETRY * (1 << state.refusals.saturating_sub(1).min(MAX_RETRY_DOUBLINGS)) - RETRY;
                self.now >= again_at + wait && rows <= free && pages <= free_pages
            }
            Some(Missing::TooLarge) | None => false,
        };
        if again {
            state.missing = None;
            self.no_room.remove(&file);
        }
        again
    }

    /// Files that processes have mapped and whose table found no room.
    pub fn without_room(&self) -> Vec<u32> {
        let needed = |file: &&u32| self.files.get(file).is_some_and(|state| state.users > 0);
        self.no_room.iter().filter(needed).copied().collect()
    }

    /// Counts a file that the kernel side cannot be told of.
    pub fn refuse(&mut self) {
        self.tally.no_room += 1;
    }

    /// Whether the kernel side can be told of a file.
    pub fn has_place(&self, file: u32) -> bool {
        file < self.memory.sizes().files
    }

    /// Entries of the kernel side's maps in use, but for rows: files' pages, mappings, rules and processes.
    pub fn entries(&self) -> u64 {
        let sizes = self.memory.sizes();
        let pages = u64::from(sizes.pages) - self.pages.free();
        let mappings = u64::from(sizes.mappings) - self.mappings.free();
        pages + mappings + self.rules.len() as u64 + self.processes.len() as u64
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
