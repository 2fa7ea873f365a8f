//! Which addresses are those of pools whose birth was told: a table of tags, two to a word.
//!
//! A table and not a map of addresses, because every birth of a pool looks there: a word of an array costs 5 ns, a look into
//! a hash map 40. A tag and its place are 50 bits of a hash, so two addresses that look alike are one in 10^15, and mean
//! no more than that a pool counts as born again. What is put where there are two already takes the older one's place.

/// Words of the table: 4 MiB. With 50,000 pools, one in a thousand loses its place to another.
pub const WORDS: u32 = 1 << 19;

/// Where a pool is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub word: u32,
    tag: u32,
}

impl Place {
    #[inline(always)]
    pub fn of(pid: u32, address: u64) -> Self {
        let mut hash = (address >> 12 ^ u64::from(pid) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        Self {
            word: (hash >> 13) as u32 % WORDS,
            // Never 0, which is what an empty place has.
            tag: (hash >> 32) as u32 | 1,
        }
    }

    #[inline(always)]
    pub fn is_in(self, word: u64) -> bool {
        word as u32 == self.tag || (word >> 32) as u32 == self.tag
    }

    /// The word with this one in it, which was not, and whether another one has lost its place.
    #[inline(always)]
    pub fn put(self, word: u64) -> (u64, bool) {
        (word << 32 | u64::from(self.tag), word >> 32 != 0)
    }

    /// The word without this one, which was in it.
    #[inline(always)]
    pub fn take_out(self, word: u64) -> u64 {
        if word as u32 == self.tag {
            word >> 32
        } else {
            word & u64::from(u32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn what_is_put_in_is_there_until_it_is_taken_out() {
        let (a, b, c) = (Place::of(1, 0x1000), Place::of(1, 0x2000), Place::of(2, 0x1000));
        assert!(!a.is_in(0));
        let (word, lost) = a.put(0);
        assert!(a.is_in(word) && !b.is_in(word) && !lost);
        let (word, lost) = b.put(word);
        assert!(a.is_in(word) && b.is_in(word) && !lost);
        let (full, lost) = c.put(word);
        assert!(!a.is_in(full) && b.is_in(full) && c.is_in(full) && lost);
        assert_eq!(b.take_out(a.take_out(word)), 0);
        assert_eq!(a.take_out(b.take_out(word)), 0);
    }

    #[test]
    fn pools_lie_all_over_the_table() {
        // As they lie in arenas: every 16 KiB.
        let words: HashSet<u32> = (0..50_000)
            .map(|n| Place::of(4242, 0x7f00_0000_0000 + (n << 14)).word)
            .collect();
        // By chance, 4.6 % would meet another.
        assert!(words.len() > 47_000, "{}", words.len());
    }
}
