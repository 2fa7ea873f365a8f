//! No progress: what waits for all of the time, and is nothing that waits for work.

use super::{
    case::{Case, named, percent, time},
    locks::a_lock,
};
use crate::{
    summary::many,
    waits::cause::Cause,
    why::{
        Finding, Kind, Severity,
        evidence::{Role, Wait},
    },
};

/// From this part of the time on, a wait that had not ended is one for all of it.
pub const ALL_OF_IT: f64 = 0.95;
/// A process that is at work less than this part of the time makes no progress to speak of.
const NO_PROGRESS: f64 = 0.02;
/// What is shorter says nothing.
const LEAST_NS: u64 = 900_000_000;

/// Whether a wait was there from the beginning to the end.
pub fn is_for_good(case: &Case<'_>, wait: &Wait) -> bool {
    let threads = wait.tids.len().max(1) as u64;
    case.length_ns >= LEAST_NS && case.of_length(wait.unended_ns / threads) >= ALL_OF_IT
}

pub fn find(case: &Case<'_>, found: &mut Vec<Finding>) {
    let waits = || case.process.waits.iter().filter(|wait| is_for_good(case, wait));
    let stands_still = case.of_length(case.process.at_work_ns()) < NO_PROGRESS;
    let locks: Vec<&Wait> = waits().filter(|wait| wait.role == Role::Lock).collect();
    if let Some(first) = locks.first() {
        let threads: usize = locks.iter().map(|wait| wait.tids.len()).sum();
        let places: Vec<String> = locks.iter().take(3).map(|wait| named(&wait.place)).collect();
        let (severity, why) = match threads {
            1 => (
                if stands_still { Severity::High } else { Severity::Medium },
                "whoever has it does not let go",
            ),
            _ => (
                if stands_still {
                    Severity::Critical
                } else {
                    Severity::High
                },
                "if they wait for each other, for good",
            ),
        };
        found.push(
            case.with(Kind::Stuck, severity, 1.0)
                .at(&first.place)
                .says(format!(
                    "{} waited for {} all of the {} and got none: {}; {why}",
                    many(threads as u64, "thread"),
                    a_lock(locks.iter().all(|wait| wait.surely_lock)),
                    time(case.length_ns),
                    places.join(", ")
                ))
                .gains("what waits for them goes on")
                .by("threads", threads as f64)
                .by("waited_s", case.length_ns as f64 / 1e9)
                .by_text("lines", places.join(", "))
                .next(case.next("dump", "-l")),
        );
        return;
    }
    // A subscriber that has nothing to read looks the same, so this is never called worse.
    let asking = waits().filter(|wait| wait.role == Role::Peer && !wait.in_loop && !wait.target.is_empty());
    if let Some(wait) = asking.max_by_key(|wait| wait.tids.len()) {
        found.push(
            case.with(Kind::Stuck, Severity::Low, case.share(wait.ns).min(1.0))
                .at(&wait.place)
                .says(format!(
                    "{} has waited for {} all of the {} without an answer: it is stuck, unless it only listens",
                    named(&wait.place),
                    case.whom(&wait.target),
                    time(case.length_ns)
                ))
                .gains("a time-out would tell")
                .by("threads", wait.tids.len() as f64)
                .by_peer(case, &wait.target)
                .next(case.next("dump", "-l")),
        );
        return;
    }
    let children = waits().find(|wait| wait.cause == Cause::Child);
    if let (Some(wait), true) = (children, stands_still) {
        let child = case.process.around.children.first();
        let whom = child.map_or("a child".to_owned(), |child| format!("its child {child}"));
        found.push(
            case.with(Kind::Stuck, Severity::Low, 1.0)
                .at(&wait.place)
                .says(format!(
                    "{} waits for {whom} {} of the time, and does nothing itself",
                    named(&wait.place),
                    percent(1.0)
                ))
                .gains("none here: look at the child")
                .by_text("children", case.process.around.children.join(", "))
                .next(format!("profiler why -p {} -s", case.process.pid)),
        );
    }
}
