//! What a comparison comes to, as one sentence.

use std::time::Duration;

use super::{
    estimate::{Change, Diff, Method, Row},
    measure::Normal,
    statistics::Difference,
};

/// What a caller has more of than the function that has it itself is not its own doing.
const MOST_OF_IT: f64 = 0.66;

/// Numbers of [`Diff`] as they are told.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub sentence: String,
    /// The row that most of it is in.
    pub because: Option<usize>,
    /// The smallest changes that would have been found four times in five: of all, as a share of it, and of the largest
    /// row, in its own unit.
    pub detectable: Option<f64>,
    pub detectable_of_row: Option<(usize, f64)>,
}

pub fn verdict(diff: &Diff) -> Verdict {
    let detectable = diff.total.and_then(|total| detectable(&total, 1.0, diff));
    let detectable_of_row = largest(diff).map(|row| (row, diff.rows[row].own.detectable()));
    let mut verdict = Verdict {
        sentence: String::new(),
        because: None,
        detectable,
        detectable_of_row: detectable_of_row.filter(|(_, change)| change.is_finite()),
    };
    let up = diff.total.is_none_or(|total| total.change() >= 0.0);
    if diff.method == Method::Unknown {
        verdict.sentence = unknown(diff);
        return verdict;
    }
    verdict.because = match diff.total_stands {
        true => cause(diff, up),
        false => larger(diff, cause(diff, true), cause(diff, false)),
    };
    let because = verdict
        .because
        .and_then(|row| diff.rows.get(row))
        .map(|row| moved(diff, row));
    verdict.sentence = match (&diff.total, because) {
        (Some(total), because) if diff.total_stands => {
            let by = by(diff, total);
            match because {
                Some(because) => format!("{by}, because of {because}"),
                None => format!("{by}; because of which {} is not certain", diff.by.name()),
            }
        }
        (Some(total), Some(because)) if diff.alike => format!(
            "no verdict on all ({}: another load or a machine more or less busy), but {because}",
            signed_percent(total.relative().unwrap_or(0.0))
        ),
        (Some(total), Some(because)) => format!("{}, but {because}", level(diff, total)),
        (Some(total), None) if diff.alike => format!(
            "no verdict on the code: all functions alike took {} {}, so there was {} to do, or the machine was {}; \
             divide by work (--per requests=N,M), or record three times a side",
            percent(total.relative().unwrap_or(0.0).abs()),
            if up { "more" } else { "less" },
            if up { "more" } else { "less" },
            if up { "less busy" } else { "busier" },
        ),
        (None, Some(because)) => format!("not shared out alike: {because}"),
        (_, None) => none(diff, &verdict),
    };
    verdict
}

/// The words for more and less of what was measured.
fn words(diff: &Diff) -> (&'static str, &'static str, &'static str) {
    match (diff.measure.value.kind, diff.measure.value.unit) {
        (_, "bytes") => ("more memory", "less memory", "as much memory"),
        ("cpu" | "wall" | "samples", _) => ("slower", "faster", "as fast"),
        ("wait" | "waits" | "delay", _) => ("more waiting", "less waiting", "as much waiting"),
        _ => ("more", "less", "as much"),
    }
}

/// `slower by 4.1 % (2.2 – 6.0 %)`.
fn by(diff: &Diff, total: &Difference) -> String {
    let (more, less, _) = words(diff);
    let up = total.change() > 0.0;
    let word = if up { more } else { less };
    match (total.relative(), total.relative_interval()) {
        (Some(share), Some((least, most))) => {
            let (least, most) = if up { (least, most) } else { (-most, -least) };
            format!("{word} by {} ({})", percent(share.abs()), range(least, most))
        }
        _ => format!("{word} by {}", amount(diff, total.change().abs())),
    }
}

fn level(diff: &Diff, total: &Difference) -> String {
    let (.., same) = words(diff);
    match (total.relative(), total.relative_interval()) {
        (Some(share), Some((least, most))) => {
            format!(
                "{same} in all ({}, {} to {})",
                signed_percent(share),
                signed_percent(least),
                signed_percent(most)
            )
        }
        _ => format!("{same} in all"),
    }
}

/// `orders.render +3.8 points`, `orders.render (new) 3.8 points`.
pub fn moved(diff: &Diff, row: &Row) -> String {
    let new = match row.change() {
        Change::New => " (new)",
        Change::Gone => " (gone)",
        Change::More | Change::Less => "",
    };
    format!("{}{new} {}", row.key.word(), signed_amount(diff, row.told().change()))
}

