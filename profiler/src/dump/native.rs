//! Native frames of threads, without stopping them. Of one that waits, /proc/PID/task/TID/syscall has the instruction and the
//! stack pointer with which it went into the kernel; of one that runs there is a sample ([`super::sampled`]).
//!
//! The kernel side's own unwinder goes on from there, over `process_vm_readv`, or the stack that was copied, and tables that
//! are made here, of those files only that are met. Of one that waits, no other register can be had: where a caller needs
//! the frame pointer, and none of the functions above has saved it, the stack ends. Nothing is guessed.

use std::{ops::Deref as _, path::Path};

use profiler_common::{
    limits::MAX_NATIVE_ADDRESSES,
    record::NATIVE_TABLE_NOT_READY,
    unwind::{
        FILE_FRAME_POINTERS, FILE_NO_ROOM, FILE_NOT_READY, FILE_TABLE, MAX_RULES, NO_FILE, REGISTER_FP, REGISTER_PC,
        REGISTER_SP, REGISTERS, SHARD_ROWS, UnwindFile, UnwindMapping, UnwindPage, UnwindProcess, UnwindRule, row,
        row_low, row_rule,
    },
};
use profiler_ebpf::{
    scratch::Scratch,
    unwind::{self, UnwindTables},
};
use rustc_hash::FxHashMap;

use super::{
    core::Core,
    look::{self, Look},
    mapped::Mapped,
    thread::{Native, Sample, Thread},
};
use crate::{
    foreign,
    process::{
        files::{FileId, Files},
        maps::{MapEntry, MapName},
        pythons::PythonIn,
    },
    python::memory::{Foreign, ReadMemory},
    report::path,
    symbolize::{self, Symbolizer, vdso_image},
    unwind::{
        VDSO, file_index,
        table::{self, NoTable, Table},
    },
};

/// Files whose tables are made for one process: some 20 ms each, libpython 100.
const MOST_TABLES: usize = 64;

/// Gives the threads of a process their native frames.
pub fn add(
    threads: &mut [Thread],
    pid: u32,
    files: &mut Files,
    python: Option<&PythonIn>,
    memory: &dyn ReadMemory,
    symbolizer: &mut Symbolizer,
) {
    let mut unwinder = Unwinder::new(files, &Mapped::of_process(pid));
    let mut stacks: Vec<(usize, Vec<u64>)> = Vec::new();
    for (at, thread) in threads.iter_mut().enumerate() {
        if let Some(stack) = thread.sample.take() {
            stacks.push((at, unwinder.stack(files, &*stack, &stack.registers, stack.has_fp())));
        }
        if thread.sample != Sample::None {
            continue;
        }
        let Some(look) = Look::of(pid, thread.tid).filter(|look| look.is_away() && look.sp != 0) else {
            continue;
        };
        let addresses = unwinder.stack(files, memory, &registers([look.pc, look.sp, 0]), false);
        // As the Python frames were read, and all the time since.
        if look.slices == thread.slices && look::slices(pid, thread.tid) == Some(thread.slices) {
            stacks.push((at, addresses));
        }
    }
    unwinder.tell(threads, files, python, stacks, symbolizer);
}

/// The same of a core file, whose threads tell all their registers.
pub fn add_frozen(
    threads: &mut [Thread],
    core: &Core,
    mapped: &Mapped<'_>,
    files: &mut Files,
    python: Option<&PythonIn>,
    memory: &dyn ReadMemory,
) {
    let mut unwinder = Unwinder::new(files, mapped);
    let mut stacks: Vec<(usize, Vec<u64>)> = Vec::new();
    for (at, thread) in threads.iter().enumerate() {
        if let Some(known) = core.threads.iter().find(|known| known.tid == thread.tid) {
            let registers = registers([known.look.pc, known.look.sp, known.fp]);
            let addresses = unwinder.stack(files, memory, &registers, true);
            stacks.push((at, addresses));
        }
    }
    unwinder.tell(threads, files, python, stacks, &mut symbolizer());
}

