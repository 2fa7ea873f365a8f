//! Which births are followed, and what is known of each line.
//!
//! Births of one type by one line are a *stratum*. Within it, who is followed is drawn among those that are alive when their
//! window ends; how often each stratum's are is free to choose, since what was seen of it counts by how many were alive. So
//! lines whose objects stay are followed most: of those that keep nothing a few deaths say enough.

use rustc_hash::FxHashMap;

/// A type and a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stratum {
    pub kind: u64,
    pub place: u64,
}

/// What was seen of a stratum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Alive when their windows ended.
    pub alive: u64,
    /// Of them, those that were followed to the end, and those of these that had stayed.
    pub followed: u64,
    pub stayed: u64,
    /// Being followed now.
    pub under_way: u64,
}

impl Seen {
    /// How likely the next one stays.
    fn chance(&self) -> f64 {
        (self.stayed as f64 + 1.0) / ((self.followed + self.under_way) as f64 + 2.0)
    }
}

/// More are not told apart.
const MOST: usize = 1 << 14;

#[derive(Debug, Default)]
pub struct Strata {
    pub seen: FxHashMap<Stratum, Seen>,
}

impl Strata {
    pub fn of(&mut self, stratum: Stratum) -> Option<&mut Seen> {
        if self.seen.len() >= MOST && !self.seen.contains_key(&stratum) {
            return None;
        }
        Some(self.seen.entry(stratum).or_default())
    }

    /// Draws up to `most` of these, each of them a stratum's that is alive. Their numbers.
    pub fn draw(&self, alive: &[Stratum], most: usize, random: &mut fastrand::Rng) -> Vec<usize> {
        let mut weights: Vec<f64> = alive
            .iter()
            .map(|stratum| self.seen.get(stratum).map_or(0.5, Seen::chance))
            .collect();
        let mut drawn = Vec::new();
        while drawn.len() < most {
            let sum: f64 = weights.iter().sum();
            if sum <= 0.0 {
                break;
            }
            let mut at = random.f64() * sum;
            let found = weights.iter().position(|&weight| {
                at -= weight;
                at < 0.0 && weight > 0.0
            });
            let Some(found) = found else { break };
            weights[found] = 0.0;
            drawn.push(found);
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stratum(place: u64) -> Stratum {
        Stratum { kind: 1, place }
    }

    #[test]
    fn lines_whose_objects_stay_are_followed_more_than_lines_whose_objects_die() {
        let mut strata = Strata::default();
        for (place, followed, stayed) in [(1, 40, 0), (2, 4, 4)] {
            *strata.of(stratum(place)).unwrap() = Seen {
                followed,
                stayed,
                ..Seen::default()
            };
        }
        // Ten of the one for each of the other.
        let mut alive = vec![stratum(1); 10];
        alive.push(stratum(2));
        let mut random = fastrand::Rng::with_seed(1);
        let mut kept = 0;
        for _ in 0..1000 {
            let drawn = strata.draw(&alive, 1, &mut random);
            kept += usize::from(drawn == [10]);
        }
        // 10 / 42 to 5 / 6.
        assert!((700..860).contains(&kept), "{kept}");
    }

    #[test]
    fn no_birth_is_drawn_twice_and_no_more_than_there_are() {
        let strata = Strata::default();
        let alive = [stratum(1), stratum(2)];
        let mut drawn = strata.draw(&alive, 3, &mut fastrand::Rng::with_seed(1));
        drawn.sort_unstable();
        assert_eq!(drawn, [0, 1]);
        assert!(strata.draw(&[], 3, &mut fastrand::Rng::with_seed(1)).is_empty());
    }
}