/// Of the rows that changed this way, the innermost that has most of what the one that changed most has: a caller has all
/// that what it calls has.
fn cause(diff: &Diff, up: bool) -> Option<usize> {
    let change = |row: &Row| if up { row.told().change() } else { -row.told().change() };
    let of = |row: &&(usize, &Row)| change(row.1);
    let all: Vec<(usize, &Row)> = (diff.rows.iter().enumerate())
        .filter(|(_, row)| row.stands() && change(row) > 0.0)
        .collect();
    let others: Vec<_> = all.iter().filter(|(_, row)| !is_way(diff, row)).copied().collect();
    let stands = if others.is_empty() { all } else { others };
    let most = stands.iter().map(|row| of(&row)).fold(0.0, f64::max);
    let size = |row: &Row| row.total.before.value.max(row.total.after.value);
    stands
        .iter()
        .filter(|row| of(row) >= MOST_OF_IT * most)
        .min_by(|a, b| {
            size(a.1)
                .total_cmp(&size(b.1))
                .then(b.1.own.change().abs().total_cmp(&a.1.own.change().abs()))
        })
        .map(|(index, _)| *index)
}

/// Whether a row only says which way the same work was come to: it did not change itself, and another that did not either
/// has become as much less as it has become more. Workers that a server starts at its beginning, and when it is told to load
/// its code again, have other callers.
fn is_way(diff: &Diff, row: &Row) -> bool {
    let changed = row.total.change();
    !row.own_stands
        && (diff.rows.iter()).any(|other| {
            !other.own_stands && other.total_stands && (other.total.change() + changed).abs() <= ALIKE * changed.abs()
        })
}

/// What comes to as much, to a part of it.
const ALIKE: f64 = 0.02;

/// Of a row that has more and one that has less, the one that changed more.
fn larger(diff: &Diff, more: Option<usize>, less: Option<usize>) -> Option<usize> {
    let change = |row: &usize| diff.rows.get(*row).map_or(0.0, |row| row.told().change().abs());
    match (more, less) {
        (Some(more), Some(less)) if change(&less) > change(&more) => Some(less),
        (more, less) => more.or(less),
    }
}

/// The row with most of its own.
fn largest(diff: &Diff) -> Option<usize> {
    let own = |row: &Row| row.own.before.value + row.own.after.value;
    let largest = diff
        .rows
        .iter()
        .enumerate()
        .max_by(|a, b| own(a.1).total_cmp(&own(b.1)));
    largest.map(|(index, _)| index)
}

/// What would be found of all, as a share of it, if so many times as much were recorded.
fn detectable(total: &Difference, times: f64, diff: &Diff) -> Option<f64> {
    let before = total.before.value;
    if before <= 0.0 {
        return None;
    }
    let mut longer = *total;
    for mean in [&mut longer.before, &mut longer.after] {
        let fixed = (diff.method.runs_differ() * mean.value).powi(2).min(mean.variance);
        mean.variance = fixed + (mean.variance - fixed) / times;
        // Freedom grows as blocks do.
        mean.freedom *= times;
    }
    let change = Difference::new(longer.before, longer.after).detectable() / before;
    change.is_finite().then_some(change)
}

/// `no difference that 30 s could show; 2 min would show 1 %`.
fn none(diff: &Diff, verdict: &Verdict) -> String {
    const TIMES: f64 = 4.0;
    let [before, after] = diff.measure.seconds;
    let seconds = before.min(after);
    let recordings = diff.recordings[0].min(diff.recordings[1]);
    let one_run = !matches!(diff.method, Method::Blocks { one_run: false, .. });
    let (shown_by, longer) = match recordings {
        _ if one_run && seconds > 0.0 => (length(seconds), length(seconds * TIMES)),
        2.. if seconds > 0.0 => {
            let each = length(seconds / recordings as f64);
            let more = recordings * TIMES as usize;
            (format!("{recordings} × {each} a side"), format!("{more} × {each}"))
        }
        2.. => (
            format!("{recordings} recordings a side"),
            format!("{}", recordings * TIMES as usize),
        ),
        _ => ("they".to_owned(), "four times as much".to_owned()),
    };
    let now = match (verdict.detectable, verdict.detectable_of_row) {
        (Some(share), _) => Some((share, diff.total.and_then(|total| detectable(&total, TIMES, diff)))),
        (None, _) => None,
    };
    let row = verdict
        .detectable_of_row
        .and_then(|(row, change)| Some((diff.rows.get(row)?, change)));
    let of_row = row.map(|(row, change)| in_row(diff, row, change, &longer));
    match (now, of_row) {
        (Some((now, Some(then))), _) if then < 0.8 * now => format!(
            "no difference that {shown_by} could show (of {}); {longer} would show {}",
            percent(now),
            percent(then)
        ),
        (Some((now, _)), _) => format!(
            "no difference that {shown_by} could show (of {}); more recordings a side would show less",
            percent(now)
        ),
        (None, Some((of_row, then))) => format!("no difference that {shown_by} could show (of {of_row}){then}"),
        (None, None) => format!("no difference that {shown_by} could show"),
    }
}

