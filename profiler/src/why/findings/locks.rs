//! Locks that threads wait for.

use super::{
    case::{Case, named, percent, time},
    stuck,
};
use crate::{
    summary::many,
    why::{Finding, Kind, evidence::Role},
};

pub fn find(case: &Case<'_>, found: &mut Vec<Finding>) {
    let waits = case.process.waits.iter();
    let contended = waits.filter(|wait| wait.role == Role::Lock && !wait.in_loop && !stuck::is_for_good(case, wait));
    // Several causes and holders of one line.
    let Some(wait) = contended.max_by_key(|wait| wait.ns) else {
        return;
    };
    let share = case.share(wait.ns);
    let Some(finding) = case.finding(Kind::Lock, share) else {
        return;
    };
    let mut sentence = format!(
        "{} waits for {} {} of the time: {} of {}, {} on average, {} at most",
        named(&wait.place),
        a_lock(wait.surely_lock),
        percent(share),
        many(wait.count, "wait"),
        many(wait.tids.len() as u64, "thread"),
        time(wait.ns / wait.count.max(1)),
        time(wait.longest_ns),
    );
    if let Some(waker) = &wait.waker {
        sentence.push_str(&format!("; {} releases it most", named(waker)));
    }
    found.push(
        finding
            .at(&wait.place)
            .says(sentence)
            .gains(format!("at most {} less time", percent(share)))
            .give_or_take(case.share(wait.error_ns))
            .by("waited_s", wait.ns as f64 / 1e9)
            .by("waits", wait.count as f64)
            .by("threads", wait.tids.len() as f64)
            .by("longest_s", wait.longest_ns as f64 / 1e9)
            .by_text("holder", wait.waker.as_ref().map_or("", |place| &*place.name))
            .next(case.next("waits", "-d 10 --wakers")),
    );
}

/// A `with` of what is called neither lock nor anything like it.
pub fn a_lock(surely: bool) -> &'static str {
    match surely {
        true => "a lock",
        false => "what looks like a lock",
    }
}
