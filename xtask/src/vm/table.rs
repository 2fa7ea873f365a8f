//! The matrix's result: a line for each kernel, and below it what a line has no room for.

use std::fmt::Write as _;
use std::time::Duration;

use super::verdict::{Findings, Recording};

/// A kernel and what became of it.
pub struct Row {
    /// The package's version.
    pub kernel: String,
    pub outcome: Outcome,
    /// Nothing if the last guest brought nothing back.
    pub findings: Option<Findings>,
    /// Of the last guest, from QEMU's start to its end.
    pub took: Duration,
    /// What happened to guests, and where their consoles are.
    pub remarks: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// But for what the profiler refuses here, which is known.
    PassedInPart,
    Failed,
    Crashed,
    Hung,
    /// There was no guest.
    NotRun,
}

impl Outcome {
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Passed | Self::PassedInPart)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::PassedInPart => "passed in part",
            Self::Failed => "FAILED",
            Self::Crashed => "GUEST CRASHED",
            Self::Hung => "GUEST HUNG",
            Self::NotRun => "NOT RUN",
        }
    }
}

const HEADINGS: [&str; 10] = [
    "kernel", "outcome", "start", "samples", "expected", "75 % is", "Python", "native", "boot", "in all",
];

pub fn text(rows: &[Row]) -> String {
    let mut cells = vec![HEADINGS.map(str::to_owned)];
    cells.extend(rows.iter().map(line));
    let widths = std::array::from_fn::<_, 10, _>(|column| {
        cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for line in &cells {
        let mut padded = String::new();
        for (column, cell) in line.iter().enumerate() {
            // Writing to a string cannot fail. Words to the left, numbers to the right.
            let _ = if column < 2 {
                write!(padded, "{cell:<width$}  ", width = widths[column])
            } else {
                write!(padded, "{cell:>width$}  ", width = widths[column])
            };
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text.push_str(
        "start: the profiler's, to its first sample; 75 % is: the share of a function that uses as much;\n\
         Python, native: samples whose stack is complete\n",
    );
    for row in rows {
        let details = details(row);
        if details.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{}:", row.kernel);
        for line in details.iter().flat_map(|detail| detail.lines()) {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn line(row: &Row) -> [String; 10] {
    let recording = row.findings.as_ref().and_then(|findings| findings.recording.as_ref());
    let figure = |of: &dyn Fn(&Recording) -> Option<String>| recording.and_then(of).unwrap_or_else(|| "-".to_owned());
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let seconds = |seconds: f64| format!("{seconds:.1} s");
    [
        row.kernel.clone(),
        row.outcome.word().to_owned(),
        figure(&|recording| recording.start_up.map(seconds)),
        figure(&|recording| Some(recording.samples.to_string())),
        figure(&|recording| Some(format!("{:.0}", recording.expected))),
        figure(&|recording| Some(percent(recording.share))),
        figure(&|recording| Some(percent(recording.python_complete))),
        figure(&|recording| recording.native_complete.map(percent)),
        row.findings
            .as_ref()
            .and_then(|findings| findings.booted)
            .map_or_else(|| "-".to_owned(), seconds),
        seconds(row.took.as_secs_f64()),
    ]
}

fn details(row: &Row) -> Vec<String> {
    let mut details = row.remarks.clone();
    if let Some(findings) = &row.findings {
        if !findings.programs.is_empty() {
            let programs: Vec<String> = findings
                .programs
                .iter()
                .map(|(program, instructions)| match instructions {
                    Some(instructions) => format!("{program} {instructions}"),
                    None => format!("{program} (this kernel does not tell)"),
                })
                .collect();
            details.push(format!("instructions verified: {}", programs.join(", ")));
        }
        details.extend(findings.refusals.iter().cloned());
        details.extend(findings.complaints.iter().cloned());
        details.extend(findings.notes.iter().cloned());
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn row(kernel: &str, outcome: Outcome, findings: Option<Findings>) -> Row {
        Row {
            kernel: kernel.to_owned(),
            outcome,
            findings,
            took: Duration::from_millis(17_340),
            remarks: Vec::new(),
        }
    }

    #[test]
    fn every_kernel_has_a_line_and_what_is_wrong_stands_below() {
        let in_part = Findings {
            booted: Some(4.0),
            refusals: vec!["load-cgroup: error: too old".to_owned()],
            ..Findings::default()
        };
        let passed = Findings {
            booted: Some(4.05),
            programs: BTreeMap::from([("sample_cpu".to_owned(), Some(16_592)), ("track_fork".to_owned(), None)]),
            recording: Some(Recording {
                start_up: Some(1.25),
                samples: 493,
                expected: 495.2,
                share: 0.761,
                python_complete: 1.0,
                native_complete: None,
            }),
            ..Findings::default()
        };
        let mut crashed = row("6.12.107-1", Outcome::Crashed, None);
        crashed.remarks.push("the guest crashed twice".to_owned());
        let rows = [
            row("5.10.262-1", Outcome::PassedInPart, Some(in_part)),
            row("6.1.176-1", Outcome::Passed, Some(passed)),
            crashed,
        ];
        let expected = [
            "kernel      outcome         start  samples  expected  75 % is   Python  native   boot  in all",
            "5.10.262-1  passed in part      -        -         -        -        -       -  4.0 s  17.3 s",
            "6.1.176-1   passed          1.2 s      493       495   76.1 %  100.0 %       -  4.0 s  17.3 s",
            "6.12.107-1  GUEST CRASHED       -        -         -        -        -       -      -  17.3 s",
            "start: the profiler's, to its first sample; 75 % is: the share of a function that uses as much;",
            "Python, native: samples whose stack is complete",
            "5.10.262-1:",
            "  load-cgroup: error: too old",
            "6.1.176-1:",
            "  instructions verified: sample_cpu 16592, track_fork (this kernel does not tell)",
            "6.12.107-1:",
            "  the guest crashed twice",
            "",
        ];
        assert_eq!(text(&rows), expected.join("\n"));
    }

    #[test]
    fn only_what_passed_at_least_in_part_is_no_failure() {
        use Outcome::*;
        assert!([Failed, Crashed, Hung, NotRun].into_iter().all(Outcome::is_failure));
        assert!(![Passed, PassedInPart].into_iter().any(Outcome::is_failure));
    }
}
