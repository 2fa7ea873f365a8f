//! For programs. docs/diff.md has what each field means; a field that is there stays, under one `version`.

use std::io::Write;

use anyhow::Context as _;
use serde::Serialize;

use super::text::{compared, method, notes};
use crate::diff::{Diff, Method, Row, estimate::Change, gate::Held, statistics::Difference, verdict::Verdict};

const VERSION: u32 = 1;

#[derive(Serialize)]
struct File<'a> {
    version: u32,
    verdict: &'a str,
    differs: bool,
    failed: bool,
    because: Option<&'a str>,
    value: &'static str,
    unit: String,
    compared: String,
    method: String,
    by: &'static str,
    recordings: [usize; 2],
    seconds: [f64; 2],
    samples: [Option<f64>; 2],
    total: Option<Numbers>,
    detectable_share: Option<f64>,
    conditions: Vec<Held1<'a>>,
    rows: Vec<FileRow<'a>>,
    rows_not_looked_at: usize,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct FileRow<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    function: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    module: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    file: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    line: u32,
    change: &'static str,
    established: bool,
    p_adjusted: Option<f64>,
    #[serde(rename = "self")]
    own: Numbers,
    total: Numbers,
}

#[derive(Serialize)]
struct Numbers {
    before: f64,
    after: f64,
    change: f64,
    interval: Option<[f64; 2]>,
    relative: Option<f64>,
    relative_interval: Option<[f64; 2]>,
    established: bool,
}

#[derive(Serialize)]
struct Held1<'a> {
    condition: &'a str,
    row: Option<&'a str>,
    found: bool,
    failed: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(line: &u32) -> bool {
    *line == 0
}

/// All rows that were looked at, and everything that the text says.
pub fn write_json(diff: &Diff, verdict: &Verdict, held: &[Held], out: &mut dyn Write) -> anyhow::Result<()> {
    let known = diff.method != Method::Unknown;
    let numbers = |difference: &Difference, established: bool| {
        let factor = diff.measure.factor();
        let finite =
            |(least, most): (f64, f64)| (known && least.is_finite() && most.is_finite()).then_some([least, most]);
        Numbers {
            before: difference.before.value * factor,
            after: difference.after.value * factor,
            change: difference.change() * factor,
            interval: finite(difference.interval()).map(|ends| ends.map(|end| end * factor)),
            relative: difference.relative(),
            relative_interval: difference.relative_interval().and_then(finite),
            established,
        }
    };
    let row = |row: &Row| match row.change() {
        _ if !row.stands() => "none",
        Change::More => "more",
        Change::Less => "less",
        Change::New => "new",
        Change::Gone => "gone",
    };
    let file = File {
        version: VERSION,
        verdict: &verdict.sentence,
        differs: diff.total_stands || diff.rows.iter().any(Row::stands),
        failed: held.iter().any(|held| held.met),
        because: verdict
            .because
            .and_then(|row| diff.rows.get(row))
            .map(|row| &*row.key.name),
        value: diff.measure.value.kind,
        unit: diff.measure.unit(),
        compared: compared(diff),
        method: method(diff),
        by: diff.by.name(),
        recordings: diff.recordings,
        seconds: diff.measure.seconds,
        samples: diff.samples,
        total: diff.total.as_ref().map(|total| numbers(total, diff.total_stands)),
        detectable_share: verdict.detectable,
        conditions: (held.iter())
            .map(|held| Held1 {
                condition: &held.condition,
                row: held.row.as_deref(),
                found: held.difference.is_some(),
                failed: held.met,
            })
            .collect(),
        rows: (diff.rows.iter())
            .map(|of| FileRow {
                name: &of.key.name,
                function: &of.key.function,
                module: &of.key.module,
                file: &of.key.file,
                line: of.key.line,
                change: row(of),
                established: of.stands(),
                p_adjusted: known.then_some(of.p),
                own: numbers(&of.own, of.own_stands),
                total: numbers(&of.total, of.total_stands),
            })
            .collect(),
        rows_not_looked_at: diff.sparse,
        notes: notes(diff, verdict),
    };
    serde_json::to_writer_pretty(&mut *out, &file).context("cannot write the difference as JSON")?;
    writeln!(out)?;
    Ok(())
}