/// What would be found of the largest row, as what it is and as a part of it; and how much has to be recorded for a tenth of
/// it, if that takes more.
fn in_row(diff: &Diff, row: &Row, change: f64, longer: &str) -> (String, String) {
    const TENTH: f64 = 0.1;
    let now = format!("{} in {}", amount(diff, change), row.key.word());
    let share = change / row.own.before.value;
    if !share.is_finite() || share <= 0.0 {
        return (now, String::new());
    }
    let told = format!("{now}, {} of it", percent(share));
    // What is found becomes smaller with the root of the length, but for what runs differ by.
    let times = (share / TENTH).powi(2);
    let seconds = diff.measure.seconds[0].min(diff.measure.seconds[1]);
    let recordings = diff.recordings[0].min(diff.recordings[1]);
    let fixed = diff.method.runs_differ();
    let then = match share {
        share if share <= TENTH => String::new(),
        // The noise alone is as much.
        _ if fixed * std::f64::consts::SQRT_2 * 2.8 >= TENTH => {
            format!("; three recordings a side would show more, {longer} would not")
        }
        _ if seconds <= 0.0 => format!("; a tenth would take {times:.0} times as much"),
        _ => match recordings {
            2.. => format!(
                "; a tenth of it would take {recordings} a side of {}",
                length(seconds / recordings as f64 * times)
            ),
            _ => format!("; a tenth of it would take {}", length(seconds * times)),
        },
    };
    (told, then)
}

fn unknown(diff: &Diff) -> String {
    let Some(total) = &diff.total else {
        return "no verdict: one recording a side of these values does not say how exact it is".to_owned();
    };
    let (more, less, same) = words(diff);
    let word = match total.change() {
        0.0 => same.to_owned(),
        change if change > 0.0 => format!("{more} by {}", amount(diff, change)),
        change => format!("{less} by {}", amount(diff, -change)),
    };
    format!("{word}, but no verdict: one recording a side of these values does not say how exact it is")
}

/// `30 s`, `2 min`.
pub fn length(seconds: f64) -> String {
    match seconds {
        ..9.95 => format!("{seconds:.1} s"),
        ..119.5 => format!("{seconds:.0} s"),
        ..7170.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!(
            "{:.0} h",
            Duration::from_secs_f64(seconds.min(1e12)).as_secs_f64() / 3600.0
        ),
    }
}

pub fn percent(share: f64) -> String {
    format!("{} %", digits(share * 100.0))
}

pub fn signed_percent(share: f64) -> String {
    format!("{}{}", sign(share), percent(share.abs()))
}

fn range(least: f64, most: f64) -> String {
    format!("{} – {} %", digits(least * 100.0), digits(most * 100.0))
}

fn sign(number: f64) -> &'static str {
    match number {
        number if number > 0.0 => "+",
        number if number < 0.0 => "-",
        _ => "",
    }
}

/// As many digits as one reads.
fn digits(number: f64) -> String {
    match number.abs() {
        1000.0.. => format!("{number:.0}"),
        0.95.. => format!("{number:.1}"),
        0.0 => "0.0".to_owned(),
        _ => format!("{number:.2}"),
    }
}

/// A number of the measure, for a table.
pub fn number(diff: &Diff, value: f64) -> String {
    match diff.measure.value.unit {
        "bytes" if diff.measure.normal != Normal::Samples => crate::humanize::bytes_change(value.round() as i64)
            .trim_start_matches('+')
            .to_owned(),
        _ => digits(value * diff.measure.factor()),
    }
}

/// The same with its sign.
pub fn signed(diff: &Diff, value: f64) -> String {
    format!("{}{}", sign(value), number(diff, value.abs()))
}

fn amount(diff: &Diff, value: f64) -> String {
    let unit = diff.measure.unit();
    match (diff.measure.value.unit, &*unit) {
        ("bytes", unit) if unit.starts_with("bytes") => format!("{}{}", number(diff, value), &unit["bytes".len()..]),
        _ => format!("{} {unit}", number(diff, value)),
    }
}

fn signed_amount(diff: &Diff, value: f64) -> String {
    format!("{}{}", sign(value), amount(diff, value.abs()))
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::diff::{Asked, compare, made};

    #[test]
    fn who_started_a_worker_is_not_why_it_is_slower() {
        let side = |starts: &str, render: i64| {
            let all: [(i64, &[&str]); 3] = [
                (600, &["load", "work", starts, "main"]),
                (300, &["parse", "work", starts, "main"]),
                (render, &["render", "work", starts, "main"]),
            ];
            made::cpu(30, &all)
        };
        let asked = Asked {
            normal: Some(Normal::Samples),
            ..Asked::default()
        };
        let diff = compare(from_ref(&side("start", 300)), from_ref(&side("reload", 1200)), &asked).unwrap();
        let told = verdict(&diff).sentence;
        assert!(told.contains("render"), "{told}");
    }
}
