//! Whether intervals are what they say: programs that are made up, recorded again and again.
//!
//! Bytes and waits are in [`estimates`], what comes in bursts in [`bursts`].
//!
//! `cargo test --package profiler --lib diff::simulated -- --ignored` takes many more; the figures are in docs/diff.md.

use super::{Asked, Diff, Normal, Over, compare, gate, made, verdict::verdict};
use crate::profile::Profile;

mod bursts;
mod contended;
mod estimates;

/// Of a program: parts of its time.
const PARTS: [(&str, f64); 6] = [
    ("fetch", 0.30),
    ("render", 0.25),
    ("parse", 0.20),
    ("store", 0.15),
    ("route", 0.07),
    ("log", 0.03),
];

/// How a program's recording comes about.
#[derive(Clone, Copy)]
struct Program {
    seconds: i64,
    /// Of its time, what its thread runs.
    busy: f64,
    /// Times as much work in `render`, at the same speed of all.
    render: f64,
    /// How far each recording is as a whole from another, relatively.
    spread: f64,
}

const STEADY: Program = Program {
    seconds: 10,
    busy: 0.7,
    render: 1.0,
    spread: 0.0,
};

/// A number whose deviations are those of a normal one.
fn normal(random: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| random.f64()).sum::<f64>() - 6.0
}

fn record(program: Program, random: &mut fastrand::Rng) -> Profile {
    let ticks = program.seconds * 500;
    let level = program.busy * (1.0 + program.spread * normal(random));
    let mut counts = [0_i64; PARTS.len()];
    for _ in 0..ticks {
        let mut at = random.f64();
        for (count, (name, part)) in counts.iter_mut().zip(PARTS) {
            at -= part * level * if name == "render" { program.render } else { 1.0 };
            if at < 0.0 {
                *count += 1;
                break;
            }
        }
    }
    let mut profile = made::cpu(program.seconds, &[]);
    for (count, (name, _)) in counts.into_iter().zip(PARTS) {
        made::add(&mut profile, 1, count, &[name, "main"]);
    }
    profile
}

fn side(recordings: usize, program: Program, random: &mut fastrand::Rng) -> Vec<Profile> {
    (0..recordings).map(|_| record(program, random)).collect()
}

/// Of so many comparisons: in how many the interval of all holds the truth, that of `render` itself does, and how many have
/// a verdict.
fn coverage(times: usize, recordings: usize, program: Program, asked: &Asked, seed: u64) -> [f64; 3] {
    let mut random = fastrand::Rng::with_seed(seed);
    let slower = Program {
        render: program.render * 1.2,
        ..program
    };
    let truth = program.busy * 0.25 * 0.2 * 1e9;
    let mut held = [0_usize; 3];
    for _ in 0..times {
        let before = side(recordings, program, &mut random);
        let after = side(recordings, slower, &mut random);
        let diff = compare(&before, &after, asked).unwrap();
        let within = |(least, most): (f64, f64)| usize::from(least <= truth && truth <= most);
        held[0] += within(diff.total.unwrap().interval());
        let render = diff.rows.iter().find(|row| row.key.function == "render").unwrap();
        held[1] += within(render.own.interval());
        let again = side(recordings, program, &mut random);
        held[2] += usize::from(differs(&compare(&before, &again, asked).unwrap()));
    }
    held.map(|held| held as f64 / times as f64)
}

fn differs(diff: &Diff) -> bool {
    diff.total_stands || diff.rows.iter().any(super::Row::stands)
}

fn over(over: Over) -> Asked {
    Asked {
        over,
        ..Asked::default()
    }
}

/// 95 ± 2 %, and what so few comparisons are off by besides: three standard deviations.
fn assert_right([all, row, verdicts]: [f64; 3], times: usize) {
    let off = 0.02 + 3.0 * (0.95 * 0.05 / times as f64).sqrt();
    for (what, covered) in [("all", all), ("a row", row)] {
        assert!((covered - 0.95).abs() < off.min(0.05), "{what}: {covered}");
    }
    assert!(verdicts < 0.05 + off, "false verdicts: {verdicts}");
}

#[test]
fn intervals_of_samples_hold_the_truth_in_95_of_100() {
    let program = Program { seconds: 2, ..STEADY };
    let found = coverage(300, 1, program, &over(Over::Counts), 1);
    assert_right(found, 300);
}

