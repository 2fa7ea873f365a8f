//! What `profiler waits` said of `waits.py` in a guest, beside what that measured itself.

use std::ops::RangeInclusive;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Of what the program measures. A guest is emulated: a call of its clock, and the way to a wait and back, take some of the
/// 40 ms that each wait lasts.
const CLOSE: RangeInclusive<f64> = 0.93..=1.02;
/// The part of the threads' time that is in a cause, or on a CPU.
const ACCOUNTED: RangeInclusive<f64> = 0.99..=1.01;

/// What is not as it should be.
pub fn complaints(report: &str, measured: &str) -> Result<Vec<String>> {
    let report: Value = serde_json::from_str(report).context("waits.json is no JSON")?;
    let measured: Value = serde_json::from_str(measured).context("what waits.py measured is no JSON")?;
    let mut complaints = Vec::new();
    for wait in measured.as_array().context("waits.py measured no list")? {
        let expected = wait["ns"].as_f64().context("waits.py measured no time")?;
        let told = told(&report, wait)?;
        if !CLOSE.contains(&(told / expected)) {
            complaints.push(format!(
                "waits: {:.1} ms for {} in {}, which measured {:.1}",
                told / 1e6,
                wait["cause"],
                wait["function"],
                expected / 1e6
            ));
        }
    }
    let accounted = report["accounted"].as_f64().context("waits.json has no `accounted`")?;
    if !ACCOUNTED.contains(&accounted) {
        complaints.push(format!(
            "waits: {:.1} % of the time is accounted for",
            accounted * 100.0
        ));
    }
    Ok(complaints)
}

/// Nanoseconds of a cause at a line. What it waited for a CPU afterwards is part of what is measured there.
fn told(report: &Value, wait: &Value) -> Result<f64> {
    let rows = report["rows"].as_array().context("waits.json has no rows")?;
    let is_of_it = |row: &&Value| {
        ["function", "line"].iter().all(|key| row[key] == wait[key])
            && (row["cause"] == wait["cause"] || row["cause"] == "ready")
    };
    Ok(rows
        .iter()
        .filter(is_of_it)
        .filter_map(|row| row["total_ns"].as_f64())
        .sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURED: &str = r#"[{"cause": "lock", "function": "acquires", "line": 7, "ns": 1000}]"#;

    fn report(cause: &str, ns: u64, accounted: f64) -> String {
        format!(
            r#"{{"accounted": {accounted}, "rows": [
                {{"cause": "{cause}", "function": "acquires", "line": 7, "total_ns": {ns}}},
                {{"cause": "ready", "function": "acquires", "line": 7, "total_ns": 20}},
                {{"cause": "lock", "function": "acquires", "line": 8, "total_ns": 900}}]}}"#
        )
    }

    #[test]
    fn a_wait_is_told_at_its_line_for_its_cause_as_long_as_it_was() {
        let complaints = |cause, ns, accounted| complaints(&report(cause, ns, accounted), MEASURED).unwrap();
        assert_eq!(complaints("lock", 975, 1.0), Vec::<String>::new());
        assert_eq!(
            complaints("lock", 800, 1.0),
            ["waits: 0.0 ms for \"lock\" in \"acquires\", which measured 0.0"]
        );
        assert_eq!(complaints("sleep", 975, 1.0).len(), 1);
        assert_eq!(
            complaints("lock", 975, 0.9),
            ["waits: 90.0 % of the time is accounted for"]
        );
    }

    #[test]
    fn what_is_no_report_is_said() {
        for (report, measured) in [("", MEASURED), ("{}", MEASURED), ("{}", "{}"), ("{}", "")] {
            assert!(complaints(report, measured).is_err());
        }
    }
}
