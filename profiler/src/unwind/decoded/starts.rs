//! Where functions begin, or may.

use std::ops::Range;

use super::view::View;
use crate::unwind::table::{elf::Elf, is_padding};

/// More than any file has: libopenblas has 900.
const MAX_STARTS: usize = 1 << 18;

/// Where symbols and tables of pointers lead to, each in order of address, inside these ranges. OpenBLAS calls its
/// kernels through such tables, which stay when the symbols are gone.
pub fn named(elf: &Elf<'_>, open: &[Range<u32>]) -> (Vec<u32>, Vec<u32>) {
    let is_open = |address: u32| {
        let after = open.partition_point(|range| range.start <= address);
        let range = after.checked_sub(1).and_then(|index| open.get(index));
        range.is_some_and(|range| range.contains(&address)) && !elf.stubs.iter().any(|stubs| stubs.contains(&address))
    };
    let sorted = |mut starts: Vec<u32>| {
        starts.sort_unstable();
        starts.dedup();
        starts
    };
    let mut symbols = Vec::new();
    elf.each_function_symbol(|address| {
        if is_open(address) && symbols.len() < MAX_STARTS {
            symbols.push(address);
        }
    });
    let mut pointers = Vec::new();
    elf.each_pointer(|address| {
        if is_open(address) && pointers.len() < MAX_STARTS {
            pointers.push(address);
        }
    });
    (sorted(symbols), sorted(pointers))
}

/// What musl's `__clone` has a new thread do (1.2.3): `xor %ebp,%ebp; pop %rdi; call *%r9; mov %eax,%edi; xor %eax,%eax;
/// mov $60,%al; syscall; hlt`.
const NEW_THREAD: [u8; 15] = [
    0x31, 0xed, 0x5f, 0x41, 0xff, 0xd1, 0x89, 0xc7, 0x31, 0xc0, 0xb0, 0x3c, 0x0f, 0x05, 0xf4,
];

/// Where threads begin, in order of address.
pub fn bottoms(elf: &Elf<'_>, open: &[Range<u32>]) -> Vec<Range<u32>> {
    let mut found = Vec::new();
    for gap in open {
        let bytes = elf.bytes(gap.clone()).unwrap_or_default();
        let places = bytes.windows(NEW_THREAD.len()).enumerate();
        let places = places.filter(|(_, bytes)| **bytes == NEW_THREAD);
        found.extend(places.map(|(at, _)| gap.start + at as u32..gap.start + (at + NEW_THREAD.len()) as u32));
    }
    found
}

/// Where code goes on behind what was seen, or a gap begins: perhaps a function. At most one for each stretch of code
/// that was not seen.
pub fn after_functions(view: &View<'_>, gap: &Range<u32>, seen: &[Range<u32>]) -> Vec<u32> {
    let mut starts = Vec::new();
    let mut from = gap.start;
    let first = seen.partition_point(|range| range.start < gap.start);
    let inside = seen.get(first..).unwrap_or_default();
    let inside = inside.iter().take_while(|range| range.start < gap.end).cloned();
    for range in inside.chain(std::iter::once(gap.end..gap.end)) {
        if from < range.start && starts.len() < MAX_STARTS {
            starts.extend(
                view.elf
                    .bytes(from..range.start)
                    .and_then(past_padding)
                    .map(|skip| from + skip),
            );
        }
        from = from.max(range.end);
    }
    starts.retain(|start| !view.elf.stubs.iter().any(|stubs| stubs.contains(start)));
    starts
}

/// How many bytes of padding these begin with, unless that is all, or more than any linker writes.
pub fn past_padding(bytes: &[u8]) -> Option<u32> {
    let mut skip = 0;
    let bytes = bytes.get(..MAX_PADDING).unwrap_or(bytes);
    while let Some(rest) = bytes.get(skip..).filter(|rest| !rest.is_empty()) {
        let Some(len) = (1..=rest.len().min(MAX_NOP))
            .rev()
            .find(|len| is_padding(&rest[..*len]))
        else {
            return Some(skip as u32);
        };
        skip += len;
    }
    None
}

/// Linkers round code up to pages.
const MAX_PADDING: usize = 4096 + MAX_NOP;

/// The longest instruction there is.
const MAX_NOP: usize = 15;