#[test]
fn intervals_of_windows_hold_the_truth_in_95_of_100() {
    let program = Program {
        seconds: 1,
        spread: 0.05,
        ..STEADY
    };
    let found = coverage(150, 12, program, &over(Over::Windows), 2);
    assert_right(found, 150);
}

#[test]
#[ignore = "minutes: cargo test --package profiler --lib diff::simulated -- --ignored --nocapture"]
fn coverage_at_length() {
    let spread = Program {
        seconds: 1,
        spread: 0.05,
        ..STEADY
    };
    let busy = Program { busy: 0.83, ..STEADY };
    for (name, recordings, program, asked) in [
        ("samples, 2 s", 1, Program { seconds: 2, ..STEADY }, over(Over::Counts)),
        ("samples, 10 s, busier", 1, busy, over(Over::Counts)),
        ("3 recordings", 3, spread, over(Over::Windows)),
        ("5 recordings", 5, spread, over(Over::Windows)),
        ("8 recordings, drawn", 8, spread, over(Over::Windows)),
        ("12 recordings, drawn", 12, spread, over(Over::Windows)),
        ("30 recordings, drawn", 30, spread, over(Over::Windows)),
    ] {
        // What is drawn again takes its time in a dev build.
        let times = if recordings < 8 { 1000 } else { 400 };
        let [all, row, verdicts] = coverage(times, recordings, program, &asked, 3);
        println!("{name}: all {all:.4}, a row {row:.4}, false verdicts {verdicts:.4} (of {times})");
        assert_right([all, row, verdicts], times);
    }
}

#[test]
fn a_thread_that_always_runs_took_as_much_however_few_samples_it_has() {
    let one = [made::cpu(2, &[(600, &["f", "main"]), (400, &["g", "main"])])];
    let two = [made::cpu(2, &[(500, &["f", "main"]), (500, &["g", "main"])])];
    let diff = compare(&one, &two, &Asked::default()).unwrap();
    let total = diff.total.unwrap();
    assert_eq!((total.change(), total.error()), (0.0, 0.0));
    assert!(!diff.total_stands);
    // Which function it was in is uncertain, as in a multinomial: 100 ± √(600·0.4 + 500·0.5).
    let f = diff.rows.iter().find(|row| row.key.function == "f").unwrap();
    let samples = 1e9 / made::PERIOD_NS as f64;
    assert!(
        (f.own.error() * 2.0 / made::PERIOD_NS as f64 - 490.0_f64.sqrt()).abs() < 0.01,
        "{samples}"
    );
    let verdict = verdict(&diff);
    assert!(verdict.sentence.starts_with("as fast in all"), "{}", verdict.sentence);
}

#[test]
fn a_function_that_became_slower_is_named_and_fails_what_asks_for_it() {
    let mut random = fastrand::Rng::with_seed(4);
    let before = side(6, STEADY, &mut random);
    let after = side(6, Program { render: 1.5, ..STEADY }, &mut random);
    let diff = compare(&before, &after, &Asked::default()).unwrap();
    let told = verdict(&diff);
    assert!(told.sentence.starts_with("slower by 12."), "{}", told.sentence);
    assert!(
        told.sentence.contains("because of orders.render +"),
        "{}",
        told.sentence
    );
    let conditions = [
        "total>+5%",
        "func:orders.render>+20%",
        "total>+20%",
        "func:orders.store>+20%",
        "self:render>5points",
    ];
    let conditions: Vec<gate::Condition> = conditions.iter().map(|text| text.parse().unwrap()).collect();
    let held = gate::hold(&conditions, &[diff]).unwrap();
    let met: Vec<bool> = held.iter().map(|held| held.met).collect();
    assert_eq!(met, [true, true, false, false, true]);
}

#[test]
fn what_was_not_there_before_is_new_and_what_is_not_there_after_is_gone() {
    let one = [made::cpu(10, &[(3000, &["f", "main"]), (600, &["old", "main"])])];
    let two = [made::cpu(10, &[(3000, &["f", "main"]), (600, &["fresh", "main"])])];
    let diff = compare(&one, &two, &Asked::default()).unwrap();
    let change = |name: &str| {
        diff.rows
            .iter()
            .find(|row| row.key.function == name)
            .filter(|row| row.stands())
            .map(super::Row::change)
    };
    assert_eq!(change("fresh"), Some(super::estimate::Change::New));
    assert_eq!(change("old"), Some(super::estimate::Change::Gone));
    assert_eq!(change("main"), None);
}

