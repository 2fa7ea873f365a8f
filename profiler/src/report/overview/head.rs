//! What was recorded: by which command, how long, how much, and how far it can be trusted.

use std::time::{Duration, UNIX_EPOCH};

use super::Asked;
use crate::{
    flight,
    humanize::{self, percent},
    profile::Profile,
    report::{
        amount::{self, FEW, amount, error},
        layout::{paragraphs, span},
        rows::{Counted, Sum},
    },
    shown,
};

/// Lines of what the run said that are repeated.
const LINES: usize = 8;

/// What the run said of itself besides: what was lost, what it cost.
pub(super) fn notes(profile: &Profile, width: usize) -> String {
    let rest: Vec<String> = (profile.comments.iter().skip(2))
        .filter(|line| !line.is_empty())
        .map(|line| shown::line(line))
        .collect();
    let mut lines: Vec<String> = rest.iter().take(LINES).cloned().collect();
    if rest.len() > LINES {
        lines.push(format!("… {} more lines, which -f json has", rest.len() - LINES));
    }
    paragraphs(&lines, width)
}

pub(super) fn text(profile: &Profile, asked: &Asked, counted: Counted, all: Sum, width: usize) -> String {
    let value_type = profile.sample_types[asked.value];
    let mut lines = Vec::new();
    let mut comments = profile.comments.iter().map(|line| shown::line(line));
    if let Some(command) = comments.next() {
        lines.push(command);
    }
    if let Some(when) = when(profile) {
        lines.push(when);
    }
    // The first line of what the run said is how much there was; the others come last, as they do when it ends.
    lines.extend(comments.next().filter(|line| !line.is_empty()));
    let of_samples = counted.samples.filter(|_| all.samples > 0);
    let mut what = match of_samples {
        // They are what is shown.
        Some(at) if at == asked.value => "shown:".to_owned(),
        _ => format!(
            "shown: {}, {}{} in all",
            amount::name(value_type),
            amount(all.value, value_type),
            match all.error() {
                // All waits of a thread come to a sum that is known.
                error if error > 0 && value_type.unit == "bytes" => format!(" ± {}", amount(error, value_type)),
                _ => String::new(),
            }
        ),
    };
    if let Some(before) = asked.before.filter(|before| *before > 0) {
        what.push_str(&format!(
            "{} {} of what was recorded",
            if what.ends_with(':') { "" } else { "," },
            percent(all.value as f64 / before as f64)
        ));
    }
    if let Some(at) = of_samples {
        let largest = error(all.samples / 2, all.samples) * 100.0;
        what.push_str(&format!(
            "{} {} samples: shares are ± {} % at most",
            if at == asked.value && asked.before.is_none() {
                ""
            } else {
                ","
            },
            humanize::count(all.samples),
            if largest < 1.0 {
                format!("{largest:.1}")
            } else {
                format!("{largest:.0}")
            }
        ));
        if all.samples < FEW {
            what.push_str("; too few to say where it is");
        }
    }
    lines.push(what);
    if counted.variance.is_some() && all.variance > 0.0 {
        lines.push(format!(
            "± is 95 % for what was drawn, taken to be drawn independently; how runs differ is not in it{}",
            // What one thread's lines have is brought to a sum that is known.
            match value_type.unit {
                "nanoseconds" => "; what several lines of a thread have is known better",
                _ => "",
            }
        ));
    } else if counted.samples.is_none() && counted.variance.is_none() && profile.comments.is_empty() {
        lines.push("no errors (±): the file does not say how it was sampled".to_owned());
    }
    let others: Vec<String> = (profile.shown_types())
        .filter(|(at, _)| *at != asked.value)
        .map(|(_, other)| shown::line(other.kind))
        .collect();
    if !others.is_empty() {
        lines.push(format!("also in it (--value): {}", others.join(", ")));
    }
    if all.value <= 0 {
        lines.push(match profile.is_empty() {
            true => "There is no sample in it.".to_owned(),
            false => "None of it comes to more than nothing: there are no shares of it.".to_owned(),
        });
    }
    paragraphs(&lines, width)
}

/// `8.0 s from 2026-11-30 00:46:12 UTC`
fn when(profile: &Profile) -> Option<String> {
    let length = u64::try_from(profile.duration_ns).ok().filter(|ns| *ns > 0);
    let began = u64::try_from(profile.started_at_ns).ok().filter(|ns| *ns > 0);
    let length = length.map(|ns| span(Duration::from_nanos(ns)));
    let began = began
        .and_then(|ns| UNIX_EPOCH.checked_add(Duration::from_nanos(ns)))
        .map(|began| {
            let stamp = flight::names::stamp(began);
            // `2026-11-29T14-05-00Z`: here colons do no harm.
            match stamp.trim_end_matches('Z').split_once('T') {
                Some((day, time)) => format!("{day} {} UTC", time.replace('-', ":")),
                None => stamp,
            }
        });
    match (length, began) {
        (Some(length), Some(began)) => Some(format!("{length} from {began}")),
        (Some(length), None) => Some(length),
        (None, Some(began)) => Some(format!("from {began}")),
        (None, None) => None,
    }
}
