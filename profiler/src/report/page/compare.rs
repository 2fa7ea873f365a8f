//! The page of a difference: two values, before and after, and what `diff` says of them.
//!
//! What it says is worked out once ([`crate::diff`]): the page has the sentence, the rows with their intervals and the
//! method as text and numbers, and only adds up what its pictures show. Numbers of either side are brought to the measure
//! of the comparison by a factor each.

use std::io::Write;

use rustc_hash::FxHashMap;
use serde::Serialize;

use super::{
    super::{Interpreter, View, diff::text, label},
    cause,
    data::Data,
    written,
};
use crate::{
    diff::{
        self, By, Diff, Method, Normal, Row, estimate::Change, gate::Held, statistics::Difference, verdict::Verdict,
    },
    profile::Profile,
    shown,
};

/// Rows that are in the page with their intervals, those that differ first.
const MOST_ROWS: usize = 20_000;
/// Of lists.
const MOST_LISTED: usize = 2_000;
/// Rows that are shown where none differs.
const LARGEST: usize = 5;

#[derive(Debug, Serialize)]
pub(super) struct Compare {
    verdict: String,
    differs: bool,
    /// What `--fail-on` came to.
    conditions: Vec<String>,
    /// What became more and less is called: `slower`, `faster`.
    words: [&'static str; 2],
    /// Of numbers in the measure of the comparison.
    unit: String,
    bytes: bool,
    /// What a value of either side is multiplied by to be such a number.
    factors: [f64; 2],
    /// What samples say of how exact a box is; none if values are not made of samples.
    sampling: Option<Sampling>,
    total: Option<Numbers>,
    by: &'static str,
    /// What differs, or the largest if nothing does.
    lists: Vec<PageRow>,
    /// All that was looked at, machine code apart.
    rows: Vec<PageRow>,
    /// How it came about, and what has to hold for it.
    notes: Vec<String>,
    /// What either side's recordings say of themselves.
    comments: [Vec<String>; 2],
}

#[derive(Debug, Serialize)]
struct Sampling {
    /// What one sample is, in values.
    periods: [f64; 2],
    /// How much more functions scatter than samples do, and the part that equal runs are taken to differ by.
    inflation: f64,
    noise: f64,
}

#[derive(Debug, Serialize)]
struct PageRow {
    name: String,
    /// The function, file, package or line of the page that it is, by its place.
    unit: Option<usize>,
    change: &'static str,
    total: Numbers,
    own: Numbers,
}

#[derive(Debug, Serialize)]
struct Numbers {
    before: f64,
    after: f64,
    /// The ends of the interval of 95 %.
    least: Option<f64>,
    most: Option<f64>,
    stands: bool,
}

/// One page of both sides. `tables` is the same comparison with rows for machine code, as tables and pictures have them;
/// `names` are those of what was compared.
pub fn write_difference(
    diff: &Diff,
    verdict: &Verdict,
    held: &[Held],
    tables: &Diff,
    sides: [&Profile; 2],
    names: [&str; 2],
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let values = sides.map(|profile| diff.measure.index_of(profile));
    let diff::Beside { profile: both, before } = diff::beside(sides, values, diff.by != By::Line);
    let view = View {
        title: format!("{} (before) and {} (after)", names[0], names[1]),
        subtitle: text::compared(diff),
        value: 1,
        interpreter: match diff.measure.value.kind {
            // As `memory` shows it.
            "inuse_space" | "inuse_objects" | "alloc_space" | "alloc_objects" | "peak_space" | "temporary_space" => {
                Interpreter::Hidden
            }
            _ => Interpreter::Work,
        },
        ..View::default()
    };
    let mut data = Data::with(&both, &view, sides.into_iter().any(cause::has_waits), &before);
    let totals = [0, 1].map(|side| both.total(side));
    data.tables.compare = Some(Compare::new(diff, verdict, held, tables, totals, &data).with_comments(sides));
    written(&data, out)
}

impl Compare {
    fn new(diff: &Diff, verdict: &Verdict, held: &[Held], tables: &Diff, totals: [i64; 2], data: &Data) -> Self {
        let units = Units::new(data);
        let page_row = |row: &Row| PageRow {
            name: shown::line(&row.key.name),
            unit: units.of(diff.by, row),
            change: match row.change() {
                _ if !row.stands() => "none",
                Change::More => "more",
                Change::Less => "less",
                Change::New => "new",
                Change::Gone => "gone",
            },
            total: Numbers::new(diff, &row.total, row.total_stands),
            own: Numbers::new(diff, &row.own, row.own_stands),
        };
        Self {
            verdict: shown::line(&verdict.sentence),
            differs: diff.total_stands || diff.rows.iter().any(Row::stands),
            conditions: (held.iter())
                .filter(|held| held.difference.is_some())
                .map(text::condition)
                .collect(),
            words: [text::more_word(diff), text::less_word(diff)],
            unit: shown::line(&diff.measure.unit()),
            bytes: diff.measure.value.unit == "bytes" && diff.measure.normal != Normal::Samples,
            factors: factors(diff, totals),
            sampling: sampling(diff),
            total: (diff.total.as_ref()).map(|total| Numbers::new(diff, total, diff.total_stands)),
            by: diff.by.name(),
            lists: listed(diff).into_iter().map(page_row).collect(),
            rows: tables.rows.iter().take(MOST_ROWS).map(page_row).collect(),
            notes: text::notes(diff, verdict),
            comments: [Vec::new(), Vec::new()],
        }
    }

