//! Which addresses are those of pools whose birth was told: a table of tags, four to a bucket.
//!
//! A table and not a map of addresses, because every birth of a pool looks there: a word of an array costs 5 ns, a look into
//! a hash map 40. A tag and its place are 49 bits of a hash, so two addresses that look alike are one in 10^14, and mean
//! no more than that a pool counts as born again. What is put where there are four already takes the oldest one's place.

/// Buckets of the table, 4 MiB. With 50,000 pools one in a million loses its place to another, with 200,000 (3 GiB of small
/// objects) one in five thousand. With two tags to a bucket one of 24,000 pools lost it in every other recording.
pub const BUCKETS: u32 = 1 << 18;

/// Four tags, the newest in the lower half of the first word; 0 where there is none.
pub type Bucket = [u64; 2];

/// Where a pool is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub bucket: u32,
    tag: u32,
}

impl Place {
    #[inline(always)]
    pub fn of(pid: u32, address: u64) -> Self {
        let mut hash = (address >> 12 ^ u64::from(pid) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        Self {
            bucket: (hash >> 13) as u32 % BUCKETS,
            // Never 0, which is what an empty place has.
            tag: (hash >> 32) as u32 | 1,
        }
    }

    #[inline(always)]
    pub fn is_in(self, bucket: Bucket) -> bool {
        self.is_in_word(bucket[0]) || self.is_in_word(bucket[1])
    }

    /// The bucket with this one in it, which was not, and whether another one has lost its place.
    #[inline(always)]
    pub fn put(self, [first, second]: Bucket) -> (Bucket, bool) {
        let first_is_full = first >> 32 != 0;
        let pushed = first << 32 | u64::from(self.tag);
        if first_is_full {
            // Its older one moves on.
            ([pushed, second << 32 | first >> 32], second >> 32 != 0)
        } else {
            ([pushed, second], false)
        }
    }

    /// The bucket without this one, which was in it.
    #[inline(always)]
    pub fn take_out(self, [first, second]: Bucket) -> Bucket {
        if self.is_in_word(first) {
            [self.out_of_word(first), second]
        } else {
            [first, self.out_of_word(second)]
        }
    }

    #[inline(always)]
    fn is_in_word(self, word: u64) -> bool {
        word as u32 == self.tag || (word >> 32) as u32 == self.tag
    }

    #[inline(always)]
    fn out_of_word(self, word: u64) -> u64 {
        if word as u32 == self.tag {
            word >> 32
        } else {
            word & u64::from(u32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn what_is_put_in_is_there_until_it_is_taken_out() {
        let places: Vec<Place> = (1..=5).map(|n| Place::of(n, 0x1000)).collect();
        let mut bucket = [0; 2];
        for (n, place) in places.iter().enumerate() {
            assert!(!place.is_in(bucket));
            let (with, lost) = place.put(bucket);
            assert_eq!(lost, n == 4, "the fifth takes the place of the first");
            bucket = with;
            assert!(places[n.saturating_sub(3)..=n].iter().all(|place| place.is_in(bucket)));
        }
        assert!(!places[0].is_in(bucket));
        for order in [[1, 2, 3, 4], [4, 3, 2, 1], [3, 1, 4, 2]] {
            let mut bucket = bucket;
            for n in order {
                assert!(places[n].is_in(bucket));
                bucket = places[n].take_out(bucket);
                assert!(!places[n].is_in(bucket));
            }
            assert_eq!(bucket, [0; 2]);
        }
        // Where one was taken out there is room again.
        for n in 1..=4 {
            let (with, lost) = places[0].put(places[n].take_out(bucket));
            assert!(!lost && places[0].is_in(with) && !places[n].is_in(with));
        }
    }

    #[test]
    fn pools_lie_all_over_the_table() {
        // As they lie in arenas: every 16 KiB.
        let mut buckets: HashMap<u32, u32> = HashMap::new();
        for n in 0..50_000u64 {
            *buckets
                .entry(Place::of(4242, 0x7f00_0000_0000 + (n << 14)).bucket)
                .or_default() += 1;
        }
        // By chance, 9 % would meet another, and one in a million four others.
        assert!(buckets.len() > 44_000, "{}", buckets.len());
        assert!(buckets.values().all(|&pools| pools <= 5));
    }
}
