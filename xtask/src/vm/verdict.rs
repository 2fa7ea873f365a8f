//! What a guest's job brought back, and whether that is what a profiler should bring.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::waits;

/// What `workload.py` promises: one function uses three times the CPU time of the other.
const SHARE: f64 = 0.75;
/// Guests are emulated, and a few hundred samples are a small draw.
const SHARE_SLACK: f64 = 0.15;
/// Samples for each that the CPU time used makes one expect. A clock that fires late skips ticks.
const SAMPLES: RangeInclusive<f64> = 0.65..=1.25;
const HERTZ: f64 = 99.0;
const PYTHON_COMPLETE: RangeInclusive<f64> = 0.95..=1.0;

/// Stands in the line in which the profiler refuses a kernel (`preflight.rs`). A verifier does not say it.
const REFUSAL: &str = " needs Linux ";

/// What the profiler did in a guest.
#[derive(Debug, Default)]
pub struct Findings {
    /// Seconds from power-on to the job.
    pub booted: Option<f64>,
    /// Each program that was loaded, with the most instructions that its verification took in any configuration.
    pub programs: BTreeMap<String, Option<u64>>,
    pub recording: Option<Recording>,
    /// What is not as it should be.
    pub complaints: Vec<String>,
    /// What else a reader should know.
    pub notes: Vec<String>,
    /// What it refused as it should, and its words.
    pub refusals: Vec<String>,
}

/// One recording of the workload.
#[derive(Debug, Default, PartialEq)]
pub struct Recording {
    /// Seconds from the profiler's start to its first sample.
    pub start_up: Option<f64>,
    pub samples: u64,
    pub expected: f64,
    /// The share of the function that should have three quarters.
    pub share: f64,
    pub python_complete: f64,
    /// If the profiler tells.
    pub native_complete: Option<f64>,
}

/// Looks at the files that a job left, in which these runs are to be refused.
pub fn look(files: &BTreeMap<String, Vec<u8>>, refused: &[&str]) -> Findings {
    let text = |name: &str| files.get(name).map(|bytes| String::from_utf8_lossy(bytes));
    let mut findings = Findings {
        booted: text("booted").and_then(|text| text.trim().parse().ok()),
        ..Findings::default()
    };
    let mut runs = 0;
    // What failed for the same reason is told once.
    let mut failures: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in files.keys().filter_map(|name| name.strip_suffix(".status")) {
        runs += 1;
        let said = text(&format!("{name}.said")).unwrap_or_default();
        for (program, instructions) in loaded(&said) {
            let most = findings.programs.entry(program).or_default();
            *most = (*most).max(instructions);
        }
        let status = text(&format!("{name}.status")).unwrap_or_default();
        let refusal = said
            .lines()
            .find(|line| line.starts_with("error: ") && line.contains(REFUSAL));
        match (status.trim(), refusal) {
            ("0", _) if refused.contains(&name) => failures
                .entry("it works, and REFUSED in xtask/src/vm/kernels.rs says that it is refused".to_owned())
                .or_default()
                .push(name),
            ("0", _) => {}
            (_, Some(refusal)) if refused.contains(&name) => findings.refusals.push(format!("{name}: {refusal}")),
            (status, _) => {
                let failure = format!("exit status {status}: {}", error(&said));
                failures.entry(failure).or_default().push(name);
            }
        }
    }
    let failures = failures
        .into_iter()
        .map(|(failure, names)| format!("{}: {failure}", names.join(", ")));
    findings.complaints.extend(failures);
    if runs == 0 {
        findings.complaints.push("the job ran nothing".to_owned());
    } else if findings.programs.is_empty() {
        findings.complaints.push("no program was loaded".to_owned());
    }
    if text("waits.status").is_some_and(|status| status.trim() == "0") {
        let file = |name: &str| text(name).with_context(|| format!("there is no {name}"));
        let complaints = file("waits.json").and_then(|report| waits::complaints(&report, &file("waits.measured")?));
        findings
            .complaints
            .extend(complaints.unwrap_or_else(|error| vec![format!("waits: {error:#}")]));
    }
    if text("recording.status").is_some_and(|status| status.trim() == "0") {
        match recording(&text, &mut findings.notes) {
            Ok(recording) => {
                findings.complaints.extend(complaints(&recording));
                findings.recording = Some(recording);
            }
            Err(error) => findings.complaints.push(format!("recording: {error:#}")),
        }
    } else if runs > 0 && text("recording.status").is_none() {
        findings.complaints.push("nothing was recorded".to_owned());
    }
    findings
}

