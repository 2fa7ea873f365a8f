//! What happens to a process's memory after a `MemoryError` is not taken in at once.
//!
//! An interpreter that ends because nobody handles the error takes down all that it has first: what it had when there was no
//! more, which is what a reader wants to see, would be gone when its end is told. So what happens is held back until it is
//! known whether it ends or lives on.

use std::mem;

use profiler_common::limits::MEMORY_ERROR_QUIET_NS;

use super::event::{Event, What};

/// More than an interpreter needs to take down all it has: a page or a mapping each. Beyond, it is taken to live on.
const MOST: usize = 1 << 16;

#[derive(Clone, Debug, Default)]
pub struct Held {
    /// When the error was; 0 if nothing is held back.
    since_ns: u64,
    events: Vec<Event>,
}

impl Held {
    /// Whether an event is held back, or of no more interest. If not, what was held back comes first.
    pub fn takes(&mut self, event: &Event) -> bool {
        match event.what {
            // The first counts: what is freed for a second try is part of the same end.
            What::MemoryError => {
                if self.since_ns == 0 {
                    self.since_ns = event.time_ns;
                }
                true
            }
            _ if self.since_ns == 0 => false,
            // It ends: what it took down before is not told.
            What::RanOut { .. } => {
                self.events = Vec::new();
                false
            }
            What::Exit | What::Exec | What::Victim { .. } | What::Fork { .. } => false,
            _ if self.is_due(event.time_ns) || self.events.len() >= MOST => false,
            _ => {
                self.events.push(*event);
                true
            }
        }
    }

    /// Whether the process has lived on for so long that this was no end.
    pub fn is_due(&self, now_ns: u64) -> bool {
        self.since_ns != 0 && now_ns.saturating_sub(self.since_ns) > MEMORY_ERROR_QUIET_NS
    }

    /// What was held back, in order. Nothing more is, until the next error.
    pub fn release(&mut self) -> Vec<Event> {
        self.since_ns = 0;
        mem::take(&mut self.events)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn event(time_ns: u64, what: What) -> Event {
        Event { pid: 7, time_ns, what }
    }

    fn unmap(time_ns: u64) -> Event {
        let (start, bytes) = (1 << 20, 4096);
        event(time_ns, What::Unmap { start, bytes })
    }

    fn ran_out(time_ns: u64) -> Event {
        let what = What::RanOut {
            peak: 0,
            status: 1 << 8,
            error_ago: Duration::from_secs(1),
            address_space: None,
        };
        event(time_ns, what)
    }

    #[test]
    fn what_is_taken_down_between_an_error_and_the_end_is_not_told() {
        let mut held = Held::default();
        assert!(!held.takes(&unmap(SECOND)));
        assert!(held.takes(&event(2 * SECOND, What::MemoryError)));
        assert!(held.takes(&unmap(3 * SECOND)) && held.takes(&unmap(4 * SECOND)));
        assert!(!held.takes(&ran_out(5 * SECOND)));
        assert!(held.release().is_empty());
        assert!(!held.takes(&unmap(6 * SECOND)));
    }

    #[test]
    fn of_a_process_that_lives_on_all_is_told_in_order() {
        let mut held = Held::default();
        held.takes(&event(SECOND, What::MemoryError));
        let events = [unmap(2 * SECOND), unmap(3 * SECOND)];
        assert!(events.iter().all(|event| held.takes(event)));
        // It ends with 0, or runs something else.
        assert!(!held.takes(&event(4 * SECOND, What::Exit)));
        assert_eq!(held.release(), events);

        // Time goes by, or it does too much for an end.
        held.takes(&event(5 * SECOND, What::MemoryError));
        assert!(held.takes(&events[0]) && !held.is_due(15 * SECOND) && held.is_due(16 * SECOND));
        assert!(!held.takes(&unmap(16 * SECOND)));
        assert_eq!(held.release(), events[..1]);
        held.takes(&event(20 * SECOND, What::MemoryError));
        assert!((0..MOST).all(|_| held.takes(&unmap(21 * SECOND))) && !held.takes(&unmap(21 * SECOND)));
    }
}
