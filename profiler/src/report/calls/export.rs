//! The table for programs: every function, exact counts, raw numbers; and which file is written how.

use std::{borrow::Cow, io::Write, path::Path};

use anyhow::Context as _;
use serde::Serialize;

use super::{CallsReport, Function, Histogram, PERCENTILES, Ratio, Repeated, Timed, pstats, table::Table};
use crate::{
    governor::SlowDown,
    profile::Profile,
    report::{self, View},
    shown::csv_field,
};

/// The formats of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For Python's `pstats` and snakeviz, as cProfile writes it.
    #[value(alias = "prof")]
    Pstats,
    /// All that is known, callers and histograms included.
    Json,
    /// One line for each function.
    Csv,
    /// A page for a browser, with the CPU time that was sampled meanwhile.
    #[value(alias = "page")]
    Html,
}

impl Format {
    /// The format a file's name stands for, or `None` if its ending is not one we know.
    pub fn from_path(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "pstats" | "prof" => Some(Self::Pstats),
            "json" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            "html" | "htm" => Some(Self::Html),
            _ => None,
        }
    }

    /// `stacks`: what goes into a page.
    pub fn write(
        self,
        report: &CallsReport,
        table: &Table,
        stacks: Option<(&Profile, &View)>,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        match self {
            Self::Html => {
                let (profile, view) = stacks.context("there are no stacks for a page")?;
                report::Format::Html.writer().write(profile, view, out)
            }
            Self::Pstats => pstats::write(report, out),
            Self::Json => write_json(report, table, out),
            Self::Csv => write_csv(report, table, out),
        }
    }
}

const COLUMNS: &str = "file,line,function,ncalls,primitive_calls,calls_exact,calls_error,calls_per_s,\
                       own_samples,tottime_s,tottime_error_s,cumulative_samples,cumtime_s,cumtime_error_s,\
                       timed_calls,total_ns,mean_ns,min_ns,max_ns,p50_ns,p95_ns,p99_ns,\
                       missed_entries,nested_calls,nested_ns";

/// All functions as RFC 4180 has it, but with plain newlines. What is unknown is empty, and so is the error of what was
/// measured; there is no row of sums.
fn write_csv(report: &CallsReport, table: &Table, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    for function in &table.functions {
        let numbers = Numbers::of(report, function);
        let mut fields: Vec<Cow<'_, str>> = vec![
            csv_field(&function.file),
            known((function.first_line > 0).then_some(function.first_line)),
            csv_field(&function.name),
            known(numbers.ncalls),
            known(numbers.primitive_calls),
            known(numbers.calls_exact),
            known(numbers.calls_error),
            known(numbers.calls_per_s),
            known(Some(numbers.own_samples)),
            known(Some(numbers.tottime_s)),
            known(numbers.tottime_error_s),
            known(Some(numbers.cumulative_samples)),
            known(Some(numbers.cumtime_s)),
            known(numbers.cumtime_error_s),
        ];
        let times = function.timed.as_ref().map(Times::of).unwrap_or_default();
        fields.extend(
            [
                times.count,
                times.total_ns,
                times.mean_ns,
                times.min_ns,
                times.max_ns,
                times.p50_ns,
                times.p95_ns,
                times.p99_ns,
                times.missed_entries,
                times.nested,
                times.nested_ns,
            ]
            .map(known),
        );
        writeln!(out, "{}", fields.join(","))?;
    }
    Ok(())
}

fn known(number: Option<impl ToString>) -> Cow<'static, str> {
    number.map(|number| number.to_string()).unwrap_or_default().into()
}

