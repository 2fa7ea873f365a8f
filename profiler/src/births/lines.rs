//! What survivors say of lines.
//!
//! A survivor counts if it is still what it was, and hangs where something became more: what a cache of constant size has, or
//! a cycle that waits for a full collection, stays a while, too. Each stands for the births of its type and line that were
//! alive in windows, divided by those that were followed; so lines that were followed more often than others do not get more.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{
    choice::Seen,
    driver::{Outcome, Tally},
};
use crate::{
    memory::event::SiteId,
    objects::{
        account::{Path, RootKind},
        growth::{Change, Growth},
        watch::Hanging,
    },
};

/// Fewer survivors say that they were seen, and not what share they are.
pub const ENOUGH: u64 = 10;

/// A survivor that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Proof {
    pub site: SiteId,
    pub weight: f64,
    /// In [`Kept::paths`].
    pub path: usize,
}

/// Survivors that do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Not there any more, or something else.
    pub gone: u64,
    /// Where they hang nothing became more.
    pub steady: u64,
    /// Nothing holds them, and no full collection was since they were made.
    pub garbage: u64,
    /// Dicts with the attributes of objects: the line that makes those is to be told.
    pub parts: u64,
    /// Their stacks were lost.
    pub lost: u64,
}

/// A way to what became more, on which survivors hang.
#[derive(Clone, Debug)]
pub struct Grown {
    pub path: Path,
    pub change: Change,
    /// With what hangs on that, as far as it has no survivors of its own: strings, numbers, and dicts of them, which the
    /// collector does not track.
    pub held: i64,
    /// How many of all objects that hang there the collector tracks: of others no birth is seen.
    pub tracked: f64,
}

impl Grown {
    /// Whether survivors can speak for what hangs there. Dicts of numbers and strings are not tracked up to 3.13, and may be
    /// made by other lines than those that are.
    pub fn is_most(&self) -> bool {
        self.tracked >= 0.9
    }
}

/// What watchpoints came to.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub pid: u32,
    pub proofs: Vec<Proof>,
    pub paths: Vec<Grown>,
    pub left_out: LeftOut,
    pub tally: Tally,
    /// How long an object was followed, and for how long windows were opened.
    pub follow: Duration,
    pub length: Duration,
    /// What became more of all objects.
    pub grown: i64,
}

impl Kept {
    /// `hanging`: of each survivor, if it is still what it was.
    pub fn new(
        outcome: &Outcome,
        sites: &FxHashMap<u64, SiteId>,
        hanging: &[Option<Hanging>],
        growth: Option<&Growth>,
    ) -> Self {
        let mut kept = Self {
            pid: outcome.pid,
            tally: outcome.tally,
            follow: outcome.follow,
            length: outcome.length,
            grown: growth.map_or(0, |growth| growth.total.whole),
            ..Self::default()
        };
        let Some(growth) = growth else { return kept };
        let mut known: FxHashMap<&Path, usize> = FxHashMap::default();
        for (survivor, hanging) in outcome.survivors.iter().zip(hanging) {
            let Some(Hanging { path, tracked }) = hanging else {
                kept.left_out.gone += 1;
                continue;
            };
            let grown = growth.holders.iter().find(|(other, _)| other == path);
            let Some((path, change)) = grown.filter(|(_, change)| change.objects > 0 && change.whole > 0) else {
                kept.left_out.steady += 1;
                continue;
            };
            if path.steps.last().is_some_and(|step| &*step.attribute == "__dict__") {
                kept.left_out.parts += 1;
                continue;
            }
            if path.root.kind == RootKind::Unseen && survivor.collections >= outcome.collections {
                kept.left_out.garbage += 1;
                continue;
            }
            let Some(&site) = sites.get(&survivor.number) else {
                kept.left_out.lost += 1;
                continue;
            };
            let path = *known.entry(path).or_insert_with(|| {
                kept.paths.push(Grown {
                    path: path.clone(),
                    change: *change,
                    held: change.whole,
                    tracked: *tracked,
                });
                kept.paths.len() - 1
            });
            let seen = outcome.strata.get(&survivor.stratum);
            kept.proofs.push(Proof {
                site,
                weight: seen.map_or(1.0, weight),
                path,
            });
        }
        kept.hang(growth);
        kept
    }

    /// Adds what has no survivors to what it hangs on: the nearest that has some.
    fn hang(&mut self, growth: &Growth) {
        for (path, change) in growth.holders.iter().filter(|(_, change)| change.whole > 0) {
            let bearers = self.paths.iter_mut().filter(|grown| hangs_on(path, &grown.path));
            if let Some(bearer) = bearers.max_by_key(|grown| grown.path.steps.len())
                && bearer.path != *path
            {
                bearer.held += change.whole;
            }
        }
    }

