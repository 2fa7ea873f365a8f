//! Sampled births of pools: what is told of each site is right on average, and as uncertain as is said.

use super::*;

/// xorshift64*, by seed, so that the test always says the same.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

const POOLS: u64 = 600;
const SITES: usize = 4;

/// What a process did to its pools, and what the profiler made of it.
struct Run {
    truth: [f64; SITES],
    told: [Amount; SITES],
}

/// Births and arenas by `history`, which is the same for all `draws` of what is followed: one of `weight` births. Every
/// `pages_of`th fault is told.
fn run(history: u64, draws: u64, weight: u64, pages_of: u64) -> Run {
    let (mut does, mut draw) = (Random::new(history), Random::new(1000 + draws));
    let mut f = Fixture::new(Limits::default(), Thp::Never);
    f.map(0..4 * POOLS, MapKind::Anonymous);
    // Whose each pool is, in truth.
    let mut owner: Vec<Option<usize>> = vec![None; POOLS as usize];
    let mut known = vec![false; POOLS as usize];
    for step in 0..6 * POOLS {
        f.now_ns += 1_000_000;
        // Arenas of 16 pools go whole, now and then, in the first half.
        if step % 100 == 99 && step < 3 * POOLS {
            let arena = does.below(POOLS / 16);
            f.unmap(arena * 64..arena * 64 + 64);
            f.map(arena * 64..arena * 64 + 64, MapKind::Anonymous);
            owner[arena as usize * 16..][..16].fill(None);
        }
        // Site 3 is what leaks: it takes pools late, and others do not get them back.
        let site = match does.below(10) {
            9 => 3,
            n if n < 5 => 0,
            n if n < 8 => 1,
            _ => 2,
        };
        let pool = does.below(POOLS) as usize;
        if owner[pool] == Some(3) {
            continue;
        }
        let fresh = owner[pool].is_none();
        owner[pool] = Some(site);
        let mut told = |what| f.take(PID, what);
        let address = BASE + pool as u64 * 4 * PAGE;
        let followed = draw.below(weight) == 0;
        if followed || std::mem::take(&mut known[pool]) {
            known[pool] = followed;
            told(What::Pool {
                address,
                bytes: 4 * PAGE as u32,
                object_bytes: 64,
                weight: if followed { weight as u32 } else { 0 },
                site: site as SiteId,
            });
        }
        for page in 0..4 {
            if fresh && draw.below(pages_of) == 0 {
                told(What::Fault {
                    address: address + page * PAGE,
                    write: true,
                    present: false,
                    weight: pages_of as u32,
                    site: site as SiteId,
                });
            }
        }
    }
    let mut truth = [0.0; SITES];
    for site in owner.into_iter().flatten() {
        truth[site] += 4.0;
    }
    let told = std::array::from_fn(|site| f.accounts.totals(site as SiteId).live);
    // All that is told is somebody's.
    assert_eq!(told.iter().map(|told| told.bytes).sum::<u64>(), f.accounts.live().bytes);
    f.take(
        PID,
        What::Unmap {
            start: BASE,
            bytes: 4 * POOLS * PAGE,
        },
    );
    for site in 0..SITES {
        assert_eq!(f.accounts.totals(site as SiteId).live, Amount::default());
    }
    Run { truth, told }
}

/// On average over the draws, what is told is true, and what is said of its error holds 19 times of 20.
fn is_right(weight: u64, pages_of: u64, histories: u64) {
    const DRAWS: u64 = 60;
    let (mut within, mut all) = (0, 0);
    let mut off = [(0.0, 0.0, 0.0); SITES];
    for history in 0..histories {
        for draws in 0..DRAWS {
            let run = run(history, history * DRAWS + draws, weight, pages_of);
            for ((told, known), (sum, squares, truth)) in run.told.iter().zip(run.truth).zip(&mut off) {
                let error = told.bytes as f64 / PAGE as f64 - known;
                *sum += error;
                *squares += error * error;
                *truth += known;
                all += 1;
                within += u32::from(error.abs() <= told.error_bytes() / PAGE as f64 + 1e-6);
            }
        }
    }
    let times = (histories * DRAWS) as f64;
    for (site, (sum, squares, truth)) in off.into_iter().enumerate() {
        let (mean, truth) = (sum / times, truth / times);
        let standard_error = (squares / times).sqrt() / times.sqrt();
        assert!(
            mean.abs() <= 3.5 * standard_error + 1e-6,
            "weights {weight}, {pages_of}: site {site} is off by {mean} of {truth} pages on average, ± {standard_error}"
        );
    }
    let share = f64::from(within) / f64::from(all);
    assert!(
        share >= 0.9,
        "weights {weight}, {pages_of}: {share} lie within the error that is told"
    );
}

#[test]
fn when_every_birth_is_followed_nothing_is_uncertain() {
    let run = run(1, 1, 1, 1);
    for (told, known) in run.told.iter().zip(run.truth) {
        assert_eq!(told.bytes as f64, known * PAGE as f64);
        assert_eq!(told.variance, 0.0);
    }
}

#[test]
fn sampled_births_are_right_on_average_and_as_uncertain_as_they_say() {
    is_right(4, 1, 6);
    is_right(16, 1, 6);
}

#[test]
fn sampled_births_on_sampled_pages_are_right_too() {
    is_right(4, 3, 6);
}

#[test]
fn what_is_free_in_the_end_stands_for_what_is_free_of_the_others() {
    struct Free;
    impl PoolReader for Free {
        fn headers(&mut self, _: u32, addresses: &[u64]) -> Vec<Option<super::super::super::pools::PoolHeader>> {
            let free = super::super::super::pools::PoolHeader { used: 0, size_class: 3 };
            vec![Some(free); addresses.len()]
        }
    }
    let mut f = Fixture::new(Limits::default(), Thp::Never);
    f.map(0..4096, MapKind::Anonymous);
    for page in 0..400 {
        f.write(page, 1);
    }
    f.take(
        PID,
        What::Pool {
            address: BASE,
            bytes: 4 * PAGE as u32,
            object_bytes: 64,
            weight: 10,
            site: 2,
        },
    );
    assert_eq!((f.live(1), f.live(2)), (360, 40));
    let aged = f.growth.live_older_than(f.now_ns, 0);
    assert_eq!((aged[&1].amount.count, aged[&2].amount.count), (360, 40));
    f.growth.finish(SECOND, 99, &mut Free, &mut f.accounts);
    assert_eq!((f.live(1), f.live(2), f.live(99)), (360, 0, 40));
    assert_eq!((f.allocated(1), f.allocated(2), f.allocated(99)), (400, 40, 0));
}
