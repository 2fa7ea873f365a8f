//! The GIL: threads that could run and may not, and threads that have it and do not run.

use super::case::{Case, named, percent, time};
use crate::{
    summary::many,
    waits::cause::Cause,
    why::{Finding, Kind},
};

/// A wait with the GIL that is shorter, at most, is nothing to speak of.
const LEAST_HELD_NS: u64 = 5_000_000;

pub fn find(case: &Case<'_>, found: &mut Vec<Finding>) {
    let held = held_while_blocked(case);
    let has_held = held.is_some();
    found.extend(held);
    // Who waits for a thread that is blocked waits for that.
    found.extend(
        saturated(case).filter(|gil| !has_held || gil.share > 2.0 * found.last().map_or(0.0, |held| held.share)),
    );
}

fn saturated(case: &Case<'_>) -> Option<Finding> {
    let process = case.process;
    let waited = process.gil_ns();
    let share = case.share(waited);
    let finding = case.finding(Kind::Gil, share)?;
    let waiting = case.of_length(waited);
    let used = case.of_length(process.cpu_ns());
    let cpus = process.usable_cpus(case.host);
    // As many as wait could run, if there were CPUs left for them.
    let left = (cpus - used).max(0.0);
    let lost = case.host.idle_cpus.map_or(left, |idle| idle.min(left)).min(waiting);
    // Who had it is not known of every wait.
    let holder = process.holders.iter().find(|holder| holder.place.line != 0);
    let mut sentence = format!(
        "threads wait for the GIL {} of the time that they have work: {waiting:.1} of them on average",
        percent(share)
    );
    if lost >= 0.1 {
        sentence.push_str(&format!(", while {lost:.1} of {cpus:.0} CPUs idle that they could use"));
    }
    if let Some(holder) = holder {
        sentence.push_str(&format!("; {} has it most", named(&holder.place)));
    }
    let finding = match holder {
        Some(holder) => finding.at(&holder.place),
        None => finding,
    };
    Some(
        finding
            .says(sentence)
            .gains(format!(
                "at most {} less time, with processes in place of threads, or code that releases the GIL",
                percent(share)
            ))
            .by("waited_s", waited as f64 / 1e9)
            .by("threads_waiting", waiting)
            .by("cpus_used", used)
            .by("cpus_lost", lost)
            .next(case.next("waits", "-d 10 --by holder")),
    )
}

fn held_while_blocked(case: &Case<'_>) -> Option<Finding> {
    let blocked = case.process.waits.iter().filter(|wait| {
        wait.holds_gil
            && !matches!(
                wait.cause,
                Cause::Ready | Cause::Throttled | Cause::Gil | Cause::Stopped
            )
            && wait.longest_ns >= LEAST_HELD_NS
    });
    let wait = blocked.max_by_key(|wait| wait.others_ns)?;
    let share = case.share(wait.others_ns);
    let finding = case.finding(Kind::GilHeldBlocked, share)?;
    Some(
        finding
            .at(&wait.place)
            .says(format!(
                "{} waits ({}) without releasing the GIL, {} in {}; others waited {} for it meanwhile",
                named(&wait.place),
                wait.cause.name(),
                time(wait.ns),
                many(wait.count, "wait"),
                time(wait.others_ns)
            ))
            .gains(format!("at most {} less time", percent(share)))
            .by("held_s", wait.ns as f64 / 1e9)
            .by("others_waited_s", wait.others_ns as f64 / 1e9)
            .by("longest_s", wait.longest_ns as f64 / 1e9)
            .next(case.next("waits", "-d 10")),
    )
}
