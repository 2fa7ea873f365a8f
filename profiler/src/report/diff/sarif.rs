//! A comparison as SARIF: conditions of `--fail-on` that are met, and rows that became more.

use std::io::Write;

use serde_json::{Map, Value};

use super::text::{self, condition};
use crate::{
    diff::{Diff, Row, estimate::Change, gate::Held, verdict::Verdict},
    report::sarif::{self, Found, Level, Rule},
};

const GATE: Rule = Rule {
    id: "regression",
    description: "A condition of --fail-on is met: it has become more by that much, for certain",
};
const MORE: Rule = Rule {
    id: "became-more",
    description: "A function, line or file that takes more than before",
};

/// What of it is something to look at. Errors are what fails the gate.
pub fn write_sarif(diff: &Diff, verdict: &Verdict, held: &[Held], out: &mut dyn Write) -> anyhow::Result<()> {
    let mut found: Vec<Found> = (held.iter())
        .filter(|held| held.met)
        .map(|held| {
            let row = (diff.rows.iter()).find(|row| held.row.as_deref() == Some(&*row.key.name));
            at(row, GATE, Level::Error, condition(held))
        })
        .collect();
    let more = (diff.rows.iter())
        .filter(|row| row.stands() && matches!(row.change(), Change::More | Change::New))
        .map(|row| {
            let told = text::told(diff, row);
            at(Some(row), MORE, Level::Warning, format!("{}: {told}", row.key.name))
        });
    found.extend(more);
    if found.is_empty() && diff.total_stands && diff.total.as_ref().is_some_and(|total| total.change() > 0.0) {
        found.push(at(None, MORE, Level::Warning, verdict.sentence.clone()));
    }
    sarif::write(&[GATE, MORE], found, out)
}

fn at(row: Option<&Row>, rule: Rule, level: Level, message: String) -> Found {
    let key = row.map(|row| &row.key);
    let mut properties = Map::new();
    if let Some(row) = row {
        properties.insert("pAdjusted".to_owned(), Value::from(row.p));
    }
    Found {
        rule: rule.id,
        level,
        message,
        file: key
            .filter(|key| key.python)
            .map_or_else(String::new, |key| key.file.clone()),
        line: key.map_or(0, |key| key.line),
        function: key.map_or_else(String::new, |key| key.function.clone()),
        share: None,
        properties,
    }
}