    fn with_comments(self, sides: [&Profile; 2]) -> Self {
        let comments = sides.map(|profile| profile.comments.iter().map(|line| shown::line(line)).collect());
        Self { comments, ..self }
    }
}

/// What differs; if nothing does, what has most of its own.
fn listed(diff: &Diff) -> Vec<&Row> {
    let mut rows: Vec<&Row> = diff.rows.iter().filter(|row| row.stands()).take(MOST_LISTED).collect();
    if rows.is_empty() {
        let own = |row: &Row| row.own.before.value + row.own.after.value;
        rows = diff.rows.iter().collect();
        rows.sort_by(|a, b| own(b).total_cmp(&own(a)));
        rows.truncate(LARGEST);
    }
    rows
}

impl Numbers {
    fn new(diff: &Diff, difference: &Difference, stands: bool) -> Self {
        let factor = diff.measure.factor();
        let (least, most) = difference.interval();
        let known = diff.method != Method::Unknown && least.is_finite() && most.is_finite();
        Self {
            before: rounded(difference.before.value * factor),
            after: rounded(difference.after.value * factor),
            least: known.then(|| rounded(least * factor)),
            most: known.then(|| rounded(most * factor)),
            stands,
        }
    }
}

/// As many digits as are shown, and some more.
fn rounded(number: f64) -> f64 {
    if number == 0.0 || !number.is_finite() {
        return number;
    }
    let scale = 10_f64.powi(7 - number.abs().log10().ceil() as i32);
    if scale.is_finite() && scale > 0.0 {
        (number * scale).round() / scale
    } else {
        number
    }
}

/// All of a side is what the comparison says it is.
fn factors(diff: &Diff, totals: [i64; 2]) -> [f64; 2] {
    let factor = diff.measure.factor();
    let all = match &diff.total {
        Some(total) => [total.before.value * factor, total.after.value * factor],
        None => [100.0; 2],
    };
    [0, 1].map(|side| match totals[side] {
        0 => 0.0,
        total => all[side] / total as f64,
    })
}

fn sampling(diff: &Diff) -> Option<Sampling> {
    let [Some(before), Some(after)] = diff.measure.period else {
        return None;
    };
    let (inflation, noise) = match diff.method {
        Method::Counts { inflation, .. } => (inflation, diff.method.runs_differ()),
        // Numbers of samples are what is known of a box.
        _ => (1.0, 0.0),
    };
    Some(Sampling {
        periods: [before, after],
        inflation,
        noise,
    })
}

/// What the page calls what rows are about.
struct Units<'a> {
    functions: FxHashMap<(bool, &'a str, &'a str), usize>,
    files: FxHashMap<&'a str, usize>,
    packages: FxHashMap<&'a str, usize>,
}

