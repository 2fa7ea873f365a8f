//! What is known of one function: how long its calls took, from entry to exit, and who made them.

use std::time::Duration;

use super::{
    Caller, CallsReport, Function, Histogram, PERCENTILES, Time, Timed, ratio,
    table::{Table, count_of, mark_of, place, rate, seconds, to_duration},
};
use crate::{
    humanize::{count, duration, percent},
    report::layout::{Grid, Last, columns, cut, paragraphs},
};

const INDENT: &str = "    ";
/// Who calls less often is summed up.
const CALLERS: usize = 8;
const LONGEST_BAR: usize = 40;

/// The function's name and, below it, all that is known.
pub(super) fn block(report: &CallsReport, table: &Table, function: &Function, width: usize) -> String {
    let width = width.max(40);
    let mut text = format!("{}\n", cut(&place(function), width));
    // Where room is that short, there is none to give away.
    let (indent, within) = match width - INDENT.len() {
        within @ 40.. => (INDENT, within),
        _ => ("", width),
    };

    let mut sentences = vec![calls(report, function)];
    let timed = function.timed.as_ref().filter(|timed| timed.count > 0);
    match timed {
        Some(timed) => sentences.extend(times(report, timed)),
        None => sentences.push(untimed(report, function)),
    }
    if let Some(Timed {
        missed_entries: missed @ 1..,
        ..
    }) = &function.timed
    {
        sentences.push(format!(
            "{} not timed: that they began was not seen.",
            count_of(*missed, "call")
        ));
    }
    push(&mut text, indent, &paragraphs(&sentences, within));
    if let Some(timed) = timed {
        text.push('\n');
        push(&mut text, indent, &bars(&timed.histogram, within));
    }
    let callers = callers(table, function, within);
    if !callers.is_empty() {
        text.push('\n');
        push(&mut text, indent, &callers);
    }
    text
}

fn push(text: &mut String, indent: &str, lines: &str) {
    for line in lines.lines() {
        if !line.is_empty() {
            text.push_str(indent);
            text.push_str(line);
        }
        text.push('\n');
    }
}

fn calls(report: &CallsReport, function: &Function) -> String {
    let calls = function.calls.unwrap_or_default();
    let mut text = mark_of(&calls).to_owned();
    text.push_str(&count_of(calls.all, "call"));
    if calls.error > 0 {
        text.push_str(&format!(" (± {})", count(calls.error)));
    }
    text.push_str(&format!(", {} a second", rate(report.per_second(calls.all))));
    if let Some(primitive) = calls.primitive.filter(|primitive| *primitive != calls.all) {
        text.push_str(&format!(", {} of them primitive", count(primitive)));
    }
    text
}

fn times(report: &CallsReport, timed: &Timed) -> Vec<String> {
    let time = |ns| duration(Duration::from_nanos(ns));
    let mut sentences = Vec::new();
    let percentiles = |of: &dyn Fn(f64) -> Option<u64>| {
        let known = PERCENTILES
            .iter()
            .filter_map(|(name, share)| Some(format!("{name} {}", time(of(*share)?))));
        known.collect::<Vec<_>>().join(", ")
    };
    let each = |ns: u64| time(ns.checked_div(timed.count).unwrap_or(0));
    let taken_off = each(timed.taken_off_ns);
    // What is short beside it is not told.
    let waited = match timed.delayed_ns.saturating_mul(10) >= timed.taken_off_ns.max(1) {
        true => format!(", and some {} of waiting for a CPU came of it", each(timed.delayed_ns)),
        false => String::new(),
    };
    if timed.is_out_of_reach() {
        let most = timed.most_ns();
        sentences.push(format!(
            "at most: total {}, mean {}, {}",
            time(most),
            time(most.checked_div(timed.count).unwrap_or(0)),
            percentiles(&|share| timed.most_percentile(share)),
        ));
        sentences.push(match report.stop {
            Some(stop) => format!(
                "A stop at a breakpoint takes {} and was taken off: what is left is too little to be told better.",
                duration(stop)
            ),
            None => format!(
                "Probes took {taken_off} of each call on average, for what it calls{waited}: what is left is too little to \
                 be told better."
            ),
        });
    } else {
        let mean = timed.mean_ns().unwrap_or_default();
        let error = timed.mean_error_ns().unwrap_or_default();
        let of_total = match timed.is_precise() {
            true => String::new(),
            false => format!(" ± {}", time(timed.error_ns())),
        };
        let mut of_mean = match timed.is_precise() && error as f64 <= mean as f64 * Histogram::ERROR {
            true => String::new(),
            false => format!(" ± {}", time(error)),
        };
        // In windows.
        if timed.spread_ns.is_some() {
            of_mean.push_str(&format!(" (of {} timed)", count(timed.count)));
        }
        sentences.push(format!(
            "total {}{of_total}, mean {}{of_mean}, min {}, max {}",
            time(timed.total_ns),
            time(mean),
            time(timed.min_ns),
            time(timed.max_ns),
        ));
        let known = percentiles(&|share| timed.percentile(share));
        if !known.is_empty() {
            let relative = PERCENTILES.iter().filter_map(|(_, share)| {
                let (time, most) = (timed.percentile(*share)?, timed.most_percentile(*share)?);
                Some(ratio(most.saturating_sub(time) as f64, time as f64))
            });
            let too_long = ratio(timed.less_ns as f64, timed.total_ns as f64);
            let error = (relative.fold(Histogram::ERROR.max(too_long), f64::max) * 100.0).round();
            sentences.push(format!("{known} (each ± {error} %)"));
        }
        if !timed.is_precise() && report.stop.is_none() {
            sentences.push(match &*waited {
                "" => format!(
                    "Probes took {taken_off} of each call on average, for what it calls: that was taken off, and the error \
                     is of that."
                ),
                waited => format!(
                    "Probes took {taken_off} of each call on average, for what it calls: that was taken off{waited}, which \
                     was not. The error is of both."
                ),
            });
        }
    }
    if timed.left_out > 0 {
        sentences.push(format!(
            "{} before, timed by probes, left out: probes took most of their time.",
            count_of(timed.left_out, "call")
        ));
    }
    if let Some(stop) = report.stop.filter(|_| !timed.is_out_of_reach()) {
        let stop = duration(stop);
        sentences.push(format!(
            "Each time can be wrong by {stop}: that is what a stop at a breakpoint takes, and was taken off"
        ));
    }
    if timed.nested > 0 {
        sentences.push(format!(
            "{} within a call of itself: their time, {}, is in both.",
            count_of(timed.nested, "call"),
            time(timed.nested_ns),
        ));
    }
    sentences
}