/// Those of the instruction, the stack and the frame, which are all that is known.
fn registers([pc, sp, fp]: [u64; 3]) -> [u64; REGISTERS] {
    let mut registers = [0; REGISTERS];
    (registers[REGISTER_PC], registers[REGISTER_SP], registers[REGISTER_FP]) = (pc, sp, fp);
    registers
}

/// Whether an address in a file is in the evaluation loop, which runs Python frames.
fn is_loop(python: &PythonIn, place: Option<Place>) -> bool {
    let Some(Place { file, address }) = place else {
        return false;
    };
    let binary = &python.binary;
    file == file_index(python.file)
        && (binary.eval_loop.iter().any(|range| range.contains(&address))
            || binary.eval_loop.is_empty() && address.wrapping_sub(binary.eval_frame) < 1 << 16)
}

/// An address in a file, by the file's index.
#[derive(Clone, Copy, Debug)]
struct Place {
    file: u32,
    address: u64,
}

struct Unwinder {
    tables: Tables,
    made: usize,
    scratch: Box<Scratch>,
    ids: FxHashMap<u32, FileId>,
}

impl Unwinder {
    fn new(files: &mut Files, mapped: &Mapped<'_>) -> Self {
        let mut ids = FxHashMap::default();
        let mapping = |entry: &MapEntry| {
            let mut mapping = UnwindMapping {
                start: entry.start,
                end: entry.end,
                to_file: entry.start.wrapping_neg(),
                file: NO_FILE,
                reserved: 0,
            };
            if matches!(&entry.name, MapName::Special(name) if &**name == "[vdso]") {
                mapping.file = VDSO;
            } else if let Some(id) = mapped.file(files, entry)
                && let Some(bias) = files
                    .get(id)
                    .headers
                    .as_ref()
                    .and_then(|headers| headers.load_bias(entry))
            {
                mapping.file = file_index(id);
                mapping.to_file = bias.wrapping_neg();
                ids.insert(mapping.file, id);
            }
            mapping
        };
        let mappings: Vec<UnwindMapping> = mapped
            .entries
            .iter()
            .filter(|entry| entry.executable)
            .map(mapping)
            .collect();
        Self {
            tables: Tables {
                files: vec![UnwindFile::default(); files.ids() + 1],
                mappings,
                ..Tables::default()
            },
            made: 0,
            // SAFETY: `Scratch` is made of integers, for which zero is a value.
            scratch: unsafe { Box::<Scratch>::new_zeroed().assume_init() },
            ids,
        }
    }

    /// Addresses, innermost first; those of callers less one.
    fn stack(
        &mut self,
        files: &Files,
        memory: &dyn ReadMemory,
        registers: &[u64; REGISTERS],
        has_fp: bool,
    ) -> Vec<u64> {
        loop {
            let scratch = &mut *self.scratch;
            scratch.unwind.registers[..REGISTERS].copy_from_slice(registers);
            scratch.unwind.process = UnwindProcess {
                first_mapping: 0,
                mappings: self.tables.mappings.len() as u32,
            };
            unwind::start(scratch);
            scratch.unwind.fp_lost = u32::from(!has_fp);
            let mut steps = 0;
            while unwind::step(&Foreign(memory), &self.tables, scratch) && steps < MAX_NATIVE_ADDRESSES {
                steps += 1;
            }
            let file = scratch.unwind.mapping.file;
            if scratch.record.native_status != NATIVE_TABLE_NOT_READY || !self.make(files, file) {
                let len = (self.scratch.record.native_len as usize).min(MAX_NATIVE_ADDRESSES);
                return self.scratch.record.words[..len].to_vec();
            }
        }
    }

    /// Makes the table of a file that a stack has led to.
    fn make(&mut self, files: &Files, file: u32) -> bool {
        let table = match self.made < MOST_TABLES {
            true => foreign::parsed(|| self.table(files, file)).unwrap_or(Err(NoTable::Damaged)),
            false => Err(NoTable::TooLarge),
        };
        self.made += 1;
        self.tables.install(file, table)
    }

    fn table(&self, files: &Files, file: u32) -> Result<Table, NoTable> {
        if file == VDSO {
            return table::build(&vdso_image().map_err(|_| NoTable::NotElf)?);
        }
        let opened = self.ids.get(&file).and_then(|id| files.get(*id).opened.as_ref());
        let map = opened.and_then(|file| file.map().ok()).ok_or(NoTable::NotElf)?;
        table::build(map.deref())
    }

