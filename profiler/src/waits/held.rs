//! How long others waited for the GIL while the thread that had it was blocked: a thread that does not run, and does not
//! let others run either.
//!
//! Waits come in when they are over, so either of two that overlap may come first; what is recent of both is kept. Of one
//! GIL there is one holder at a time, and its waits do not overlap each other.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use profiler_common::wait::{WAIT_GIL, WAIT_STOPPED};

use super::{account::Key, stuck};
use crate::{
    process::pythons::PythonIn,
    python::memory::{ProcessMemory, ReadMemory as _},
};

/// `struct _gil_runtime_state`: `last_holder` and `locked` (3.8 – 3.15), as on the kernel side.
const LAST_HOLDER: u64 = 8;
const LOCKED: u64 = 16;

/// Waits of a process that are kept, of either kind: those of a minute where as many are drawn as there can be.
const MOST_KEPT: usize = 1 << 16;

/// When a wait was, CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from_ns: u64,
    pub to_ns: u64,
}

impl Span {
    pub fn ending(to_ns: u64, length_ns: u64) -> Self {
        Self {
            from_ns: to_ns.saturating_sub(length_ns),
            to_ns,
        }
    }

    pub fn overlap_ns(self, other: Self) -> u64 {
        self.to_ns
            .min(other.to_ns)
            .saturating_sub(self.from_ns.max(other.from_ns))
    }
}

/// A GIL: its process, and where it is.
type Gil = (u32, u64);

#[derive(Debug, Default)]
pub struct Meanwhile {
    gils: FxHashMap<Gil, Recent>,
    /// By what the holders' waits are summed up under.
    others_ns: FxHashMap<Key, f64>,
}

#[derive(Debug, Default)]
struct Recent {
    /// Waits for the GIL, and how many each stands for.
    wanted: VecDeque<(Span, f64)>,
    /// Waits of whoever had it, likewise.
    held: VecDeque<(Span, f64, Key)>,
}

impl Meanwhile {
    /// A thread has waited for a GIL; `stands_for` so many waits.
    pub fn wanted(&mut self, gil: Gil, span: Span, stands_for: f64) {
        let recent = self.gils.entry(gil).or_default();
        // Nearly in order of their ends.
        for (held, times, key) in recent
            .held
            .iter()
            .rev()
            .take_while(|(held, ..)| held.to_ns > span.from_ns)
        {
            *self.others_ns.entry(*key).or_default() += span.overlap_ns(*held) as f64 * stands_for * times;
        }
        keep(&mut recent.wanted, (span, stands_for));
    }

    /// A thread that had it has waited for something else; `times`: for how many such waits it stands, as each of two that
    /// overlap is drawn by itself.
    pub fn held(&mut self, gil: Gil, span: Span, times: f64, key: Key) {
        let recent = self.gils.entry(gil).or_default();
        let overlapping = recent.wanted.iter().rev();
        let overlapping = overlapping.take_while(|(wanted, _)| wanted.to_ns > span.from_ns);
        let sum: f64 = overlapping
            .map(|(wanted, stands_for)| span.overlap_ns(*wanted) as f64 * stands_for)
            .sum();
        *self.others_ns.entry(key).or_default() += sum * times;
        keep(&mut recent.held, (span, times, key));
    }

    /// How long others have waited, by what the holders' waits are summed up under.
    pub fn others_ns(&self) -> &FxHashMap<Key, f64> {
        &self.others_ns
    }
}

fn keep<T>(recent: &mut VecDeque<T>, new: T) {
    if recent.len() == MOST_KEPT {
        recent.pop_front();
    }
    recent.push_back(new);
}

/// Whether a thread in a wait of this class can have the GIL and keep it from others: not one that waits for it, nor of a
/// process that is stopped as a whole.
pub fn can_hold(class: u32) -> bool {
    !matches!(class, WAIT_GIL | WAIT_STOPPED)
}

/// Which thread has a GIL, read from outside: its number in its own pid namespace.
pub fn holder(python: &PythonIn, memory: ProcessMemory, gil: u64) -> Option<u32> {
    let word = |offset: u64| memory.read_u64(gil.wrapping_add(offset));
    // It stays named when it has given it up.
    match (word(LAST_HOLDER), word(LOCKED)) {
        (Some(state), Some(locked)) if state != 0 && locked as u32 == 1 => stuck::tid_of(python, memory, state),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waits::cause::Cause;

    fn key(tid: u32) -> Key {
        Key {
            pid: 1,
            tid,
            class: 3,
            cause: Cause::Sleep,
            holds_gil: true,
            site: 0,
            call: 0,
            target: 0,
        }
    }

    #[test]
    fn others_wait_as_long_as_the_two_waits_overlap_whichever_comes_first() {
        let mut meanwhile = Meanwhile::default();
        let span = |from_ns, to_ns| Span { from_ns, to_ns };
        // Waited for by two, one of which began before and goes on for longer.
        meanwhile.wanted((1, 16), span(100, 150), 1.0);
        meanwhile.held((1, 16), span(120, 200), 1.0, key(2));
        meanwhile.wanted((1, 16), span(90, 230), 1.0);
        let others = |meanwhile: &Meanwhile, tid| meanwhile.others_ns().get(&key(tid)).copied();
        assert_eq!(others(&meanwhile, 2), Some(30.0 + 80.0));
        // Another process's GIL is another one, and so is that of another interpreter.
        meanwhile.wanted((7, 16), span(100, 200), 1.0);
        meanwhile.wanted((1, 32), span(100, 200), 1.0);
        assert_eq!(others(&meanwhile, 2), Some(110.0));
        // A short wait stands for more.
        meanwhile.wanted((1, 16), span(190, 200), 4.0);
        assert_eq!(others(&meanwhile, 2), Some(150.0));
        assert_eq!(others(&meanwhile, 3), None);
        // So does one of who has it, whichever comes first.
        meanwhile.held((1, 16), span(195, 205), 3.0, key(3));
        assert_eq!(others(&meanwhile, 3), Some(3.0 * (5.0 * 4.0 + 10.0)));
        meanwhile.wanted((1, 16), span(200, 210), 2.0);
        assert_eq!(others(&meanwhile, 3), Some(90.0 + 3.0 * 2.0 * 5.0));
    }
}