fn untimed(report: &CallsReport, function: &Function) -> String {
    let Time { seconds: time, error } = report.estimate(function.cumulative_samples);
    match function.cumulative_samples {
        0 => format!(
            "Not timed, and no sample: most likely less than {} s of CPU time.",
            seconds(report.unseen())
        ),
        _ => format!(
            "Not timed; by samples ~{} s ± {} s of CPU time{}.",
            seconds(time),
            seconds(error.unwrap_or_default()),
            report
                .percall(function)
                .map(|each| format!(", {} a call", duration(to_duration(each))))
                .unwrap_or_default(),
        ),
    }
}

/// A bar for each power of two. The longest is as long as there is room; one for few calls of many still has a star,
/// as it is the rare long calls that a reader looks for.
fn bars(histogram: &Histogram, width: usize) -> String {
    let octaves = histogram.octaves();
    let time = |ns: u64| duration(Duration::from_nanos(ns));
    let labels: Vec<_> = octaves
        .iter()
        .map(|octave| format!("{} – {}", time(octave.from), time(octave.to.saturating_add(1))))
        .collect();
    let counts: Vec<_> = octaves.iter().map(|octave| count(octave.count)).collect();
    let widest = |cells: &[String], title: &str| {
        let cells = cells.iter().map(|cell| columns(cell)).max().unwrap_or(0);
        cells.max(title.len())
    };
    let (label_width, count_width) = (widest(&labels, "time"), widest(&counts, "calls"));
    // Two gaps, and a frame around the bar.
    let room = width.saturating_sub(label_width + count_width + 6).min(LONGEST_BAR);
    let most = octaves.iter().map(|octave| octave.count).max().unwrap_or(0);

    let mut text = String::new();
    let mut push = |line: &str| {
        text.push_str(&cut(line, width));
        text.push('\n');
    };
    push(&format!("{:>label_width$}  {:>count_width$}", "time", "calls"));
    for ((octave, label), count) in octaves.iter().zip(&labels).zip(&counts) {
        let stars = (ratio(octave.count as f64, most as f64) * room as f64).round() as usize;
        let stars = stars.max(usize::from(octave.count > 0)).min(room);
        let bar = match room {
            0 => String::new(),
            _ => format!("  |{:<room$}|", "*".repeat(stars)),
        };
        push(&format!("{label:>label_width$}  {count:>count_width$}{bar}"));
    }
    text
}

fn callers(table: &Table, function: &Function, width: usize) -> String {
    // Calls if they were counted, or else samples.
    let counted = function.callers.iter().any(|caller| caller.calls > 0);
    let number = |caller: &Caller| {
        if counted {
            caller.calls
        } else {
            caller.cumulative_samples
        }
    };
    let mut callers: Vec<_> = function
        .callers
        .iter()
        .filter_map(|caller| Some((number(caller), place(table.functions.get(caller.function)?))))
        .filter(|(number, _)| *number > 0)
        .collect();
    if callers.is_empty() {
        return String::new();
    }
    let total = callers
        .iter()
        .fold(0_u64, |sum, (number, _)| sum.saturating_add(*number));
    if callers.len() > CALLERS + 1 {
        let others = callers.split_off(CALLERS);
        let rest = others
            .iter()
            .fold(0_u64, |sum, (number, _)| sum.saturating_add(*number));
        callers.push((rest, format!("({} more)", count(others.len() as u64))));
    }
    let (numbers, names): (Vec<_>, Vec<_>) = callers.into_iter().unzip();
    let last = names
        .into_iter()
        .map(|text| Last {
            text,
            ..Last::default()
        })
        .collect();
    let mut grid = Grid::new("called by", last);
    let cells = |cell: &dyn Fn(u64) -> String| numbers.iter().map(|number| cell(*number)).collect::<Vec<_>>();
    grid.column(0, if counted { "calls" } else { "samples" }, cells(&count));
    let share = |number: u64| percent(ratio(number as f64, total as f64));
    grid.column(1, "share", cells(&share));
    grid.render(width)
}