    /// Gives threads, by their places, their stacks with names.
    fn tell(
        &self,
        threads: &mut [Thread],
        files: &Files,
        python: Option<&PythonIn>,
        stacks: Vec<(usize, Vec<u64>)>,
        symbolizer: &mut Symbolizer,
    ) {
        let names = self.names(files, &stacks, symbolizer);
        for (at, addresses) in stacks {
            let native = addresses.iter().map(|address| {
                let place = self.place(*address);
                Native {
                    function: names.get(address).cloned().unwrap_or_default(),
                    file: place.map_or(String::new(), |place| self.file_name(files, place)),
                    address: *address,
                    is_loop: python.is_some_and(|python| is_loop(python, place)),
                }
            });
            threads[at].native = native.collect();
        }
    }

    fn place(&self, address: u64) -> Option<Place> {
        let after = self.tables.mappings.partition_point(|mapping| mapping.start <= address);
        let mapping = self.tables.mappings[..after]
            .last()
            .filter(|mapping| address < mapping.end)?;
        Some(Place {
            file: mapping.file,
            address: address.wrapping_add(mapping.to_file),
        })
    }

    fn file_name(&self, files: &Files, place: Place) -> String {
        match self.ids.get(&place.file) {
            Some(id) => files.get(*id).path.to_string_lossy().into_owned(),
            None if place.file == VDSO => "[vdso]".to_owned(),
            None => String::new(),
        }
    }

    /// The functions of all addresses, file by file.
    fn names(
        &self,
        files: &Files,
        stacks: &[(usize, Vec<u64>)],
        symbolizer: &mut Symbolizer,
    ) -> FxHashMap<u64, String> {
        let mut by_file: FxHashMap<u32, Vec<(u64, u64)>> = FxHashMap::default();
        for address in stacks.iter().flat_map(|(_, addresses)| addresses) {
            if let Some(place) = self.place(*address) {
                by_file.entry(place.file).or_default().push((*address, place.address));
            }
        }
        let mut names = FxHashMap::default();
        for (file, addresses) in by_file {
            let Some(id) = self.ids.get(&file) else { continue };
            let file = files.get(*id);
            let Some(opened) = &file.opened else { continue };
            let in_file: Vec<u64> = addresses.iter().map(|(_, in_file)| *in_file).collect();
            let path = opened.path_to_open();
            let symbols = foreign::parsed(|| symbolizer.native(Path::new(&path), file.debug_file(), &in_file));
            let known = addresses.iter().zip(symbols.unwrap_or_default());
            names.extend(known.filter_map(|((address, _), symbols)| {
                let symbol = symbols.into_iter().next()?;
                // `clone@@GLIBC_2.2.5`
                let name = symbol.function.split('@').next().unwrap_or_default().to_owned();
                Some((*address, name))
            }));
        }
        names
    }
}

/// What names are looked for with: tables of symbols are enough, debug information takes seconds.
pub fn symbolizer() -> Symbolizer {
    Symbolizer::new(symbolize::Options {
        debug_info: false,
        ..symbolize::Options::default()
    })
}

/// `_PyEval_EvalFrameDefault (python3.12)`
pub fn told(native: &Native) -> String {
    let file = path::file_name(&native.file);
    match (native.function.is_empty(), file.is_empty()) {
        (false, false) => format!("{} ({file})", native.function),
        (false, true) => native.function.clone(),
        (true, false) => format!("{:#x} ({file})", native.address),
        (true, true) => format!("{:#x}", native.address),
    }
}

/// Tables in the form that the kernel side has them.
#[derive(Debug, Default)]
struct Tables {
    mappings: Vec<UnwindMapping>,
    files: Vec<UnwindFile>,
    pages: Vec<UnwindPage>,
    /// Each of [`SHARD_ROWS`] rows.
    shards: Vec<Box<[u32]>>,
    /// Rows in use of the last one.
    used: usize,
    rules: Vec<UnwindRule>,
}

