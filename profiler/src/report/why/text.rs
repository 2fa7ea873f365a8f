//! The answer, for somebody with ten seconds: the worst first, one sentence each, and what to type next.

use std::time::Duration;

use crate::{
    humanize::bytes_change,
    report::layout::{paragraph, span},
    summary::many,
    why::{Finding, Kind, NotLooked, ProcessSummary, Severity, WhyReport},
};

/// Processes that are introduced one by one.
const MOST_PROCESSES: usize = 3;

pub fn text(report: &WhyReport, top: usize, width: usize) -> String {
    let mut text = head(report, width);
    if report.processes.is_empty() {
        text.push_str("No CPython was seen.\n");
        return text;
    }
    if report.findings.is_empty() {
        text.push_str(&paragraph(nothing(&report.processes), width));
    }
    let several = report.processes.len() > 1;
    // Of many that idle, one line is enough.
    let (idle, others): (Vec<&Finding>, Vec<&Finding>) =
        (report.findings.iter()).partition(|finding| several && finding.severity == Severity::Info);
    for finding in others.iter().take(top) {
        text.push('\n');
        text.push_str(&one(finding, several, width));
    }
    if !idle.is_empty() {
        text.push('\n');
        text.push_str(&idling(&idle, width));
    }
    let others = others.len().saturating_sub(top);
    if others > 0 {
        text.push_str(&format!(
            "\n{} (--top {})\n",
            many(others as u64, "more finding"),
            top + others
        ));
    }
    text.push('\n');
    text.push_str(&rest(report, width));
    text
}

/// What it means that there is no finding.
pub fn nothing(processes: &[ProcessSummary]) -> &'static str {
    let understood = processes.iter().filter(|process| process.understood).count();
    match understood {
        0 => {
            "What runs there could not be looked into (see below): that nothing is told here does not mean that nothing is \
              wrong."
        }
        all if all == processes.len() => {
            "Nothing was found that takes 5 % of the time, and it does not idle: its time is spread over many lines."
        }
        _ => "Nothing was found where it could be looked; some interpreters could not be looked into (see below).",
    }
}

fn head(report: &WhyReport, width: usize) -> String {
    let mut text = String::new();
    for process in report.processes.iter().take(MOST_PROCESSES) {
        text.push_str(&paragraph(&introduced(process, report.length), width));
    }
    let others = report.processes.len().saturating_sub(MOST_PROCESSES);
    if others > 0 {
        text.push_str(&format!("and {}\n", many(others as u64, "more process")));
    }
    text
}

/// How the time of a process adds up.
pub fn introduced(process: &ProcessSummary, looked_at: Duration) -> String {
    let length = process.length_ns.max(1) as f64;
    let on_average = |ns: u64| format!("{:.2}", ns as f64 / length);
    let growth = match process.growth_bytes {
        Some(growth) if growth.unsigned_abs() >= 1 << 20 => format!(", RSS {}", bytes_change(growth)),
        _ => String::new(),
    };
    format!(
        "{} ({}): {} in {}, on average {} of them on a CPU, {} at work{growth}",
        process.command,
        process.pid,
        many(process.threads as u64, "thread"),
        span(looked_at),
        on_average(process.cpu_ns),
        on_average(process.at_work_ns),
    )
}

fn one(finding: &Finding, several: bool, width: usize) -> String {
    let whose = match several {
        true => format!(" {} ({})", finding.command, finding.pid),
        false => String::new(),
    };
    let also = others(finding.kind, finding.also.len());
    let error = match finding.error {
        error if error >= 0.0005 => format!(" (± {:.1} %)", error * 100.0),
        _ => String::new(),
    };
    let name = finding.severity.name();
    let mark = match finding.severity {
        Severity::Critical | Severity::High => name.to_uppercase(),
        _ => name.to_owned(),
    };
    let mut text = paragraph(
        &format!(
            "{mark} {}{whose}{also}: {}{error}",
            finding.kind.name(),
            finding.sentence
        ),
        width,
    );
    if finding.severity != Severity::Info {
        text.push_str(&indented(&format!("if it were gone: {}", finding.gain), width));
    }
    text.push_str(&format!("  next: {}\n", finding.next));
    text
}

/// ` and 3 other workers`, if there are any.
pub fn others(kind: Kind, count: usize) -> String {
    let what = match kind {
        Kind::RunQueue | Kind::Oversubscribed => "other process",
        _ => "other worker",
    };
    match count {
        0 => String::new(),
        count => format!(" and {}", many(count as u64, what)),
    }
}

