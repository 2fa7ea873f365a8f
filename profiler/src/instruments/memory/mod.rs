//! Memory: who made a process grow. Three instruments, of which one looks at a time: they see the same memory.

pub mod account;
mod exact;
mod growth;
mod sampled;

use crate::{
    config::{Config, MemoryConfig},
    instruments::Instrument,
    python::allocator::table::{AllocatorInUse, Hook},
};

/// The one that is wanted.
pub fn instrument(
    config: &Config,
    wanted: &MemoryConfig,
    command_pid: Option<u32>,
) -> anyhow::Result<Box<dyn Instrument>> {
    Ok(match (wanted.exact, wanted.sampled) {
        (Some(exact), _) => Box::new(exact::Blocks::new(config, wanted, exact, command_pid)?),
        (None, Some(sampled)) => Box::new(sampled::Heap::new(config, wanted, sampled, command_pid)?),
        (None, None) => Box::new(growth::Growth::new(config, wanted, command_pid)?),
    })
}

/// What to say of a process that does not use pymalloc as it comes.
fn not_pymalloc(pid: u32, in_use: AllocatorInUse) -> Option<String> {
    match in_use {
        AllocatorInUse::Pymalloc => None,
        AllocatorInUse::Malloc => Some(format!(
            "process {pid} has the C library's allocator in place of pymalloc (PYTHONMALLOC=malloc): its blocks have no pools"
        )),
        AllocatorInUse::Hooked { hook, .. } => Some(format!(
            "process {pid} has {} around its allocator: sizes include what they add",
            match hook {
                Hook::Debug => "debug hooks (PYTHONMALLOC=debug, -X dev)",
                Hook::Trace => "tracemalloc's hooks",
            }
        )),
        AllocatorInUse::Mimalloc { .. } => Some(format!(
            "process {pid} has the allocator mimalloc in place of pymalloc (PYTHONMALLOC=mimalloc): its blocks have no pools, \
             and exact mode sees those of the raw domain only"
        )),
        AllocatorInUse::Other { .. } => Some(format!(
            "process {pid} has another allocator in place (another profiler's?): what it hands on is seen, and no more"
        )),
    }
}