impl<'a> Units<'a> {
    fn new(data: &'a Data) -> Self {
        let tables = &data.tables;
        let of = |functions: &'a [String]| (functions.iter().enumerate()).map(|(at, name)| (&**name, at)).collect();
        let functions = (tables.functions.name.iter().enumerate()).map(|(at, name)| {
            let file = tables
                .files
                .short
                .get(tables.functions.file[at])
                .map_or("", |file| file);
            ((tables.functions.kind[at] == 0, &**name, file), at)
        });
        Self {
            functions: functions.collect(),
            files: of(&tables.files.short),
            packages: of(&tables.packages),
        }
    }

    /// None of what the page has no place for, such as modules.
    fn of(&self, by: By, row: &Row) -> Option<usize> {
        match by {
            By::Function => {
                let name = label::clean(row.key.function.clone());
                let file = shown::line(&row.key.file);
                self.functions.get(&(row.key.python, &*name, &*file)).copied()
            }
            By::File => self.files.get(&*row.key.name).copied(),
            By::Package => self.packages.get(&*row.key.name).copied(),
            By::Line | By::Module => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::diff::{Asked, compare, made, verdict::verdict};

    fn page(asked: &Asked) -> (Diff, Compare, Data) {
        let mut before = made::cpu(10, &[(900, &["f", "main"]), (60, &["old", "main"])]);
        made::add(&mut before, 7, 300, &["g", "main"]);
        let after = made::cpu(20, &[(900, &["f", "main"]), (1500, &["g", "main"])]);
        let diff = compare(from_ref(&before), from_ref(&after), asked).unwrap();
        let values = [&before, &after].map(|profile| diff.measure.index_of(profile));
        let both = diff::beside([&before, &after], values, true).profile;
        let data = Data::new(&both, &View::default());
        let totals = [0, 1].map(|side| both.total(side));
        let page = Compare::new(&diff, &verdict(&diff), &[], &diff, totals, &data);
        (diff, page, data)
    }

    #[test]
    fn numbers_of_the_page_are_those_of_the_comparison() {
        for normal in [None, Some(Normal::Samples), Some(Normal::Recording)] {
            let asked = Asked {
                normal,
                ..Asked::default()
            };
            let (diff, page, data) = page(&asked);
            // What a sample of `f` comes to by the factors is what its row says.
            let row = page.rows.iter().find(|row| row.name.starts_with("f (")).unwrap();
            let ns = (900 * made::PERIOD_NS) as f64;
            let [before, after] = page.factors.map(|factor| ns * factor);
            assert!((row.total.before - before).abs() < 1e-4 * before, "{diff:?} {page:?}");
            assert!((row.total.after - after).abs() < 1e-4 * after, "{diff:?} {page:?}");
            // And it is the function of the page that is called so.
            assert_eq!(data.tables.functions.name[row.unit.unwrap()], "f");
        }
    }

    #[test]
    fn lists_have_what_differs_and_tables_all_that_was_looked_at() {
        let (_, page, data) = page(&Asked::default());
        let changes: Vec<_> = page.lists.iter().map(|row| (&*row.name, row.change)).collect();
        assert!(changes.contains(&("g (shop/app/orders.py)", "more")), "{changes:?}");
        assert!(changes.contains(&("old (shop/app/orders.py)", "gone")), "{changes:?}");
        assert_eq!(page.rows.len(), 4);
        assert_eq!(data.tables.values.len(), 2);
    }
}