/// What the recording is, and all functions; callers are indices into these.
fn write_json(report: &CallsReport, table: &Table, out: &mut dyn Write) -> anyhow::Result<()> {
    let total = table.total;
    let file = File {
        sort: table.sort.name(),
        chosen: report.chosen,
        length_s: report.length.as_secs_f64(),
        observed_s: report.observed.as_secs_f64(),
        sampled_s: report.sampled.as_secs_f64(),
        counted_s: report.counted().as_secs_f64(),
        scaled: report.scaled.is_some(),
        slow_down: report.cost.map(|cost| cost.over_all.factor),
        slow_down_counting: report.cost.map(|cost| Within::of(cost.within)),
        samples: report.samples,
        period_ns: report.period_ns,
        times_error_ns: report
            .stop
            .map(|stop| u64::try_from(stop.as_nanos()).unwrap_or(u64::MAX)),
        ncalls: total.calls.all,
        primitive_calls: total.calls.primitive,
        calls_exact: total.calls.exact && report.has_every_call(),
        late_processes: report.beginning.late,
        late_s: report.beginning.most.as_secs_f64(),
        missed_processes: report.beginning.missed,
        lost_calls: report.lost,
        unnamed_calls: report.unnamed,
        calls_at_least: report.one_window,
        calls_error: (!report.one_window).then(|| report.scaled.map_or(total.calls.error, |scaled| scaled.error)),
        calls_per_s: report.per_second(total.calls.all),
        percentile_error: Histogram::ERROR,
        per: report.per.as_ref().map(|per| PerOf {
            function: &per.name,
            calls: per.calls,
            least: per.least,
            most: per.most,
            resumed: per.resumed,
        }),
        repeated: report.repeated.iter().map(Again::of).collect(),
        perhaps_repeated: report.perhaps_repeated.iter().map(Again::of).collect(),
        functions: table
            .functions
            .iter()
            .map(|function| Row::of(report, function))
            .collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &file).context("cannot write the calls as JSON")?;
    writeln!(out)?;
    Ok(())
}

#[derive(Serialize)]
struct File<'a> {
    sort: &'static str,
    chosen: bool,
    length_s: f64,
    observed_s: f64,
    sampled_s: f64,
    /// What counts and times are of.
    counted_s: f64,
    scaled: bool,
    /// Over the whole recording.
    slow_down: Option<f64>,
    /// While calls were counted.
    slow_down_counting: Option<Within>,
    samples: u64,
    period_ns: u64,
    /// By how much each measured time can be wrong, if that is known to be more than a bucket of the histogram.
    #[serde(skip_serializing_if = "Option::is_none")]
    times_error_ns: Option<u64>,
    ncalls: u64,
    primitive_calls: Option<u64>,
    calls_exact: bool,
    /// Processes that were counted only from some time after they began on, the longest such time, and how many were not
    /// counted at all.
    late_processes: u64,
    late_s: f64,
    missed_processes: u64,
    lost_calls: u64,
    unnamed_calls: u64,
    /// Counts are of one window: there were no fewer calls, and nobody knows how many more.
    calls_at_least: bool,
    calls_error: Option<u64>,
    calls_per_s: f64,
    /// Of `p50_ns`, `p95_ns` and `p99_ns`, as a share of them.
    percentile_error: f64,
    /// What `calls_each` of functions is divided by.
    #[serde(skip_serializing_if = "Option::is_none")]
    per: Option<PerOf<'a>>,
    repeated: Vec<Again<'a>>,
    /// Likewise, but too little was seen for `each` and its range to be believed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    perhaps_repeated: Vec<Again<'a>>,
    functions: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Within {
    factor: f64,
    least: f64,
    most: f64,
}

impl Within {
    fn of(SlowDown { factor, least, most }: SlowDown) -> Self {
        Self { factor, least, most }
    }
}

#[derive(Serialize)]
struct PerOf<'a> {
    function: &'a str,
    calls: u64,
    /// How many times `calls_each` the truth can be; no `most` if that is not known.
    least: f64,
    most: Option<f64>,
    resumed: bool,
}

/// What asks outside again and again.
#[derive(Serialize)]
struct Again<'a> {
    what: &'static str,
    function: &'a str,
    caller: &'a str,
    file: &'a str,
    line: u32,
    each: f64,
    least: f64,
    /// `null`: there are at least so many.
    most: Option<f64>,
    calls: u64,
    samples: u64,
}

