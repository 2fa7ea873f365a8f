//! Lines that wait for a disk.

use super::case::{Case, named, percent, time};
use crate::{
    summary::many,
    why::{Finding, Kind, evidence::Role},
};

pub fn find(case: &Case<'_>, found: &mut Vec<Finding>) {
    let waits = case
        .process
        .waits
        .iter()
        .filter(|wait| wait.role == Role::Disk && !wait.in_loop);
    let all: u64 = waits.clone().map(|wait| wait.ns).sum();
    let Some(wait) = waits.max_by_key(|wait| wait.ns) else {
        return;
    };
    let share = case.share(all);
    let Some(finding) = case.finding(Kind::Disk, share) else {
        return;
    };
    let file = match &*wait.target {
        "" => String::new(),
        target => format!(" ({target})"),
    };
    let what = match wait.call {
        Some(sync) => format!("to be sure that the disk has it ({sync})"),
        None => "for a disk".to_owned(),
    };
    found.push(
        finding
            .at(&wait.place)
            .says(format!(
                "{} waits {what} {} of the time{file}: {}, {} at most",
                named(&wait.place),
                percent(share),
                many(wait.count, "wait"),
                time(wait.longest_ns)
            ))
            .gains(format!("at most {} less time", percent(share)))
            .give_or_take(case.share(wait.error_ns))
            .by("waited_s", all as f64 / 1e9)
            .by("waits", wait.count as f64)
            .by_text("call", wait.call.unwrap_or_default())
            .by_text("path", wait.target.clone())
            .next(case.next("waits", "-d 10 --io")),
    );
}
