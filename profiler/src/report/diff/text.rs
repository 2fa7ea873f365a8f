//! In 80 columns.

use super::super::layout::{Grid, Last, paragraphs};
use crate::{
    diff::{
        Diff, Method, Normal, Row,
        estimate::Change,
        gate::Held,
        statistics::Difference,
        verdict::{Verdict, length, number, percent, signed, signed_percent},
    },
    humanize::count,
    shown,
};

pub fn text(diff: &Diff, verdict: &Verdict, held: &[Held], top: usize, width: usize) -> String {
    let mut text = paragraph(&shown::lines(&verdict.sentence), width);
    for held in held.iter().filter(|held| held.difference.is_some()) {
        text.push_str(&paragraph(&condition(held), width));
    }
    text.push('\n');
    if let Some(total) = &diff.total {
        text.push_str(&in_all(diff, total, width));
        text.push('\n');
    }
    let kinds = [
        (Change::More, more_word(diff)),
        (Change::New, "new"),
        (Change::Less, less_word(diff)),
        (Change::Gone, "gone"),
    ];
    let mut any = false;
    for (change, title) in kinds {
        let rows: Vec<&Row> = diff
            .rows
            .iter()
            .filter(|row| row.stands() && row.change() == change)
            .collect();
        if !rows.is_empty() {
            text.push_str(&block(diff, title, &rows, top, width));
            text.push('\n');
            any = true;
        }
    }
    if !any && !diff.rows.is_empty() {
        let mut rows: Vec<&Row> = diff.rows.iter().collect();
        let own = |row: &Row| row.own.before.value + row.own.after.value;
        rows.sort_by(|a, b| own(b).total_cmp(&own(a)));
        rows.truncate(top.min(5));
        let title = match diff.method {
            Method::Unknown => "largest",
            _ => "largest; none of all differs for certain",
        };
        text.push_str(&block(diff, title, &rows, top, width));
        text.push('\n');
    }
    for line in notes(diff, verdict) {
        text.push_str(&paragraph(&line, width));
    }
    text
}

pub(crate) fn more_word(diff: &Diff) -> &'static str {
    match diff.measure.value.kind {
        "cpu" | "wall" | "samples" => "slower",
        _ => "more",
    }
}

pub(crate) fn less_word(diff: &Diff) -> &'static str {
    match diff.measure.value.kind {
        "cpu" | "wall" | "samples" => "faster",
        _ => "less",
    }
}

pub(crate) fn condition(held: &Held) -> String {
    let row = held.row.as_ref().map_or(String::new(), |row| format!(" [{row}]"));
    let range = held.difference.as_ref().and_then(Difference::relative_interval);
    let range = range.map_or(String::new(), |(least, most)| {
        format!(" ({} to {})", signed_percent(least), signed_percent(most))
    });
    let what = match (held.met, held.possible) {
        (true, _) => "FAILED",
        (false, true) => "passed, but it may be",
        (false, false) => "passed",
    };
    shown::lines(&format!("{what}: {}{row}{range}", held.condition)).into_owned()
}

/// What became of a row, in one line: `10.0 before, 13.8 after: +3.8 points (+2.9 – +4.7)`.
pub fn told(diff: &Diff, row: &Row) -> String {
    format!(
        "{} before, {} after: {} ({}) {}",
        number(diff, row.total.before.value),
        number(diff, row.total.after.value),
        signed(diff, row.total.change()),
        interval(diff, &row.total),
        diff.measure.unit()
    )
}

fn in_all(diff: &Diff, total: &Difference, width: usize) -> String {
    let mut grid = Grid::new(
        "in all",
        vec![Last {
            text: relative(diff, total),
            ..Last::default()
        }],
    );
    grid.column(0, "before", vec![number(diff, total.before.value)]);
    grid.column(0, "after", vec![number(diff, total.after.value)]);
    grid.column(0, "change", vec![signed(diff, total.change())]);
    grid.column(1, "95 % from – to", vec![interval(diff, total)]);
    grid.render(width)
}

fn relative(diff: &Diff, total: &Difference) -> String {
    let unit = diff.measure.unit();
    match total.relative() {
        Some(share) => format!("{unit}, {}", signed_percent(share)),
        None => unit,
    }
}

fn interval(diff: &Diff, difference: &Difference) -> String {
    if diff.method == Method::Unknown {
        return "not known".to_owned();
    }
    let (least, most) = difference.interval();
    format!("{} – {}", signed(diff, least), signed(diff, most))
}

fn block(diff: &Diff, title: &'static str, rows: &[&Row], top: usize, width: usize) -> String {
    let shown = &rows[..rows.len().min(top.max(1))];
    let mut last: Vec<Last> = shown
        .iter()
        .map(|row| Last {
            text: row.key.name.clone(),
            ..Last::default()
        })
        .collect();
    if rows.len() > shown.len() {
        last.push(Last {
            text: format!("… {} more (--top)", rows.len() - shown.len()),
            ..Last::default()
        });
    }
    let mut grid = Grid::new(title, last);
    let cells = |cell: &dyn Fn(&Row) -> String| shown.iter().map(|row| cell(row)).collect::<Vec<_>>();
    grid.column(3, "before", cells(&|row| number(diff, row.total.before.value)));
    grid.column(2, "after", cells(&|row| number(diff, row.total.after.value)));
    grid.column(0, "change", cells(&|row| signed(diff, row.total.change())));
    grid.column(1, "95 %, from – to", cells(&|row| interval(diff, &row.total)));
    grid.column(0, "self", cells(&|row| signed(diff, row.own.change())));
    grid.render(width)
}

