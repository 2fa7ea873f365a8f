//! Times of chosen functions are those that they, and who calls them, measure themselves.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    calls::{self, Calls, Function, Report, WITHOUT_END},
    python::{self, Python},
    recorder::Taken,
    serial::serial,
    workload::Workload,
};
use serde_json::Value;

const CALLS: u64 = 100;
const TOLERATED: f64 = 0.05;
const CHOSEN: [&str; 6] = ["sleeps", "spins", "uneven", "fails", "handles", "asks"];

/// What the workload has measured of one function, in nanoseconds, sorted. A call takes longer than what it sees itself
/// and less than what its caller sees, by however long others were let run in between: on a busy machine, milliseconds.
/// What is true of each call is true of the n-th longest, and so of the total and of each percentile. But what the profiler
/// took of the call the program measures too, and of our times it is taken off, which may leave less than the program saw:
/// less by that, at most.
struct Known {
    within: Vec<u64>,
    around: Vec<u64>,
}

impl Known {
    fn of(said: &Value, name: &str) -> Result<Self> {
        let times = |side: &str| -> Result<Vec<u64>> {
            let times = said[name][side]
                .as_array()
                .with_context(|| format!("no times of {name}"))?;
            let mut times: Vec<u64> = times.iter().filter_map(Value::as_u64).collect();
            times.sort_unstable();
            Ok(times)
        };
        let known = Self {
            within: times("within")?,
            around: times("around")?,
        };
        ensure!(
            !known.within.is_empty() && known.within.len() == known.around.len(),
            "{name}: {} times within, {} around",
            known.within.len(),
            known.around.len()
        );
        Ok(known)
    }

    fn calls(&self) -> u64 {
        self.within.len() as u64
    }

    /// That a number of ours, worked out from times as `of` does, is between what it is of the two.
    /// `taken_off`: what the profiler says that it has left out of it, at most.
    fn ensure_between(&self, what: &str, found: f64, taken_off: f64, of: impl Fn(&[u64]) -> f64) -> Result<()> {
        let (least, most) = (of(&self.within), of(&self.around));
        ensure!(
            found >= least * (1.0 - TOLERATED) - taken_off && found <= most * (1.0 + TOLERATED),
            "{what}: {:.1} µs, not between {:.1} (less {:.1} taken off) and {:.1}",
            found / 1e3,
            least / 1e3,
            taken_off / 1e3,
            most / 1e3
        );
        Ok(())
    }
}

fn timed(python: &Python) -> Result<(Value, Taken)> {
    let mut workload = calls::run(python, "timed.py", &[&CALLS.to_string()])?;
    let chosen = CHOSEN.map(|name| format!("timed.py:{name}"));
    let attached = Calls::record(&["-p", &workload.pid.to_string()])?
        .args(WITHOUT_END)
        .args(chosen.iter().flat_map(|name| ["--function", name]))
        .args(["--via", "probes"])
        .start()?;
    workload.tell("go")?;
    let said = workload.value()?;
    Ok((said, attached.stop()?))
}

fn number(function: &Function, name: &str) -> Result<f64> {
    let times = function
        .times
        .as_ref()
        .with_context(|| format!("{} was not timed", function.place))?;
    times[name]
        .as_f64()
        .with_context(|| format!("no {name} of {}: {times}", function.place))
}

fn total(times: &[u64]) -> f64 {
    times.iter().sum::<u64>() as f64
}

/// A percentile by its nearest rank.
fn percentile(sorted: &[u64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1] as f64
}

