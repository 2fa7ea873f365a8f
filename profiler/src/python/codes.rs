//! The code objects of all processes, by value: the workers of one service share what they run, and fifty of them must
//! not cost fifty times the memory.
//!
//! Those that no process has any more are let go when a window is cut; the windows that met them hold on to theirs.

use std::sync::{Arc, LazyLock};

use rustc_hash::FxHashMap;

use super::code::Code;

/// An interned [`Code`]. Its number can become another's once nobody has it (see [`Codes::keep`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeId(u32);

/// Interned code objects.
#[derive(Debug, Default)]
pub struct Codes {
    /// By number.
    codes: Vec<Option<Arc<Code>>>,
    ids: FxHashMap<Arc<Code>, CodeId>,
    /// Numbers that are free.
    free: Vec<CodeId>,
}

impl Codes {
    pub fn intern(&mut self, code: Code) -> CodeId {
        if let Some(&id) = self.ids.get(&code) {
            return id;
        }
        let code = Arc::new(code);
        let id = self.free.pop().unwrap_or_else(|| {
            self.codes.push(None);
            CodeId(self.codes.len() as u32 - 1)
        });
        self.codes[id.0 as usize] = Some(Arc::clone(&code));
        self.ids.insert(code, id);
        id
    }

    pub fn iter(&self) -> impl Iterator<Item = (CodeId, &Code)> {
        self.codes
            .iter()
            .enumerate()
            .filter_map(|(id, code)| Some((CodeId(id as u32), &**code.as_ref()?)))
    }

    /// The code object of that number; one without a name if there is none, which nobody who has a number should see.
    pub fn get(&self, id: CodeId) -> &Code {
        static GONE: LazyLock<Code> = LazyLock::new(Code::gone);
        match self.codes.get(id.0 as usize) {
            Some(Some(code)) => code,
            Some(None) | None => &GONE,
        }
    }

    /// All that are known, to be held on to.
    pub fn shared(&self) -> impl Iterator<Item = (CodeId, &Arc<Code>)> {
        self.codes
            .iter()
            .enumerate()
            .filter_map(|(id, code)| Some((CodeId(id as u32), code.as_ref()?)))
    }

    /// Takes in one that somebody held on to, under a number of its own.
    pub fn take_back(&mut self, code: &Arc<Code>) -> CodeId {
        self.codes.push(Some(Arc::clone(code)));
        CodeId(self.codes.len() as u32 - 1)
    }

    /// These, under the same numbers: what a window takes along.
    pub fn some(&self, ids: impl IntoIterator<Item = CodeId>) -> Self {
        let mut some = Self::default();
        for id in ids {
            let index = id.0 as usize;
            if some.codes.len() <= index {
                some.codes.resize(index + 1, None);
            }
            some.codes[index] = self.codes.get(index).cloned().flatten();
        }
        some
    }

    /// Lets go of all code objects but these.
    pub fn keep(&mut self, kept: impl IntoIterator<Item = CodeId>) {
        let mut is_kept = vec![false; self.codes.len()];
        for id in kept {
            if let Some(is_kept) = is_kept.get_mut(id.0 as usize) {
                *is_kept = true;
            }
        }
        for (index, (code, is_kept)) in self.codes.iter_mut().zip(is_kept).enumerate() {
            if !is_kept && let Some(code) = code.take() {
                self.ids.remove(&code);
                self.free.push(CodeId(index as u32));
            }
        }
        let held = self.codes.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.codes.truncate(held);
        self.free.retain(|id| (id.0 as usize) < held);
        // What one busy moment took is given back.
        if self.codes.capacity() > 4 * held.max(1024) {
            self.codes.shrink_to_fit();
            self.free.shrink_to_fit();
            self.ids.shrink_to_fit();
        }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(name: &str) -> Code {
        let mut code = Code::gone();
        code.name = name.into();
        code
    }

    #[test]
    fn what_nobody_has_is_let_go_and_a_window_keeps_what_it_took() {
        let mut codes = Codes::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| codes.intern(code(name)));
        assert_eq!(codes.intern(code("b")), b, "equal ones are one");
        let window = codes.some([a, b]);
        codes.keep([b]);
        assert_eq!((codes.len(), &*codes.get(b).name), (1, "b"));
        // Its number goes to another, of which the window knows nothing.
        let d = codes.intern(code("d"));
        assert!(d == a || d == c);
        assert_eq!((&*window.get(a).name, &*window.get(b).name), ("a", "b"));
        assert_ne!(codes.intern(code("a")), d);
    }

    #[test]
    fn numbers_do_not_grow_with_what_comes_and_goes() {
        let mut codes = Codes::default();
        for round in 0..100 {
            let ids: Vec<CodeId> = (0..50).map(|n| codes.intern(code(&format!("{round}.{n}")))).collect();
            assert!(ids.iter().all(|id| id.0 < 100), "{ids:?}");
            codes.keep(ids);
        }
        assert_eq!(codes.len(), 50);
    }
}
