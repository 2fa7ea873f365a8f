//! The memory of the unwind tables.

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData},
};
use profiler_common::{
    names,
    unwind::{MAX_RULES, SHARD_ROWS, UnwindFile, UnwindMapping, UnwindPage, UnwindProcess, UnwindRule},
};

use super::{shared::SharedArray, take_map};
use crate::unwind::store::{Sizes, TableMemory};

/// The kernel side's tables, as user space writes them.
pub struct Tables {
    sizes: Sizes,
    rows: SharedArray<u32>,
    pages: SharedArray<UnwindPage>,
    files: SharedArray<UnwindFile>,
    rules: SharedArray<UnwindRule>,
    mappings: SharedArray<UnwindMapping>,
    processes: HashMap<MapData, u32, UnwindProcess>,
}

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf, sizes: Sizes) -> anyhow::Result<Self> {
        Ok(Self {
            sizes,
            rows: shared(ebpf, names::MAP_UNWIND_ROWS, sizes.row_shards as usize * SHARD_ROWS)?,
            pages: shared(ebpf, names::MAP_UNWIND_PAGES, sizes.pages as usize)?,
            files: shared(ebpf, names::MAP_UNWIND_FILES, sizes.files as usize)?,
            rules: shared(ebpf, names::MAP_UNWIND_RULES, MAX_RULES)?,
            mappings: shared(ebpf, names::MAP_MAPPINGS, sizes.mappings as usize)?,
            processes: HashMap::try_from(take_map(ebpf, names::MAP_PROCESSES)?)?,
        })
    }
}

/// `len`: of `T`s in all elements together.
pub(super) fn shared<T: Copy>(ebpf: &mut Ebpf, name: &str, len: usize) -> anyhow::Result<SharedArray<T>> {
    let map = take_map(ebpf, name)?;
    let Map::Array(map) = map else {
        anyhow::bail!("map `{name}` is no array");
    };
    SharedArray::new(map, len).with_context(|| format!("map `{name}`"))
}

impl TableMemory for Tables {
    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn write_rows(&mut self, at: u32, rows: &[u32]) {
        self.rows.write(at, rows);
    }

    fn write_pages(&mut self, at: u32, pages: &[UnwindPage]) {
        self.pages.write(at, pages);
    }

    fn write_file(&mut self, at: u32, file: UnwindFile) {
        self.files.write(at, &[file]);
    }

    fn write_rule(&mut self, at: u32, rule: UnwindRule) {
        self.rules.write(at, &[rule]);
    }

    fn write_mappings(&mut self, at: u32, mappings: &[UnwindMapping]) {
        self.mappings.write(at, mappings);
    }

    fn set_process(&mut self, pid: u32, process: UnwindProcess) -> bool {
        self.processes.insert(pid, process, 0).is_ok()
    }

    fn remove_process(&mut self, pid: u32) {
        // Not there: that is what was wanted.
        let _ = self.processes.remove(&pid);
    }
}
