//! How much of what is allocated the probes of [`super::functions`] can see.
//!
//! A compiler with a profile compares the table's pointer with `_PyObject_Malloc` and, where they are equal, goes on
//! with a copy of that function. No probe sees what is allocated there. Each copy has a call of
//! `allocate_from_new_pool` of its own, so the copies can be counted: 169 in Debian's interpreter 3.11.2, 252 in
//! 3.13.18, 209 in 3.14.10 and 215 in 3.15.2, beside 402 – 445 calls; none in pyenv's builds and in Debian's shared
//! libraries. Of 20,000 calls each of `PyObject_Malloc` and `PyMem_RawMalloc`, the probes saw all in pyenv's, and none
//! in Debian's interpreters.

use std::ops::Range;

use iced_x86::{Code as Form, Instruction};

use super::code::Code;
use super::{Allocators, NoAllocator, pool_death};

/// Places in the machine code that allocate through pymalloc. How often each of them runs is not known: this is no
/// share of the allocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Copies of `_PyObject_Malloc` outside of the functions of the table, which no probe sees.
    pub inlined: u32,
    /// Copies of `_PyObject_Free` outside of the functions of the table, which no probe sees either.
    pub inlined_frees: u32,
    /// Direct calls of an allocating function, exported or of the table, all of which the probes see. (Those through a
    /// PLT are not counted: there they are the only kind.)
    pub calls: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is inlined.
    Complete,
    /// A compiler inlines what runs often: counts would be wrong by orders of magnitude.
    Misleading,
}

impl Coverage {
    /// Reads all of the file's code, which takes far longer than the rest (`elf` as for [`super::inspect`]). None if
    /// copies could not be told.
    pub fn measure(elf: &[u8], allocators: &Allocators) -> Result<Option<Self>, NoAllocator> {
        let code = Code::new(elf)?;
        let tables = &allocators.tables;
        let Ok(pool) = &allocators.pool else { return Ok(None) };
        let Some(slow_path) = code.piece_of(pool.place.address) else {
            return Ok(None);
        };
        // On 3.8 it may be a part of `_PyObject_Malloc`, and then of its copies, too.
        if slow_path.start == tables.object.malloc {
            return Ok(None);
        }
        let probed: Vec<Range<u64>> = [tables.object.malloc, tables.object.calloc, tables.object.realloc]
            .into_iter()
            .filter_map(|address| code.function(address))
            .collect();
        let exported = ["PyObject_Malloc", "PyObject_Calloc", "PyMem_Malloc", "PyMem_Calloc"];
        let mut allocating: Vec<u64> = exported
            .iter()
            .filter_map(|name| Some(code.image.symbol(name)?.address))
            .chain([tables.object.malloc, tables.object.calloc])
            .collect();
        allocating.sort_unstable();

        let frees = [tables.object.free, tables.object.realloc];
        let put_back = pool_death::out_of_line(&code, allocators.version, &tables.object);
        let put_back = put_back.map(|function| function.start);
        let mut coverage = Self {
            inlined: 0,
            inlined_frees: 0,
            calls: 0,
        };
        let span = code.span();
        let mut budget = (span.end - span.start).saturating_mul(2);
        for piece in code.pieces() {
            // Pieces that overlap again and again are no compiler's.
            match budget.checked_sub(piece.end - piece.start) {
                Some(rest) => budget = rest,
                None => return Ok(None),
            }
            let body = code.instructions(piece);
            let frees_seen = frees.contains(&piece.start);
            if !frees_seen {
                let copies = pool_death::stores(&body).len();
                coverage.inlined_frees = coverage.inlined_frees.saturating_add(copies as u32);
            }
            for target in calls(&body) {
                if target == slow_path.start && !probed.contains(piece) {
                    coverage.inlined = coverage.inlined.saturating_add(1);
                } else if Some(target) == put_back && !frees_seen {
                    coverage.inlined_frees = coverage.inlined_frees.saturating_add(1);
                } else if allocating.binary_search(&target).is_ok() {
                    coverage.calls = coverage.calls.saturating_add(1);
                }
            }
        }
        Ok(Some(coverage))
    }

    /// The part of the places that no probe sees.
    pub fn inlined_share(&self) -> f64 {
        let all = f64::from(self.inlined) + f64::from(self.calls);
        if all == 0.0 { 0.0 } else { f64::from(self.inlined) / all }
    }

    pub fn verdict(&self) -> Verdict {
        if self.inlined == 0 && self.inlined_frees == 0 {
            Verdict::Complete
        } else {
            Verdict::Misleading
        }
    }
}

/// The targets of all direct calls and far jumps in a piece of code.
fn calls(body: &[Instruction]) -> impl Iterator<Item = u64> {
    body.iter()
        .filter(|instruction| matches!(instruction.code(), Form::Call_rel32_64 | Form::Jmp_rel32_64))
        .map(|instruction| instruction.near_branch64())
}