/// The programs in what `record -v` says, and the instructions verified where the kernel tells (5.16 and later).
fn loaded(said: &str) -> impl Iterator<Item = (String, Option<u64>)> {
    said.lines().filter_map(|line| {
        let (program, rest) = line.strip_prefix("loaded ")?.split_once(": ")?;
        let instructions = rest.strip_suffix(" instructions verified")?;
        Some((program.to_owned(), instructions.replace(',', "").parse().ok()))
    })
}

/// The error in what the profiler said: from the line that begins with it, a verifier's last lines included.
fn error(said: &str) -> String {
    const LINES: usize = 30;
    let lines: Vec<&str> = said
        .lines()
        // Of a verifier; it differs each time.
        .filter(|line| !line.starts_with("verification time "))
        .collect();
    let from = lines.iter().position(|line| line.starts_with("error: ")).unwrap_or(0);
    let lines = &lines[from..];
    let Some((first, rest)) = lines.split_first() else {
        return "it said nothing".to_owned();
    };
    let left_out = rest.len().saturating_sub(LINES);
    let mut text = vec![(*first).to_owned()];
    if left_out > 0 {
        text.push(format!("… {left_out} lines …"));
    }
    text.extend(rest[left_out..].iter().map(|line| (*line).to_owned()));
    text.join("\n")
}

fn recording<'a, T: AsRef<str>>(text: &impl Fn(&'a str) -> Option<T>, notes: &mut Vec<String>) -> Result<Recording> {
    let file = |name: &'a str| text(name).with_context(|| format!("there is no {name}"));
    let summary: Value = serde_json::from_str(file("summary.json")?.as_ref()).context("summary.json is no JSON")?;
    let number = |pointer: &str| {
        let value = summary.pointer(pointer).and_then(Value::as_f64);
        value.with_context(|| format!("summary.json has no number at {pointer}"))
    };
    let folded = Folded::parse(file("folded")?.as_ref())?;
    let samples = number("/samples")?;
    ensure!(
        folded.total as f64 == samples,
        "the folded file has {} samples, and the summary {samples}",
        folded.total
    );
    let before = Clock::parse(file("before")?.as_ref())?;
    let after = Clock::parse(file("after")?.as_ref())?;
    ensure!(after.uptime > before.uptime, "no time has passed");
    // The profiler's start and end are not recorded; the workload does the same then as in between.
    let busy = (after.cpu - before.cpu) / (after.uptime - before.uptime);
    for (list, what) in [("lost", "lost"), ("refused", "refused"), ("warnings", "warning")] {
        for item in summary[list].as_array().into_iter().flatten() {
            notes.push(format!("{what}: {item}"));
        }
    }
    Ok(Recording {
        start_up: number("/cost/first_sample_after_s").ok(),
        samples: folded.total,
        expected: busy * number("/duration_s")? * HERTZ,
        share: share(folded.three, folded.three + folded.one),
        python_complete: number("/python/complete")? / samples.max(1.0),
        native_complete: match (number("/native_complete"), number("/native")) {
            (Ok(complete), Ok(native)) if native > 0.0 => Some(complete / native),
            _ => None,
        },
    })
}

fn complaints(recording: &Recording) -> Vec<String> {
    let mut complaints = Vec::new();
    let &Recording {
        samples,
        expected,
        share,
        python_complete,
        start_up: _,
        native_complete: _,
    } = recording;
    if !SAMPLES.contains(&(samples as f64 / expected)) {
        complaints.push(format!("{samples} samples where {expected:.0} were expected"));
    }
    if (share - SHARE).abs() > SHARE_SLACK {
        let share = share * 100.0;
        complaints.push(format!(
            "a function that used 75 % of the CPU time has {share:.1} % of the samples"
        ));
    }
    if !PYTHON_COMPLETE.contains(&python_complete) {
        let complete = python_complete * 100.0;
        complaints.push(format!(
            "only {complete:.1} % of the samples have complete Python stacks"
        ));
    }
    complaints
}

/// The samples of a folded file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Folded {
    total: u64,
    three: u64,
    one: u64,
}

