//! What happens to memory, whoever saw it: the one language of the sources (faults, pools, mappings, exact calls).

use std::time::Duration;

use profiler_common::record::{
    FAULT_PRESENT, FAULT_WRITE, MAP_ANONYMOUS, MAP_POPULATED, MAP_RESERVED, MAP_SHARED, MAP_TMPFS, MAP_WRITABLE,
    MEMORY_ADVISE, MEMORY_BIRTH, MEMORY_BREAK, MEMORY_ERROR, MEMORY_FAULT, MEMORY_MAP, MEMORY_POOL, MEMORY_RAN_OUT,
    MEMORY_REMAP, MEMORY_UNMAP, MEMORY_VICTIM, MemoryEvent,
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

/// What a mapping is of, other than the process's own memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// Which file, the same number for the same file in all processes; 0 if that is not known.
    pub object: u64,
    /// What of the file lies at address 0, so to speak: `offset - start`, wrapping. So it is the same for all of a mapping.
    pub base: u64,
    /// RSS counts it as shared memory: tmpfs, memfd, System V, or shared without a file.
    pub in_memory: bool,
}

impl Mapped {
    /// By the kernel's numbers. `start`: where `offset` of the file is mapped.
    pub fn new(device: u32, inode: u64, offset: u64, start: u64, in_memory: bool) -> Self {
        Self {
            // Device numbers have 32 bits of which few are in use, and inodes count up.
            object: inode ^ u64::from(device).rotate_right(24),
            base: offset.wrapping_sub(start),
            in_memory,
        }
    }
}

/// One thing that happened, in order of time (`time_ns` is CLOCK_MONOTONIC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub pid: u32,
    pub time_ns: u64,
    pub what: What,
}

/// How pages came that had no fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Populated {
    Read,
    Written,
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
        mapped: Mapped,
        /// All of it is there at once, without a fault: as if it had been written, or only read.
        populated: Option<Populated>,
        /// It is address space that nobody may touch so far.
        reserved: bool,
        site: SiteId,
    },
    Unmap {
        start: u64,
        bytes: u64,
    },
    /// madvise: `advice` as the kernel numbers it.
    Advise {
        start: u64,
        bytes: u64,
        advice: i32,
        /// Whose the pages are that it brings, if it does.
        site: SiteId,
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
    /// The kernel is ending this process for want of memory. Each of its threads says so.
    Victim {
        /// The most that was resident; 0 if it is not known yet.
        peak: u64,
    },
    /// This process has a `MemoryError`, the first for some time.
    MemoryError,
    /// This process ends, not with 0, soon after a `MemoryError`.
    RanOut {
        /// As above.
        peak: u64,
        /// As `wait` tells it.
        status: u32,
        /// How long before.
        error_ago: Duration,
        /// What address space it might have, where that was bounded.
        address_space: Option<u64>,
    },
    /// The collector began to track an object.
    Born {
        number: u64,
        site: SiteId,
    },
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

/// Where addresses of user space end on x86-64 with five levels of page tables.
const USER_END: u64 = 1 << 56;

/// What the kernel side's event says; none if it is of no kind we know, or of what cannot be: where a pool is, a register of
/// the program says.
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
    if address >= USER_END {
        return None;
    }
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
            mapped: match flags & MAP_ANONYMOUS != 0 {
                true => Mapped {
                    in_memory: flags & MAP_SHARED != 0,
                    ..Mapped::default()
                },
                false => Mapped::new(event.device, other, old_length, address, flags & MAP_TMPFS != 0),
            },
            populated: match (flags & MAP_POPULATED != 0, flags & (MAP_WRITABLE | MAP_SHARED)) {
                (false, _) => None,
                // `populate_vma_page_range` (mm/gup.c): what is private is written, if it may be; what is shared is read.
                (true, MAP_WRITABLE) => Some(Populated::Written),
                (true, _) => Some(Populated::Read),
            },
            reserved: flags & MAP_RESERVED != 0,
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
            site,
        },
        MEMORY_REMAP => What::Remap {
            old: other,
            old_bytes: old_length,
            new: address,
            new_bytes: length,
            site,
        },
        MEMORY_VICTIM => What::Victim { peak: length },
        MEMORY_ERROR => What::MemoryError,
        MEMORY_RAN_OUT => What::RanOut {
            peak: length,
            status: flags,
            error_ago: Duration::from_nanos(old_length),
            // RLIM_INFINITY; 0 is a word that could not be read.
            address_space: (other != u64::MAX && other != 0).then_some(other),
        },
        MEMORY_BREAK => What::Break { end: address, site },
        MEMORY_BIRTH => What::Born { number: other, site },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_where_no_program_has_memory_is_no_event() {
        let at = |what, address| {
            let event = MemoryEvent {
                what,
                address,
                other: 16 << 10,
                length: 32,
                ..MemoryEvent::default()
            };
            super::what(&event, SiteId::default())
        };
        for what in [MEMORY_FAULT, MEMORY_POOL] {
            assert!(at(what, 0x7fff_ffff_f000).is_some());
            for nowhere in [USER_END, 0xffff_ffff_8100_0000, u64::MAX] {
                assert_eq!(at(what, nowhere), None);
            }
        }
    }
}
