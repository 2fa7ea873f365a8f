//! The answer for programs. The document is described in docs/why.md; [`VERSION`] changes when a reader of an earlier one
//! would be misled.

use std::{collections::BTreeMap, io::Write};

use anyhow::Context as _;
use serde::Serialize;

use crate::why::{Fact, Finding, Kind, NotLooked, ProcessSummary, Severity, WhyReport};

pub const VERSION: u32 = 1;
pub const SCHEMA: &str = "profiler.why";

pub fn write(report: &WhyReport, out: &mut dyn Write) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &Document::of(report)).context("cannot write the findings as JSON")?;
    Ok(writeln!(out)?)
}

/// The same on one line.
pub fn document(report: &WhyReport) -> anyhow::Result<String> {
    serde_json::to_string(&Document::of(report)).context("cannot write the findings as JSON")
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    version: u32,
    length_ns: u64,
    findings: Vec<One<'a>>,
    not_seen: &'a [Kind],
    could_not_look: &'a [NotLooked],
    processes: &'a [ProcessSummary],
}

impl<'a> Document<'a> {
    fn of(report: &'a WhyReport) -> Self {
        Self {
            schema: SCHEMA,
            version: VERSION,
            length_ns: u64::try_from(report.length.as_nanos()).unwrap_or(u64::MAX),
            findings: report.findings.iter().map(One::of).collect(),
            not_seen: &report.not_seen,
            could_not_look: &report.not_looked,
            processes: &report.processes,
        }
    }
}

#[derive(Serialize)]
struct One<'a> {
    kind: Kind,
    severity: Severity,
    share: f64,
    error: f64,
    /// Empty, and 0, of what is about no line.
    function: &'a str,
    file: &'a str,
    line: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    via: &'a str,
    pid: u32,
    command: &'a str,
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    also: &'a [u32],
    sentence: &'a str,
    gain: &'a str,
    evidence: BTreeMap<&'static str, &'a Fact>,
    next: &'a str,
}

impl<'a> One<'a> {
    fn of(finding: &'a Finding) -> Self {
        let place = finding.place.as_ref();
        Self {
            kind: finding.kind,
            severity: finding.severity,
            share: finding.share,
            error: finding.error,
            function: place.map_or("", |place| &place.function),
            file: place.map_or("", |place| &place.file),
            line: place.map_or(0, |place| place.line),
            via: place.map_or("", |place| &place.via),
            pid: finding.pid,
            command: &finding.command,
            also: &finding.also,
            sentence: &finding.sentence,
            gain: &finding.gain,
            evidence: finding.evidence.iter().map(|(name, fact)| (*name, fact)).collect(),
            next: &finding.next,
        }
    }
}