impl Tables {
    /// `false` if the file has no place.
    fn install(&mut self, file: u32, table: Result<Table, NoTable>) -> bool {
        let installed = match table {
            Ok(table) => self.place(&table),
            // Code that was generated into a file.
            Err(NoTable::NotElf | NoTable::NoUnwindInformation) => UnwindFile {
                state: FILE_FRAME_POINTERS,
                ..UnwindFile::default()
            },
            Err(_) => UnwindFile {
                state: FILE_NO_ROOM,
                ..UnwindFile::default()
            },
        };
        match self
            .files
            .get_mut(file as usize)
            .filter(|file| file.state == FILE_NOT_READY)
        {
            Some(place) => {
                *place = installed;
                true
            }
            None => false,
        }
    }

    fn place(&mut self, table: &Table) -> UnwindFile {
        let first_rule = self.rules.len();
        if first_rule + table.rules.len() > MAX_RULES {
            return UnwindFile {
                state: FILE_NO_ROOM,
                ..UnwindFile::default()
            };
        }
        self.rules.extend_from_slice(&table.rules);
        let first_page = self.pages.len() as u32;
        for page in &table.pages {
            let rows = table.rows.get(page.first as usize..).unwrap_or_default();
            let rows = rows.get(..(page.rows as usize).min(SHARD_ROWS)).unwrap_or_default();
            // The rows of a page never cross from one shard into the next.
            if self.shards.is_empty() || self.used + rows.len() > SHARD_ROWS {
                self.shards.push(vec![0; SHARD_ROWS].into());
                self.used = 0;
            }
            let shard = self.shards.len() - 1;
            for (into, from) in self.shards[shard][self.used..].iter_mut().zip(rows) {
                *into = row(row_low(*from), row_rule(*from).wrapping_add(first_rule as u16));
            }
            self.pages.push(UnwindPage {
                first: (shard * SHARD_ROWS + self.used) as u32,
                rows: rows.len() as u32,
            });
            self.used += rows.len();
        }
        UnwindFile {
            base: table.base,
            first_page,
            pages: table.pages.len() as u32,
            state: FILE_TABLE,
            reserved: 0,
        }
    }
}

impl UnwindTables for Tables {
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
        self.shards.get(index as usize).map(|shard| shard.as_ptr())
    }

    fn rule(&self, index: u32) -> Option<&UnwindRule> {
        self.rules.get(index as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;
    use crate::python::memory::ProcessMemory;

    #[test]
    fn a_thread_of_ours_that_waits_has_the_functions_that_it_is_in() {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let waiter = thread::spawn(move || {
            // SAFETY: gettid(2) has no preconditions.
            tell.send(unsafe { libc::gettid() }.cast_unsigned())
                .expect("somebody who listens");
            let _ = ended.recv();
        });
        let tid: u32 = told.recv().expect("a number");
        let pid = std::process::id();
        while Look::of(pid, tid).is_none_or(|look| !look.is_away()) {
            thread::sleep(Duration::from_millis(1));
        }
        let (memory, mut files) = (ProcessMemory { pid }, Files::default());
        let look = Look::of(pid, tid).expect("a thread");
        let mut unwinder = Unwinder::new(&mut files, &Mapped::of_process(pid));
        let stack = unwinder.stack(&files, &memory, &registers([look.pc, look.sp, 0]), false);
        // The standard library keeps frame pointers, and that register is not to be had: one function of the C library and
        // its caller are sure.
        assert!(stack.len() >= 2, "{stack:x?}");
        let names = unwinder.names(&files, &[(0, stack.clone())], &mut symbolizer());
        let is_known = |address: &u64| names.get(address).is_some_and(|name| !name.is_empty());
        assert!(stack[..2].iter().all(is_known), "{names:?}");
        drop(end);
        waiter.join().expect("it ends");
    }

    #[test]
    fn a_file_without_a_place_is_not_tried_for_ever() {
        let mut tables = Tables {
            files: vec![UnwindFile::default(); 2],
            ..Tables::default()
        };
        assert!(tables.install(1, Err(NoTable::Damaged)));
        assert!(!tables.install(1, Err(NoTable::Damaged)));
        assert!(!tables.install(7, Err(NoTable::NotElf)));
    }
}
