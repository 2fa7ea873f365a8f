//! Findings in a recording: the document that `why -j` writes, in a comment of pprof. So a report from the file shows what
//! one from the run does.
//!
//! A file is anybody's: what is read has types and bounds, and what is not understood is no finding.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::json::{self, SCHEMA, VERSION};
use crate::{
    profile::Profile,
    why::{Fact, Kind, NotLooked, ProcessSummary, Severity, WhyReport},
};

/// What a comment with findings begins with.
pub const PREFIX: &str = "profiler.why ";
/// Larger than any that was seen by a factor of a hundred.
const MOST_BYTES: usize = 4 << 20;
const MOST_FINDINGS: usize = 1000;

/// What a recording keeps of what was found.
pub fn comment(report: &WhyReport) -> anyhow::Result<String> {
    Ok(format!("{PREFIX}{}", json::document(report)?))
}

#[derive(Debug, Deserialize)]
pub struct Stored {
    schema: String,
    version: u32,
    length_ns: u64,
    pub findings: Vec<Found>,
    pub not_seen: Vec<Kind>,
    #[serde(rename = "could_not_look")]
    pub not_looked: Vec<NotLooked>,
    pub processes: Vec<ProcessSummary>,
}

#[derive(Debug, Deserialize)]
pub struct Found {
    pub kind: Kind,
    pub severity: Severity,
    pub share: f64,
    pub error: f64,
    pub function: String,
    pub file: String,
    pub line: u32,
    #[serde(default)]
    pub via: String,
    pub pid: u32,
    pub command: String,
    #[serde(default)]
    pub also: Vec<u32>,
    pub sentence: String,
    pub gain: String,
    pub evidence: BTreeMap<String, Fact>,
    pub next: String,
}

impl Stored {
    /// Of a recording that `why` made; of another version, none.
    pub fn of(profile: &Profile) -> Option<Self> {
        let document = profile.findings.as_deref()?.strip_prefix(PREFIX)?;
        let mut stored: Self = match document.len() {
            ..=MOST_BYTES => serde_json::from_str(document).ok()?,
            _ => return None,
        };
        stored.findings.truncate(MOST_FINDINGS);
        (stored.schema == SCHEMA && stored.version == VERSION).then_some(stored)
    }

    pub fn length(&self) -> Duration {
        Duration::from_nanos(self.length_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        report::{Format, View, pprof},
        why::Finding,
    };

    pub fn report() -> WhyReport {
        WhyReport {
            findings: vec![Finding {
                kind: Kind::GilHeldBlocked,
                severity: Severity::Critical,
                share: 0.52,
                error: 0.07,
                place: None,
                pid: 4242,
                command: "app.py".to_owned(),
                also: vec![4243],
                sentence: "\u{1b}[2Jit waits".to_owned(),
                gain: "at most 52 %".to_owned(),
                evidence: vec![("waited_s", Fact::Number(5.2)), ("holder", Fact::Text("f".to_owned()))],
                next: "profiler waits -p 4242".to_owned(),
            }],
            not_seen: vec![Kind::Disk],
            not_looked: vec![NotLooked {
                kinds: vec![Kind::Gc],
                pid: 4242,
                reason: "its functions have no names".to_owned(),
            }],
            processes: Vec::new(),
            length: Duration::from_secs(10),
        }
    }

    fn profile(findings: Option<String>) -> Profile {
        let mut profile = Profile::new(crate::wall::TYPES.to_vec(), None);
        profile.comments = vec!["profiler why -p 4242".to_owned()];
        profile.findings = findings;
        profile
    }

    #[test]
    fn what_was_found_is_read_back_from_a_recording_and_is_no_line_of_its_notes() {
        let profile = profile(Some(comment(&report()).unwrap()));
        let mut file = Vec::new();
        Format::Pprof
            .writer()
            .write(&profile, &View::default(), &mut file)
            .unwrap();
        let read = pprof::read(&file).unwrap();
        assert_eq!(read.comments, profile.comments);
        assert_eq!(read.findings, profile.findings);
        let stored = Stored::of(&read).unwrap();
        let [found] = &*stored.findings else {
            panic!("{stored:?}")
        };
        assert_eq!(
            (found.kind, found.severity, found.share, &*found.also),
            (Kind::GilHeldBlocked, Severity::Critical, 0.52, &[4243][..])
        );
        assert_eq!(found.evidence["waited_s"], Fact::Number(5.2));
        assert_eq!(
            (&*stored.not_seen, stored.length()),
            (&[Kind::Disk][..], Duration::from_secs(10))
        );
    }

    #[test]
    fn a_document_of_another_version_or_kind_is_no_findings() {
        let text = comment(&report()).unwrap();
        for other in [
            text.replace("\"version\":1", "\"version\":2"),
            text.replace("gil-held-blocked", "made-up"),
            text.replace("0.52", "null"),
            format!("{PREFIX}{}", "{".repeat(5 << 20)),
            String::new(),
        ] {
            assert!(Stored::of(&profile(Some(other))).is_none());
        }
        assert!(Stored::of(&profile(None)).is_none());
    }

    proptest! {
        #[test]
        fn no_comment_makes_a_reader_panic(text in "\\PC{0,200}", at in 0_usize..400) {
            let mut comment = comment(&report()).unwrap();
            let at = (0..=at.min(comment.len())).rev().find(|at| comment.is_char_boundary(*at)).unwrap_or(0);
            comment.insert_str(at, &text);
            drop(Stored::of(&profile(Some(comment))));
        }
    }
}
