//! The whole in a few sentences, and what to make of the numbers.

use std::time::Duration;

use super::{
    Beginning, CallsReport, Cost, Count, Function, Per, Ratio, Repeated, Scaled, Time, ratio,
    table::{Sort, Table, clean, count_of, last_parts, mark_of, rate, seconds},
};
use crate::{
    humanize::{count, duration, percent},
    report::layout::span,
};

/// What goes to standard error where the table does not: `table::text` begins with the same sentences, so print one or
/// the other.
pub fn lines(report: &CallsReport) -> Vec<String> {
    let table = Table::new(report, Sort::default());
    let mut lines = heading(report, &table);
    if table.rows > 0 {
        lines.extend(times(report, "Times"));
    }
    lines
}

/// From here on it is told that an error is of how much windows slow the program down.
const TOLD_SLOWED: f64 = 0.2;

/// The whole in one sentence, and how far to trust it.
pub(super) fn heading(report: &CallsReport, table: &Table) -> Vec<String> {
    let Count {
        all, primitive, exact, ..
    } = table.total.calls;
    let marked = mark_of(&table.total.calls);
    let length = span(report.counted());
    if all == 0 {
        let observed = span(report.observed);
        let mut lines = vec![match (report.compiled_samples, report.chosen) {
            (1.., _) => format!(
                "No call was counted in {observed}: the program's functions were compiled (by Nuitka, for one), and calls of \
                 such are not seen. record shows where their time goes."
            ),
            (0, true) => format!("No call of the functions named was counted in {observed}."),
            (0, false) => format!("No Python function returned from a call in {observed}."),
        }];
        lines.extend(beginning(report));
        return lines;
    }
    let primitive = match primitive {
        Some(primitive) if primitive != all => format!(" ({} primitive)", count(primitive)),
        _ => String::new(),
    };
    let functions = match table.called {
        1 => "one function".to_owned(),
        called => format!("{} functions", count(called as u64)),
    };
    let mut lines = vec![format!(
        "{}{}{} of {functions} in {length}: {} a second.",
        marked,
        count_of(all, "call"),
        primitive,
        rate(report.per_second(all)),
    )];

    let part = ratio(report.observed.as_secs_f64(), report.length.as_secs_f64());
    let mut how = match report.scaled {
        Some(Scaled { error, slowed, first }) => {
            let slowed = if slowed >= TOLD_SLOWED {
                format!(
                    ", most of it (± {}) because the program calls so often that probes slow it down much while they count",
                    percent(slowed)
                )
            } else {
                String::new()
            };
            let first = match first.is_zero() {
                true => String::new(),
                false => format!(", all in the first {} and then in windows,", span(first)),
            };
            format!(
                "Calls were counted in {} of the {} ({}){first} and scaled up to them: ncalls is an estimate, {} ± {} in \
                 all{slowed}.",
                span(report.observed),
                span(report.length),
                percent(part),
                count(all),
                count(error),
            )
        }
        None if report.one_window => format!(
            "Calls were counted in too few windows, {} of the {} ({}), to tell how many there were in the rest: ncalls is \
             what was counted.",
            span(report.observed),
            span(report.length),
            percent(part)
        ),
        None => {
            let every = match (exact, report.chosen) {
                (true, _) if !report.has_every_call() => "Not every call was counted",
                (true, false) => "Every call was counted",
                (true, true) => "Every call of the functions named was counted",
                (false, _) => "Calls were counted, some functions' by estimate",
            };
            // Starting and ending take a moment of their own.
            if part < 0.99 {
                format!(
                    "{every}, but only in {} of the {} ({}).",
                    span(report.observed),
                    span(report.length),
                    percent(part)
                )
            } else {
                format!("{every}.")
            }
        }
    };
    if let Some(cost) = &report.cost {
        how.push(' ');
        how.push_str(&slowed(report, cost));
    }
    lines.push(how);
    lines.extend(beginning(report));
    // First what is to be done something about.
    let perhaps = report.perhaps_repeated.iter().map(perhaps_repeated);
    report
        .repeated
        .iter()
        .map(repeated)
        .chain(perhaps)
        .chain(lines)
        .collect()
}

fn perhaps_repeated(repeated: &Repeated) -> String {
    let Repeated {
        what,
        function,
        caller,
        file,
        line,
        calls,
        samples,
        ..
    } = repeated;
    let caller = clean(caller);
    format!(
        "Perhaps N+1: {} may be called again and again for each {caller} ({}:{line}), a {what} each; {} of {caller} that ended and \
         {} are too few to say so. Count longer.",
        clean(function),
        clean(last_parts(file, 2)),
        count_of(*calls, "call"),
        count_of(*samples, "sample"),
    )
}

fn repeated(repeated: &Repeated) -> String {
    let Repeated {
        what,
        function,
        caller,
        file,
        line,
        ratio,
        calls,
        samples,
    } = repeated;
    let caller = clean(caller);
    format!(
        "N+1: {} is called {} for each {caller} ({}:{line}), a {what} each; by the counts of both ({} of {caller}) and {} \
         that show who calls.",
        clean(function),
        times_each(ratio),
        clean(last_parts(file, 2)),
        count_of(*calls, "call"),
        count_of(*samples, "sample"),
    )
}

