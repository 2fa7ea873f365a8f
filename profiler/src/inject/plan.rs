//! What would be changed in a process, found out without touching it.

use super::{
    journal::{Identity, Journals, Slot},
    refusal::{self, Refusal},
};
use crate::{
    objects::target::Target,
    python::{
        allocator::table::{AllocatorInUse, Domain, Hook, Table},
        memory::ReadMemory as _,
    },
};

/// The versions with which this was proven.
const FIRST: (u8, u8) = (3, 8);
const LAST: (u8, u8) = (3, 15);

/// A process that may be written to, and where.
#[derive(Debug)]
pub struct Plan {
    pub process: Identity,
    pub version: String,
    /// The functions that are in the slots, as `malloc`, `calloc`, `realloc`, `free` of the domains `obj` and `mem`.
    pub originals: [u64; 4],
    /// Addresses of the eight slots, four of each domain.
    pub slots: [u64; 8],
}

impl Plan {
    /// # Errors
    /// Whatever is not proven is refused by name.
    pub fn of(pid: u32, journals: &Journals) -> Result<Self, Refusal> {
        refusal::surroundings(pid)?;
        let process = Identity::of(pid).ok_or(Refusal::Gone { pid })?;
        if let Some(journal) = journals.read(pid)?.filter(|journal| journal.process == process) {
            let profiler = journal.profiler.pid;
            return Err(match journal.is_in_use() {
                true => Refusal::InUse { pid, profiler },
                false => Refusal::LeftBehind { pid },
            });
        }
        let target = Target::find(pid)?;
        let version = target.binary.version;
        if !(FIRST..=LAST).contains(&version.series()) {
            return Err(Refusal::Version {
                pid,
                version: version.to_string(),
                first: "3.8",
                last: "3.15",
            });
        }
        let memory = target.memory();
        let count = target.interpreters(&memory).len();
        if count > 1 {
            return Err(Refusal::Interpreters { pid, count });
        }
        let (tables, bias) = (&target.tables, target.bias);
        match tables.in_use(&memory, bias, Domain::Object) {
            Some(AllocatorInUse::Pymalloc) => {}
            Some(AllocatorInUse::Hooked { hook: Hook::Trace, .. }) => {
                return Err(Refusal::Hooked {
                    pid,
                    what: "tracemalloc",
                    remedy: "it, or stop it (tracemalloc.stop())",
                });
            }
            Some(AllocatorInUse::Hooked { hook: Hook::Debug, .. }) => {
                return Err(Refusal::Hooked {
                    pid,
                    what: "debug hooks",
                    remedy: "PYTHONMALLOC=debug and -X dev",
                });
            }
            Some(AllocatorInUse::Malloc) => {
                return Err(Refusal::Hooked {
                    pid,
                    what: "the C library's malloc",
                    remedy: "PYTHONMALLOC=malloc",
                });
            }
            Some(AllocatorInUse::Mimalloc { .. }) => {
                return Err(Refusal::Hooked {
                    pid,
                    what: "mimalloc",
                    remedy: "PYTHONMALLOC=mimalloc",
                });
            }
            Some(AllocatorInUse::Other { .. }) => return Err(Refusal::Other { pid }),
            None => return Err(Refusal::Gone { pid }),
        }
        let functions = |table: &Table| {
            [table.malloc, table.calloc, table.realloc, table.free].map(|function| function.wrapping_add(bias))
        };
        let originals = functions(&tables.object);
        let mut slots = [0; 8];
        for (table, slots) in [&tables.object, &tables.memory].into_iter().zip(slots.chunks_mut(4)) {
            let address = table.address.wrapping_add(bias);
            // The context, and then all four.
            if memory.read_u64(address) != Some(0) || functions(table) != originals {
                return Err(Refusal::Other { pid });
            }
            for (number, slot) in (1..).zip(&mut *slots) {
                *slot = address.wrapping_add(8 * number);
            }
            let are_ours = slots
                .iter()
                .zip(originals)
                .all(|(&slot, original)| memory.read_u64(slot) == Some(original));
            if !are_ours {
                return Err(Refusal::Other { pid });
            }
            if !address.is_multiple_of(8) || !refusal::is_writable(pid, address, address.wrapping_add(40)) {
                return Err(Refusal::NotWritable { pid });
            }
        }
        Ok(Self {
            process,
            version: version.to_string(),
            originals,
            slots,
        })
    }

    /// The slots, with what is to stand there: stubs in the order of the originals.
    pub fn slots(&self, stubs: [u64; 4]) -> Vec<Slot> {
        self.slots
            .iter()
            .zip(self.originals.into_iter().zip(stubs).cycle())
            .map(|(&address, (original, stub))| Slot {
                address,
                original,
                stub,
            })
            .collect()
    }
}