impl<'a> Again<'a> {
    fn of(repeated: &'a Repeated) -> Self {
        let Repeated {
            what,
            function,
            caller,
            file,
            line,
            ratio: Ratio { each, least, most },
            calls,
            samples,
        } = repeated;
        Self {
            what,
            function,
            caller,
            file,
            line: *line,
            each: *each,
            least: *least,
            most: *most,
            calls: *calls,
            samples: *samples,
        }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    file: &'a str,
    line: u32,
    function: &'a str,
    #[serde(flatten)]
    numbers: Numbers,
    #[serde(skip_serializing_if = "Option::is_none")]
    timed: Option<Times>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    callers: Vec<By>,
}

#[derive(Serialize)]
struct Numbers {
    ncalls: Option<u64>,
    primitive_calls: Option<u64>,
    calls_exact: Option<bool>,
    calls_error: Option<u64>,
    calls_per_s: Option<f64>,
    /// For each call of the function that the user wants others' divided by.
    #[serde(skip_serializing_if = "Option::is_none")]
    calls_each: Option<f64>,
    own_samples: u64,
    tottime_s: f64,
    tottime_error_s: Option<f64>,
    cumulative_samples: u64,
    cumtime_s: f64,
    cumtime_error_s: Option<f64>,
}

#[derive(Default, Serialize)]
struct Times {
    count: Option<u64>,
    total_ns: Option<u64>,
    mean_ns: Option<u64>,
    min_ns: Option<u64>,
    max_ns: Option<u64>,
    p50_ns: Option<u64>,
    p95_ns: Option<u64>,
    p99_ns: Option<u64>,
    missed_entries: Option<u64>,
    nested: Option<u64>,
    nested_ns: Option<u64>,
    /// For what probes cost within the calls, of one of them at most; what is left of waits for a processor that came of it; and
    /// by how much `total_ns` can be wrong for all that.
    taken_off_ns: Option<u64>,
    most_taken_off_ns: Option<u64>,
    delayed_ns: Option<u64>,
    error_ns: Option<u64>,
    /// Of the mean as that of all calls, of which those timed are some.
    mean_error_ns: Option<u64>,
    /// It was mostly ours: times are the most that they can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<bool>,
    p50_at_most_ns: Option<u64>,
    p95_at_most_ns: Option<u64>,
    p99_at_most_ns: Option<u64>,
    left_out: Option<u64>,
    histogram: Vec<Bucket>,
}

#[derive(Serialize)]
struct Bucket {
    from_ns: u64,
    to_ns: u64,
    count: u64,
}

#[derive(Serialize)]
struct By {
    index: usize,
    ncalls: u64,
    own_samples: u64,
    cumulative_samples: u64,
}

impl<'a> Row<'a> {
    fn of(report: &CallsReport, function: &'a Function) -> Self {
        Self {
            file: &function.file,
            line: function.first_line,
            function: &function.name,
            numbers: Numbers::of(report, function),
            timed: function.timed.as_ref().map(Times::of),
            callers: function
                .callers
                .iter()
                .map(|caller| By {
                    index: caller.function,
                    ncalls: caller.calls,
                    own_samples: caller.own_samples,
                    cumulative_samples: caller.cumulative_samples,
                })
                .collect(),
        }
    }
}

impl Numbers {
    fn of(report: &CallsReport, function: &Function) -> Self {
        let calls = function.calls;
        let (own, cumulative) = (report.tottime(function), report.cumtime(function));
        Self {
            ncalls: calls.map(|count| count.all),
            primitive_calls: calls.and_then(|count| count.primitive),
            calls_exact: calls.map(|count| count.exact),
            calls_error: calls.filter(|count| !count.at_least).map(|count| count.error),
            calls_per_s: calls.map(|count| report.per_second(count.all)),
            calls_each: report
                .per
                .as_ref()
                .zip(calls)
                .map(|(per, _)| per.each(function.divided)),
            own_samples: function.own_samples,
            tottime_s: own.seconds,
            tottime_error_s: own.error,
            cumulative_samples: function.cumulative_samples,
            cumtime_s: cumulative.seconds,
            cumtime_error_s: cumulative.error,
        }
    }
}

impl Times {
    fn of(timed: &Timed) -> Self {
        let any = timed.count > 0;
        let [p50_ns, p95_ns, p99_ns] = PERCENTILES.map(|(_, share)| timed.percentile(share).filter(|_| any));
        let [p50_at_most_ns, p95_at_most_ns, p99_at_most_ns] =
            PERCENTILES.map(|(_, share)| timed.most_percentile(share).filter(|_| any));
        Self {
            count: Some(timed.count),
            total_ns: Some(timed.total_ns),
            mean_ns: timed.mean_ns(),
            min_ns: any.then_some(timed.min_ns),
            max_ns: any.then_some(timed.max_ns),
            p50_ns,
            p95_ns,
            p99_ns,
            missed_entries: Some(timed.missed_entries),
            nested: Some(timed.nested),
            nested_ns: Some(timed.nested_ns),
            taken_off_ns: Some(timed.taken_off_ns),
            most_taken_off_ns: Some(timed.most_taken_off_ns),
            delayed_ns: Some(timed.delayed_ns),
            error_ns: Some(timed.error_ns()),
            mean_error_ns: timed.mean_error_ns(),
            at_most: timed.is_out_of_reach().then_some(true),
            p50_at_most_ns,
            p95_at_most_ns,
            p99_at_most_ns,
            left_out: Some(timed.left_out),
            histogram: timed
                .histogram
                .buckets()
                .map(|(from_ns, to_ns, count)| Bucket { from_ns, to_ns, count })
                .collect(),
        }
    }
}
