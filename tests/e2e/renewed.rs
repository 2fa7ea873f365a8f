//! Code objects that come to lie at the addresses of others.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{folded, profiler::Profiler, python, serial::serial, workload::Workload};

/// Fast enough to meet one piece of text twice.
const FAST: &str = "2000";

#[test]
fn every_frame_of_a_stack_is_of_the_code_that_ran() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workload = Workload::python(python, "renewed.py", &[])?;
        let pid = workload.pid.to_string();
        let outcome = Profiler::record(&["-p", &pid, "-d", "2", "-r", FAST, "-f", "folded", "-o", "-"]).succeed()?;
        let (mut right, mut marked) = (0, 0);
        for (stack, count) in outcome.folded()?.stacks {
            let frames: Vec<&str> = stack.iter().filter(is_known).map(String::as_str).collect();
            if frames.iter().any(|frame| frame.starts_with('[')) {
                marked += count;
            } else {
                ensure!(can_be(&frames).unwrap_or(false), "{count} samples of {frames:?}");
                right += count;
            }
        }
        // What cannot be told is marked; here everything can be told, but for what a full buffer costs.
        ensure!(right > 300 && marked <= right / 50, "{right} right, {marked} marked");
        Ok(())
    })
}

/// How often a chain that never was is shown is a matter of many samples: `PROFILER_CHURN_SAMPLES` of each interpreter (or
/// as many as it gives in `PROFILER_CHURN_SECONDS`), taken `PROFILER_CHURN_RATE` times a second of
/// `PROFILER_CHURN_PROCESSES` processes of each of two programs.
#[test]
#[ignore = "minutes: 20,000 samples of each interpreter"]
fn no_chain_of_evaluated_text_is_one_that_never_was() -> Result<()> {
    let _serial = serial();
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    };
    let wanted = number("PROFILER_CHURN_SAMPLES", 20_000)?;
    let patience = Duration::from_secs(number("PROFILER_CHURN_SECONDS", 600)?);
    let rate = number("PROFILER_CHURN_RATE", 2000)?.to_string();
    let processes = number("PROFILER_CHURN_PROCESSES", 1)?;
    let mut failures = Vec::new();
    // One after the other: each has the whole machine.
    for python in python::all()? {
        let start = Instant::now();
        let workloads = (0..2 * processes)
            .map(|i| Workload::python(&python, "evaluated.py", &[if i % 2 == 0 { "same" } else { "named" }]))
            .collect::<Result<Vec<_>>>()?;
        let pids: Vec<String> = workloads.iter().map(|workload| workload.pid.to_string()).collect();
        let (mut right, mut marked, mut impossible) = (0, 0, Vec::new());
        let mut impossible_samples = 0;
        while right + marked + impossible_samples < wanted && start.elapsed() < patience {
            let mut arguments = vec!["-d", "5", "-r", &*rate, "-f", "folded", "-o", "-"];
            pids.iter().for_each(|pid| arguments.extend(["-p", &**pid]));
            let outcome = Profiler::record(&arguments).succeed()?;
            for (stack, count) in outcome.folded()?.stacks {
                let frames: Vec<&str> = stack.iter().filter(is_known).map(String::as_str).collect();
                if frames.is_empty() || frames.iter().any(|frame| frame.starts_with('[')) {
                    marked += count;
                } else if can_be_evaluated(&frames) {
                    right += count;
                } else {
                    impossible_samples += count;
                    impossible.push(format!("{count} samples of {frames:?}"));
                }
            }
        }
        eprintln!(
            "{python}: {right} samples right, {marked} marked, {impossible_samples} impossible, in {:.0} s",
            start.elapsed().as_secs_f64()
        );
        if !impossible.is_empty() || marked > (right + marked) / 50 {
            failures.push(format!("{python}: {marked} marked; {impossible:?}"));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// Whether `evaluated.py` ever was in this chain of frames, root first.
fn can_be_evaluated(frames: &[&str]) -> bool {
    let names: Vec<String> = frames.iter().map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let chains: [&[&str]; 4] = [
        &["<module>", "same", "<module>", "<genexpr>"],
        &["<module>", "named", "run_rule", "<module>", "<genexpr>"],
        &["<module>", "named", "run_rule", "<module>", "<listcomp>", "<lambda>"],
        // From 3.12 on a comprehension has no frame of its own.
        &["<module>", "named", "run_rule", "<module>", "<lambda>"],
    ];
    chains.iter().any(|chain| chain.starts_with(&names))
}

/// Whether the workload ever was in this chain of frames, root first; none if a frame is not as any of its is.
fn can_be(frames: &[&str]) -> Option<bool> {
    let names: Vec<String> = frames.iter().map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ["<module>", "in_turn", inside @ ..] = &names[..] else {
        return Some(names == ["<module>"] || names == ["<module>", "in_turn"]);
    };
    let begins = |chain: &[&str]| inside[1..].len() <= chain.len() && inside[1..] == chain[..inside.len() - 1];
    match inside.first().copied() {
        None => Some(true),
        Some("same_text") => Some(begins(&["<module>", "<genexpr>"])),
        // From 3.12 on a comprehension has no frame of its own.
        Some("own_names") => Some(
            begins(&["<module>", "<genexpr>"])
                || begins(&["<module>", "<lambda>"])
                || begins(&["<module>", "<listcomp>", "<lambda>"]),
        ),
        Some("own_files") if inside.len() == 1 => Some(true),
        Some("own_files") => {
            let own = &frames[3..];
            let number: u32 = number_of(own[0])?;
            let lines = own.iter().map(|frame| line_of(frame)).collect::<Option<Vec<u32>>>()?;
            let body = 4 + number % 7;
            let (outer, inner) = (format!("outer_{number:03}"), format!("inner_{number:03}"));
            let chain = [&*outer, &inner, "<genexpr>"];
            let is_module = inside[1..] == ["<module>"];
            let is_at = |line: u32, depth: usize| match depth {
                0 => line == 1 || line == 2,
                1 => line == 3 || line == body,
                _ => line == body,
            };
            let one_file = own.iter().all(|frame| number_of(frame) == Some(number));
            let in_place = lines
                .iter()
                .enumerate()
                .all(|(depth, line)| *line == 0 || is_at(*line, depth));
            Some(one_file && (is_module || begins(&chain) && in_place))
        }
        Some(_) => Some(false),
    }
}

/// Whether a frame is Python's. It has no line for some instructions.
fn is_known(frame: &&String) -> bool {
    folded::is_python(frame)
        || frame.ends_with(" (<string>)")
        || frame.contains(" (file_")
        || frame.starts_with("[unknown Python")
}

/// `same_text.<locals>.<genexpr> (<string>:1)`: `<genexpr>`.
fn name(frame: &&str) -> String {
    let qualified = frame.split(' ').next().unwrap_or_default();
    qualified.rsplit('.').next().unwrap_or_default().to_owned()
}

/// `outer_004 (file_004.py:2)`: 4.
fn number_of(frame: &str) -> Option<u32> {
    frame.split_once("(file_")?.1.split_once(".py")?.0.parse().ok()
}

/// The line, or 0 if CPython has none.
fn line_of(frame: &str) -> Option<u32> {
    match frame.strip_suffix(')')?.rsplit_once(".py")?.1.strip_prefix(':') {
        Some(line) => line.parse().ok(),
        None => Some(0),
    }
}
