//! What happens to memory, whoever saw it: the one language of the sources (faults, pools, mappings, exact calls).

use profiler_common::record::{
    FAULT_PRESENT, FAULT_WRITE, MAP_ANONYMOUS, MAP_POPULATED, MAP_SHARED, MEMORY_ADVISE, MEMORY_BREAK, MEMORY_FAULT,
    MEMORY_MAP, MEMORY_POOL, MEMORY_REMAP, MEMORY_UNMAP, MemoryEvent,
};

/// A stack of a thread of a process, as the recording interns them: who it was that got the memory.
pub type SiteId = u32;

/// What a new mapping is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// No file: the process's own.
    Anonymous,
    /// A file, the process's own copy from the first write on.
    PrivateFile,
    /// A file, or memory, that others may share.
    Shared,
}

/// One thing that happened, in order of time (`time_ns` is CLOCK_MONOTONIC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub pid: u32,
    pub time_ns: u64,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A page was touched that was not there, or not writable.
    Fault {
        address: u64,
        write: bool,
        /// It was there: a write to a page that is shared so far.
        present: bool,
        /// How many faults this one stands for; 1 if every one is told.
        weight: u32,
        site: SiteId,
    },
    /// pymalloc has taken a pool for objects of one size.
    Pool {
        /// 0 if unknown.
        address: u64,
        /// The whole pool's.
        bytes: u32,
        object_bytes: u32,
        /// 0: it was born again, and nothing else is told.
        weight: u32,
        site: SiteId,
    },
    /// mmap. What it covers of others is gone.
    Map {
        start: u64,
        bytes: u64,
        kind: MapKind,
        /// All of it is there at once, without a fault.
        populated: bool,
        site: SiteId,
    },
    Unmap {
        start: u64,
        bytes: u64,
    },
    /// madvise: `advice` as the kernel numbers it (4 = MADV_DONTNEED, 8 = FREE, 9 = REMOVE, 14 = HUGEPAGE, 15 = NOHUGEPAGE).
    Advise {
        start: u64,
        bytes: u64,
        advice: i32,
    },
    /// mremap.
    Remap {
        old: u64,
        old_bytes: u64,
        new: u64,
        new_bytes: u64,
        site: SiteId,
    },
    /// brk: the heap ends here now.
    Break {
        end: u64,
        site: SiteId,
    },
    /// This process is a new one, a copy of its parent.
    Fork {
        parent: u32,
    },
    Exec,
    Exit,
    /// A call of an allocator gave a block (exact mode).
    Allocated {
        bytes: u64,
        site: SiteId,
    },
    /// One was given back.
    Freed {
        bytes: u64,
        /// Who had allocated it, and when.
        site: SiteId,
        born_ns: u64,
        /// Allocations of its thread while it lived.
        distance: u32,
    },
}

/// What the kernel side's event says; none if it is of no kind we know.
pub fn what(event: &MemoryEvent, site: SiteId) -> Option<What> {
    let MemoryEvent {
        what,
        weight,
        flags,
        address,
        length,
        other,
        old_length,
        ..
    } = *event;
    Some(match what {
        MEMORY_FAULT => What::Fault {
            address,
            write: flags & FAULT_WRITE != 0,
            present: flags & FAULT_PRESENT != 0,
            weight,
            site,
        },
        MEMORY_POOL => What::Pool {
            address,
            bytes: u32::try_from(other).ok()?,
            object_bytes: u32::try_from(length).ok()?,
            weight,
            site,
        },
        MEMORY_MAP => What::Map {
            start: address,
            bytes: length,
            kind: match (flags & MAP_SHARED != 0, flags & MAP_ANONYMOUS != 0) {
                (true, _) => MapKind::Shared,
                (false, true) => MapKind::Anonymous,
                (false, false) => MapKind::PrivateFile,
            },
            populated: flags & MAP_POPULATED != 0,
            site,
        },
        MEMORY_UNMAP => What::Unmap {
            start: address,
            bytes: length,
        },
        MEMORY_ADVISE => What::Advise {
            start: address,
            bytes: length,
            advice: i32::try_from(flags).ok()?,
        },
        MEMORY_REMAP => What::Remap {
            old: other,
            old_bytes: old_length,
            new: address,
            new_bytes: length,
            site,
        },
        MEMORY_BREAK => What::Break { end: address, site },
        _ => return None,
    })
}
