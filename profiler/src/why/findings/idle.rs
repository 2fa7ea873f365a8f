//! Nothing is wrong: it waits for work.

use super::case::{Case, named, percent};
use crate::why::{Finding, Kind, Severity, evidence::Role};

/// From this part of the time on without work, a process idles.
const IDLE: f64 = 0.9;
/// What most of its waits have to be known to be for.
const KNOWN: f64 = 0.5;

pub fn find(case: &Case<'_>) -> Option<Finding> {
    let process = case.process;
    let share = (1.0 - case.of_length(process.at_work_ns())).max(0.0);
    let whole = case.of_length(process.length_ns);
    // Of one that was there for a moment nothing is known.
    if share < IDLE || whole < IDLE || process.threads.is_empty() {
        return None;
    }
    let of = |role: Role| process.waited_ns(role);
    let (work, own, timer) = (of(Role::Work), of(Role::Own), of(Role::Timer));
    let all: u64 = process.threads.iter().map(|thread| thread.elapsed_ns).sum();
    let known = (work + own + timer) as f64 / all.max(1) as f64;
    let (sentence, what) = if known < KNOWN {
        (
            format!(
                "it waits {} of the time; for what cannot be told of most of it",
                percent(share)
            ),
            "unknown",
        )
    } else if work >= timer.max(own) {
        (
            format!("nothing is wrong: it waits for work {} of the time", percent(share)),
            "work",
        )
    } else if timer >= own {
        (
            format!(
                "nothing is wrong: it sleeps or waits for work {} of the time",
                percent(share)
            ),
            "timer",
        )
    } else {
        (
            format!(
                "it waits for its own threads or children {} of the time",
                percent(share)
            ),
            "own",
        )
    };
    let most = process
        .waits
        .iter()
        .filter(|wait| !wait.role.is_at_work())
        .max_by_key(|wait| wait.ns);
    let finding = case
        .with(Kind::Idle, Severity::Info, share)
        .by("cpu_s", process.cpu_ns() as f64 / 1e9)
        .by("at_work_s", process.at_work_ns() as f64 / 1e9)
        .by_text("waits_for", what);
    let finding = match most {
        Some(wait) => finding.at(&wait.place).by_text("where", named(&wait.place)),
        None => finding,
    };
    Some(
        finding
            .says(sentence)
            .gains("nothing: look again while it is slow")
            .next(format!("profiler why -p {} -d 60", process.pid)),
    )
}
