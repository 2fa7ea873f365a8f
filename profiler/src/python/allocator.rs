//! Where a CPython's memory can be watched from outside.
//!
//! Everything is found in the ELF file without debug symbols: CPython calls its allocators through a table of function
//! pointers, which the file initialises; the functions in the table are the real ones, and the first thing that
//! `_PyObject_Malloc` calls is `allocate_from_new_pool`. Checked with the symbols of pyenv's 3.8.18, 3.9.18, 3.10.13,
//! 3.11.7, 3.12.1 and 3.13.0, with Debian's 3.11.2, 3.13.18, 3.14.10 and 3.15.2 by their disassembly, and by counting
//! hits in all of them.
//!
//! Free-threaded builds, which are refused elsewhere, do not use pymalloc. What would stand in for the birth of a pool
//! there is `_mi_malloc_generic(heap, size)`: the target of the only direct jumps that leave `_PyObject_MiMalloc`.

pub mod code;
pub mod coverage;
pub mod flow;
pub mod functions;
pub mod place;
pub mod pool;
pub mod pool_death;
pub mod table;

#[cfg(test)]
mod builds;
#[cfg(test)]
mod fake;

use super::binary::PythonBinary;
use super::version::Version;
use code::Code;
use functions::AllocFunction;
use pool::PoolProbe;
use pool_death::PoolDeath;
use table::Tables;

/// How to watch the allocators of one file. All addresses are the file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocators {
    pub version: Version,
    pub tables: Tables,
    /// Or why the births of pools cannot be seen.
    pub pool: Result<PoolProbe, NoAllocator>,
    /// Where pools die. Some builds have more such places elsewhere ([`coverage::Coverage::inlined_frees`]).
    pub pool_deaths: Vec<PoolDeath>,
    /// Each function once: the domains mem and obj share theirs.
    pub functions: Vec<AllocFunction>,
}

/// Why a file's allocators cannot be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAllocator {
    #[error("not a CPython for x86-64")]
    NotPython,
    #[error("it cannot be read")]
    Unreadable,
    #[error("it has no unwind table (.eh_frame), or a damaged one")]
    NoUnwindTable,
    #[error("its table of allocators was not found")]
    NoTable,
    #[error("it is free-threaded and allocates with mimalloc, which is not supported yet")]
    FreeThreaded,
    #[error("the function that starts a new pool (allocate_from_new_pool) was not found")]
    NoPool,
}

/// The allocator that `elf`, a C library or a file in its place, exports: its functions, as far as they are there.
pub fn exported(elf: &[u8]) -> Vec<AllocFunction> {
    Code::new(elf)
        .map(|code| functions::exported(&code))
        .unwrap_or_default()
}

/// What `elf`, the bytes of the file that `binary` was read from, says about its allocators.
pub fn inspect(elf: &[u8], binary: &PythonBinary) -> Result<Allocators, NoAllocator> {
    let code = Code::new(elf)?;
    if binary.layout.free_threaded {
        return Err(NoAllocator::FreeThreaded);
    }
    let tables = Tables::find(&code, binary.version, binary.runtime)?;
    Ok(Allocators {
        version: binary.version,
        pool: pool::find(&code, binary.version, tables.object.malloc),
        pool_deaths: pool_death::find(&code, binary.version, &tables.object),
        functions: functions::find(&code, &tables),
        tables,
    })
}
