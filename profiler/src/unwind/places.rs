//! Which file has which place among those that the kernel side can be told of.
//!
//! The places are few (16,384 for a whole machine), and anybody can make files and map them: one user's files may have a
//! share of them, as of rows, pages and rules. What finds none is told as that; others' files are not in its way.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::rules::ROOT;

/// How long the kernel side may still read a list of mappings with a place of a file that is gone.
const GRACE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Places {
    most: u32,
    /// What one user's files may have, unless the user is root.
    most_of_user: u32,
    /// Place and owner, by file.
    files: FxHashMap<u32, (u32, u32)>,
    held: FxHashMap<u32, u32>,
    /// Given back, and since when.
    free: VecDeque<(Instant, u32)>,
    /// From here on none was ever given.
    next: u32,
    /// Files without a place, each of which is counted once.
    refused: FxHashSet<u32>,
}

impl Places {
    /// `parts`: one user may have one of so many.
    pub fn new(most: u32, parts: u32) -> Self {
        Self {
            most,
            most_of_user: most / parts.max(1),
            files: FxHashMap::default(),
            held: FxHashMap::default(),
            free: VecDeque::new(),
            next: 0,
            refused: FxHashSet::default(),
        }
    }

    pub fn get(&self, file: u32) -> Option<u32> {
        self.files.get(&file).map(|&(place, _)| place)
    }

    /// A place for a file that has none. `None` if there is none, or none for this owner.
    pub fn take(&mut self, file: u32, owner: u32, now: Instant) -> Option<u32> {
        let held = self.held.get(&owner).copied().unwrap_or(0);
        if owner != ROOT && held >= self.most_of_user {
            return None;
        }
        let place = match self.free.front() {
            Some(&(since, place)) if now.saturating_duration_since(since) >= GRACE => {
                self.free.pop_front();
                place
            }
            Some(_) | None if self.next < self.most => {
                self.next += 1;
                self.next - 1
            }
            Some(_) | None => return None,
        };
        self.refused.remove(&file);
        self.files.insert(file, (place, owner));
        self.held.insert(owner, held + 1);
        Some(place)
    }

    /// Whether it is the first time that a file is said to have none.
    pub fn refuse(&mut self, file: u32) -> bool {
        self.refused.insert(file)
    }

    /// Takes a file's place from it. Returns which it was.
    pub fn give_back(&mut self, file: u32, now: Instant) -> Option<u32> {
        self.refused.remove(&file);
        let (place, owner) = self.files.remove(&file)?;
        if let Some(held) = self.held.get_mut(&owner) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&owner);
            }
        }
        self.free.push_back((now, place));
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: u32 = 1000;

    #[test]
    fn a_user_who_makes_ever_new_files_leaves_places_to_others() {
        let now = Instant::now();
        let mut places = Places::new(8, 2);
        let taken = (0..100).filter_map(|file| places.take(file, USER, now)).count();
        assert_eq!(taken, 4);
        assert_eq!(places.take(200, USER + 1, now), Some(4));
        // Root may have what is left.
        let taken: Vec<_> = (300..310).filter_map(|file| places.take(file, ROOT, now)).collect();
        assert_eq!(taken, [5, 6, 7]);
        assert!(places.refuse(400) && !places.refuse(400));
    }

    #[test]
    fn a_place_is_anothers_when_nobody_can_take_it_for_the_first_ones_any_more() {
        let now = Instant::now();
        let mut places = Places::new(1, 1);
        assert_eq!(places.take(1, USER, now), Some(0));
        assert_eq!(places.get(1), Some(0));
        assert_eq!(places.give_back(1, now), Some(0));
        assert_eq!((places.get(1), places.give_back(1, now)), (None, None));
        assert_eq!(places.take(2, USER, now + GRACE / 2), None);
        assert_eq!(places.take(2, USER, now + GRACE), Some(0));
        // What is held is counted on.
        assert_eq!(places.take(3, USER, now + 9 * GRACE), None);
    }
}