/// What is wrong with the times of one function: all of it, so that one run tells everything.
fn wrong(report: &Report, said: &Value, name: &str) -> Result<Vec<String>> {
    let known = Known::of(said, name)?;
    let function = report.function("timed.py", name)?;
    let mut wrong = Vec::new();
    let mut check = |result: Result<()>| wrong.extend(result.err().map(|error| format!("{name}: {error:#}")));
    check((|| {
        ensure!(
            function.calls == Some(known.calls()) && function.is_exact,
            "{:?} calls, not {}",
            function.calls,
            known.calls()
        );
        Ok(())
    })());
    check((|| {
        let count = number(function, "count")?;
        ensure!(
            count == known.calls() as f64,
            "{count} were timed, not {}",
            known.calls()
        );
        Ok(())
    })());
    let mean = |times: &[u64]| total(times) / times.len() as f64;
    let of_all = number(function, "taken_off_ns")?;
    let of_one = number(function, "most_taken_off_ns")?;
    ensure!(
        of_one <= of_all && of_all <= of_one * known.calls() as f64,
        "{name}: {of_one} ns of {of_all} ns were taken off one call"
    );
    let mut between = |what: &str, taken_off: f64, of: &dyn Fn(&[u64]) -> f64| {
        check(number(function, what).and_then(|found| known.ensure_between(what, found, taken_off, of)));
    };
    between("total_ns", of_all, &total);
    between("mean_ns", of_all / known.calls() as f64, &mean);
    for (what, share) in [("p50_ns", 0.5), ("p95_ns", 0.95), ("p99_ns", 0.99), ("max_ns", 1.0)] {
        between(what, of_one, &|times| percentile(times, share));
    }
    check((|| {
        let histogram = function.times.as_ref().and_then(|times| times["histogram"].as_array());
        let histogram = histogram.context("no histogram")?;
        let count: u64 = histogram.iter().filter_map(|bucket| bucket["count"].as_u64()).sum();
        ensure!(count == known.calls(), "{count} calls in the histogram");
        Ok(())
    })());
    Ok(wrong)
}

#[test]
fn times_of_chosen_functions_are_those_they_measure_themselves() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let (said, taken) = timed(python)?;
        let report = taken.report()?;
        let mut problems = Vec::new();
        for name in CHOSEN {
            match wrong(&report, &said, name) {
                Ok(more) => problems.extend(more),
                Err(error) => problems.push(format!("{name}: {error:#}")),
            }
        }
        ensure!(problems.is_empty(), "{}\n{}", problems.join("\n"), taken.outcome.stderr);
        ensure!(
            report.whole["chosen"] == true,
            "it does not say that functions were chosen"
        );
        Ok(())
    })
}

/// A call that was under way when a window ended has ended unseen, and the place of its frame is soon another call's.
#[test]
fn no_call_is_timed_from_one_window_into_another() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let mut workload = calls::run(python, "watched.py", &[])?;
        let pid = workload.pid.to_string();
        let attached = Calls::record(&["-p", &pid, "--function", "chosen", "--via", "probes"])?
            .args(["--max-overhead", "1.2"])
            .start()?;
        // Four thousand calls in each, so that most of a window is one call; on a busy machine, once is over in one window.
        let mut longest = 0;
        for _ in 0..4 {
            workload.tell("plain 4000")?;
            let said = workload.value()?;
            let times = said["outer"].as_array().context("no times")?;
            longest = times.iter().filter_map(Value::as_u64).fold(longest, u64::max);
        }
        let longest = longest as f64;
        let taken = attached.stop()?;
        let summary: Value = serde_json::from_slice(&std::fs::read(taken.file("summary.json"))?)?;
        let windows = summary["calls"]["windows"].as_u64();
        ensure!(windows.is_some_and(|windows| windows > 1), "{windows:?} windows");
        let report = taken.report()?;
        let Some(times) = &report.function("watched.py", "chosen")?.times else {
            return Ok(());
        };
        let found = times["max_ns"].as_f64().unwrap_or(0.0);
        ensure!(
            found <= longest * (1.0 + TOLERATED),
            "{found} ns, where no call took longer than {longest}"
        );
        Ok(())
    })
}

