//! Event loops: what blocks them, and what keeps them from running.

use super::case::{Case, named, percent, time};
use crate::{
    report::waits::rows::Place,
    summary::many,
    why::{
        Finding, Kind, Severity,
        evidence::{Role, Wait},
    },
};

/// A call that returns sooner, at most, blocks nothing that anybody would notice.
const LEAST_BLOCKED_NS: u64 = 5_000_000;

pub fn find(case: &Case<'_>, found: &mut Vec<Finding>) {
    match blocked(case) {
        Some(blocked) => found.push(blocked),
        None => found.extend(busy(case)),
    }
    found.extend(starved(case));
}

/// A call that waits in a callback: nothing else of the loop goes on meanwhile.
fn blocked(case: &Case<'_>) -> Option<Finding> {
    let mut lines: Vec<(&Wait, u64, u64)> = Vec::new();
    let in_the_way = |wait: &&Wait| wait.in_loop && wait.longest_ns >= LEAST_BLOCKED_NS;
    for wait in case.process.waits.iter().filter(in_the_way) {
        match lines.iter_mut().find(|(known, ..)| known.place == wait.place) {
            Some((_, ns, error)) => {
                *ns += wait.ns;
                *error += wait.error_ns;
            }
            None => lines.push((wait, wait.ns, wait.error_ns)),
        }
    }
    let (wait, ns, error) = lines.into_iter().max_by_key(|(_, ns, _)| *ns)?;
    let share = case.of_length(ns).min(1.0);
    let finding = case.finding(Kind::BlockedLoop, share)?;
    let whom = match &*wait.target {
        "" => String::new(),
        target => format!(" {target}"),
    };
    Some(
        finding
            .at(&wait.place)
            .says(format!(
                "{} blocks the event loop for {} of the time ({}{whom}): {}, {} at most; every other task waits meanwhile",
                named(&wait.place),
                percent(share),
                wait.cause.name(),
                many(wait.count, "wait"),
                time(wait.longest_ns)
            ))
            .gains(format!("the loop is free for {} more of the time: await it, or asyncio.to_thread", percent(share)))
            .give_or_take(case.of_length(error))
            .by("blocked_s", ns as f64 / 1e9)
            .by("waits", wait.count as f64)
            .by("longest_s", wait.longest_ns as f64 / 1e9)
            .by_text("cause", wait.cause.name())
            .next(case.next("waits", "-d 10 --stalls 100ms")),
    )
}

/// A callback that computes for long.
fn busy(case: &Case<'_>) -> Option<Finding> {
    let mut lines: Vec<(&Place, u64, u64, u64)> = Vec::new();
    for stall in &case.process.stalls {
        let Some((place, None, _)) = &stall.most else { continue };
        match lines.iter_mut().find(|(known, ..)| *known == place) {
            Some((_, ns, count, longest)) => {
                *ns += stall.length_ns;
                *count += 1;
                *longest = (*longest).max(stall.length_ns);
            }
            None => lines.push((place, stall.length_ns, 1, stall.length_ns)),
        }
    }
    let all: u64 = lines.iter().map(|(_, ns, ..)| ns).sum();
    let count: u64 = lines.iter().map(|(.., count, _)| count).sum();
    let (place, _, _, longest) = lines.into_iter().max_by_key(|(_, ns, ..)| *ns)?;
    let share = case.of_length(all).min(1.0);
    let finding = case.finding(Kind::BlockedLoop, share)?;
    Some(
        finding
            // A program of one task that computes stalls nobody.
            .no_worse_than(Severity::High)
            .at(place)
            .says(format!(
                "{} keeps the event loop from polling: {} of 100 ms and more, {} at most, {} of the time",
                named(place),
                many(count, "stall"),
                time(longest),
                percent(share)
            ))
            .gains(format!("the loop polls for {} more of the time", percent(share)))
            .by("stalls", count as f64)
            .by("stalled_s", all as f64 / 1e9)
            .by("longest_s", longest as f64 / 1e9)
            .next(case.next("waits", "-d 10 --stalls 100ms")),
    )
}

/// A loop that could run, and may not.
fn starved(case: &Case<'_>) -> Option<Finding> {
    let at = |role: Role| Role::ALL.iter().position(|known| *known == role).unwrap_or(0);
    let loops = case.process.threads.iter().filter(|thread| thread.is_loop);
    let thread = loops.max_by_key(|thread| thread.waited_ns[at(Role::Gil)])?;
    let (gil, ready) = (thread.waited_ns[at(Role::Gil)], thread.waited_ns[at(Role::Ready)]);
    // Who had the GIL may have had no CPU. That is known of all threads together.
    let all = case.process.waited_ns(Role::Gil).max(1);
    let waited = gil;
    let gil = (u128::from(gil) * u128::from(case.process.gil_ns()) / u128::from(all)) as u64;
    // What is for want of a CPU is told of the whole process.
    let without_cpu = ready.saturating_add(waited.saturating_sub(gil));
    let could_run = case.length_ns.saturating_sub(without_cpu).max(1);
    let share = (gil as f64 / could_run as f64).min(1.0);
    let finding = case.finding(Kind::StarvedLoop, share)?;
    Some(
        finding
            .says(format!(
                "the event loop ({}) is ready and waits for the GIL {} of the time ({})",
                thread.name,
                percent(share),
                time(gil)
            ))
            .gains(format!(
                "the loop runs {} more of the time: other threads have the GIL",
                percent(share)
            ))
            .by("waited_for_gil_s", gil as f64 / 1e9)
            .by("waited_for_cpu_s", ready as f64 / 1e9)
            .by("tid", f64::from(thread.tid))
            .next(case.next("waits", "-d 10 --by holder")),
    )
}