/// `124 times (67 to 250)`.
fn times_each(ratio: &Ratio) -> String {
    /// A range of ten times as much says only how much it is at least.
    const WIDEST: f64 = 10.0;
    let Ratio { each, least, most } = *ratio;
    match most {
        Some(most) if ratio.width() <= WIDEST => format!("{} times ({} to {})", rate(each), rate(least), rate(most)),
        _ => format!("at least {} times", rate(least)),
    }
}

/// Which calls are missing, if some are.
fn beginning(report: &CallsReport) -> Vec<String> {
    let Beginning { late, most, missed } = report.beginning;
    let mut lines = Vec::new();
    match late {
        0 => {}
        1 => lines.push(format!(
            "Counting began {} after the interpreter started: what it called before is missing.",
            span(most)
        )),
        late => lines.push(format!(
            "In {late} processes counting began up to {} after the interpreter started: what they called before is missing.",
            span(most)
        )),
    }
    match missed {
        0 => {}
        1 => lines.push("One process had ended before counting could begin: its calls are missing.".to_owned()),
        missed => lines.push(format!(
            "{} processes had ended before counting could begin: their calls are missing.",
            count(missed)
        )),
    }
    if report.lost > 0 {
        lines.push(format!("{} could not be counted.", count_of(report.lost, "call")));
    }
    if report.under_way > 0 {
        lines.push(format!(
            "{} under way when breakpoints took over: missing, perhaps, or counted twice.",
            match report.under_way {
                1 => "One call was".to_owned(),
                calls => format!("{} were", count_of(calls, "call")),
            }
        ));
    }
    if report.unnamed > 0 {
        lines.push(format!(
            "{} went to functions whose names could not be read: they may be among those named.",
            count_of(report.unnamed, "call")
        ));
    }
    lines
}

/// What counting did to the program, as its users feel it.
fn slowed(report: &CallsReport, cost: &Cost) -> String {
    let Cost {
        over_all,
        within,
        spent,
        ..
    } = cost;
    if cost.idle {
        return format!(
            "Counting took {} of the program's time, which it mostly spent waiting.",
            duration(*spent)
        );
    }
    // Less than what two runs of a program differ by.
    let whole = match over_all.factor {
        ..1.01 => "Counting slowed the program down by less than 1 %".to_owned(),
        _ => format!("The program took {} times as long for it", over_all.told()),
    };
    // All of it was one window.
    if ratio(report.observed.as_secs_f64(), report.length.as_secs_f64()) > 0.95 || within.factor < 1.05 {
        return format!("{whole}.");
    }
    format!("{whole}, and {} times as long while calls were counted.", within.told())
}

/// What the marks in the table mean, and how large errors are.
pub(super) fn notes(report: &CallsReport, rows: &[Function]) -> Vec<String> {
    let mut notes = Vec::new();
    if rows
        .iter()
        .any(|function| function.own_samples > 0 || function.cumulative_samples > 0)
    {
        notes.extend(times(report, "Times with ~"));
    }
    if let Some(Per {
        name,
        calls,
        least,
        most,
        resumed,
        ..
    }) = &report.per
    {
        let name = clean(name);
        let wrong = match most {
            Some(most) if least / most > 0.9 => format!(", ± {}", percent((most - least) / 2.0)),
            Some(most) => format!("; the truth is {least:.2} to {most:.1} times that"),
            None if *least > 0.0 => format!("; the truth is {least:.2} times that or more"),
            None => "; how far that is from the truth is not known".to_owned(),
        };
        let mut note = format!(
            "each: calls for each of the {} of {name} in the same time, whoever makes them{wrong}: some were under way when \
             counting began and ended.",
            count_of(*calls, "call"),
        );
        if *resumed {
            note.push_str(&format!(
                " {name} is a generator or a coroutine, so its calls are the times that it was resumed."
            ));
        }
        notes.push(note);
    }
    // Counts that were scaled up from windows are of the program's own time.
    let slowed = report.cost.as_ref().filter(|_| report.scaled.is_none());
    if let Some(slow_down @ 1.1..) = slowed.map(|cost| cost.within.factor) {
        notes.push(format!(
            "calls/s is of the time while calls were counted, when the program was slower: without, up to about \
             {slow_down:.1} times as many. How many calls there are for each of another function does not depend on it (--per)."
        ));
    }
    if report.period_ns > 0 && rows.iter().any(|function| function.own_samples == 0) {
        notes.push(format!(
            "- is no sample: most likely less than {} s.",
            seconds(report.unseen())
        ));
    }
    if rows.iter().any(|function| function.all_calls() == 0) {
        notes.push("A function with 0 calls ran, but had not returned.".to_owned());
    }
    if rows.iter().any(|function| report.cumtime(function).error.is_none()) {
        notes.push("A cumtime without ~ was measured from entry to exit, and waiting is in it.".to_owned());
    }
    notes
}

/// How good the times by samples are.
fn times(report: &CallsReport, which: &str) -> Option<String> {
    if report.samples == 0 {
        return None;
    }
    // Two points of a square root tell what it is like.
    let example = |samples: u64| {
        let Time { seconds: time, error } = report.estimate(samples);
        format!("{} s is ± {} s", seconds(time), seconds(error.unwrap_or_default()))
    };
    let many = example(report.samples);
    let examples = match report.samples {
        0..100 => many,
        samples => format!("{}, {many}", example(samples / 100)),
    };
    Some(format!(
        "{which} are estimates from {} of CPU time (waiting is not in it), one every {}: {examples}.",
        count_of(report.samples, "sample"),
        duration(Duration::from_nanos(report.period_ns)),
    ))
}
