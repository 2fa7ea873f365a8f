//! The interval against the truth: a service is made up, and windows are laid over it as `instruments::calls::windows` does.

use super::*;

/// xorshift64*, seeded: each run of the tests sees the same services.
struct Dice(u64);

impl Dice {
    fn below_one(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Of waiting times.
    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.below_one()).ln()
    }

    /// Sum of twelve: normal enough.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.below_one()).sum::<f64>() - 6.0
    }
}

const QUERIES: usize = 121;
/// What a hit costs. Times are in seconds.
const HIT: f64 = 2e-6;
/// As the instrument has it: what a window may cost, from one to the next, and how long one can last.
const BURST: f64 = 9e-3;
const CYCLE: f64 = 0.1;

#[derive(Clone, Copy)]
struct Service {
    /// A request, and the calls in it, of whatever functions.
    request: f64,
    calls: f64,
    /// From one to the next, on average.
    gap: f64,
    /// The queries come in so many bursts; 0: evenly.
    bursts: usize,
    /// Threads that run at once.
    threads: usize,
    /// Of all requests so many are those that query.
    share: f64,
}

const PAGE: Service = Service {
    request: 25e-3,
    calls: 48_000.0,
    gap: 2e-3,
    bursts: 0,
    threads: 1,
    share: 1.0,
};

#[derive(Default)]
struct Seen {
    queries: f64,
    pages: f64,
    spent: f64,
}

/// One of them, in a request or waiting for one.
struct Thread {
    of: Service,
    waits: Option<f64>,
    took: f64,
    at: f64,
    asks: bool,
    queries: Vec<f64>,
}

impl Thread {
    fn new(of: Service, dice: &mut Dice) -> Self {
        let mut thread = Self {
            of,
            waits: None,
            took: 1.0,
            at: 0.0,
            asks: false,
            queries: Vec::new(),
        };
        thread.begin(dice);
        let before = dice.below_one() * 3.0 * (of.request + of.gap);
        thread.run(before, 1.0, dice);
        thread
    }

    fn begin(&mut self, dice: &mut Dice) {
        self.waits = None;
        self.at = 0.0;
        self.took = self.of.request * (1.0 + 0.2 * dice.normal()).max(0.3);
        self.asks = dice.below_one() < self.of.share;
        self.queries.clear();
    }

    /// Only where somebody counts: most of the time nobody does.
    fn draw_queries(&mut self, dice: &mut Dice) {
        let bursts: Vec<f64> = (0..self.of.bursts).map(|_| dice.below_one() * 0.9).collect();
        self.queries = (0..QUERIES)
            .map(|query| match bursts.get(query % bursts.len().max(1)) {
                Some(burst) => 0.01 + burst + dice.below_one() * 0.02,
                None => 0.02 + 0.94 * (query as f64 + dice.below_one()) / QUERIES as f64,
            })
            .collect();
    }

    /// Lets time pass, in which the program is so many times slower.
    fn run(&mut self, mut time: f64, slower: f64, dice: &mut Dice) -> Seen {
        /// Where in a request the page ends.
        const END: f64 = 0.97;
        let mut seen = Seen::default();
        loop {
            if let Some(waits) = self.waits {
                if waits > time {
                    self.waits = Some(waits - time);
                    return seen;
                }
                time -= waits;
                self.begin(dice);
            }
            let to = (self.at + time / slower / self.took).min(1.0);
            let part = self.at..to;
            if self.asks && slower > 1.0 {
                if self.queries.is_empty() {
                    self.draw_queries(dice);
                }
                seen.queries += self.queries.iter().filter(|query| part.contains(query)).count() as f64;
                seen.pages += f64::from(u8::from(part.contains(&END)));
            }
            let own = (to - self.at) * self.took;
            seen.spent += own * (slower - 1.0);
            time -= own * slower;
            self.at = to;
            if to < 1.0 {
                return seen;
            }
            self.waits = Some(dice.exponential(self.of.gap));
        }
    }
}

/// What a recording of so many seconds tells.
fn recorded(service: Service, seconds: f64, dice: &mut Dice) -> Option<Ratio> {
    let slower = 1.0 + HIT * service.calls / service.request;
    let mut threads: Vec<Thread> = (0..service.threads).map(|_| Thread::new(service, dice)).collect();
    let mut pass = |time: f64, slower: f64, dice: &mut Dice| {
        let mut sum = Seen::default();
        for thread in &mut threads {
            let seen = thread.run(time, slower, dice);
            sum.queries += seen.queries;
            sum.pages += seen.pages;
            sum.spent += seen.spent;
        }
        (
            sum,
            threads.iter().filter(|thread| thread.waits.is_none()).count() as f64,
        )
    };
    let (mut queries, mut pages) = (Vec::new(), Vec::new());
    let (mut now, mut ended) = (0.0, 0);
    while now < seconds {
        let pause = CYCLE * (0.5 + dice.below_one());
        now += pause;
        let (_, running) = pass(pause, 1.0, dice);
        // A window opens only while the program runs.
        if running <= 0.0 {
            continue;
        }
        let (mut length, mut window) = (0.0, Seen::default());
        while window.spent / (service.threads as f64) < BURST && length < CYCLE {
            let step = 1e-3 + 0.6e-3 * dice.below_one();
            let (seen, _) = pass(step, slower, dice);
            window.queries += seen.queries;
            window.pages += seen.pages;
            window.spent += seen.spent;
            length += step;
        }
        now += length;
        ended += window.pages as u64;
        queries.push(window.queries * running);
        pages.push(window.pages * running);
    }
    of_windows(&queries, &pages, ended)
}