/// Of a function that does nothing but call others, nearly all of what its calls take is ours, and where others want the
/// processors it waits for one the longer for it. What is told holds what it takes without us.
#[test]
fn of_a_call_that_is_mostly_ours_no_more_is_told_than_is_known_also_on_a_busy_machine() -> Result<()> {
    let _serial = serial();
    let mut pythons = python::all()?;
    pythons.retain(|python| python.root.is_none() && matches!(python.version, (3, 11 | 12)));
    let any = python::any()?;
    let processors = thread::available_parallelism()?.get();
    let _busy = (0..processors)
        .map(|_| Workload::python(&any, "spin.py", &[]))
        .collect::<Result<Vec<_>>>()?;
    for python in &pythons {
        for kind in ["plain", "generator"] {
            let workload = calls::run(python, "page.py", &[kind])?;
            let known: [f64; 2] = serde_json::from_value(workload.truth[0].clone())?;
            let pid = workload.pid.to_string();
            let taken = Calls::record(&["-p", &pid, "-d", "1500ms", "--function", "page.py:page"])?
                .run()?
                .success()?;
            let report = taken.report()?;
            let function = report.function("page.py", "page")?;
            // Where no call both began and ended in a window, none was timed, and nothing is told. Of one it is told that it
            // is one, and not how much calls differ.
            let timed = function.times.as_ref().and_then(|times| times["count"].as_u64());
            if timed.unwrap_or(0) < 2 {
                continue;
            }
            let (mean, error) = (number(function, "mean_ns")?, number(function, "mean_error_ns")?);
            let [median, average] = known;
            let is_most = function.times.as_ref().is_some_and(|times| times["at_most"] == true);
            let most = match is_most {
                true => number(function, "p50_at_most_ns")?,
                false => mean + error,
            };
            let holds = most >= 0.9 * median && (is_most || mean - error <= 1.1 * average);
            ensure!(
                holds,
                "with {python}, {kind}: {:.1} µs ± {:.1} (at most {:.1}: {is_most}), where it takes {:.1}, half of the time {:.1}\n{}",
                mean / 1e3,
                error / 1e3,
                most / 1e3,
                average / 1e3,
                median / 1e3,
                taken.outcome.stderr
            );
        }
    }
    Ok(())
}

/// Nine of ten calls take a quarter of a millisecond, and one takes sixteen times as long.
#[test]
fn a_tail_is_seen_in_the_percentiles_and_in_the_table() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let (said, taken) = timed(&python)?;
    let report = taken.report()?;
    let function = report.function("timed.py", "uneven")?;
    let known = Known::of(&said, "uneven")?;
    let taken_off = number(function, "most_taken_off_ns")?;
    known.ensure_between("p95", number(function, "p95_ns")?, taken_off, |times| {
        percentile(times, 0.95)
    })?;
    ensure!(
        number(function, "p95_ns")? > 10.0 * number(function, "p50_ns")?,
        "{:?}",
        function.times
    );

    let mut workload = calls::run(&python, "timed.py", &["20"])?;
    let attached = Calls::command(&[
        "-p",
        &workload.pid.to_string(),
        "--function",
        "timed.py:uneven",
        "--via",
        "probes",
    ])?
    .args(WITHOUT_END)
    .start()?;
    workload.tell("go")?;
    workload.value()?;
    let taken = attached.stop()?;
    let text = String::from_utf8_lossy(&taken.outcome.stdout).into_owned();
    ensure!(
        calls::rows(&taken)?.iter().any(|row| row.contains("(uneven)")),
        "no row of uneven:\n{text}"
    );
    for word in ["p50", "p95", "p99"] {
        ensure!(text.contains(word), "no {word} in:\n{text}");
    }
    Ok(())
}

/// `spins` is called by `often`, and a quarter as often by `rarely`.
#[test]
fn the_callers_of_a_chosen_function_are_told() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let (_said, taken) = timed(python)?;
        let report = taken.report()?;
        let function = report.function("timed.py", "spins")?;
        let calls = |name: &str| {
            let caller = function.callers.iter().find(|(place, _)| place.name == name);
            caller.map(|(_, calls)| *calls).with_context(|| {
                format!(
                    "{name} is not among the callers: {:?}\n{}",
                    function.callers, taken.outcome.stderr
                )
            })
        };
        let (often, rarely) = (calls("often")?, calls("rarely")?);
        // Where callers are known from samples alone there are no counts.
        ensure!(
            (often, rarely) == (CALLS, CALLS / 4) || (often, rarely) == (0, 0),
            "{often} calls from often and {rarely} from rarely"
        );
        Ok(())
    })
}
