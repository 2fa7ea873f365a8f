//! What names of generated code take in all, by the user whose files they come from.
//!
//! One process is bounded by itself. A user with a thousand processes, each of which has as much as one may, would have us
//! hold a hundred gigabytes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Names of one user, in all processes. Thirty large node programs take as much.
const MOST_BYTES: u64 = 512 << 20;
/// What an entry takes besides its name: its place in the tree, and the counters before the name.
const ENTRY_BYTES: u64 = 64;

static HELD: Mutex<BTreeMap<u32, u64>> = Mutex::new(BTreeMap::new());

fn all() -> MutexGuard<'static, BTreeMap<u32, u64>> {
    // A sum of numbers is whole whenever somebody panics.
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one map has of it; given back when that goes.
pub struct Held {
    owner: u32,
    bytes: u64,
}

impl Held {
    /// Nothing yet, of this user's.
    pub fn new(owner: u32) -> Self {
        Self { owner, bytes: 0 }
    }

    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// Whether there is room for one more entry, which is taken.
    pub fn take(&mut self, name_bytes: usize) -> bool {
        let bytes = ENTRY_BYTES + name_bytes as u64;
        let mut all = all();
        let held = all.entry(self.owner).or_default();
        if *held + bytes > MOST_BYTES {
            return false;
        }
        *held += bytes;
        self.bytes += bytes;
        true
    }

    /// One entry less.
    pub fn give(&mut self, name_bytes: usize) {
        self.give_bytes(ENTRY_BYTES + name_bytes as u64);
    }

    pub fn give_all(&mut self) {
        self.give_bytes(self.bytes);
    }

    fn give_bytes(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let mut all = all();
        if let Some(held) = all.get_mut(&self.owner) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                all.remove(&self.owner);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of no user that another test could have.
    const USERS: [u32; 2] = [u32::MAX - 1, u32::MAX - 2];

    #[test]
    fn one_user_s_names_are_bounded_in_all_maps_and_go_with_them() {
        const NAME: usize = 1 << 20;
        let mut maps = [USERS[0], USERS[0], USERS[1]].map(Held::new);
        let [first, second, other] = &mut maps;
        let taken = (0..1_000).take_while(|_| first.take(NAME)).count();
        assert_eq!(taken, 511);
        assert!(!second.take(NAME) && other.take(NAME));
        first.give(NAME);
        assert!(second.take(NAME) && !second.take(NAME));
        drop(maps);
        assert!(USERS.iter().all(|user| !all().contains_key(user)));
    }
}