#[test]
fn nineteen_of_twenty_intervals_hold_the_truth() {
    const RECORDINGS: u32 = 500;
    let services = [
        ("a page", 5.0, PAGE),
        ("for longer", 20.0, PAGE),
        ("for a moment", 2.0, PAGE),
        ("in three bursts", 5.0, Service { bursts: 3, ..PAGE }),
        ("in one burst", 5.0, Service { bursts: 1, ..PAGE }),
        ("half idle", 5.0, Service { gap: 30e-3, ..PAGE }),
        ("mostly idle", 20.0, Service { gap: 0.2, ..PAGE }),
        ("two threads", 5.0, Service { threads: 2, ..PAGE }),
        ("a third of requests", 20.0, Service { share: 0.3, ..PAGE }),
        (
            "two threads, a third, half idle",
            5.0,
            Service {
                threads: 2,
                share: 0.3,
                gap: 50e-3,
                ..PAGE
            },
        ),
        (
            "short ones",
            5.0,
            Service {
                request: 4e-3,
                calls: 7_700.0,
                ..PAGE
            },
        ),
        (
            "short ones, mostly idle",
            5.0,
            Service {
                request: 4e-3,
                calls: 7_700.0,
                gap: 20e-3,
                ..PAGE
            },
        ),
        (
            "long ones",
            20.0,
            Service {
                request: 0.25,
                calls: 480e3,
                ..PAGE
            },
        ),
    ];
    for (what, seconds, service) in services {
        let mut dice = Dice(0x5EED_CA11);
        let told: Vec<Ratio> = (0..RECORDINGS)
            .filter_map(|_| recorded(service, seconds, &mut dice))
            .collect();
        let truth = QUERIES as f64;
        let holds = |ratio: &&Ratio| ratio.least <= truth && ratio.most.is_none_or(|most| truth <= most);
        let held = told.iter().filter(holds).count();
        // 95 %, but for what so many recordings can have less by accident (one standard deviation is 1 %).
        assert!(
            held as f64 >= 0.94 * told.len() as f64 && told.len() > 50,
            "{what}: {held} of {}",
            told.len()
        );
    }
}

#[test]
fn an_interval_is_narrow_where_windows_are_alike_and_has_no_end_where_next_to_nothing_was_seen() {
    let alike = of_windows(&[242.0; 40], &[2.0; 40], 80).unwrap();
    assert!((alike.each - 121.0).abs() < 1e-9 && alike.width() < 1.5, "{alike:?}");
    // Of 40 windows five saw an end: as many as two or eleven may well have been.
    let mut ends = [0.0; 40];
    ends[..5].fill(1.0);
    let few = of_windows(&[15.0; 40], &ends, 5).unwrap();
    let most = few.most.unwrap();
    assert!(
        (45.0..65.0).contains(&few.least) && (280.0..420.0).contains(&most),
        "{few:?}"
    );
    ends[2..].fill(0.0);
    let two = of_windows(&[15.0; 40], &ends, 2).unwrap();
    assert!(two.most.is_none() && (60.0..100.0).contains(&two.least), "{two:?}");
    assert_eq!(of_windows(&[15.0; 40], &[0.0; 40], 0), None);
    assert_eq!(of_windows(&[15.0], &[1.0], 1), None);
}

#[test]
fn without_a_break_only_what_was_under_way_at_either_end_is_in_doubt() {
    let of = |threads| without_break(1210.0, 10.0, threads).unwrap();
    assert_eq!(
        of(1),
        Ratio {
            each: 121.0,
            least: 110.0,
            most: Some(1210.0 / 9.0)
        }
    );
    assert!(of(4).least < of(1).least);
    let one = without_break(121.0, 1.0, 1).unwrap();
    assert_eq!((one.least, one.most), (60.5, None));
    assert_eq!(without_break(121.0, 0.0, 1), None);
}

#[test]
fn quantiles_are_those_of_the_tables() {
    for (freedom, deviations, quantile) in [
        (4.0, NORMAL, 11.14),
        (10.0, NORMAL, 20.48),
        (10.0, -NORMAL, 3.247),
        (40.0, -NORMAL, 24.43),
    ] {
        let found = chi_square(freedom, deviations);
        assert!((found / quantile - 1.0).abs() < 0.02, "{freedom}: {found}");
    }
}
