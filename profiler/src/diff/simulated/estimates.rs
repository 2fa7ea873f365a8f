//! Bytes and waits that were drawn: whether intervals of one recording a side, which says how exact it is, hold the truth.

use super::super::{Asked, Normal, Over, compare, made, measure::LUMP_BYTES};
use super::{assert_right, differs, normal};
use crate::profile::{Profile, ValueType};

const ALLOC_SPACE: ValueType = ValueType {
    kind: "alloc_space",
    unit: "bytes",
};
pub(super) const WAITS: [ValueType; 2] = [
    ValueType {
        kind: "waits",
        unit: "count",
    },
    ValueType {
        kind: "wait",
        unit: "nanoseconds",
    },
];
const SECONDS: i64 = 10;
const PARTS: [(&str, f64); 4] = [("fetch", 0.4), ("render", 0.3), ("parse", 0.2), ("store", 0.1)];

/// So many that which row has an arena more is no matter.
const LUMPS: f64 = 10_000.0;

/// Nothing is assumed of how runs differ: what is made up here differs by chance alone.
fn asked(normal: Normal) -> Asked {
    Asked {
        over: Over::Counts,
        noise: 0.0,
        normal: Some(normal),
        ..Asked::default()
    }
}

/// How many come by chance of so many that are expected.
fn poisson(mean: f64, random: &mut fastrand::Rng) -> u64 {
    if mean > 50.0 {
        return (mean + mean.sqrt() * normal(random)).round().max(0.0) as u64;
    }
    let (mut number, mut product) = (0, random.f64());
    let least = (-mean).exp();
    while product > least {
        number += 1;
        product *= random.f64();
    }
    number
}

/// Lumps of pages that come by chance, of which one page in eight was looked at.
fn bytes(render: f64, random: &mut fastrand::Rng) -> Profile {
    const WEIGHT: u64 = 8;
    const PAGE: u64 = 4096;
    let mut profile = Profile::new(vec![ALLOC_SPACE], None);
    profile.duration_ns = SECONDS * 1_000_000_000;
    let mut variances = Vec::new();
    for (name, part) in PARTS {
        let more = if name == "render" { render } else { 1.0 };
        let lumps = poisson(LUMPS * part * more, random);
        let pages = lumps as f64 * LUMP_BYTES / PAGE as f64;
        // So many of them, each with this probability.
        let chance = 1.0 / WEIGHT as f64;
        let drawn = pages * chance + (pages * chance * (1.0 - chance)).sqrt() * normal(random);
        let drawn = drawn.round() as u64;
        made::add(&mut profile, 1, (drawn * WEIGHT * PAGE) as i64, &[name, "main"]);
        variances.push((drawn * PAGE * PAGE * WEIGHT * (WEIGHT - 1)) as f64);
    }
    profile.add_variances(ALLOC_SPACE, variances.into_iter());
    profile
}

/// Waits of all lengths that come by chance; short ones are drawn by their length, and stand for more.
fn waits(render: f64, random: &mut fastrand::Rng) -> Profile {
    const CERTAIN_NS: f64 = 5e6;
    let mut profile = Profile::new(WAITS.to_vec(), Some((WAITS[1], 1)));
    profile.default_type = 1;
    profile.duration_ns = SECONDS * 1_000_000_000;
    let (mut variances, mut squares) = (Vec::new(), Vec::new());
    for (name, part) in PARTS {
        let more = if name == "render" { render } else { 1.0 };
        let (mut sum, mut variance, mut square) = (0.0, 0.0, 0.0);
        for _ in 0..poisson(2000.0 * part * more, random) {
            // Four milliseconds on average, some many times that.
            let length = -4e6 * random.f64().max(1e-12).ln();
            if length >= CERTAIN_NS {
                sum += length;
                square += length * length;
            } else if random.f64() < length / CERTAIN_NS {
                sum += CERTAIN_NS;
                variance += (1.0 - length / CERTAIN_NS) * CERTAIN_NS * CERTAIN_NS;
                square += length * CERTAIN_NS;
            }
        }
        // Both values are times there, but only this one is looked at.
        made::add(&mut profile, 1, (sum / made::PERIOD_NS as f64) as i64, &[name, "main"]);
        variances.push(variance);
        squares.push(square);
    }
    profile.add_variances(WAITS[1], variances.into_iter());
    profile.add_squares(WAITS[1], squares.into_iter());
    profile
}

