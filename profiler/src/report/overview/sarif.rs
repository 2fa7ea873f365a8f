//! A recording as SARIF: what `why` found, if that made it, else the hottest lines.

use std::io::Write;

use serde_json::{Map, Value};

use super::{Asked, quickfix};
use crate::{
    profile::Profile,
    report::{
        label,
        rows::Counted,
        sarif::{self, Found, Level, Rule},
        why::stored::Stored,
    },
    why::{Fact, Kind, Severity},
};

const HOT: Rule = Rule {
    id: "hot-line",
    description: "A line that the program spends much of its time or memory in",
};

pub fn write(profile: &Profile, asked: &Asked, out: &mut dyn Write) -> anyhow::Result<()> {
    match Stored::of(profile) {
        Some(stored) => {
            let rules: Vec<Rule> = (Kind::ALL.iter())
                .map(|kind| Rule {
                    id: kind.name(),
                    description: kind.name(),
                })
                .collect();
            sarif::write(&rules, findings(stored), out)
        }
        None => sarif::write(&[HOT], lines(profile, asked), out),
    }
}

fn findings(stored: Stored) -> Vec<Found> {
    let found = stored.findings.into_iter().map(|found| {
        let mut properties: Map<String, Value> = (found.evidence.into_iter())
            .map(|(name, fact)| match fact {
                Fact::Number(number) => (name, number.into()),
                Fact::Text(text) => (name, text.into()),
            })
            .collect();
        properties.insert("pid".to_owned(), found.pid.into());
        properties.insert("error".to_owned(), found.error.into());
        properties.insert("next".to_owned(), found.next.into());
        Found {
            rule: found.kind.name(),
            level: match found.severity {
                Severity::Critical | Severity::High => Level::Error,
                Severity::Medium => Level::Warning,
                Severity::Low | Severity::Info => Level::Note,
            },
            message: found.sentence,
            file: found.file,
            line: found.line,
            function: found.function,
            share: Some(found.share),
            properties,
        }
    });
    found.collect()
}

fn lines(profile: &Profile, asked: &Asked) -> Vec<Found> {
    let counted = Counted::new(profile, asked.value);
    let all = counted.all(profile);
    let (kind, unit) = (profile.sample_types.get(asked.value)).map_or(("", ""), |value| (value.kind, value.unit));
    let found = quickfix::hottest(profile, asked).into_iter().map(|line| {
        let mut properties = Map::new();
        let mut put = |name: &str, value: Value| properties.insert(name.to_owned(), value);
        put("value", kind.into());
        put("unit", unit.into());
        put("self", line.itself.value.into());
        put("total", line.total.value.into());
        if let Some(error) = counted.error(line.itself, all) {
            put("selfShareError", error.into());
        }
        Found {
            rule: HOT.id,
            level: Level::Note,
            message: format!(
                "{}: {}",
                label::clean(profile.string(line.function).to_owned()),
                line.told(all, counted)
            ),
            file: profile.string(line.file).to_owned(),
            line: line.number,
            function: profile.string(line.function).to_owned(),
            share: (all.value > 0).then(|| line.itself.value as f64 / all.value as f64),
            properties,
        }
    });
    found.collect()
}
