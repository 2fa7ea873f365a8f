//! Native stacks without frame pointers: the tables the kernel side unwinds with.
//!
//! `table` makes one of a file's `.eh_frame` (`rule` says which rules there are), `builder` does so beside the
//! recording, and `store` keeps them in the kernel side's memory, with who maps what.

mod builder;
mod decoded;
#[cfg(test)]
mod own_stack;
mod rule;
pub mod runs;
pub mod store;
pub mod table;

use std::time::{Duration, Instant};

use profiler_common::unwind::UnwindMapping;

use self::{
    builder::{Builder, Image},
    store::{Store, StoreTally, TableMemory},
    table::NoTable,
};
use crate::{
    process::files::{FileId, Files},
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
    /// Files whose table is there or on its way, by index.
    asked: Vec<bool>,
    build_ids: Vec<String>,
    cost: TableCost,
    room_looked_for: Instant,
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
}

impl<M: TableMemory> Unwinder<M> {
    pub fn new(memory: M) -> std::io::Result<Self> {
        Ok(Self {
            store: Store::new(memory),
            builder: Builder::start()?,
            asked: Vec::new(),
            build_ids: Vec::new(),
            cost: TableCost::default(),
            room_looked_for: Instant::now(),
        })
    }

    /// Says what a process has mapped as code, in order of address.
    pub fn set_mappings(&mut self, files: &Files, pid: u32, mappings: &[UnwindMapping]) {
        let now = Instant::now();
        self.store.advance(now);
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

    /// Hands over the tables that are made; those that are asked for are waited for until `deadline`.
    pub fn install(&mut self, deadline: Option<Instant>) {
        while let Some(built) = self.builder.next(deadline) {
            self.cost.cpu += built.took;
            self.cost.longest = self.cost.longest.max(built.took);
            self.store.advance(Instant::now());
            let build_id = self.build_ids.get(built.file as usize).map_or("", String::as_str);
            self.store.install(built.file, build_id, built.table);
        }
    }

    pub fn tally(&self) -> StoreTally {
        self.store.tally
    }

    /// What making the tables has cost.
    pub fn cost(&self) -> TableCost {
        TableCost {
            bytes: self.store.row_bytes(),
            ..self.cost
        }
    }

    /// Tables that are asked for and not there yet.
    pub fn waiting(&self) -> usize {
        self.builder.waiting()
    }

    fn want(&mut self, files: &Files, index: u32) {
        let count = files.iter().len() + 1;
        if index as usize >= count {
            return; // Code of no file.
        }
        if self.asked.len() < count {
            self.asked.resize(count, false);
            self.build_ids.resize(count, String::new());
        }
        if self.asked[index as usize] && !self.store.take_missing(index) {
            return;
        }
        self.asked[index as usize] = true;
        if index == VDSO {
            match vdso_image() {
                Ok(bytes) => self.builder.ask(VDSO, Image::Owned(bytes)),
                Err(_) => self.store.install(VDSO, "", Err(NoTable::Damaged)),
            }
            return;
        }
        let Some(file) = files.at(index as usize - 1) else {
            return;
        };
        let build_id = file.headers.as_ref().map_or("", |headers| &*headers.build_id);
        if self.store.adopt(index, build_id) {
            return;
        }
        build_id.clone_into(&mut self.build_ids[index as usize]);
        let Some(opened) = &file.opened else {
            // The next process that maps it may show the way to it.
            self.asked[index as usize] = false;
            self.store.install(index, "", Err(NoTable::Damaged));
            return;
        };
        match opened.map() {
            // A table that the kernel side cannot be told of need not be made.
            Ok(bytes) if self.store.has_place(index) => self.builder.ask(index, Image::Mapped(bytes)),
            Ok(_) => self.store.refuse(),
            Err(_) => self.store.install(index, "", Err(NoTable::Damaged)),
        }
    }
}
