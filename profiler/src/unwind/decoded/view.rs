//! The part of a file that no unwind information covers.

use std::{cell::RefCell, ops::Range};

use rustc_hash::FxHashMap;

use super::super::table::{elf::Elf, is_padding};

/// Addresses are relative to the file's base.
pub struct View<'a> {
    pub elf: &'a Elf<'a>,
    /// Code without unwind information, in order of address.
    pub open: &'a [Range<u32>],
    /// Where functions are known to begin, in order of address.
    pub functions: &'a [u32],
    /// Code that threads begin with, in order of address: nothing has called it.
    pub bottoms: &'a [Range<u32>],
    /// Of functions that were asked for, whether they come back ([`super::way`]).
    pub come_back: RefCell<FxHashMap<u32, bool>>,
}

impl<'a> View<'a> {
    pub fn new(elf: &'a Elf<'a>, open: &'a [Range<u32>], functions: &'a [u32], bottoms: &'a [Range<u32>]) -> Self {
        Self {
            elf,
            open,
            functions,
            bottoms,
            come_back: RefCell::default(),
        }
    }

    /// The bytes from an address to the end of what is open there.
    pub fn code_from(&self, address: u32) -> Option<&'a [u8]> {
        let range = self.open_at(address)?;
        self.elf.bytes(address..range.end)
    }

    pub fn is_open(&self, address: u32) -> bool {
        self.open_at(address).is_some()
    }

    pub fn open_at(&self, address: u32) -> Option<Range<u32>> {
        let after = self.open.partition_point(|range| range.start <= address);
        let range = self.open.get(after.checked_sub(1)?)?;
        range.contains(&address).then(|| range.clone())
    }

    /// Whether a function begins here, so that a jump to it is a call that does not come back.
    pub fn is_function(&self, address: u32) -> bool {
        self.functions.binary_search(&address).is_ok() || self.elf.stubs.iter().any(|stubs| stubs.contains(&address))
    }

    pub fn is_bottom(&self, address: u32) -> bool {
        self.bottoms.iter().any(|range| range.contains(&address))
    }

    pub fn is_padding(&self, range: Range<u32>) -> bool {
        range.is_empty() || self.elf.bytes(range).is_some_and(is_padding)
    }
}
