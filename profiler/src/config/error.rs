//! What makes no sense, with the remedy.

use std::{fmt, path::PathBuf, time::Duration};

use thiserror::Error;

use super::{RATES_HZ, comm::MAX_COMM_BYTES};
use crate::{exit, humanize, report::Format};

#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("nothing to record: give a pid (-p 4242), -a for the whole machine, or a command after `--`")]
    NoTarget,
    #[error("nothing to look at: give a pid (-p 4242), -a for all Pythons of the machine, or a core file (-c)")]
    NothingToDump,
    #[error("--thresholds are four shares, the highest first: 50%,20%,10%,5%")]
    ThresholdsOutOfOrder,
    #[error("{0} and {1} exclude each other: give either pids, or -a for the whole machine, or a command after `--`")]
    ManyTargets(&'static str, &'static str),
    #[error("{offer}")]
    NameForPid { offer: String },
    #[error("{0} and {1} would both go to standard output; name a file with one of them")]
    StdoutTwice(&'static str, &'static str),
    #[error("{} is the file of both {} and {}; name another with one of them", path.display(), options.0, options.1)]
    SameFile {
        path: PathBuf,
        options: (&'static str, &'static str),
    },
    #[error("the ending of {} names no format for a curve: use .csv, .json, or .dat for mprof", path.display())]
    UnknownEndingOfCurve { path: PathBuf },
    #[error("mprof plots the RSS of processes, and a machine has none; give pids (-p 4242), or use .csv or .json")]
    MprofOfAll,
    #[error("--tid goes with a process that is running, not with a command; use --comm or leave it out")]
    TidOfCommand,
    #[error("the kernel keeps {MAX_COMM_BYTES} bytes of a thread's name; use --comm {kept}")]
    LongComm { kept: String },
    #[error("--source {0} says what is there at the end, without ages and moments; leave one of the options out")]
    SourceHasNot(&'static str),
    #[error(
        "--exact follows every call in chosen processes: give pids (-p 4242) or a command; -a without it shows all processes"
    )]
    ExactOfAll,
    #[error("the ending of {} names no format: use .pstats, .json, .csv or .html, or choose with -f", path.display())]
    UnknownEndingOfCalls { path: PathBuf },
    #[error("the ending of {} names no format: use .txt, .csv or .json for the table, {} for the stacks, or choose with -f", path.display(), KnownEndings)]
    UnknownEndingOfMemory { path: PathBuf },
    #[error("--older-than {} in a recording of {}: nothing can be that old; record longer with -d, or ask for less",
        humanize::duration(*older_than), humanize::duration(*length))]
    OlderThanRecording { older_than: Duration, length: Duration },
    #[error("nothing to look at: give the pid of a Python process (-p 4242)")]
    NoProcess,
    #[error("the ending of {} names no format: use .txt, .json, .folded, .dot or .svg, or choose with -f", path.display())]
    UnknownEndingOfObjects { path: PathBuf },
    #[error("--comm needs a name, as in /proc/PID/comm")]
    EmptyComm,
    #[error("{hertz} is not a possible rate: use -r with {} to {} Hz", RATES_HZ.start(), RATES_HZ.end())]
    RateOutOfRange { hertz: u64 },
    #[error("the ending of {} names no format: use {}, or choose with -f", path.display(), KnownEndings)]
    UnknownEnding { path: PathBuf },
    #[error(
        "--with-source puts text into a page or a recording, and none is written: name one with -o page.html or -o rec.pb.gz"
    )]
    SourceWithoutPage,
    #[error("--with-source reads files when a recording ends; leave it out, or --every")]
    SourceOfWindows,
    #[error("--every writes a file for each window: name a directory for them with -o")]
    WindowsWithoutDirectory,
    #[error("--every writes pprof files, from which `go tool pprof` makes the others; leave -f {0} out")]
    FormatOfWindows(&'static str),
    #[error("a window has what came in it, and what of all that came is there at its end; leave {0} out, or --every")]
    NotInWindows(&'static str),
    #[error("--watchpoints is for processes that run: name them with -p")]
    WatchpointsOfPids,
    #[error("--sampled is for one process that runs: name it with -p, without -s (its children are not sampled)")]
    SampledOfOne,
    #[error("--bytes-per-sample of 1k to 1G is possible")]
    SampleOutOfRange,
    #[error("--max-share of 0.1% to 25% is possible")]
    ShareOutOfRange,
    #[error("{0} is of stacks, and these are modules: use text, csv, json or importtime with -f")]
    FormatOfTable(&'static str),
    #[error("{}: the ending says no format of this command; say it with -f: {known}", path.display())]
    UnknownEndingOfReport { path: PathBuf, known: &'static str },
    #[error("{number} recordings: --merge makes one of them, and `profiler diff` compares two")]
    SeveralRecordings { number: usize },
    #[error("name the file with -o, whose ending says the format, or the format with -f: {known}")]
    NoFormat { known: &'static str },
    #[error("--every replaces no files; leave --force out")]
    ForceOfWindows,
    #[error("refreshes every {} are too many; use -d 200ms or more", humanize::duration(*interval))]
    ShortInterval { interval: Duration },
    #[error("windows of {} are too short; use --every 1s or more", humanize::duration(*every))]
    ShortWindow { every: Duration },
}

impl ConfigError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoTarget
            | Self::NothingToDump
            | Self::ThresholdsOutOfOrder
            | Self::ManyTargets(..)
            | Self::StdoutTwice(..)
            | Self::SameFile { .. }
            | Self::UnknownEndingOfCurve { .. }
            | Self::MprofOfAll
            | Self::NameForPid { .. }
            | Self::TidOfCommand
            | Self::ExactOfAll
            | Self::UnknownEndingOfCalls { .. }
            | Self::UnknownEndingOfMemory { .. }
            | Self::OlderThanRecording { .. }
            | Self::SourceHasNot(_)
            | Self::LongComm { .. }
            | Self::EmptyComm
            | Self::NoProcess
            | Self::UnknownEndingOfObjects { .. }
            | Self::UnknownEndingOfReport { .. }
            | Self::SeveralRecordings { .. }
            | Self::NoFormat { .. }
            | Self::RateOutOfRange { .. }
            | Self::ShortInterval { .. }
            | Self::WindowsWithoutDirectory
            | Self::SourceWithoutPage
            | Self::SourceOfWindows
            | Self::FormatOfWindows(_)
            | Self::NotInWindows(_)
            | Self::WatchpointsOfPids
            | Self::ShareOutOfRange
            | Self::SampledOfOne
            | Self::SampleOutOfRange
            | Self::FormatOfTable(_)
            | Self::ForceOfWindows
            | Self::ShortWindow { .. }
            | Self::UnknownEnding { .. } => exit::USAGE,
        }
    }
}

/// The endings [`Format::from_path`] knows, for a message.
struct KnownEndings;

impl fmt::Display for KnownEndings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = [
            Format::Svg,
            Format::Html,
            Format::Folded,
            Format::Speedscope,
            Format::Pprof,
        ];
        let [first, second, third, fourth, last] = known.map(Format::extension);
        write!(f, ".{first}, .{second}, .{third}, .{fourth} or .{last}")
    }
}
