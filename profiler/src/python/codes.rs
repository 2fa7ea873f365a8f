//! The code objects of all processes, by value: the workers of one service share what they run, and fifty of them must
//! not cost fifty times the memory.

use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;

use super::code::Code;

/// An interned [`Code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeId(u32);

/// Interned code objects.
#[derive(Debug, Default)]
pub struct Codes {
    codes: IndexSet<Code, FxBuildHasher>,
}

impl Codes {
    pub fn intern(&mut self, code: Code) -> CodeId {
        CodeId(self.codes.insert_full(code).0 as u32)
    }

    pub fn iter(&self) -> impl Iterator<Item = (CodeId, &Code)> {
        self.codes
            .iter()
            .enumerate()
            .map(|(id, code)| (CodeId(id as u32), code))
    }

    pub fn get(&self, id: CodeId) -> &Code {
        &self.codes[id.0 as usize]
    }
}