/// As `super::coverage`, of programs of which `render` takes half as much again.
fn coverage(
    times: usize,
    normal: &Normal,
    truth: f64,
    record: impl Fn(f64, &mut fastrand::Rng) -> Profile,
    seed: u64,
) -> [f64; 3] {
    let asked = asked(normal.clone());
    let mut random = fastrand::Rng::with_seed(seed);
    let mut held = [0_usize; 3];
    for _ in 0..times {
        let [before, again, after] = [1.0, 1.0, 1.5].map(|render| [record(render, &mut random)]);
        let diff = compare(&before, &after, &asked).unwrap();
        let within = |(least, most): (f64, f64)| usize::from(least <= truth && truth <= most);
        held[0] += diff.total.map_or(1, |total| within(total.interval()));
        let render = diff.rows.iter().find(|row| row.key.function == "render").unwrap();
        held[1] += within(render.own.interval());
        held[2] += usize::from(differs(&compare(&before, &again, &asked).unwrap()));
    }
    held.map(|held| held as f64 / times as f64)
}

fn of_bytes(times: usize) -> [f64; 3] {
    coverage(times, &Normal::Level, LUMPS * 0.3 * 0.5 * LUMP_BYTES, bytes, 5)
}

fn of_waits(times: usize) -> [f64; 3] {
    coverage(times, &Normal::Recording, 2000.0 * 0.3 * 0.5 * 4e6, waits, 6)
}

#[test]
fn intervals_of_drawn_bytes_hold_the_truth_in_95_of_100() {
    assert_right(of_bytes(300), 300);
}

#[test]
fn intervals_of_drawn_waits_hold_the_truth_in_95_of_100() {
    assert_right(of_waits(300), 300);
}

#[test]
#[ignore = "a minute: cargo test --package profiler --lib diff::simulated -- --ignored --nocapture"]
fn coverage_of_estimates_at_length() {
    for (name, found) in [("bytes", of_bytes(2000)), ("waits", of_waits(2000))] {
        let [all, row, verdicts] = found;
        println!("{name}: all {all:.4}, a row {row:.4}, false verdicts {verdicts:.4} (of 2000)");
        assert_right(found, 2000);
    }
}

#[test]
fn one_recording_a_side_that_says_how_exact_it_is_has_a_verdict_and_a_gate() {
    let mut random = fastrand::Rng::with_seed(7);
    let [before, after] = [1.0, 3.0].map(|render| [bytes(render, &mut random)]);
    let asked = Asked {
        noise: 0.02,
        ..asked(Normal::Level)
    };
    let diff = compare(&before, &after, &asked).unwrap();
    let told = super::verdict(&diff);
    assert!(told.sentence.starts_with("more memory by "), "{}", told.sentence);
    assert!(told.sentence.contains("because of orders.render"), "{}", told.sentence);
    let held = super::gate::hold(&["func:orders.render>+50%".parse().unwrap()], &[diff]).unwrap();
    assert!(held.iter().all(|held| held.met), "{held:?}");
    // A side that does not say it has none.
    let mut silent = Profile::new(vec![ALLOC_SPACE], None);
    silent.duration_ns = SECONDS * 1_000_000_000;
    made::add(&mut silent, 1, 1 << 20, &["render", "main"]);
    let diff = compare(&before, &[silent], &asked).unwrap();
    assert!(!differs(&diff));
}

#[test]
fn waits_are_not_samples_of_a_nanosecond() {
    let mut random = fastrand::Rng::with_seed(8);
    let sides = [waits(1.0, &mut random), waits(1.0, &mut random)];
    let diff = compare(&sides[..1], &sides[1..], &asked(Normal::Recording)).unwrap();
    assert_eq!(diff.measure.period, [None, None]);
    let total = diff.total.unwrap();
    // Of 2,000 waits that come by chance the sum is known to some 4 %, and not to a hundred-thousandth.
    assert!(total.error() / total.before.value > 0.02);
}
