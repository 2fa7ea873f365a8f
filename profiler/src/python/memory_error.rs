//! Where a CPython raises `MemoryError`.
//!
//! `PyErr_NoMemory` is what the interpreter and C extensions call when there is no memory. Of classes that are derived from
//! `MemoryError` (numpy's, for arrays) the objects are made by the class's own `tp_new`, which the file has in its data.

use super::{allocator::code::Code, binary::PythonBinary};

/// By offset in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryErrorPlaces {
    /// `PyErr_NoMemory`.
    pub raised: Option<u64>,
    /// `MemoryError.tp_new(type, …)`.
    pub made: Option<u64>,
    /// The class, by the file's address.
    pub class: u64,
}

/// `PyTypeObject.tp_new` (Include/cpython/object.h, 3.8 – 3.15, 64 bits, with a GIL).
const TYPE_NEW: u64 = 312;

/// `None` where the file has neither, or is free-threaded, which has its types elsewhere.
pub fn places(elf: &[u8], binary: &PythonBinary) -> Option<MemoryErrorPlaces> {
    if binary.layout.free_threaded {
        return None;
    }
    let code = Code::new(elf).ok()?;
    let class = code.word(code.image.symbol("PyExc_MemoryError")?.address)?;
    let start = |address: u64| {
        let function = code.function(address).filter(|function| function.start == address)?;
        code.file_offset(function.start)
    };
    let places = MemoryErrorPlaces {
        raised: code
            .image
            .symbol("PyErr_NoMemory")
            .and_then(|symbol| start(symbol.address)),
        made: class
            .checked_add(TYPE_NEW)
            .and_then(|slot| code.word(slot))
            .and_then(start),
        class,
    };
    (places.raised.is_some() || places.made.is_some()).then_some(places)
}
