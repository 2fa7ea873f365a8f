//! Lines that run, and what CPU time goes into by whatever line.

use super::{
    case::{Case, named, percent, time},
    collector,
};
use crate::{
    report::waits::rows::Place,
    why::{
        Finding, Kind, Severity,
        evidence::{CpuLine, Purpose},
    },
};

/// Lines of a process that are told.
const MOST: usize = 3;
/// With fewer samples nothing is said.
const FEW_SAMPLES: u64 = 20;

pub fn find(case: &Case<'_>, found: &mut Vec<Finding>) {
    lines(case, found);
    found.extend(collector::find(case));
    found.extend(imports(case));
    found.extend(exceptions(case));
    found.extend(serialization(case));
}

/// A function that computes, at its hottest line.
struct Hot<'a> {
    line: &'a CpuLine,
    ns: u64,
    samples: u64,
}

/// By function, as a loop has several lines: those with most first.
fn functions<'a>(case: &Case<'a>) -> Vec<Hot<'a>> {
    let mut functions: Vec<Hot<'a>> = Vec::new();
    for line in &case.process.cpu {
        let is_same = |hot: &&mut Hot<'_>| {
            let (known, this) = (&hot.line.place, &line.place);
            !this.function.is_empty() && (&known.function, &known.file) == (&this.function, &this.file)
        };
        match functions.iter_mut().find(is_same) {
            Some(hot) => {
                hot.ns += line.ns;
                hot.samples += line.samples;
            }
            None => functions.push(Hot {
                line,
                ns: line.ns,
                samples: line.samples,
            }),
        }
    }
    functions.sort_by_key(|hot| std::cmp::Reverse(hot.ns));
    functions
}

fn lines(case: &Case<'_>, found: &mut Vec<Finding>) {
    let functions = functions(case);
    for hot in functions.iter().filter(|hot| hot.samples >= FEW_SAMPLES).take(MOST) {
        let (share, at_line) = (case.share(hot.ns), case.share(hot.line.ns));
        if share <= case.thresholds.medium {
            continue;
        }
        let of_line = match hot.line.ns < hot.ns {
            true => format!(", {} at this line", percent(at_line)),
            false => String::new(),
        };
        found.extend(case.finding(Kind::Cpu, share).map(|finding| {
            finding
                .at(&hot.line.place)
                .says(format!(
                    "{} computes for {} of the time{of_line}",
                    named(&hot.line.place),
                    percent(share)
                ))
                .gains(format!("at most {} less time", percent(share)))
                .give_or_take(case.sampling_error(hot.samples))
                .by("cpu_s", hot.ns as f64 / 1e9)
                .by("line_share", at_line)
                .by("samples", hot.samples as f64)
                .next(case.next("record", "-d 30 -o flame.svg"))
        }));
    }
}

/// What CPU time went into a purpose, its samples, and the line with most.
pub(super) fn used(case: &Case<'_>, purposes: &[Purpose]) -> Option<(u64, u64, Place)> {
    let uses = case
        .process
        .uses
        .iter()
        .filter(|entry| purposes.contains(&entry.purpose));
    let (mut ns, mut samples, mut most) = (0u64, 0, None);
    for entry in uses {
        ns = ns.saturating_add(entry.ns);
        samples += entry.samples;
        // In order of time.
        most = most.or(Some(&entry.place));
    }
    Some((ns, samples, most?.clone())).filter(|(_, samples, _)| *samples >= FEW_SAMPLES)
}

fn imports(case: &Case<'_>) -> Option<Finding> {
    let (cpu_ns, samples, place) = used(case, &[Purpose::Import])?;
    let waits = case.process.waits.iter();
    let waited: u64 = waits
        .filter(|wait| wait.importing && wait.role.is_at_work())
        .map(|wait| wait.ns)
        .sum();
    let ns = cpu_ns.saturating_add(waited);
    let share = case.share(ns);
    let finding = case.finding(Kind::Imports, share)?;
    Some(
        finding
            .at(&place)
            .says(format!(
                "Imports take {} ({} of the time), most of it for {}",
                time(ns),
                percent(share),
                named(&place)
            ))
            .gains(format!("at most {} less start-up", time(ns)))
            .give_or_take(case.sampling_error(samples))
            .by("cpu_s", cpu_ns as f64 / 1e9)
            .by("waited_s", waited as f64 / 1e9)
            .next("profiler imports -- python3 YOUR-PROGRAM".to_owned()),
    )
}

/// A stack shows that an exception is made or passed on, not what it is handled for: a lower bound. How much that is,
/// looks at the thread that has the GIL tell, of the time in which one had it.
fn exceptions(case: &Case<'_>) -> Option<Finding> {
    let (ns, samples, place) = used(case, &[Purpose::Exception])?;
    let share = case.share(ns);
    let finding = case.finding(Kind::Exceptions, share)?;
    let handling = case.process.around.handling;
    let handlers = handling.map_or("handlers are not counted".to_owned(), |(part, error)| {
        format!(
            "with the GIL it was in handlers {} of the time (± {})",
            percent(part),
            percent(error)
        )
    });
    let finding = match handling {
        Some((part, error)) => finding.by("handling_share", part).by("handling_error", error),
        None => finding,
    };
    Some(
        finding
            .no_worse_than(Severity::High)
            .at(&place)
            .says(format!(
                "Raising exceptions takes {} of the time at least, most of it at {}",
                percent(share),
                named(&place)
            ))
            .gains(format!("{} less time or more: {handlers}", percent(share)))
            .give_or_take(case.sampling_error(samples))
            .by("cpu_s", ns as f64 / 1e9)
            .by("samples", samples as f64)
            .next(case.next("exceptions", "-d 30")),
    )
}

fn serialization(case: &Case<'_>) -> Option<Finding> {
    let (ns, samples, place) = used(case, &[Purpose::Serialization, Purpose::Logging])?;
    let share = case.share(ns);
    if share <= case.thresholds.medium {
        return None;
    }
    let logging = used(case, &[Purpose::Logging]).map_or(0, |(ns, ..)| ns);
    let what = match logging.saturating_mul(2) > ns {
        true => "Logging",
        false => "Turning objects into text and back",
    };
    let finding = case.finding(Kind::Serialization, share)?;
    Some(
        finding
            .at(&place)
            .says(format!(
                "{what} takes {} of the time, most of it for {}",
                percent(share),
                named(&place)
            ))
            .gains(format!("at most {} less time", percent(share)))
            .give_or_take(case.sampling_error(samples))
            .by("cpu_s", ns as f64 / 1e9)
            .by("logging_cpu_s", logging as f64 / 1e9)
            .next(case.next("record", "-d 30 -o flame.svg")),
    )
}