/// Words in lines; a name that is too long for one is cut.
fn paragraph(sentence: &str, width: usize) -> String {
    paragraphs(&[sentence.to_owned()], width)
}

/// What is compared, in a few words.
pub fn compared(diff: &Diff) -> String {
    let value = match diff.measure.value.kind {
        "cpu" => "CPU time",
        "wall" => "time, running and waiting",
        "wait" => "time of waiting",
        kind => kind,
    };
    let by = match &diff.measure.normal {
        Normal::Time if diff.measure.is_share() => "for each second recorded: 100 points are one CPU".to_owned(),
        Normal::Time => "for each second recorded".to_owned(),
        Normal::Samples => "as shares of all: 100 points are all of a side".to_owned(),
        Normal::Per { unit, before, after } => {
            format!(
                "for each {unit} ({} and {})",
                count(*before as u64),
                count(*after as u64)
            )
        }
        Normal::Recording => "for each recording".to_owned(),
        Normal::Level => "as it was".to_owned(),
    };
    format!("{value} {by}")
}

/// How it came about, and what has to hold for it.
pub fn notes(diff: &Diff, verdict: &Verdict) -> Vec<String> {
    let [before, after] = diff.measure.seconds;
    let mut compared = format!("compared: {}", compared(diff));
    if before > 0.0 && after > 0.0 {
        compared.push_str(&format!("; {} before, {} after", length(before), length(after)));
    }
    if let [Some(before), Some(after)] = diff.samples {
        compared.push_str(&format!(
            ", {} and {} samples",
            count(before as u64),
            count(after as u64)
        ));
    }
    let mut notes = vec![compared];
    if diff.measure.normal == Normal::Time && diff.measure.is_share() && diff.measure.value.unit != "bytes" {
        notes
            .push("assumed: as much work in each second on both sides; where it is not, --per requests=N,M".to_owned());
    }
    notes.push(format!("95 %: {}", method(diff)));
    notes.push(format!(
        "list: {} {}s looked at (Benjamini-Hochberg: at most 5 % of it are false); {} with {} are not",
        diff.rows.len(),
        diff.by.name(),
        diff.sparse,
        match diff.measure.estimated {
            true => "less than 10 samples would say",
            false => "fewer than 10 samples",
        }
    ));
    if let Some(found) = detectable(diff, verdict) {
        notes.push(found);
    }
    notes.extend(diff.notes.iter().map(|note| shown::lines(note).into_owned()));
    notes
}

/// One line on where intervals come from.
pub fn method(diff: &Diff) -> String {
    match &diff.method {
        Method::Blocks {
            what,
            number: [before, after],
            drawn,
            one_run,
        } => {
            let by = match drawn {
                true => "bootstrap",
                false => "Student's t",
            };
            let but = match one_run {
                true => "; of one run each: what differs from run to run is not in it",
                false => "",
            };
            format!("{by} over {before} and {after} {what}, taken to be independent{but}")
        }
        Method::Counts {
            inflation,
            noise,
            delays,
        } => {
            let scatter = match *inflation {
                // What would read "× 1.0" is nothing.
                ..1.05 => String::new(),
                inflation => format!(" × {inflation:.1} (how functions scatter)"),
            };
            let what = match (diff.measure.estimated, diff.measure.value.unit) {
                (false, _) => "samples in ticks (multinomial)",
                (true, "bytes") => {
                    "what was drawn, and bytes that come in lumps of 64 KiB, each taken to be independent of all others, but for half a MiB \
                     that a row is off by"
                }
                (true, _) => {
                    "what was drawn, and waits that come by chance, each taken to be independent of all others"
                }
            };
            // Below a hundredth it is none of the numbers.
            let busy = match *delays {
                0.01.. => format!(
                    " and half of what is waited for want of a CPU ({} of all, with locks that others hold meanwhile)",
                    percent(*delays)
                ),
                _ => String::new(),
            };
            format!(
                "one recording a side: {what}{scatter}, and {}{busy} that runs are taken to differ by; \
                 three recordings a side would measure it",
                percent(*noise)
            )
        }
        Method::Unknown => "not known: one recording a side of these values; three or more would show it".to_owned(),
    }
}

fn detectable(diff: &Diff, verdict: &Verdict) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(share) = verdict.detectable {
        parts.push(format!("{} in all", percent(share)));
    }
    if let Some((row, change)) = verdict.detectable_of_row
        && let Some(row) = diff.rows.get(row)
    {
        let unit = if diff.measure.value.unit == "bytes" {
            String::new()
        } else {
            format!(" {}", diff.measure.unit())
        };
        parts.push(format!("{}{unit} in {}", number(diff, change), row.key.word()));
    }
    (!parts.is_empty()).then(|| shown::lines(&format!("seen 4 times in 5 would be: {}", parts.join(", "))).into_owned())
}
