//! Stacks as the kernel side has sent them. It sends each once and refers to it by its key from then on, so they are kept:
//! but not those of processes that have ended, and in a recording that is cut not those that have not been met for long.

use std::mem;

use profiler_common::record::StackKey;
use rustc_hash::FxHashSet;

use crate::{
    decode::RawStack,
    process::table::{CodeAt, Process},
    window,
};

/// Windows after which a stack is let go that was not met any more. Should it be met again, it is sent again, once.
const REMEMBERED_WINDOWS: u32 = 10;

#[derive(Debug, Default)]
pub(super) struct RawStacks {
    pub stacks: window::RawStacks,
    /// The window in which each was met last, by its index.
    met: Vec<u32>,
    /// Counts windows.
    window: u32,
    /// Memory the stacks take up.
    pub bytes: usize,
    /// Those of processes that have ended: nobody will have them again.
    pub ended: Vec<StackKey>,
    /// What the kernel side was told to forget at the last cut, and has not sent again since.
    leaving: Leaving,
}

/// Samples that refer to something can be on their way when the kernel side forgets it. So it is kept for a window more.
#[derive(Debug, Default)]
struct Leaving {
    stacks: FxHashSet<StackKey>,
    codes: FxHashSet<(u32, CodeAt)>,
}

impl RawStacks {
    /// A sample was taken of this one.
    pub fn meet(&mut self, index: usize) {
        if let Some(met) = self.met.get_mut(index) {
            *met = self.window;
        }
    }

    /// The kernel side has sent this one, so it takes it for known. Returns the one that was known under the same key.
    pub fn insert(&mut self, key: StackKey, stack: RawStack) -> Option<RawStack> {
        self.leaving.stacks.remove(&key);
        self.bytes += stack.bytes();
        let (index, before) = self.stacks.insert_full(key, stack);
        self.bytes -= before.as_ref().map_or(0, RawStack::bytes);
        self.met.resize(self.stacks.len(), self.window);
        self.meet(index);
        before
    }

    /// The kernel side has sent a code object.
    pub fn insert_code(&mut self, pid: u32, code: CodeAt) {
        self.leaving.codes.remove(&(pid, code));
    }

    /// Keeps only these; nothing may be counted by number.
    pub fn retain(&mut self, mut kept: impl FnMut(&StackKey, &RawStack) -> bool) {
        let mut met = mem::take(&mut self.met).into_iter();
        let bytes = &mut self.bytes;
        let mut stay = Vec::with_capacity(met.len());
        self.stacks.retain(|key, stack| {
            let met = met.next().unwrap_or_default();
            let stays = kept(key, stack);
            match stays {
                true => stay.push(met),
                false => *bytes -= stack.bytes(),
            }
            stays
        });
        self.met = stay;
        // What one busy moment took is given back.
        if self.stacks.capacity() > 4 * self.stacks.len().max(1024) {
            self.stacks.shrink_to_fit();
            self.met.shrink_to_fit();
        }
    }

    /// Ends a window: lets go of the stacks of processes that have ended, and of those that nobody has met for long, with
    /// their code. Nothing may be counted by number. Returns what the kernel side is to forget.
    pub fn cut<'a>(&mut self, processes: impl Iterator<Item = &'a mut Process>) -> super::Forgotten {
        let ended: FxHashSet<StackKey> = mem::take(&mut self.ended).into_iter().collect();
        let leaving = mem::take(&mut self.leaving);
        let (window, met) = (self.window, self.met.clone());
        let mut forgotten = super::Forgotten::default();
        let mut index = 0;
        self.retain(|key, stack| {
            let met_now = met.get(index) == Some(&window);
            index += 1;
            let goes = ended.contains(key) || leaving.stacks.contains(key) && !met_now;
            // Should a number of a process come back, a stack of its must not be taken for known.
            forgotten.stacks.extend(ended.contains(key).then_some(stack.place));
            !goes
        });
        self.window += 1;
        for ((key, stack), met) in self.stacks.iter().zip(&self.met) {
            if met + REMEMBERED_WINDOWS < self.window {
                self.leaving.stacks.insert(*key);
                forgotten.stacks.push(stack.place);
            }
        }
        if leaving.stacks.is_empty() && leaving.codes.is_empty() && self.leaving.stacks.is_empty() {
            return forgotten;
        }
        for process in processes {
            process.stacks.retain(|key| self.stacks.contains_key(key));
            let pid = process.pid;
            process.let_go(|at| leaving.codes.contains(&(pid, *at)));
            if !process.stacks.iter().any(|key| self.leaving.stacks.contains(key)) {
                continue;
            }
            let staying = process.stacks.iter().filter(|key| !self.leaving.stacks.contains(key));
            let staying = staying.filter_map(|key| self.stacks.get(key));
            let used: FxHashSet<CodeAt> = staying.flat_map(|stack| &*stack.python).map(CodeAt::from).collect();
            for (at, key) in process.code_keys().filter(|(at, _)| !used.contains(at)) {
                self.leaving.codes.insert((process.pid, at));
                forgotten.codes.push(key);
            }
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::record::{NATIVE_COMPLETE, PYTHON_NONE};

    use super::*;

    fn key(number: u64) -> StackKey {
        StackKey { hash: [number, 1] }
    }

    fn stack(number: u64) -> RawStack {
        RawStack {
            kernel: Box::default(),
            native: [number].into(),
            native_status: NATIVE_COMPLETE,
            python: Box::default(),
            python_flags: 0,
            python_status: PYTHON_NONE,
            place: key(number),
        }
    }

    fn meet(raw: &mut RawStacks, number: u64) -> bool {
        let index = raw.stacks.get_index_of(&key(number));
        index.inspect(|&index| raw.meet(index)).is_some()
    }

    fn cut(raw: &mut RawStacks) -> Vec<StackKey> {
        raw.cut(std::iter::empty()).stacks
    }

    #[test]
    fn what_nobody_meets_is_let_go_a_window_after_the_kernel_side_has_forgotten_it() {
        let mut raw = RawStacks::default();
        for number in 1..=3 {
            raw.insert(key(number), stack(number));
        }
        let mut asked = Vec::new();
        for window in 0..30 {
            assert!(meet(&mut raw, 1), "in window {window}");
            asked.extend(cut(&mut raw).into_iter().map(|key| (window, key)));
            if asked.len() == 2 && window == asked[0].0 {
                assert_eq!(raw.stacks.len(), 3, "samples may be on their way");
                // And so one was.
                assert!(meet(&mut raw, 3));
            }
        }
        let first = u64::from(REMEMBERED_WINDOWS);
        assert_eq!(asked[..2], [(first, key(2)), (first, key(3))]);
        // It was kept for that sample, and then let go as any other.
        assert_eq!(asked[2..], [(2 * first + 1, key(3))]);
        assert_eq!(raw.stacks.keys().collect::<Vec<_>>(), [&key(1)]);
        assert_eq!(raw.bytes, stack(1).bytes());
    }

    #[test]
    fn what_is_sent_again_while_it_leaves_stays() {
        let mut raw = RawStacks::default();
        raw.insert(key(1), stack(1));
        while cut(&mut raw).is_empty() {}
        assert_eq!(raw.insert(key(1), stack(1)), Some(stack(1)));
        cut(&mut raw);
        assert_eq!((raw.stacks.len(), raw.bytes), (1, stack(1).bytes()));
    }
}