    /// Lines by what they keep, most first. `line`: what a site is told of.
    pub fn lines<T: Clone + Ord>(&self, line: impl Fn(SiteId) -> T) -> Vec<Line<T>> {
        let mut of: FxHashMap<usize, Sum> = FxHashMap::default();
        let mut sums: Vec<(usize, T, Sum)> = Vec::new();
        for proof in &self.proofs {
            of.entry(proof.path).or_default().add(proof.weight);
            let line = line(proof.site);
            match sums
                .iter_mut()
                .find(|(path, other, _)| *path == proof.path && *other == line)
            {
                Some((.., sum)) => sum.add(proof.weight),
                None => {
                    let mut sum = Sum::default();
                    sum.add(proof.weight);
                    sums.push((proof.path, line, sum));
                }
            }
        }
        let mut lines: Vec<Line<T>> = sums
            .into_iter()
            .filter_map(|(path, line, sum)| {
                let all = of.get(&path)?;
                // A birth at the place of one that is followed can be missed, rarely: who was seen but once, beside others, is not
                // named.
                if sum.count == 1 && all.count > 1 {
                    return None;
                }
                let share = sum.weight / all.weight;
                Some(Line {
                    line,
                    path,
                    seen: sum.count,
                    of: all.count,
                    share,
                    interval: apart(interval(share, all.effective()), sum.count < all.count),
                    is_most: self.paths[path].is_most(),
                })
            })
            .collect();
        let bytes = |line: &Line<T>| line.share * self.paths[line.path].held as f64;
        lines.sort_by(|a, b| {
            let key = bytes(b).total_cmp(&bytes(a));
            key.then(b.seen.cmp(&a.seen))
                .then(a.line.cmp(&b.line))
                .then(a.path.cmp(&b.path))
        });
        lines
    }

    /// What of the growth has lines.
    pub fn explained(&self) -> i64 {
        self.paths.iter().map(|grown| grown.held).sum()
    }

    /// What stops took of the CPU time that the process used for itself.
    pub fn share(&self) -> f64 {
        let own = self.tally.process_ns.saturating_sub(self.tally.hits_ns).max(1);
        self.tally.hits_ns as f64 / own as f64
    }
}

/// A line that keeps objects.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<T> {
    pub line: T,
    /// In [`Kept::paths`].
    pub path: usize,
    /// Survivors of this line that hang there, and of all lines.
    pub seen: u64,
    pub of: u64,
    /// Of what became more there, and where the true share lies, nineteen times of twenty.
    pub share: f64,
    pub interval: (f64, f64),
    /// See [`Grown::is_most`].
    pub is_most: bool,
}

impl<T> Line<T> {
    /// Enough were seen for a share.
    pub fn is_sure(&self) -> bool {
        self.of >= ENOUGH && self.is_most
    }
}

/// Whether one is the other, or goes on from it.
fn hangs_on(path: &Path, other: &Path) -> bool {
    path.root == other.root && path.steps.starts_with(&other.steps)
}