/// `info idle: 12 processes wait for work 90 % of the time and more: …`
fn idling(idle: &[&Finding], width: usize) -> String {
    const MOST: usize = 4;
    let processes: usize = idle.iter().map(|finding| 1 + finding.also.len()).sum();
    let least = idle.iter().map(|finding| finding.share).fold(1.0, f64::min);
    let named = idle.iter().take(MOST);
    let mut names: Vec<String> = named
        .map(|finding| format!("{} ({})", finding.command, finding.pid))
        .collect();
    if processes > names.len() {
        names.push(format!("{} more", processes - names.len()));
    }
    let (who, wait) = match processes {
        1 => ("1 process".to_owned(), "waits"),
        several => (many(several as u64, "process"), "wait"),
    };
    let text = format!(
        "info idle: {who} {wait} for work {:.0} % of the time and more: {}",
        (least * 100.0).floor(),
        names.join(", ")
    );
    paragraph(&text, width)
}

fn indented(text: &str, width: usize) -> String {
    let lines = paragraph(text, width.saturating_sub(2));
    lines.lines().map(|line| format!("  {line}\n")).collect()
}

/// What was looked for and not seen, and what could not be looked at.
fn rest(report: &WhyReport, width: usize) -> String {
    let lines = not_seen(&report.not_seen)
        .into_iter()
        .chain(could_not_look(&report.not_looked));
    lines.map(|line| paragraph(&line, width)).collect()
}

fn names(kinds: &[Kind]) -> String {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    names.join(", ")
}

pub fn not_seen(kinds: &[Kind]) -> Option<String> {
    (!kinds.is_empty()).then(|| format!("Looked for and not seen: {}.", names(kinds)))
}

/// One line for each reason.
pub fn could_not_look(not_looked: &[NotLooked]) -> Vec<String> {
    // What differs by the process that the command to type is for is told once.
    let mut told: Vec<(String, String, usize)> = Vec::new();
    for not in not_looked {
        let line = format!("Could not look for {}: {}", names(&not.kinds), not.reason);
        let of_any = line.replace(&format!("-p {} ", not.pid), "-p PID ");
        match told.iter_mut().find(|(_, known, _)| *known == of_any) {
            Some((.., processes)) => *processes += 1,
            None => told.push((line, of_any, 1)),
        }
    }
    let told = told.into_iter().map(|(line, _, processes)| match processes {
        1 => format!("{line}."),
        several => format!("{line} ({}).", many(several as u64, "process")),
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(understood: &[bool]) -> WhyReport {
        let processes = understood.iter().zip(1..).map(|(&understood, pid)| ProcessSummary {
            pid,
            command: "app.py".to_owned(),
            understood,
            threads: 1,
            cpu_ns: 0,
            at_work_ns: 0,
            length_ns: 1,
            rss_bytes: None,
            growth_bytes: None,
        });
        WhyReport {
            findings: Vec::new(),
            not_seen: Vec::new(),
            not_looked: Vec::new(),
            processes: processes.collect(),
            length: Duration::from_secs(10),
        }
    }

    #[test]
    fn what_could_not_be_looked_for_in_equal_workers_is_told_once() {
        let not = |pid: u32, reason: &str| NotLooked {
            kinds: vec![Kind::NPlusOne],
            pid,
            reason: reason.to_owned(),
        };
        let all = [
            not(7, "`profiler calls -p 7 -d 5` counts them"),
            not(8, "`profiler calls -p 8 -d 5` counts them"),
            not(9, "it runs no CPython"),
        ];
        assert_eq!(
            could_not_look(&all),
            [
                "Could not look for n-plus-one: `profiler calls -p 7 -d 5` counts them (2 processes).",
                "Could not look for n-plus-one: it runs no CPython."
            ]
        );
    }

    #[test]
    fn nothing_is_found_only_where_it_could_be_looked() {
        assert!(text(&report(&[true]), 10, 80).contains("Nothing was found that takes 5 %"));
        let refused = text(&report(&[false]), 10, 80);
        assert!(
            !refused.contains("Nothing was found") && refused.contains("could not be looked into"),
            "{refused}"
        );
        assert!(text(&report(&[true, false]), 10, 80).contains("Nothing was found where it could be looked"));
    }
}
