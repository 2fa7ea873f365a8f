//! SARIF 2.1.0 (OASIS): results at lines, as linters and CI systems exchange them.
//!
//! What is a result, and how bad, is said by whoever has some ([`overview::sarif`](super::overview::sarif) of a recording,
//! [`diff`](super::diff) of two); here is how the file is built. Paths are those of the recording: absolute ones as `file:`
//! URIs, others relative to whatever a reader takes for the root of the sources.

use std::{fmt::Write as _, io::Write};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::shown;

const SCHEMA: &str = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// How bad a result is, in SARIF's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warning,
    Note,
}

/// A kind of result.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub id: &'static str,
    /// What its results are, in a sentence.
    pub description: &'static str,
}

/// Something to look at.
#[derive(Debug)]
pub struct Found {
    pub rule: &'static str,
    pub level: Level,
    pub message: String,
    /// Empty if it is about none.
    pub file: String,
    /// 0 if it is about none.
    pub line: u32,
    pub function: String,
    /// From 0 to 1: how much of all it is.
    pub share: Option<f64>,
    /// Further numbers, for programs.
    pub properties: Map<String, Value>,
}

#[derive(Serialize)]
struct Log {
    #[serde(rename = "$schema")]
    schema: &'static str,
    version: &'static str,
    runs: [Run; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    tool: Tool,
    column_kind: &'static str,
    results: Vec<Outcome>,
}

#[derive(Serialize)]
struct Tool {
    driver: Driver,
}

#[derive(Serialize)]
struct Driver {
    name: &'static str,
    version: &'static str,
    rules: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    id: &'static str,
    short_description: Message,
}

#[derive(Serialize)]
struct Message {
    text: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    rule_id: &'static str,
    rule_index: usize,
    level: Level,
    message: Message,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    locations: Vec<Location>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    properties: Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    physical_location: Physical,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logical_locations: Vec<Logical>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Physical {
    artifact_location: Artifact,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<Region>,
}

#[derive(Serialize)]
struct Artifact {
    uri: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    start_line: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Logical {
    fully_qualified_name: String,
    kind: &'static str,
}

/// Writes results, the worst first as they come. Rules that none is of are left out.
pub fn write(rules: &[Rule], found: Vec<Found>, out: &mut dyn Write) -> anyhow::Result<()> {
    let rules: Vec<&Rule> = (rules.iter())
        .filter(|rule| found.iter().any(|found| found.rule == rule.id))
        .collect();
    let results = found.into_iter().filter_map(|found| {
        let rule_index = rules.iter().position(|rule| rule.id == found.rule)?;
        Some(outcome(found, rule_index))
    });
    let log = Log {
        schema: SCHEMA,
        version: "2.1.0",
        runs: [Run {
            column_kind: "unicodeCodePoints",
            results: results.collect(),
            tool: Tool {
                driver: Driver {
                    name: env!("CARGO_PKG_NAME"),
                    version: env!("CARGO_PKG_VERSION"),
                    rules: rules.iter().map(|rule| descriptor(rule)).collect(),
                },
            },
        }],
    };
    serde_json::to_writer_pretty(&mut *out, &log).context("cannot write SARIF")?;
    Ok(writeln!(out)?)
}

fn descriptor(rule: &Rule) -> Descriptor {
    Descriptor {
        id: rule.id,
        short_description: Message {
            text: rule.description.to_owned(),
        },
    }
}

fn outcome(found: Found, rule_index: usize) -> Outcome {
    let is_file = found.file.contains(['/', '.']) && !found.file.starts_with(['<', '[']);
    let location = is_file.then(|| Location {
        physical_location: Physical {
            artifact_location: Artifact { uri: uri(&found.file) },
            region: (found.line > 0).then_some(Region { start_line: found.line }),
        },
        logical_locations: match &*found.function {
            "" => Vec::new(),
            function => vec![Logical {
                fully_qualified_name: shown::line(function),
                kind: "function",
            }],
        },
    });
    Outcome {
        rule_id: found.rule,
        rule_index,
        level: found.level,
        message: Message {
            text: shown::line(&found.message),
        },
        // Of 0 to 100.
        rank: found
            .share
            .filter(|share| share.is_finite())
            .map(|share| (share * 100.0).clamp(0.0, 100.0)),
        locations: location.into_iter().collect(),
        properties: found.properties,
    }
}

/// A path as a URI (RFC 3986): what is not plain is by its bytes.
fn uri(path: &str) -> String {
    let mut uri = String::from(if path.starts_with('/') { "file://" } else { "" });
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => uri.push(byte.into()),
            _ => _ = write!(uri, "%{byte:02X}"),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_uri_that_says_which_bytes_it_has() {
        assert_eq!(uri("/srv/my app/größe.py"), "file:///srv/my%20app/gr%C3%B6%C3%9Fe.py");
        assert_eq!(uri("shop/views.py"), "shop/views.py");
        // Not taken for a scheme.
        assert_eq!(uri("c:/x.py"), "c%3A/x.py");
    }

    #[test]
    fn results_name_their_rule_by_its_place_and_what_has_no_file_has_no_location() {
        let rules = ["unused", "hot"].map(|id| Rule { id, description: "…" });
        let found = |file: &str, line| Found {
            rule: "hot",
            level: Level::Note,
            message: "a\u{1b}[2Jb".to_owned(),
            file: file.to_owned(),
            line,
            function: "f".to_owned(),
            share: Some(0.5),
            properties: Map::new(),
        };
        let mut out = Vec::new();
        write(
            &rules,
            vec![found("/srv/a.py", 3), found("<string>", 1), found("/srv/b.py", 0)],
            &mut out,
        )
        .unwrap();
        let log: Value = serde_json::from_slice(&out).unwrap();
        let run = &log["runs"][0];
        assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), 1);
        let [a, string, b] = [0, 1, 2].map(|at| &run["results"][at]);
        assert_eq!((&a["ruleIndex"], &a["rank"]), (&0.into(), &50.0.into()));
        assert_eq!(a["locations"][0]["physicalLocation"]["region"]["startLine"], 3);
        assert_eq!(string.get("locations"), None);
        assert_eq!(b["locations"][0]["physicalLocation"].get("region"), None);
        assert!(!a["message"]["text"].as_str().unwrap().contains('\u{1b}'));
    }
}
