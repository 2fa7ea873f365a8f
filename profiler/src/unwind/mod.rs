//! Native stacks without frame pointers: the tables the kernel side unwinds with.
//!
//! `table` makes one of a file's `.eh_frame` (`rule` says which rules there are), `builder` does so beside the
//! recording, and `store` keeps them in the kernel side's memory, with who maps what.

mod builder;
mod rule;
pub mod runs;
pub mod store;
pub mod table;

use std::time::Instant;

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
}

impl<M: TableMemory> Unwinder<M> {
    pub fn new(memory: M) -> std::io::Result<Self> {
        Ok(Self {
            store: Store::new(memory),
            builder: Builder::start()?,
            asked: Vec::new(),
            build_ids: Vec::new(),
        })
    }

    /// Says what a process has mapped as code, in order of address.
    pub fn set_mappings(&mut self, files: &Files, pid: u32, mappings: &[UnwindMapping]) {
        self.store.set_mappings(pid, mappings);
        for mapping in mappings {
            self.want(files, mapping.file);
        }
    }

    /// Forgets a process.
    pub fn remove(&mut self, pid: u32) {
        self.store.remove(pid);
    }

    /// Hands over the tables that are made; those that are asked for are waited for until `deadline`.
    pub fn install(&mut self, deadline: Option<Instant>) {
        while let Some(built) = self.builder.next(deadline) {
            let build_id = self.build_ids.get(built.file as usize).map_or("", String::as_str);
            self.store.install(built.file, build_id, built.table);
        }
    }

    pub fn tally(&self) -> StoreTally {
        self.store.tally
    }

    pub fn row_bytes(&self) -> u64 {
        self.store.row_bytes()
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
        let asked = &mut self.asked[index as usize];
        if *asked && !self.store.was_evicted(index) {
            return;
        }
        *asked = true;
        if index == VDSO {
            match vdso_image() {
                Ok(bytes) => self.builder.ask(VDSO, Image::Owned(bytes)),
                Err(_) => self.store.install(VDSO, "", Err(NoTable::NotElf)),
            }
            return;
        }
        let Some(file) = files.at(index as usize - 1) else { return };
        let build_id = file.headers.as_ref().map_or("", |headers| &*headers.build_id);
        if self.store.adopt(index, build_id) {
            return;
        }
        build_id.clone_into(&mut self.build_ids[index as usize]);
        match file.opened.as_ref().map(|opened| opened.map()) {
            Some(Ok(bytes)) => self.builder.ask(index, Image::Mapped(bytes)),
            Some(Err(_)) | None => self.store.install(index, "", Err(NoTable::NotElf)),
        }
    }
}
