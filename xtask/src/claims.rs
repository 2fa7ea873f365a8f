//! How long each claim of the end-to-end tests took, as `tests/src/serial.rs` writes it down: those that take long are seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::failures::Failures;

/// One claim: a test's name, and how long it took.
#[derive(Debug, PartialEq)]
pub struct Claim {
    name: String,
    seconds: f64,
}

/// How many are shown.
const SHOWN: usize = 20;

pub fn read(path: &Path) -> Result<Vec<Claim>> {
    let text = fs::read_to_string(path).with_context(|| format!("no claim left its time in {}", path.display()))?;
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Claim> {
    let mut fields = line.split('\t');
    let name = fields.next()?.to_owned();
    let seconds = fields.next()?.parse().ok()?;
    Some(Claim { name, seconds })
}

/// The slowest claims and the slowest files, in words; `kept` has them all.
pub fn slowest(claims: &[Claim], failures: &Failures, kept: &Path) -> String {
    let total: f64 = claims.iter().map(|claim| claim.seconds).sum();
    let mut sorted: Vec<&Claim> = claims.iter().collect();
    sorted.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    let mut files: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for claim in claims {
        let file = claim.name.split("::").next().unwrap_or_default();
        let of_file = files.entry(file).or_default();
        of_file.0 += 1;
        of_file.1 += claim.seconds;
    }
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_by(|(_, (_, one)), (_, (_, other))| other.total_cmp(one));

    let mut text = format!(
        "xtask: {} claims in {total:.0} s; all of them: {}\n",
        claims.len(),
        kept.display()
    );
    // Writing to a string cannot fail.
    for claim in sorted.iter().take(SHOWN) {
        let failed = if failures.has(&claim.name) { "  FAILED" } else { "" };
        let _ = writeln!(text, "  {:>6.1} s  {}{failed}", claim.seconds, claim.name);
    }
    for (file, (count, seconds)) in files.iter().take(SHOWN) {
        let _ = writeln!(text, "  {seconds:>6.1} s  {file} ({count} claims)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_claim_and_the_slowest_file_come_first() {
        let claims: Vec<Claim> = ["a::one\t1.0", "b::two\t2.5", "a::three\t2.0", "torn\t"]
            .into_iter()
            .filter_map(parse)
            .collect();
        let mut failures = Failures::default();
        ["failures:", "---- b::two stdout ----", "Error: no caller"]
            .iter()
            .for_each(|line| failures.take(line));
        assert_eq!(
            slowest(&claims, &failures, Path::new("t.tsv")),
            "xtask: 3 claims in 6 s; all of them: t.tsv
     2.5 s  b::two  FAILED
     2.0 s  a::three
     1.0 s  a::one
     3.0 s  a (2 claims)
     2.5 s  b (1 claims)
"
        );
    }
}