impl Folded {
    fn parse(text: &str) -> Result<Self> {
        let mut folded = Self::default();
        for line in text.lines() {
            let wrong = || format!("no folded stack: {line:?}");
            let (stack, count) = line.rsplit_once(' ').with_context(wrong)?;
            let count: u64 = count.parse().ok().with_context(wrong)?;
            let has = |function: &str| stack.split(';').any(|frame| frame.starts_with(function));
            ensure!(stack.split(';').all(|frame| !frame.is_empty()), wrong());
            let (three, one) = (has("three (/job/workload.py:"), has("one (/job/workload.py:"));
            ensure!(!(three && one), "two functions that do not call each other: {line:?}");
            folded.total = folded.total.saturating_add(count);
            folded.three = folded.three.saturating_add(if three { count } else { 0 });
            folded.one = folded.one.saturating_add(if one { count } else { 0 });
        }
        Ok(folded)
    }
}

/// A moment: seconds since power-on, and those of CPU time that the workload had used by then.
#[derive(Debug, PartialEq)]
struct Clock {
    uptime: f64,
    cpu: f64,
}

impl Clock {
    /// From /proc/uptime and, on the next line, /proc/PID/stat.
    fn parse(text: &str) -> Result<Self> {
        // In proc(5) the times are fields 14 and 15; the name, which may contain anything, is the second.
        const BEHIND_NAME: usize = 3;
        let parse = || {
            let (uptime, stat) = text.split_once('\n')?;
            let (_, fields) = stat.rsplit_once(')')?;
            let ticks =
                |field: usize| -> Option<f64> { fields.split_whitespace().nth(field - BEHIND_NAME)?.parse().ok() };
            Some(Self {
                uptime: uptime.split_whitespace().next()?.parse().ok()?,
                // A hundredth of a second each, on every x86 kernel (USER_HZ).
                cpu: (ticks(14)? + ticks(15)?) / 100.0,
            })
        };
        parse().with_context(|| format!("no times in {text:?}"))
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOADED: &str =
        "loaded sample_cpu: 16,592 instructions verified\nloaded track_fork: 89 instructions verified\n";
    const FOLDED: &str = "<module> (/job/workload.py:32);turns (/job/workload.py:26);three (/job/workload.py:14) 300\n\
                          <module> (/job/workload.py:32);turns (/job/workload.py:26);three (/job/workload.py:13);read_[k] 75\n\
                          <module> (/job/workload.py:32);turns (/job/workload.py:27);one (/job/workload.py:21) 125\n";
    const SUMMARY: &str = r#"{"samples": 500, "duration_s": 5.0, "native": 500, "native_complete": 450, "lost": [],
        "python": {"samples": 500, "complete": 499}, "cost": {"first_sample_after_s": 1.25}}"#;
    const STAT: &str = "70 (python3.12) R 1 70 70 0 -1 4194304 900 0 0 0";

