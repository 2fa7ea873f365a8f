//! The memory of a walk, of one instant: how frames of a thread that runs are read.
//!
//! A thread enters and leaves functions while its frames are read one after the other, and what it has left lies there
//! until it is overwritten: a chain can lead from a function that has returned to one that came in its caller's place. So a
//! walk is done twice. The first time it is recorded which pieces of memory it takes; then these are read with one call,
//! and between the pointer to the innermost frame at its beginning and the same at its end some microseconds pass. If that is
//! the same, and the second walk, over these pieces, needs no others, there was no time for much else. That is no proof: a
//! piece takes half a microsecond here (kernel 6.18, a virtual machine), eleven of them 6.4, and a loop over five small
//! functions comes round in 0.8: 52 of 770 chains were of none of its moments. So what is read like this is marked.

use std::{
    cell::{Cell, RefCell},
    time::{self, Duration},
};

use crate::python::memory::{Piece, ReadMemory};

/// A walk takes four pieces, and two more for each 2 KiB of frames, or one for each frame up to 3.10.
const MOST_PIECES: usize = 600;

/// Memory that remembers what was read of it.
pub struct Recorded<'a> {
    memory: &'a dyn ReadMemory,
    pieces: RefCell<Vec<(u64, usize)>>,
}

impl<'a> Recorded<'a> {
    pub fn new(memory: &'a dyn ReadMemory) -> Self {
        Self {
            memory,
            pieces: RefCell::new(Vec::new()),
        }
    }

    /// What was read, in one call. At the `beginnings` it is said which frame is the innermost: that must be the same at
    /// its start and end, and in between.
    pub fn at_once(&self, beginnings: &[u64], pace: &mut Pace) -> Option<Instant> {
        let pieces = self.pieces.borrow();
        if pieces.len() + 2 * beginnings.len() > MOST_PIECES {
            return None;
        }
        let words = beginnings.iter().map(|&address| (address, 8));
        let all = words.clone().chain(pieces.iter().copied()).chain(words);
        let mut read: Vec<Piece> = all
            .map(|(address, len)| Piece {
                address,
                bytes: vec![0; len],
            })
            .collect();
        let began = time::Instant::now();
        let is_read = self.memory.read_pieces(&mut read);
        if !pace.keeps(began.elapsed()) || !is_read {
            return None;
        }
        let (before, rest) = read.split_at(beginnings.len());
        let (pieces, after) = rest.split_at(rest.len() - beginnings.len());
        let instant = Instant {
            pieces: pieces.to_vec(),
            is_left: Cell::new(false),
        };
        let has_not_moved = |word: &Piece| {
            let between = instant.find(word.address, word.bytes.len());
            between.is_none_or(|between| between == word.bytes)
        };
        (before == after && before.iter().all(has_not_moved)).then_some(instant)
    }
}

/// How long a call takes when nothing comes in between. One that takes longer was interrupted in the middle: this thread
/// had to wait for a CPU, and the other went on meanwhile.
#[derive(Debug, Default)]
pub struct Pace {
    calls: u32,
    shortest: Duration,
}

impl Pace {
    fn keeps(&mut self, took: Duration) -> bool {
        /// These only tell how long it takes.
        const MEASURED: u32 = 3;
        self.shortest = match self.calls {
            0 => took,
            _ => self.shortest.min(took),
        };
        self.calls += 1;
        self.calls > MEASURED && took <= self.shortest * 2
    }
}

impl ReadMemory for Recorded<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let mut pieces = self.pieces.borrow_mut();
        if pieces.len() < MOST_PIECES && !pieces.contains(&(address, into.len())) {
            pieces.push((address, into.len()));
        }
        self.memory.read(address, into)
    }
}

/// Pieces of memory, as they were at one time.
pub struct Instant {
    pieces: Vec<Piece>,
    is_left: Cell<bool>,
}

impl Instant {
    /// Whether something was wanted that is not here.
    pub fn is_left(&self) -> bool {
        self.is_left.get()
    }

    fn find(&self, address: u64, len: usize) -> Option<&[u8]> {
        self.pieces.iter().find_map(|piece| {
            let from = usize::try_from(address.checked_sub(piece.address)?).ok()?;
            piece.bytes.get(from..from.checked_add(len)?)
        })
    }
}

impl ReadMemory for Instant {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let found = self.find(address, into.len());
        match found {
            Some(bytes) => into.copy_from_slice(bytes),
            None => self.is_left.set(true),
        }
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::memory::FakeMemory;

    /// Memory in which a word is another each time it is read.
    struct Moving {
        memory: FakeMemory,
        times: Cell<u64>,
    }

    impl ReadMemory for Moving {
        fn read(&self, address: u64, into: &mut [u8]) -> bool {
            self.times.set(self.times.get() + 1);
            match (address, into.len()) {
                (0x5000, 8) => {
                    into.copy_from_slice(&self.times.get().to_le_bytes());
                    true
                }
                _ => self.memory.read(address, into),
            }
        }
    }

    fn moving() -> Moving {
        let mut memory = FakeMemory::default();
        memory.put(0x1000, [7; 32]);
        Moving {
            memory,
            times: Cell::new(0),
        }
    }

    #[test]
    fn what_a_walk_took_is_there_and_nothing_else() {
        let moving = moving();
        let recorded = Recorded::new(&moving);
        assert_eq!(recorded.read_u64(0x1000), Some(0x0707_0707_0707_0707));
        assert!(recorded.read_u64(0x1010).is_some());
        let mut pace = Pace::default();
        let mut tries = (0..1000).filter_map(|_| recorded.at_once(&[0x1008], &mut pace));
        let instant = tries.next().expect("nothing moves there");
        assert!(instant.read_u64(0x1010).is_some() && !instant.is_left());
        assert!(instant.read_u64(0x1008).is_none() && instant.is_left());
    }

    #[test]
    fn an_instant_in_which_the_beginning_moved_is_none() {
        let moving = moving();
        let recorded = Recorded::new(&moving);
        recorded.read_u64(0x1000);
        let mut pace = Pace::default();
        assert!((0..1000).all(|_| recorded.at_once(&[0x5000], &mut pace).is_none()));
        // Read beside the walk, it must be what the walk has read.
        recorded.read_u64(0x5000);
        assert!((0..1000).all(|_| recorded.at_once(&[0x5000], &mut pace).is_none()));
    }

    #[test]
    fn a_call_that_took_long_was_interrupted() {
        let mut pace = Pace::default();
        let micros = Duration::from_micros;
        let kept: Vec<bool> = [5, 900, 4, 7, 9, 3000, 4].map(|took| pace.keeps(micros(took))).into();
        assert_eq!(kept, [false, false, false, true, false, false, true]);
    }
}