#[test]
fn a_program_in_another_directory_is_the_same_program() {
    let recording = |file: &str| {
        let mut profile = made::cpu(10, &[]);
        made::add_in(file, &mut profile, 1, 3000, &["f", "main"]);
        [profile]
    };
    let diff = compare(
        &recording("/ci/base/bench.py"),
        &recording("/ci/bench.py"),
        &Asked::default(),
    )
    .unwrap();
    assert!(!differs(&diff) && diff.rows.len() == 2, "{:?}", diff.rows);
    let held = gate::hold(&["func:bench.f>+10%".parse().unwrap()], &[diff]).unwrap();
    assert!(held.len() == 1 && !held[0].met, "{held:?}");
}

#[test]
fn work_is_what_values_are_divided_by_if_it_is_told() {
    // Twice as long, for twice as many requests: the same for each.
    let one = [made::cpu(10, &[(3000, &["f", "main"])])];
    let two = [made::cpu(20, &[(6600, &["f", "main"])])];
    let asked = Asked {
        normal: Some(Normal::Per {
            unit: "request".to_owned(),
            before: 1000.0,
            after: 2000.0,
        }),
        ..Asked::default()
    };
    let diff = compare(&one, &two, &asked).unwrap();
    let total = diff.total.unwrap();
    assert!((total.relative().unwrap() - 0.1).abs() < 1e-9);
    assert_eq!(diff.measure.unit(), "ms per request");
    assert!((total.before.value * diff.measure.factor() - 6.0).abs() < 1e-9);
}

#[test]
fn all_functions_alike_is_no_verdict_on_the_code() {
    let stacks = |times: i64| -> Vec<(i64, Vec<&str>)> {
        PARTS
            .iter()
            .map(|(name, part)| ((part * 1000.0) as i64 * times, vec![*name, "main"]))
            .collect()
    };
    let recording = |times| {
        let stacks = stacks(times);
        let stacks: Vec<(i64, &[&str])> = stacks.iter().map(|(count, stack)| (*count, stack.as_slice())).collect();
        [made::cpu(10, &stacks)]
    };
    let diff = compare(&recording(2), &recording(4), &Asked::default()).unwrap();
    assert!(!differs(&diff) && diff.alike);
    let told = verdict(&diff);
    assert!(
        told.sentence
            .starts_with("no verdict on the code: all functions alike took 100.0 % more"),
        "{}",
        told.sentence
    );
}

#[test]
fn values_of_different_kinds_are_refused_and_other_rates_are_told() {
    let one = made::cpu(10, &[(3000, &["f", "main"])]);
    let mut memory = Profile::new(vec![made::SPACE], None);
    made::add(&mut memory, 1, 5, &["f"]);
    let refused = compare(&[one], &[memory], &Asked::default()).unwrap_err();
    assert!(refused.to_string().contains("no value in common"), "{refused}");

    let one = made::cpu(10, &[(3000, &["f", "main"])]);
    let mut two = made::cpu(10, &[(3000, &["f", "main"])]);
    two.period = Some((made::CPU, made::PERIOD_NS * 5));
    let diff = compare(&[one], &[two], &Asked::default()).unwrap();
    assert!(
        diff.notes.iter().any(|note| note.contains("rates differ (500 and 100")),
        "{:?}",
        diff.notes
    );
}

#[test]
fn bytes_of_one_recording_a_side_have_no_verdict_and_no_gate() {
    let memory = |bytes| {
        let mut profile = Profile::new(vec![made::SPACE], None);
        made::add(&mut profile, 1, bytes, &["f"]);
        [profile]
    };
    let diff = compare(&memory(1 << 20), &memory(3 << 20), &Asked::default()).unwrap();
    assert!(!differs(&diff));
    let told = verdict(&diff);
    assert!(
        told.sentence.starts_with("more memory by 2.0 MiB, but no verdict"),
        "{}",
        told.sentence
    );
    assert_eq!(
        gate::hold(&["total>+5%".parse().unwrap()], &[diff]).unwrap_err(),
        gate::CannotHold::Unknown
    );
}
