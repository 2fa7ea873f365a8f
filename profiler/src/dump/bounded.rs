//! Memory that is read for so long, and so much of it, and no more.
//!
//! What is in another process is chosen by others: chains that are circles, a thousand code objects that allege a
//! megabyte each. Every reader here has limits of its own; this is the one behind all of them.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use crate::python::memory::{Piece, ReadMemory};

/// What one process may take. A hundred threads with deep stacks take some 50 ms and 3 MiB.
pub const MOST_TIME: Duration = Duration::from_millis(1_500);
pub const MOST_BYTES: u64 = 64 << 20;

/// Somebody's memory, of which there is no more when the time is up.
pub struct Bounded<'a> {
    memory: &'a dyn ReadMemory,
    until: Instant,
    bytes_left: Cell<u64>,
}

impl<'a> Bounded<'a> {
    pub fn new(memory: &'a dyn ReadMemory, time: Duration, bytes: u64) -> Self {
        Self {
            memory,
            until: Instant::now() + time,
            bytes_left: Cell::new(bytes),
        }
    }

    /// Whether anything was, or will be, left out for it.
    pub fn is_spent(&self) -> bool {
        self.bytes_left.get() == 0 || Instant::now() >= self.until
    }
}

impl ReadMemory for Bounded<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let Some(left) = self.bytes_left.get().checked_sub(into.len() as u64) else {
            self.bytes_left.set(0);
            return false;
        };
        self.bytes_left.set(left);
        Instant::now() < self.until && self.memory.read(address, into)
    }

    fn read_pieces(&self, pieces: &mut [Piece]) -> bool {
        let bytes: u64 = pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
        let Some(left) = self.bytes_left.get().checked_sub(bytes) else {
            self.bytes_left.set(0);
            return false;
        };
        self.bytes_left.set(left);
        Instant::now() < self.until && self.memory.read_pieces(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::memory::FakeMemory;

    fn memory() -> FakeMemory {
        let mut memory = FakeMemory::default();
        memory.put(0x1000, [7; 64]);
        memory
    }

    #[test]
    fn what_is_beyond_the_bytes_is_not_read() {
        let memory = memory();
        let bounded = Bounded::new(&memory, Duration::from_secs(60), 24);
        assert!(bounded.read(0x1000, &mut [0; 16]) && !bounded.is_spent());
        assert!(!bounded.read(0x1000, &mut [0; 16]) && bounded.is_spent());
        assert!(!bounded.read(0x1000, &mut [0; 1]));
    }

    #[test]
    fn nothing_is_read_when_the_time_is_up() {
        let memory = memory();
        let bounded = Bounded::new(&memory, Duration::ZERO, 1 << 20);
        assert!(!bounded.read(0x1000, &mut [0; 1]) && bounded.is_spent());
    }
}
