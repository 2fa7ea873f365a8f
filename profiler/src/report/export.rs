//! What a recording can be converted to: the formats of `record`, and those of other tools' readers.

use std::{path::Path, sync::LazyLock};

use clap::{ValueEnum, builder::PossibleValue};

use super::{Format as Own, Writer, callgrind, chrome, estimated, gecko, memray, otlp, plain, tracemalloc};

/// Those of [`Own`], and those of others, each listed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Own(Own),
    Foreign(Foreign),
}

/// Formats that only `convert` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Foreign {
    /// JSON for <https://profiler.firefox.com>
    #[value(alias = "firefox")]
    Gecko,
    /// Trace events for Perfetto and chrome://tracing
    #[value(alias = "perfetto")]
    Chrome,
    /// For KCachegrind, QCachegrind and gprof2dot
    Callgrind,
    /// For Python's `pstats` and snakeviz: times estimated from samples
    Pstats,
    /// OpenTelemetry's profiles, protobuf
    Otlp,
    /// For Python's `tracemalloc.Snapshot.load`: of bytes only
    #[value(alias = "tracemalloc")]
    Snapshot,
    /// CSV with the columns of `memray transform csv`: of memory only
    Memray,
    /// All stacks with all values, for spreadsheets
    Csv,
    /// All of it, for programs; docs/formats.md has the fields
    Json,
}

static ALL: LazyLock<Vec<Format>> = LazyLock::new(|| {
    let own = Own::value_variants().iter().map(|format| Format::Own(*format));
    let foreign = Foreign::value_variants().iter().map(|format| Format::Foreign(*format));
    own.chain(foreign).collect()
});

/// All there are, for messages.
pub static KNOWN: LazyLock<String> = LazyLock::new(|| {
    let values = ALL.iter().filter_map(Format::to_possible_value);
    let names: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
    match names.split_last() {
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
});

/// The longer ones first. What these do not have is an ending of [`Own`].
const ENDINGS: [(&str, Foreign); 13] = [
    (".gecko.json", Foreign::Gecko),
    (".firefox.json", Foreign::Gecko),
    (".chrome.json", Foreign::Chrome),
    (".perfetto.json", Foreign::Chrome),
    (".trace.json", Foreign::Chrome),
    (".memray.csv", Foreign::Memray),
    (".otlp.pb", Foreign::Otlp),
    (".otlp", Foreign::Otlp),
    (".callgrind", Foreign::Callgrind),
    (".pstats", Foreign::Pstats),
    (".prof", Foreign::Pstats),
    (".snapshot", Foreign::Snapshot),
    (".csv", Foreign::Csv),
];

impl Format {
    /// The format a file's name stands for.
    pub fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        // As valgrind calls them: `callgrind.out`, `callgrind.out.4242`, `x.callgrind.out`.
        if name.starts_with("callgrind.out") || name.ends_with("callgrind.out") {
            return Some(Self::Foreign(Foreign::Callgrind));
        }
        if let Some((_, format)) = ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)) {
            return Some(Self::Foreign(*format));
        }
        // `record`, which has one format of JSON only, calls that so.
        if name.ends_with(".json") && !name.ends_with(".speedscope.json") {
            return Some(Self::Foreign(Foreign::Json));
        }
        Own::from_path(path).map(Self::Own)
    }

    pub fn writer(self) -> Box<dyn Writer> {
        match self {
            Self::Own(own) => own.writer(),
            Self::Foreign(foreign) => foreign.writer(),
        }
    }
}

