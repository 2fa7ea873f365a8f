//! Where functions begin, or may.

use std::ops::Range;

use super::view::View;
use crate::unwind::table::{elf::Elf, is_padding};

/// More than any file has: libopenblas has 900.
const MAX_STARTS: usize = 1 << 18;

/// Where symbols and tables of pointers lead to, in order of address, inside these ranges. OpenBLAS calls its kernels
/// through such tables, which stay when the symbols are gone.
pub fn named(elf: &Elf<'_>, open: &[Range<u32>]) -> Vec<u32> {
    let mut starts = Vec::new();
    let mut found = |address: u32| {
        let after = open.partition_point(|range| range.start <= address);
        let range = after.checked_sub(1).and_then(|index| open.get(index));
        if range.is_some_and(|range| range.contains(&address)) && starts.len() < MAX_STARTS {
            starts.push(address);
        }
    };
    elf.each_function_symbol(&mut found);
    elf.each_pointer(&mut found);
    starts.retain(|start| !elf.stubs.iter().any(|stubs| stubs.contains(start)));
    starts.sort_unstable();
    starts.dedup();
    starts
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
