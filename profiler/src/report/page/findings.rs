//! What `why` found, for the page: everything as text, in the words that a terminal has.

use std::time::Duration;

use serde::Serialize;

use super::super::why::{
    stored::{Found, Stored},
    text,
};
use crate::{
    humanize,
    profile::Profile,
    report::label,
    shown,
    why::{Fact, Severity},
};

#[derive(Debug, Serialize)]
pub(super) struct Findings {
    /// One line for each process that was looked at.
    head: Vec<String>,
    list: Vec<One>,
    /// What it means that there is none.
    nothing: Option<&'static str>,
    /// What was not seen, and what could not be looked for.
    rest: Vec<String>,
}

#[derive(Debug, Serialize)]
struct One {
    severity: &'static str,
    kind: &'static str,
    sentence: String,
    share: f64,
    error: f64,
    /// If there are several.
    who: String,
    gain: String,
    /// Where it is: as the tables of frames have it.
    function: String,
    file: String,
    short: String,
    line: u32,
    via: String,
    evidence: Vec<(String, String)>,
    next: String,
}

impl Findings {
    pub(super) fn of(profile: &Profile) -> Option<Self> {
        let stored = Stored::of(profile)?;
        let several = stored.processes.len() > 1;
        let head = (stored.processes.iter()).map(|process| shown::line(&text::introduced(process, stored.length())));
        let not_seen = text::not_seen(&stored.not_seen);
        let rest = not_seen.into_iter().chain(text::could_not_look(&stored.not_looked));
        Some(Self {
            head: head.collect(),
            list: stored.findings.iter().map(|found| One::of(found, several)).collect(),
            nothing: stored.findings.is_empty().then(|| text::nothing(&stored.processes)),
            rest: rest.map(|line| shown::line(&line)).collect(),
        })
    }
}

impl One {
    fn of(found: &Found, several: bool) -> Self {
        let others = text::others(found.kind, found.also.len());
        let who = match several {
            true => format!("{} ({}){others}", found.command, found.pid),
            false => others,
        };
        Self {
            severity: found.severity.name(),
            kind: found.kind.name(),
            sentence: shown::line(&found.sentence),
            share: found.share,
            error: found.error,
            who: shown::line(&who),
            gain: match found.severity {
                Severity::Info => String::new(),
                _ => shown::line(&found.gain),
            },
            function: label::clean(found.function.clone()),
            file: shown::line(&found.file),
            short: shown::line(&super::super::path::short(&found.file)),
            line: found.line,
            via: shown::line(&found.via),
            evidence: found.evidence.iter().map(|(name, fact)| told(name, fact)).collect(),
            next: shown::line(&found.next),
        }
    }
}

/// `waited_s`: 5.2 is told as waited: 5.2 s.
fn told(name: &str, fact: &Fact) -> (String, String) {
    let words = |name: &str| shown::line(&name.replace('_', " "));
    let number = match fact {
        Fact::Text(text) => return (words(name), shown::line(text)),
        Fact::Number(number) => *number,
    };
    let seconds = name.strip_suffix("_s").filter(|name| !name.ends_with("_per"));
    match (seconds, name.strip_suffix("_bytes")) {
        (Some(name), _) if (0.0..1e9).contains(&number) => {
            (words(name), humanize::duration(Duration::from_secs_f64(number)))
        }
        (_, Some(name)) if (0.0..1e18).contains(&number) => (words(name), humanize::bytes(number as u64)),
        _ if name.ends_with("_share") => (words(name), format!("{:.1} %", number * 100.0)),
        _ if number.fract() == 0.0 && number.abs() < 1e15 => (words(name), format!("{number:.0}")),
        _ => (words(name), format!("{number:.2}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_told_with_its_units() {
        let number = |name, number| told(name, &Fact::Number(number));
        let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(number("waited_for_gil_s", 5.2), pair("waited for gil", "5.2 s"));
        assert_eq!(number("growth_bytes", 2_097_152.0), pair("growth", "2.0 MiB"));
        assert_eq!(number("bytes_per_s", 1.5), pair("bytes per s", "1.50"));
        assert_eq!(number("threads", 3.0), pair("threads", "3"));
        assert_eq!(number("line_share", 0.5), pair("line share", "50.0 %"));
        let text = told("path", &Fact::Text("/x\u{1b}[2J".to_owned()));
        assert_eq!(text, pair("path", "/x\u{fffd}[2J"));
    }
}