fn weight(seen: &Seen) -> f64 {
    match (seen.alive, seen.followed) {
        (0, _) | (_, 0) => 1.0,
        (alive, followed) => alive as f64 / followed as f64,
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    count: u64,
    weight: f64,
    squares: f64,
}

impl Sum {
    fn add(&mut self, weight: f64) {
        self.count += 1;
        self.weight += weight;
        self.squares += weight * weight;
    }

    /// How many of equal weight say as much.
    fn effective(&self) -> f64 {
        if self.squares > 0.0 {
            self.weight * self.weight / self.squares
        } else {
            0.0
        }
    }
}

/// How much more often a line can be met than another that makes as many: windows are of one length in the process's own
/// time only as far as it is known what a stop takes, and lines that make many at once are stopped most.
const UNEVEN: f64 = 3.0;

/// Where there are several lines, which can be met unevenly.
fn apart((low, high): (f64, f64), are_several: bool) -> (f64, f64) {
    let scaled = |share: f64, factor: f64| share * factor / (share * factor + 1.0 - share);
    match are_several {
        true => (scaled(low, 1.0 / UNEVEN), scaled(high, UNEVEN)),
        false => (low, high),
    }
}

/// Wilson's, of 95 %.
fn interval(share: f64, number: f64) -> (f64, f64) {
    const Z: f64 = 1.96;
    if number <= 0.0 {
        return (0.0, 1.0);
    }
    let scale = 1.0 + Z * Z / number;
    let middle = (share + Z * Z / (2.0 * number)) / scale;
    let half = Z / scale * (share * (1.0 - share) / number + Z * Z / (4.0 * number * number)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        births::{Survivor, choice::Stratum},
        objects::account::{RootName, Step},
    };

    fn path(name: &str) -> Path {
        Path {
            root: RootName {
                kind: if name.is_empty() {
                    RootKind::Unseen
                } else {
                    RootKind::Module
                },
                name: name.into(),
            },
            steps: vec![Step {
                attribute: "CACHE".into(),
                kind: "dict".into(),
            }],
        }
    }

    #[test]
    fn what_has_no_survivors_counts_for_what_it_hangs_on() {
        let mut growth = growth(&[("shop", 10), ("other", 7)]);
        let (_, change) = growth.holders[0].clone();
        for (kinds, objects) in [(&["list"][..], 500), (&["list", "str"], 50), (&["str"], 5)] {
            let mut path = path("shop");
            path.steps.extend(kinds.iter().map(|&kind| Step {
                attribute: "".into(),
                kind: kind.into(),
            }));
            growth.holders.push((
                path,
                Change {
                    whole: objects,
                    ..change
                },
            ));
        }
        let (outcome, mut hanging) = outcome(&[(1, "shop"), (2, "shop")], &[]);
        // The second one is a list.
        if let Some(hanging) = &mut hanging[1] {
            hanging.path = growth.holders[2].0.clone();
        }
        let kept = Kept::new(&outcome, &sites(), &hanging, Some(&growth));
        let held: Vec<i64> = kept.paths.iter().map(|grown| grown.held).collect();
        assert_eq!(held, [1000 + 5, 500 + 50]);
        assert_eq!(kept.explained(), 1555);
    }

    fn growth(holders: &[(&str, i64)]) -> Growth {
        let change = |objects: i64| Change {
            objects,
            own: 100 * objects,
            whole: 100 * objects,
            ..Change::default()
        };
        Growth {
            holders: holders
                .iter()
                .map(|&(name, objects)| (path(name), change(objects)))
                .collect(),
            ..Growth::default()
        }
    }

    /// Survivors by the place that made each, which is its site, too; and where they hang.
    fn outcome(survivors: &[(u64, &str)], seen: &[(u64, u64, u64)]) -> (Outcome, Vec<Option<Hanging>>) {
        let stratum = |place| Stratum { kind: 7, place };
        let outcome = Outcome {
            survivors: survivors
                .iter()
                .map(|&(place, _)| Survivor::made(place, stratum(place)))
                .collect(),
            strata: seen
                .iter()
                .map(|&(place, alive, followed)| {
                    let seen = Seen {
                        alive,
                        followed,
                        ..Seen::default()
                    };
                    (stratum(place), seen)
                })
                .collect(),
            ..Outcome::default()
        };
        let hanging = survivors.iter().map(|&(_, name)| {
            (name != "gone").then(|| Hanging {
                path: path(name),
                tracked: 1.0,
            })
        });
        (outcome, hanging.collect())
    }

    fn sites() -> FxHashMap<u64, SiteId> {
        (0..10).map(|number| (number, number as SiteId)).collect()
    }

    #[test]
    fn a_line_that_was_followed_more_often_does_not_get_more() {
        // As many of both lines were alive, and ten of each stayed; of the second one in five was followed.
        let survivors: Vec<_> = (0..12).map(|at| (1 + u64::from(at >= 10), "shop")).collect();
        let (outcome, hanging) = outcome(&survivors, &[(1, 100, 100), (2, 100, 20)]);
        let kept = Kept::new(&outcome, &sites(), &hanging, Some(&growth(&[("shop", 20)])));
        let lines = kept.lines(|site| site);
        assert_eq!(lines.len(), 2);
        assert!(
            lines
                .iter()
                .all(|line| (line.share - 0.5).abs() < 1e-9 && line.is_sure())
        );
        assert_eq!((lines[0].seen, lines[1].seen), (10, 2));
        assert_eq!(kept.explained(), 2000);
        // Where half of what hangs there is not tracked, nobody says who made it.
        let mut hanging = hanging;
        hanging.iter_mut().flatten().for_each(|hanging| hanging.tracked = 0.5);
        let kept = Kept::new(&outcome, &sites(), &hanging, Some(&growth(&[("shop", 20)])));
        assert!(kept.lines(|site| site).iter().all(|line| !line.is_sure()));
    }

    #[test]
    fn what_hangs_where_nothing_became_more_names_no_line() {
        let (outcome, hanging) = outcome(&[(1, "shop"), (2, "sessions"), (3, "gone"), (4, "")], &[]);
        let growth = growth(&[("shop", 10), ("sessions", 0), ("", 50)]);
        let kept = Kept::new(&outcome, &sites(), &hanging, Some(&growth));
        let lines = kept.lines(|site| site);
        assert_eq!(lines.iter().map(|line| line.line).collect::<Vec<_>>(), [1]);
        assert!(!lines[0].is_sure());
        assert_eq!(
            kept.left_out,
            LeftOut {
                gone: 1,
                steady: 1,
                garbage: 1,
                parts: 0,
                lost: 0
            }
        );
    }

    #[test]
    fn intervals_hold_the_true_share_nineteen_times_of_twenty() {
        let mut random = fastrand::Rng::with_seed(3);
        for (share, number) in [(0.5, 12), (0.8, 30), (0.95, 40)] {
            let mut held = 0;
            for _ in 0..2000 {
                let seen = (0..number).filter(|_| random.f64() < share).count() as f64 / f64::from(number);
                let (low, high) = interval(seen, f64::from(number));
                held += u32::from(low <= share && share <= high);
            }
            assert!(held > 1840, "{share} of {number}: {held}");
        }
    }
}
