//! Which parts of a shared array are free.

use std::ops::Range;

/// Free ranges of an array that is divided into shards; no range that is handed out crosses from one into the next.
#[derive(Debug)]
pub struct Runs {
    shard: u32,
    /// In order, never touching each other, each inside one shard.
    free: Vec<Range<u32>>,
}

impl Runs {
    /// `shards` times `shard` elements, all of them free.
    pub fn new(shards: u32, shard: u32) -> Self {
        let starts = (0..shards).map(|index| index * shard);
        Self {
            shard,
            free: starts.map(|start| start..start + shard).collect(),
        }
    }

    /// The first place that has room for `len`; `None` if there is none.
    pub fn take(&mut self, len: u32) -> Option<u32> {
        if len == 0 {
            return Some(0);
        }
        let index = self.free.iter().position(|range| range.end - range.start >= len)?;
        let range = &mut self.free[index];
        let start = range.start;
        range.start += len;
        if range.start == range.end {
            self.free.remove(index);
        }
        Some(start)
    }

    /// Gives back what [`Runs::take`] handed out.
    pub fn give(&mut self, start: u32, len: u32) {
        if len == 0 {
            return;
        }
        let end = start + len;
        let index = self.free.partition_point(|range| range.start < start);
        self.free.insert(index, start..end);
        self.join(index);
        if let Some(before) = index.checked_sub(1) {
            self.join(before);
        }
    }

    pub fn free(&self) -> u64 {
        self.free.iter().map(|range| u64::from(range.end - range.start)).sum()
    }

    /// Makes one range of this and the next if they touch inside a shard.
    fn join(&mut self, index: usize) {
        if let (Some(this), Some(next)) = (self.free.get(index), self.free.get(index + 1))
            && this.end == next.start
            && !this.end.is_multiple_of(self.shard)
        {
            self.free[index].end = next.end;
            self.free.remove(index + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_run_never_crosses_a_shard() {
        let mut runs = Runs::new(2, 10);
        assert_eq!(runs.take(6), Some(0));
        assert_eq!(runs.take(6), Some(10));
        assert_eq!(runs.take(6), None);
        assert_eq!(runs.take(4), Some(6));
        runs.give(6, 4);
        runs.give(10, 6);
        // Neighbours, but of two shards.
        assert_eq!(runs.take(10), Some(10));
    }

    proptest! {
        #[test]
        fn what_is_given_back_can_be_taken_again(lens in proptest::collection::vec(0u32..40, 0..60)) {
            let mut runs = Runs::new(4, 64);
            let taken: Vec<_> = lens.iter().filter_map(|&len| Some((runs.take(len)?, len))).collect();
            let used: u64 = taken.iter().map(|&(_, len)| u64::from(len)).sum();
            prop_assert_eq!(runs.free(), 256 - used);
            for (index, &(start, len)) in taken.iter().enumerate() {
                prop_assert!(len == 0 || start / 64 == (start + len - 1) / 64);
                for &(other, other_len) in &taken[..index] {
                    prop_assert!(start + len <= other || other + other_len <= start || len == 0 || other_len == 0);
                }
            }
            for (start, len) in taken {
                runs.give(start, len);
            }
            prop_assert_eq!(runs.free, vec![0..64, 64..128, 128..192, 192..256]);
        }
    }
}
