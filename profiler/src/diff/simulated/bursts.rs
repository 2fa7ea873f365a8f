//! Programs of which one function is met in one burst, as an import is: how often equal ones have a verdict.

use super::{PARTS, differs};
use crate::{
    diff::{Asked, By, Diff, Normal, compare, made},
    profile::Profile,
};

/// Ticks of a slice.
const SLICE: u32 = 10;
const IMPORTS: &str = "imports";

/// Two seconds of a thread that always runs; `imports` runs once, for a time that differs from run to run.
fn record(render: f64, timed: bool, random: &mut fastrand::Rng) -> Profile {
    let ticks: u32 = 1000;
    let begins = random.u32(0..ticks);
    // Ten to thirty milliseconds, mostly; now and then a disk is cold.
    let length = 5.0 + 12.0 * -random.f64().ln();
    let all: f64 = PARTS
        .iter()
        .map(|(name, part)| part * if *name == "render" { render } else { 1.0 })
        .sum();
    let mut counts: Vec<(&str, Vec<(u32, u32)>)> = PARTS.iter().map(|(name, _)| (*name, Vec::new())).collect();
    counts.push((IMPORTS, Vec::new()));
    for tick in 0..ticks {
        let since = f64::from(tick) - f64::from(begins);
        let mut at = random.f64() * all;
        let name = match (0.0..length).contains(&since) {
            true => IMPORTS,
            false => {
                let found = PARTS.iter().find(|(name, part)| {
                    at -= part * if *name == "render" { render } else { 1.0 };
                    at < 0.0
                });
                found.map_or("log", |(name, _)| *name)
            }
        };
        for (_, slices) in counts.iter_mut().filter(|(other, _)| *other == name) {
            match slices.last_mut() {
                Some((slice, count)) if *slice == tick / SLICE => *count += 1,
                _ => slices.push((tick / SLICE, 1)),
            }
        }
    }
    let mut profile = made::cpu(2, &[]);
    if timed {
        profile.begin_timeline(made::PERIOD_NS * i64::from(SLICE));
    }
    for (name, slices) in counts.into_iter().filter(|(_, slices)| !slices.is_empty()) {
        let count: u32 = slices.iter().map(|(_, count)| count).sum();
        let sample = profile.samples().len() as u32;
        made::add(&mut profile, 1, count.into(), &[name, "main"]);
        let parts: Vec<(u32, i64)> = (slices.into_iter())
            .map(|(slice, count)| (slice, i64::from(count) * made::PERIOD_NS))
            .collect();
        profile.add_parts(sample, &parts);
    }
    profile
}

fn compared(sides: [Profile; 2]) -> Diff {
    let asked = Asked {
        by: By::Function,
        normal: Some(Normal::Samples),
        noise: 0.02,
        ..Asked::default()
    };
    let [before, after] = sides;
    compare(&[before], &[after], &asked).unwrap()
}

/// Of so many: equal ones with a verdict, and in how many of those in which `render` has become half as slow again it is told.
fn verdicts(times: usize, timed: bool) -> [f64; 2] {
    let mut random = fastrand::Rng::with_seed(7);
    let mut found = [0_usize; 2];
    for _ in 0..times {
        let [one, other, slower] = [1.0, 1.0, 1.5].map(|render| record(render, timed, &mut random));
        found[0] += usize::from(differs(&compared([record(1.0, timed, &mut random), other])));
        let diff = compared([one, slower]);
        let render = diff.rows.iter().find(|row| row.key.function == "render");
        found[1] += usize::from(render.is_some_and(crate::diff::Row::stands));
    }
    found.map(|found| found as f64 / times as f64)
}

#[test]
fn an_import_is_no_verdict_where_the_recording_says_when_samples_were() {
    let [without, _] = verdicts(200, false);
    let [with, found] = verdicts(200, true);
    println!("equal ones with a verdict: {without:.3} by numbers of samples, {with:.3} by slices; found: {found:.3}");
    assert!(without > 0.1, "the program has no bursts: {without}");
    assert!(with <= 0.05, "{with} of equal programs have a verdict");
    assert!(found > 0.75, "{found}");
}
