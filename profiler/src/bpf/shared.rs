//! Arrays that the kernel side reads and user space writes through a memory map (`BPF_F_MMAPABLE`, Linux 5.5).

use std::{
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::Context as _;
use aya::maps::MapData;
use memmap2::{MmapOptions, MmapRaw};

/// A `BPF_MAP_TYPE_ARRAY` of `T`, or of rows of `T`, as one slice in both the kernel's memory and ours.
pub struct SharedArray<T> {
    memory: MmapRaw,
    len: usize,
    /// Keeps the map; its memory is the kernel's.
    _map: MapData,
    of: PhantomData<T>,
}

impl<T: Copy> SharedArray<T> {
    /// `len` is the number of `T`s in all elements together.
    pub(super) fn new(map: MapData, len: usize) -> anyhow::Result<Self> {
        let bytes = len * size_of::<T>();
        let memory = MmapOptions::new()
            .len(bytes)
            .map_raw(map.fd().as_fd().as_raw_fd())
            .context("failed to map an unwind table's memory")?;
        Ok(Self {
            memory,
            len,
            _map: map,
            of: PhantomData,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where one of them lies; `None` beyond the end.
    pub fn pointer(&self, at: u32) -> Option<*mut T> {
        // SAFETY: `at` is below `len`, which the map holds.
        ((at as usize) < self.len).then(|| unsafe { self.memory.as_mut_ptr().cast::<T>().add(at as usize) })
    }

    /// A copy of one of them, which the kernel side may be writing meanwhile.
    pub fn read(&self, at: u32) -> Option<T> {
        // SAFETY: as in `pointer`; a map of pages is aligned for `T`, which is made of integers. Volatile: the kernel side
        // writes it meanwhile.
        self.pointer(at).map(|at| unsafe { at.read_volatile() })
    }

    /// Writes `values` from index `at` on, as far as there is room.
    pub fn write(&mut self, at: u32, values: &[T]) {
        let at = at as usize;
        let room = self.len.saturating_sub(at);
        let from = self.memory.as_mut_ptr().cast::<T>();
        for (index, &value) in values.iter().take(room).enumerate() {
            // SAFETY: `at + index` is below `len`, which the map holds; a map of pages is aligned for `T`. Volatile: the
            // kernel side reads it meanwhile.
            unsafe { from.add(at + index).write_volatile(value) };
        }
    }
}