    fn files(changes: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        let (before, after) = (
            format!("10.0 3.0\n{STAT} 190 10 0"),
            format!("18.0 3.0\n{STAT} 980 20 0"),
        );
        let good = [
            ("booted", "4.05\n"),
            ("load-process.status", "0\n"),
            ("load-process.said", LOADED),
            ("load-machine.status", "0\n"),
            ("load-machine.said", "loaded sample_cpu: 20,000 instructions verified\n"),
            ("recording.status", "0\n"),
            ("recording.said", "loaded sample_cpu: ? instructions verified\n"),
            ("folded", FOLDED),
            ("summary.json", SUMMARY),
            ("before", &before),
            ("after", &after),
        ];
        let all = good.iter().chain(changes);
        all.map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn a_good_job_is_understood_without_a_complaint() {
        let findings = look(&files(&[]), &[]);
        assert_eq!(findings.complaints, Vec::<String>::new());
        assert_eq!(findings.booted, Some(4.05));
        let programs = [
            ("sample_cpu".to_owned(), Some(20_000)),
            ("track_fork".to_owned(), Some(89)),
        ];
        assert_eq!(findings.programs, BTreeMap::from(programs));
        let recording = findings.recording.unwrap();
        assert_eq!((recording.samples, recording.expected), (500, 495.0));
        assert_eq!((recording.share, recording.start_up), (0.75, Some(1.25)));
        assert_eq!(
            (recording.python_complete, recording.native_complete),
            (0.998, Some(0.9))
        );
        assert!(findings.refusals.is_empty() && findings.notes.is_empty());
    }

    #[test]
    fn each_thing_that_is_wrong_is_complained_of() {
        let log = format!("{LOADED}error: cannot load sample_cpu\nR1 invalid mem access\nprocessed 4 insns\n");
        let few = FOLDED.replace("300", "30").replace("75\n", "7\n").replace("125", "13");
        let few_summary = SUMMARY.replace("\"samples\": 500", "\"samples\": 50");
        for (changes, expected) in [
            (
                &[("load-machine.status", "1\n"), ("load-machine.said", &*log)][..],
                "load-machine: exit status 1: error: cannot load sample_cpu\nR1 invalid mem access\nprocessed 4 insns",
            ),
            (
                &[("folded", &*few), ("summary.json", &few_summary)],
                "50 samples where 495 were expected",
            ),
            (
                &[
                    ("load-machine.status", "1\n"),
                    ("load-machine.said", "error: no\nverification time 1 usec\n"),
                    ("load-process.status", "1\n"),
                    ("load-process.said", "error: no\nverification time 2 usec\n"),
                ],
                "load-machine, load-process: exit status 1: error: no",
            ),
            (
                &[("folded", &*FOLDED.replace("three (", "one ("))],
                "a function that used 75 % of the CPU time has 0.0 % of the samples",
            ),
            (
                &[("summary.json", &*SUMMARY.replace("499", "470"))],
                "only 94.0 % of the samples have complete Python stacks",
            ),
            (
                &[("folded", "")],
                "recording: the folded file has 0 samples, and the summary 500",
            ),
            (&[("folded", "a;;b 1\n")], "recording: no folded stack: \"a;;b 1\""),
            (
                &[("summary.json", "{}")],
                "recording: summary.json has no number at /samples",
            ),
            (&[("before", "")], "recording: no times in \"\""),
        ] {
            let complaints = look(&files(changes), &[]).complaints;
            assert_eq!(complaints.first().map(|text| &**text), Some(expected), "{complaints:?}");
        }
    }

    #[test]
    fn a_refusal_is_good_only_where_it_is_expected_and_only_in_the_profilers_words() {
        let refusal = "error: --cgroup needs Linux 5.15 or later; this kernel is 5.10.0-46-cloud-amd64";
        let refused = files(&[("load-machine.status", "1\n"), ("load-machine.said", refusal)]);
        let expected = look(&refused, &["load-machine"]);
        assert_eq!(expected.complaints, Vec::<String>::new());
        assert_eq!(expected.refusals, [format!("load-machine: {refusal}")]);
        let unexpected = look(&refused, &[]);
        assert_eq!(
            unexpected.complaints,
            [format!("load-machine: exit status 1: {refusal}")]
        );
        let verifier = "error: failed to load program `sample_cpu`\nunknown func bpf_x#123\n";
        let failed = look(
            &files(&[("load-machine.status", "1\n"), ("load-machine.said", verifier)]),
            &["load-machine"],
        );
        assert!(failed.refusals.is_empty() && failed.complaints[0].contains("unknown func"));
        let works = look(&files(&[]), &["load-machine"]);
        assert!(works.complaints[0].starts_with("load-machine: it works"), "{works:?}");
    }

    #[test]
    fn a_job_that_brought_nothing_back_is_a_failure() {
        assert_eq!(look(&BTreeMap::new(), &[]).complaints, ["the job ran nothing"]);
        let mut files = files(&[]);
        files.remove("recording.status");
        assert_eq!(look(&files, &[]).complaints, ["nothing was recorded"]);
    }

    #[test]
    fn of_a_long_log_the_beginning_and_the_end_are_kept() {
        let log: String = (0..100).map(|line| format!("{line}\n")).collect();
        let text = error(&format!("note\nerror: no\n{log}"));
        assert!(
            text.starts_with("error: no\n… 70 lines …\n70\n") && text.ends_with("\n99"),
            "{text}"
        );
    }

    #[test]
    fn what_was_lost_is_noted() {
        let summary = SUMMARY.replace("\"lost\": []", r#""lost": [{"what": "samples", "count": 2}]"#);
        let notes = look(&files(&[("summary.json", &summary)]), &[]).notes;
        assert_eq!(notes, [r#"lost: {"count":2,"what":"samples"}"#]);
    }
}
