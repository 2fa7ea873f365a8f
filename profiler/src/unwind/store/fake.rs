//! The kernel side's memory as arrays of our own, written by the store and read by the unwinder itself.

use std::collections::BTreeMap;

use profiler_common::unwind::*;
use profiler_ebpf::{
    memory::ReadMemory,
    scratch::Scratch,
    unwind::{UnwindTables, start, step},
};

use super::{Sizes, TableMemory};

#[derive(Clone, Debug)]
pub struct Fake {
    pub sizes: Sizes,
    max_processes: usize,
    rows: Vec<u32>,
    pages: Vec<UnwindPage>,
    pub files: Vec<UnwindFile>,
    rules: Vec<UnwindRule>,
    pub mappings: Vec<UnwindMapping>,
    pub processes: BTreeMap<u32, UnwindProcess>,
}

impl Fake {
    pub fn new(sizes: Sizes, max_processes: usize) -> Self {
        Self {
            sizes,
            max_processes,
            rows: vec![0; sizes.row_shards as usize * SHARD_ROWS],
            pages: vec![UnwindPage::default(); sizes.pages as usize],
            files: vec![UnwindFile::default(); sizes.files as usize],
            rules: vec![UnwindRule::default(); MAX_RULES],
            mappings: vec![UnwindMapping::default(); sizes.mappings as usize],
            processes: BTreeMap::new(),
        }
    }
}

fn write<T: Copy>(into: &mut [T], at: u32, values: &[T]) {
    let into = into.get_mut(at as usize..).unwrap_or_default();
    into.iter_mut().zip(values).for_each(|(into, value)| *into = *value);
}

impl TableMemory for Fake {
    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn write_rows(&mut self, at: u32, rows: &[u32]) {
        write(&mut self.rows, at, rows);
    }

    fn write_pages(&mut self, at: u32, pages: &[UnwindPage]) {
        write(&mut self.pages, at, pages);
    }

    fn write_file(&mut self, at: u32, file: UnwindFile) {
        write(&mut self.files, at, &[file]);
    }

    fn write_rule(&mut self, at: u32, rule: UnwindRule) {
        write(&mut self.rules, at, &[rule]);
    }

    fn write_mappings(&mut self, at: u32, mappings: &[UnwindMapping]) {
        write(&mut self.mappings, at, mappings);
    }

    fn set_process(&mut self, pid: u32, process: UnwindProcess) -> bool {
        let has_room = self.processes.contains_key(&pid) || self.processes.len() < self.max_processes;
        if has_room {
            self.processes.insert(pid, process);
        }
        has_room
    }

    fn remove_process(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }
}

impl UnwindTables for Fake {
    fn mapping(&self, index: u32) -> Option<&UnwindMapping> {
        self.mappings.get(index as usize)
    }

    fn file(&self, index: u32) -> Option<&UnwindFile> {
        self.files.get(index as usize)
    }

    fn page(&self, index: u32) -> Option<&UnwindPage> {
        self.pages.get(index as usize)
    }

    fn shard(&self, index: u32) -> Option<*const u32> {
        let shard = self.rows.chunks_exact(SHARD_ROWS).nth(index as usize);
        shard.map(<[u32]>::as_ptr)
    }

    fn rule(&self, index: u32) -> Option<&UnwindRule> {
        self.rules.get(index as usize)
    }
}

/// What a sample finds of a thread of a process with these mappings: the addresses, and why there are no more.
pub fn unwind(
    tables: &Fake,
    memory: &impl ReadMemory,
    process: UnwindProcess,
    (pc, sp, fp): (u64, u64, u64),
) -> (Vec<u64>, u32) {
    let mut scratch = sample(process, (pc, sp, fp));
    while step(memory, tables, &mut scratch) {}
    let record = &scratch.record;
    (
        record.words[..record.native_len as usize].to_vec(),
        record.native_status,
    )
}

/// Where the stack pointer is when a sample is taken at `pc`, counted from after the return: the rule there, if it is
/// [`CFA_SP`]; otherwise why there is none.
pub fn frame_at(tables: &Fake, process: UnwindProcess, pc: u64) -> Result<u64, u32> {
    /// Where every word is the same.
    struct Even;
    impl ReadMemory for Even {
        unsafe fn read(&self, _: u64, into: *mut u8, len: u32) -> bool {
            // SAFETY: valid for `len` bytes by contract.
            unsafe { into.write_bytes(1, len as usize) };
            true
        }
    }
    const SP: u64 = 0x1000;
    let mut scratch = sample(process, (pc, SP, 0));
    match step(&Even, tables, &mut scratch) {
        true => Ok(scratch.unwind.sp - SP),
        false => Err(scratch.record.native_status),
    }
}

fn sample(process: UnwindProcess, (pc, sp, fp): (u64, u64, u64)) -> Box<Scratch> {
    // SAFETY: `Scratch` is made of integers, for which zero is a value.
    let mut scratch = unsafe { Box::<Scratch>::new_zeroed().assume_init() };
    scratch.unwind.registers[REGISTER_PC] = pc;
    scratch.unwind.registers[REGISTER_SP] = sp;
    scratch.unwind.registers[REGISTER_FP] = fp;
    scratch.unwind.process = process;
    start(&mut scratch);
    scratch
}