impl Foreign {
    fn writer(self) -> Box<dyn Writer> {
        match self {
            Self::Gecko => Box::new(gecko::Gecko),
            Self::Chrome => Box::new(chrome::Chrome),
            Self::Callgrind => Box::new(callgrind::Callgrind),
            Self::Pstats => Box::new(estimated::Pstats),
            Self::Otlp => Box::new(otlp::Otlp),
            Self::Snapshot => Box::new(tracemalloc::Tracemalloc),
            Self::Memray => Box::new(memray::Memray),
            Self::Csv => Box::new(plain::Csv),
            Self::Json => Box::new(plain::Json),
        }
    }
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Own(own) => own.to_possible_value(),
            Self::Foreign(foreign) => foreign.to_possible_value(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{View, tests::mixed};

    #[test]
    fn every_format_writes_what_every_profile_has_or_says_why_not() {
        let profile = mixed();
        for format in Format::value_variants() {
            for value in 0..profile.sample_types.len() {
                let view = View {
                    value,
                    ..View::default()
                };
                let mut out = Vec::new();
                match format.writer().write(&profile, &view, &mut out) {
                    Ok(()) => assert!(!out.is_empty(), "{format:?}"),
                    Err(error) => assert!(error.to_string().contains("--value"), "{format:?}: {error}"),
                }
            }
        }
    }

    #[test]
    fn gecko_has_times_below_a_millisecond_and_the_cpu_time_of_all() {
        use crate::{diff::made, profile::Profile};
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let stacks: Vec<(i64, &[&str])> = names.iter().map(|name| (1, std::slice::from_ref(name))).collect();
        let whole = made::cpu(1, &stacks);
        let mut profile = Profile::new(vec![made::CPU], Some((made::CPU, 200_000)));
        let ours = profile.translated(&whole);
        for (key, _) in whole.samples() {
            profile.add(ours.key(key), &[700_000]);
        }
        let mut out = Vec::new();
        gecko::Gecko.write(&profile, &View::default(), &mut out).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let samples = &file["threads"][0]["samples"];
        let sum = |of: &str| {
            let numbers = samples[of].as_array().unwrap().iter();
            numbers.map(|number| number.as_i64().unwrap()).sum::<i64>()
        };
        // 4.9 ms, each to the nearest of what there is so far; of the first sample readers take no CPU time.
        assert_eq!((sum("weight"), sum("threadCPUDelta")), (5, 5_000));
        assert_eq!(samples["threadCPUDelta"][0], 0);
    }

    #[test]
    fn the_json_formats_are_json_and_what_they_have_adds_up() {
        let profile = mixed();
        let json = |format: Format| -> serde_json::Value {
            let mut out = Vec::new();
            format.writer().write(&profile, &View::default(), &mut out).unwrap();
            serde_json::from_slice(&out).unwrap()
        };
        let total = profile.total(0);
        let gecko = json(Format::Foreign(Foreign::Gecko));
        let mut sum = 0;
        for thread in gecko["threads"].as_array().unwrap() {
            let weights = thread["samples"]["weight"].as_array().unwrap();
            sum += weights.iter().map(|weight| weight.as_i64().unwrap()).sum::<i64>();
        }
        assert_eq!(sum, total);
        let plain = json(Format::Foreign(Foreign::Json));
        let values = plain["samples"].as_array().unwrap().iter();
        assert_eq!(
            values.map(|sample| sample["values"][0].as_i64().unwrap()).sum::<i64>(),
            total
        );
        // Of complete events, those that lie in no other have the total.
        let chrome = json(Format::Foreign(Foreign::Chrome));
        let mut events: Vec<(u64, u64, f64, f64)> = (chrome["traceEvents"].as_array().unwrap().iter())
            .filter(|event| event["ph"] == "X")
            .map(|event| {
                let number = |field: &str| event[field].as_f64().unwrap();
                (number("pid") as u64, number("tid") as u64, number("ts"), number("dur"))
            })
            .collect();
        events.sort_by(|a, b| {
            (a.0, a.1)
                .cmp(&(b.0, b.1))
                .then(a.2.total_cmp(&b.2))
                .then(b.3.total_cmp(&a.3))
        });
        let mut outermost = 0.0;
        let mut end = (0, 0, 0.0);
        for (pid, tid, ts, dur) in events {
            if (pid, tid) != (end.0, end.1) || ts >= end.2 - 1e-6 {
                outermost += dur;
                end = (pid, tid, ts + dur);
            } else {
                assert!(ts + dur <= end.2 + 1e-6, "an event sticks out of the one that it is in");
            }
        }
        let scale = chrome::microseconds(&profile, profile.sample_types[0]);
        assert!((outermost / scale - total as f64).abs() < 1e-6, "{outermost} {total}");
    }

    #[test]
    fn an_ending_says_the_format() {
        for (name, format) in [
            ("x.speedscope.json", Format::Own(Own::Speedscope)),
            ("x.gecko.json", Format::Foreign(Foreign::Gecko)),
            ("callgrind.out.42", Format::Foreign(Foreign::Callgrind)),
            ("x.callgrind.out", Format::Foreign(Foreign::Callgrind)),
            ("x.otlp.pb", Format::Foreign(Foreign::Otlp)),
            ("x.json", Format::Foreign(Foreign::Json)),
            ("x.pb", Format::Own(Own::Pprof)),
        ] {
            assert_eq!(Format::from_path(Path::new(name)), Some(format), "{name}");
        }
        assert_eq!(Format::from_path(Path::new("x.exe")), None);
    }
}
