//! Groups of programs: those of one kind of event, which have working memory of their own and are counted apart, so that
//! what one instrument costs and loses is not told of another.

use core::ops::Range;

use crate::limits::CONTEXTS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Group {
    /// The CPU clock, and hardware breakpoints.
    Clock = 0,
    /// Page faults.
    Faults = 1,
    /// Ends of system calls: of memory, and of waits where the kernel has no better place for them.
    Calls = 2,
    /// Probes on functions.
    Probes = 3,
    /// Waits of threads.
    Waits = 4,
}

/// All of them, in values of `TARGET_PIDS`.
pub const ALL_GROUPS: u32 = (1 << Group::ALL.len()) - 1;

impl Group {
    pub const ALL: [Self; 5] = [Self::Clock, Self::Faults, Self::Calls, Self::Probes, Self::Waits];

    /// Its slots of working memory, by which it is counted, too: rows of `STATS`.
    pub const fn slots(self) -> Range<u32> {
        match self {
            Self::Clock => 0..1,
            Self::Faults => 1..2,
            Self::Calls => 2..4,
            Self::Probes => 4..8,
            Self::Waits => 8..CONTEXTS,
        }
    }

    /// Its bit in values of `TARGET_PIDS` and in `Config::of_all`.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

const _: () = {
    let mut i = 0;
    let mut next = 0;
    while i < Group::ALL.len() {
        let slots = Group::ALL[i].slots();
        assert!(slots.start == next && slots.end > slots.start && Group::ALL[i] as usize == i);
        next = slots.end;
        i += 1;
    }
    assert!(next == CONTEXTS);
};
