//! The closing summary: what was recorded, what was not, and what it cost. Always printed, and kept in files that have
//! room for it.

mod children;
mod marks;
mod programs;
mod waits;

use std::time::Duration;

use profiler_common::{
    record::{
        NATIVE_32_BIT, NATIVE_BAD_FRAME_POINTER, NATIVE_COMPLETE, NATIVE_NO_ROOM, NATIVE_NONE, NATIVE_NOT_ADVANCING,
        NATIVE_NOT_CODE, NATIVE_NOT_COVERED, NATIVE_REGISTER_LOST, NATIVE_TABLE_NOT_READY, NATIVE_TRUNCATED,
        NATIVE_UNKNOWN_PROCESS, NATIVE_UNREADABLE, NATIVE_UNSUPPORTED,
    },
    stats::{COUNTERS, Counter},
};
use serde::Serialize;

pub use self::{
    children::Children,
    marks::MarksSummary,
    programs::Programs,
    waits::{IoSummary, WaitsSummary},
};
use crate::{
    cpu_use::{CpuUse, error_of_shares},
    governor::SlowDown,
    humanize::{bytes, count, duration, percent},
    session::StoppedBy,
    shown,
    tally::Tally,
    window::Window,
};

/// What a recording came to, under the names of `--summary-json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub stopped_by: StoppedBy,
    pub samples: u64,
    /// That samples were taken of.
    pub processes: u64,
    pub duration_s: f64,
    pub python: PythonStacks,
    /// Samples with native frames, and those that reach the thread's first function.
    pub native: u64,
    pub native_complete: u64,
    /// The others, by what their native stack ended at.
    pub native_incomplete: Vec<Reason>,
    /// Samples of CPython processes without a Python stack, by reason.
    pub without_python: Vec<Reason>,
    /// What is missing altogether, by reason.
    pub lost: Vec<Reason>,
    /// Interpreters that are not understood, and how many processes run them.
    pub refused: Vec<Reason>,
    pub warnings: Vec<String>,
    pub cost: Cost,
    /// The same by group of programs, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<Programs>,
    /// How much CPU time was used, of recordings of CPU time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuUse>,
    /// Clock ticks at which something ran, before any filter.
    pub ticks: u64,
    /// Clock ticks, or what else is recorded, of processes outside the profiler's pid namespace.
    pub outside: u64,
    /// Samples that were left out because only the GIL's holders were asked for (`--gil`).
    #[serde(skip_serializing_if = "LeftOut::is_empty")]
    pub left_out: LeftOut,
    /// What children of the targets did, where they are not recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<Children>,
    /// What became of memory, if it was looked at. Samples are stacks of memory events then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemorySummary>,
    /// What counting calls came to, if they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<CallsSummary>,
    /// What seeing exceptions, imports or garbage collections came to, if they were looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marks: Option<MarksSummary>,
    /// Where threads waited, if that was asked. Samples are stacks of waits then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<WaitsSummary>,
    /// What became of the windows, if the recording was cut into any (`--every`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<WindowsSummary>,
}

/// Samples that only `--gil` leaves out.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LeftOut {
    /// Of threads that had not the GIL.
    pub without_gil: u64,
    /// Of processes that have none, or none that is known.
    pub no_gil: u64,
}

/// What became of the windows of a recording.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WindowsSummary {
    pub written: u64,
    pub bytes: u64,
    /// Of those, kept for good.
    pub kept: u64,
    /// Longer than asked for, because writing lagged.
    pub merged: u64,
    /// Not written.
    pub lost: u64,
    /// The longest that naming and writing one took.
    pub longest_s: f64,
}

/// What counting calls came to.
#[derive(Clone, Debug, Serialize)]
pub struct CallsSummary {
    /// In words, where the table does not say them.
    #[serde(skip)]
    pub lines: Vec<String>,
    /// In which calls were counted.
    pub observed_s: f64,
    /// The `--max-overhead` for which calls were counted in windows only, if they were.
    pub in_windows_for: Option<f64>,
    pub windows: u64,
    pub entry_hits: u64,
    pub return_hits: u64,
    pub trap_ns: f64,
    /// Hits of hardware breakpoints, and what one costs without what our program does.
    pub watch_hits: u64,
    pub watch_ns: f64,
    /// In which calls were counted by them, and not by probes.
    pub watched_s: f64,
    /// Calls under way when counting changed hands: they may be missed, or counted twice.
    pub under_way: u64,
    /// How many times as long the program took for us: over the whole recording, and while calls were counted.
    pub slow_down: SlowDown,
    pub slow_down_counting: SlowDown,
    /// The program waits nearly all the time.
    pub idle: bool,
    /// Hits of probes in processes that nobody asked for.
    pub other_hits: u64,
    /// Calls that are in no count.
    pub lost_calls: u64,
    /// Calls of chosen functions without a time.
    pub lost_times: u64,
}

/// What a recording of memory came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MemorySummary {
    /// In words.
    #[serde(skip)]
    pub lines: Vec<String>,
    /// Of those, what processes had that the kernel ended for want of memory: it is said at once.
    #[serde(skip)]
    pub victims: Vec<String>,
    pub processes: Vec<MemoryProcess>,
    /// Page faults of the recorded processes, and those that were followed or sampled.
    pub faults: u64,
    pub faults_followed: u64,
    /// Births of pymalloc's pools, and those that were followed or sampled.
    pub pools: u64,
    pub pools_followed: u64,
    /// System calls that map and unmap.
    pub calls: u64,
    /// Because the ring buffer or a table of the kernel side was full.
    pub lost_events: u64,
    /// Seen, and not kept: the account was full.
    pub forgotten_bytes: u64,
    pub forgotten_pools: u64,
    pub forgotten_mappings: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<ExactSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampled: Option<SampledSummary>,
}

/// What a sampled heap came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SampledSummary {
    /// Calls of CPython's allocators in the domains `obj` and `mem`, what they asked for, and frees: counted exactly.
    pub allocations: u64,
    pub allocated_bytes: u64,
    pub frees: u64,
    pub samples: u64,
    pub bytes_per_sample: u64,
    /// How long the process was stopped, each time.
    pub stops_s: Vec<f64>,
    /// Samples that are in no row.
    pub lost_samples: u64,
    pub without_stack: u64,
    /// Slots that somebody else had changed by the end, and that were left alone.
    pub slots_left: usize,
    /// Children that were forked meanwhile and keep sleeping stubs, because they were not to be stopped.
    pub children_left: usize,
    /// The stubs have gone to sleep before the end.
    pub asleep: bool,
}

/// What exact mode came to.
#[derive(Clone, Debug, Serialize)]
pub struct ExactSummary {
    /// Calls that allocate, those from inside others not counted; and that free.
    pub allocations: u64,
    pub frees: u64,
    /// Hits of probes, all of them.
    pub entry_hits: u64,
    pub return_hits: u64,
    /// What a hit cost on average without what our program did: as measured at the start, by kind of instruction.
    pub trap_ns: f64,
    /// How many times as long the program took, estimated from these.
    pub slow_down: SlowDown,
    /// The part of the places that allocate which no probe sees, because the build has them inlined; none if that
    /// cannot be told.
    pub hidden_share: Option<f64>,
    /// Blocks that are in no number because the table was full.
    pub lost_blocks: u64,
    /// Blocks that are counted without their stack.
    pub without_stack: u64,
    /// Allocations by size: number n is of 2ⁿ to 2ⁿ⁺¹ - 1 bytes.
    pub sizes: Vec<u64>,
}

/// Resident memory of a process before and after, in bytes, and how much of the change the report explains.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryProcess {
    pub pid: u32,
    pub comm: String,
    pub rss_before: u64,
    pub rss_after: u64,
    pub anonymous_before: u64,
    pub anonymous_after: u64,
    pub file_before: u64,
    pub file_after: u64,
    pub shared_before: u64,
    pub shared_after: u64,
    pub explained_bytes: i64,
    pub explained_error_bytes: u64,
    /// Of the change of RSS; none where that is less than a MiB.
    pub explained_share: Option<f64>,
    pub started: bool,
    pub exited: bool,
}

/// Samples with Python frames.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PythonStacks {
    pub samples: u64,
    pub complete: u64,
    /// Deeper than is kept.
    pub truncated: u64,
    /// Cut where memory was not readable.
    pub torn: u64,
    /// With a function that has no name.
    pub unnamed: u64,
    /// With a marker in place of frames of another interpreter or CPython of the thread.
    pub unseen: u64,
}

/// A number and what it counts.
#[derive(Clone, Debug, Serialize)]
pub struct Reason {
    pub count: u64,
    pub what: String,
}

/// What the recording cost.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// In the sampling program, as it measures itself.
    pub bpf_ns_per_sample: f64,
    pub bpf_cpu_share: f64,
    /// The longest that one sample took.
    pub bpf_longest_ns: u64,
    /// Making unwind tables: how many, CPU time in all and for the largest, and the memory their rows take up.
    pub unwind_tables: u64,
    pub unwind_cpu_s: f64,
    pub unwind_longest_s: f64,
    pub unwind_bytes: u64,
    /// Our own CPU time from the start of the process to the start of sampling.
    pub start_up_cpu_s: f64,
    /// From the start of the process to the first sample.
    pub first_sample_after_s: Option<f64>,
    /// Taking the programs away.
    pub detach_s: f64,
    /// Our own CPU time while sampling.
    pub recording_cpu_s: f64,
    /// The most we had resident until the end of sampling.
    pub resident_bytes: u64,
    /// Memory the kernel holds for maps and rings.
    pub map_bytes: u64,
    /// Finding names, after the recording.
    pub naming_s: f64,
    /// Writing the output.
    pub write_s: f64,
    /// The most we had resident at all.
    pub peak_bytes: u64,
}

impl Summary {
    /// `cost` comes without the figures of the kernel side, which are in `counters`.
    pub fn new(
        window: &Window,
        counters: &[u64; COUNTERS],
        cost: Cost,
        length: Duration,
        stopped_by: StoppedBy,
        unreadable_events: u64,
    ) -> Self {
        let tally = &window.ledger.tally;
        let counter = |counter: Counter| counters[counter as usize];
        let run_time_ns = counter(Counter::RunTimeNs) as f64;
        // Of exact mode, hits of probes: there is a stack for each only where it is new.
        let hits = counter(Counter::EntryHits) + counter(Counter::ReturnHits);
        let events = if hits > 0 { hits } else { counter(Counter::Samples) };
        let without_python = [
            (tally.python_no_frames, "of threads that run no Python"),
            (
                tally.python_unseen,
                "of threads in a CPython or interpreter that is not shown",
            ),
            (tally.python_not_initialized, "while an interpreter started or ended"),
            (tally.python_unrecognized, "before an interpreter was recognized"),
            (tally.python_bad_state, "with an unreadable thread state"),
        ];
        let lost = [
            (
                counter(Counter::LostRingFull),
                "samples because the ring buffer was full",
            ),
            (counter(Counter::LostNoScratch), "samples without working memory"),
            (
                counter(Counter::LostNoContext),
                "samples because too many were unfinished on one CPU",
            ),
            (tally.lost_stacks, "samples whose stack was lost"),
            (tally.stale, "samples of processes that were just gone"),
            (tally.malformed, "malformed records"),
            (
                tally.not_walked,
                "Python processes not walked because the table was full",
            ),
            (
                tally.not_unwound,
                "processes not unwound because the table of mappings was full",
            ),
            (tally.tables_without_room, "unwind tables for which there was no room"),
            (tally.rules_refused, "unwind rules for which there was no room"),
            (tally.collisions, "stacks with colliding keys"),
            (tally.perf_maps_cut, "perf maps that are too large, in part"),
            (tally.lost_events, "process events because the side band was full"),
            (unreadable_events, "unreadable process events"),
            (
                counter(Counter::ForksNotFollowed),
                "child processes not followed because the table was full",
            ),
            (counter(Counter::KernelStackFailed), "kernel stacks"),
        ];
        Self {
            stopped_by,
            samples: tally.samples,
            processes: window.processes as u64,
            duration_s: length.as_secs_f64(),
            python: PythonStacks {
                samples: tally.python_complete + tally.python_truncated + tally.python_torn,
                complete: tally.python_complete.saturating_sub(tally.python_unseen_beside),
                unseen: tally.python_unseen_beside,
                truncated: tally.python_truncated,
                torn: tally.python_torn,
                unnamed: tally.unknown_functions,
            },
            native: tally.native.iter().sum::<u64>() - tally.native[NATIVE_NONE as usize],
            // Of those that contradict the Python stack only the leaf is shown.
            native_complete: tally.native[NATIVE_COMPLETE as usize].saturating_sub(tally.not_interleaved),
            native_incomplete: reasons(&native_incomplete(tally)),
            without_python: reasons(&without_python),
            lost: reasons(&lost),
            refused: window
                .refused()
                .map(|(what, processes)| Reason {
                    count: processes as u64,
                    what: what.to_owned(),
                })
                .collect(),
            warnings: Vec::new(),
            cost: Cost {
                bpf_ns_per_sample: run_time_ns / events.max(1) as f64,
                bpf_longest_ns: counter(Counter::LongestNs),
                bpf_cpu_share: run_time_ns / 1e9 / length.as_secs_f64().max(1e-9),
                ..cost
            },
            ticks: counter(Counter::Ticks),
            outside: counter(Counter::OutsideNamespace),
            left_out: LeftOut {
                without_gil: counter(Counter::GilNotHeld),
                no_gil: counter(Counter::NoGil),
            },
            programs: Vec::new(),
            cpu: None,
            children: None,
            memory: None,
            calls: None,
            marks: None,
            waits: None,
            windows: None,
        }
    }

    /// The summary as people read it, all of it.
    pub fn lines(&self) -> Vec<String> {
        self.told(true)
    }

    /// What is told of a recording of CPU time without being asked: losses and refusals, but not what is as it should be,
    /// and the cost in short. What comes first is in a place of its own, so that the hottest lines can follow it.
    pub fn brief(&self) -> (Vec<String>, Vec<String>) {
        let mut lines = self.told(false);
        let rest = lines.split_off(lines.len().min(1 + usize::from(self.cpu.is_some())));
        (lines, rest)
    }

    fn told(&self, full: bool) -> Vec<String> {
        let length = Duration::from_secs_f64(self.duration_s);
        let reason = match self.stopped_by {
            StoppedBy::Duration | StoppedBy::Signal | StoppedBy::Reload => "",
            StoppedBy::OwnBudget => "; to keep to its budget",
            StoppedBy::Switch => "; stopped by its switch",
            StoppedBy::TargetsGone => "; the target has exited",
            StoppedBy::CommandEnded => "; the command has ended",
            StoppedBy::Budget => "; stopped because the budget was spent (--max-overhead)",
        };
        if let Some(marks) = &self.marks {
            return self.of_marks(marks, length, reason);
        }
        let mut lines = match (&self.memory, &self.waits) {
            (Some(memory), _) => memory.lines(length, reason),
            (None, Some(waits)) => waits.lines(length, reason),
            (None, None) => vec![format!(
                "{} in {} from {}{reason}{}",
                many(self.samples, "sample"),
                duration(length),
                many(self.processes, "process"),
                self.error_line(),
            )],
        };
        match (&self.cpu, &self.waits) {
            (Some(cpu), None) => lines.insert(0, cpu.line()),
            // The accounts of threads say how much was used.
            (Some(_), Some(_)) => lines.push(format!(
                "{} of the CPU clock from {}{}",
                many(self.samples, "sample"),
                many(self.processes, "process"),
                self.error_line(),
            )),
            (None, _) => {}
        }
        lines.extend(self.left_out.line(self.samples));
        if let Some(calls) = &self.calls {
            lines.splice(0..0, calls.lines());
        }
        if let Some(line) = self.children_line() {
            lines.push(line);
        } else if self.samples == 0 && self.memory.is_none() && self.calls.is_none() && self.waits.is_none() {
            lines.push(format!(
                "{}: CPU time is sampled, and a process that waits uses none",
                self.what_ran()
            ));
        }
        let PythonStacks {
            samples,
            complete,
            unnamed,
            ..
        } = self.python;
        if full || complete < samples || unnamed > 0 {
            lines.extend(self.python.line());
        }
        lines.extend(list("without Python stacks", &self.without_python));
        if full || self.native_complete < self.native {
            lines.extend(self.native_line());
        }
        self.what_is_missing(&mut lines);
        lines.push(match self.memory.as_ref().map(|memory| &memory.exact) {
            None if self.calls.is_some() => self.cost.line(length, "hit"),
            None if self.waits.is_some() && (full || self.cpu.is_none()) => self.cost.line(length, "stack"),
            None if !full => self.cost.short_line(length),
            None => self.cost.line(length, "sample"),
            Some(None) => self.cost.line(length, "stack"),
            Some(Some(_)) => self.cost.line(length, "hit"),
        });
        if full {
            lines.extend(self.programs.iter().map(Programs::line));
        }
        lines
    }

    /// Losses, what was left out, and warnings.
    fn what_is_missing(&self, lines: &mut Vec<String>) {
        lines.extend(list("lost", &self.lost));
        if self.outside > 0 {
            // What is counted is whatever wakes our programs: page faults and system calls, hits of probes, or the clock.
            let what = match (&self.memory, &self.calls, &self.waits) {
                (None, None, None) => "clock tick",
                _ => "event",
            };
            lines.push(format!(
                "{} of processes outside this container {} left out; with --pid=host (hostPID: true) they are seen, too",
                many(self.outside, what),
                if self.outside == 1 { "was" } else { "were" },
            ));
        }
        for Reason { count, what } in &self.refused {
            lines.push(format!(
                "not understood: {what}; native stacks only ({})",
                many(*count, "process")
            ));
        }
        lines.extend(
            self.warnings
                .iter()
                .map(|warning| format!("warning: {}", shown::line(warning))),
        );
    }

    /// How far off shares can be, where there are too few samples not to tell.
    pub fn error_line(&self) -> String {
        const ENOUGH: u64 = 1000;
        match self.cpu {
            Some(_) if (1..ENOUGH).contains(&self.samples) => {
                let of_cpu_time = if self.waits.is_some() { " of CPU time" } else { "" };
                let error = 100.0 * error_of_shares(self.samples);
                format!(": shares{of_cpu_time} are ± {error:.0} % at most")
            }
            _ => String::new(),
        }
    }

    /// What children did that were not recorded, where it is worth a line.
    pub fn children_line(&self) -> Option<String> {
        self.children?.line(self.duration_s, self.samples > 0)
    }

    /// How many native stacks are whole, and what the others ended at.
    fn native_line(&self) -> Option<String> {
        if self.native == 0 {
            return None;
        }
        let share = self.native_complete as f64 / self.native as f64;
        let mut line = format!(
            "{} with native stacks, {} of them complete",
            count(self.native),
            percent(share)
        );
        for Reason { count: number, what } in &self.native_incomplete {
            line.push_str(&format!(", {} {what}", count(*number)));
        }
        Some(line)
    }

    fn what_ran(&self) -> &'static str {
        if self.ticks == 0 {
            "nothing ran"
        } else {
            "nothing of what was asked for ran"
        }
    }
}

impl LeftOut {
    fn is_empty(&self) -> bool {
        self.all() == 0
    }

    /// So many.
    pub fn all(&self) -> u64 {
        self.without_gil + self.no_gil
    }

    /// Beside `held` samples of threads that had the GIL.
    fn line(&self, held: u64) -> Option<String> {
        let Self { without_gil, no_gil } = *self;
        let with_one = held + without_gil;
        let parts: Vec<String> = [
            (without_gil, "of threads that did not hold the GIL"),
            (no_gil, "of processes without one"),
        ]
        .into_iter()
        .filter(|&(number, _)| number > 0)
        .map(|(number, what)| format!("{} {what}", count(number)))
        .collect();
        let parts = (!parts.is_empty()).then(|| parts.join(", "))?;
        Some(match with_one {
            0 => format!("no samples of processes with a GIL; left out: {parts}"),
            _ => {
                let share = percent(held as f64 / with_one as f64);
                format!("the GIL was held in {share} of the samples; left out: {parts}")
            }
        })
    }
}

impl MemorySummary {
    fn lines(&self, length: Duration, reason: &str) -> Vec<String> {
        let mut lines = self.lines.clone();
        if let Some(exact) = &self.exact {
            lines.extend(exact.lines(length, reason));
            return lines;
        }
        if let Some(sampled) = &self.sampled {
            lines.extend(sampled.lines(length, reason));
            return lines;
        }
        let mut line = format!(
            "{} of {} followed in {}{reason}",
            count(self.faults_followed),
            many(self.faults, "page fault"),
            duration(length)
        );
        if self.pools > 0 {
            line.push_str(&format!(
                "; {} of {} of small objects",
                count(self.pools_followed),
                many(self.pools, "new pool")
            ));
        }
        lines.push(line);
        let lost = [
            (self.lost_events, "memory events because a buffer was full"),
            (self.forgotten_pools, "pools because the account was full"),
            (self.forgotten_mappings, "mappings because the account was full"),
        ];
        lines.extend(list("lost", &reasons(&lost)));
        if self.forgotten_bytes > 0 {
            lines.push(format!(
                "lost: {} because the account was full",
                bytes(self.forgotten_bytes)
            ));
        }
        lines
    }
}

impl CallsSummary {
    fn lines(&self) -> Vec<String> {
        let mut lines = self.lines.clone();
        let observed = duration(Duration::try_from_secs_f64(self.observed_s).unwrap_or_default());
        lines.push(match self.entry_hits + self.return_hits {
            // Of nothing there is no cost to tell, and the quotient for it is one of accidents.
            0 => format!("no probe was hit in the {observed} in which calls were counted"),
            hits => format!(
                "{} of probes in {observed}, {:.2} µs each besides what our program does there",
                many(hits, "hit"),
                self.trap_ns / 1e3,
            ),
        });
        if self.other_hits > 0 {
            lines.push(format!(
                "{} of probes in processes that were not asked for, which run the same interpreter: they took some {} for \
                 it",
                many(self.other_hits, "hit"),
                duration(Duration::from_nanos((self.other_hits as f64 * self.trap_ns) as u64)),
            ));
        }
        if self.watched_s > 0.0 {
            let watched = duration(Duration::try_from_secs_f64(self.watched_s).unwrap_or_default());
            lines.push(format!(
                "counted by hardware breakpoints for {watched} of that: {}, {:.2} µs each; calls under way at the \
                 hand-over: {}",
                many(self.watch_hits, "hit"),
                self.watch_ns / 1e3,
                self.under_way,
            ));
        }
        if let Some(most) = self.in_windows_for {
            lines.push(format!(
                "calls were counted in {} only: all the time, the program would have taken more than {most} times as long \
                 (--max-overhead)",
                many(self.windows, "window"),
            ));
        }
        let lost = [
            (
                self.lost_calls,
                "calls because the table was full or their frame was not readable",
            ),
            (self.lost_times, "times of calls because a buffer was full"),
        ];
        lines.extend(list("lost", &reasons(&lost)));
        lines
    }
}

impl SampledSummary {
    fn lines(&self, length: Duration, reason: &str) -> Vec<String> {
        let mut lines = vec![format!(
            "sampled: {}, one in {} on average; counted exactly in {}{reason}: {} of {} and {}",
            many(self.samples, "block"),
            bytes(self.bytes_per_sample),
            duration(length),
            many(self.allocations, "allocation"),
            bytes(self.allocated_bytes),
            many(self.frees, "free"),
        )];
        let stops: Vec<String> = self.stops_s.iter().map(|stop| format!("{:.2}", stop * 1e3)).collect();
        lines.push(format!("the process was stopped for {} ms", stops.join(", ")));
        lines.push(match self.slots_left {
            0 => "its table of allocators is as before; the memory that the stubs lie in stays until it ends".to_owned(),
            left => format!(
                "{left} slots of its table of allocators had been changed by somebody else (tracemalloc?) and were left \
                 alone: what leads to the stubs from there finds them asleep, and profiler undo puts them back when that has ended"
            ),
        });
        if self.children_left > 0 {
            lines.push(format!(
                "{} forked meanwhile and not to be stopped: the stubs stay in them, asleep",
                many(self.children_left as u64, "child process")
            ));
        }
        let lost = [
            (self.lost_samples, "samples because a table or a buffer was full"),
            (self.without_stack, "stacks of samples because the table was full"),
        ];
        lines.extend(list("lost", &reasons(&lost)));
        if self.asleep {
            lines.push(
                "lost: all samples after some moment, because the profiler was not run for long and the stubs went to sleep: \
                 use a larger --bytes-per-sample"
                    .to_owned(),
            );
        }
        lines
    }
}

impl ExactSummary {
    fn lines(&self, length: Duration, reason: &str) -> Vec<String> {
        let mut lines = vec![format!(
            "{} and {} seen in {}{reason}; the program took {} times as long ({} of probes, {:.2} µs each)",
            many(self.allocations, "allocation"),
            many(self.frees, "free"),
            duration(length),
            self.slow_down.told(),
            many(self.entry_hits + self.return_hits, "hit"),
            self.trap_ns / 1e3,
        )];
        lines.extend(self.size_line());
        let lost = [
            (self.lost_blocks, "blocks because the table was full (--max-live)"),
            (self.without_stack, "stacks of blocks because the table was full"),
        ];
        lines.extend(list("lost", &reasons(&lost)));
        lines
    }

    /// `sizes: 12 % up to 31 B, …`: the classes with most allocations.
    fn size_line(&self) -> Option<String> {
        const SHOWN: usize = 6;
        let all: u64 = self.sizes.iter().sum();
        let mut sizes: Vec<(usize, u64)> = self.sizes.iter().copied().enumerate().collect();
        sizes.retain(|&(_, number)| number > 0);
        sizes.sort_unstable_by_key(|&(_, number)| std::cmp::Reverse(number));
        sizes.truncate(SHOWN);
        sizes.sort_unstable();
        let part = |&(power, number): &(usize, u64)| {
            let low = 1u64.checked_shl(power as u32).unwrap_or(u64::MAX);
            let share = percent(number as f64 / all.max(1) as f64);
            format!("{}–{} {share}", bytes(low), bytes(low.saturating_mul(2) - 1))
        };
        let parts: Vec<String> = sizes.iter().map(part).collect();
        (all > 0).then(|| format!("sizes: {}", parts.join(", ")))
    }
}

impl PythonStacks {
    fn line(&self) -> Option<String> {
        if self.samples == 0 {
            return None;
        }
        let share = self.complete as f64 / self.samples as f64;
        let mut line = format!(
            "{} with Python stacks, {} of them complete",
            count(self.samples),
            percent(share)
        );
        let parts = [
            (self.truncated, "truncated at 512 frames"),
            (self.torn, "cut where memory was not readable"),
            (self.unnamed, "with unnamed functions"),
            (self.unseen, "with marked frames of another interpreter"),
        ];
        for (number, what) in parts.into_iter().filter(|&(number, _)| number > 0) {
            line.push_str(&format!(", {} {what}", count(number)));
        }
        Some(line)
    }
}

impl Cost {
    /// What it cost the machine.
    fn short_line(&self, length: Duration) -> String {
        let seconds = length.as_secs_f64().max(1e-9);
        format!(
            "cost: {} of a CPU in the kernel, {} in the profiler, {} (-v tells more)",
            percent(self.bpf_cpu_share),
            percent(self.recording_cpu_s / seconds),
            bytes(self.peak_bytes.saturating_add(self.map_bytes)),
        )
    }

    fn line(&self, length: Duration, what: &str) -> String {
        let seconds = length.as_secs_f64().max(1e-9);
        let longest = match self.bpf_longest_ns {
            0 => String::new(),
            ns => format!(", {:.0} µs at most", ns as f64 / 1e3),
        };
        format!(
            "cost: {:.1} µs per {what} in the kernel ({} of a CPU){longest}; the profiler itself {} of a CPU, {} and {} of \
             kernel maps; start-up {}, names {}",
            self.bpf_ns_per_sample / 1e3,
            percent(self.bpf_cpu_share),
            percent(self.recording_cpu_s / seconds),
            bytes(self.peak_bytes),
            bytes(self.map_bytes),
            duration(Duration::from_secs_f64(self.start_up_cpu_s)),
            duration(Duration::from_secs_f64(self.naming_s)),
        )
    }
}

/// What incomplete native stacks ended at.
fn native_incomplete(tally: &Tally) -> [(u64, &'static str); 14] {
    let ended = |status: u32, what| (tally.native[status as usize], what);
    [
        ended(NATIVE_TRUNCATED, "truncated at 1,536 frames"),
        ended(NATIVE_UNKNOWN_PROCESS, "of processes that had just started"),
        ended(NATIVE_TABLE_NOT_READY, "before an unwind table was ready"),
        ended(NATIVE_NO_ROOM, "without room for an unwind table"),
        ended(NATIVE_NOT_COVERED, "at code without unwind information"),
        ended(NATIVE_UNSUPPORTED, "at unwind information of an unknown kind"),
        ended(NATIVE_REGISTER_LOST, "at a register that was not known any more"),
        ended(NATIVE_NOT_CODE, "outside known code"),
        ended(NATIVE_UNREADABLE, "where memory was not readable"),
        ended(NATIVE_NOT_ADVANCING, "where the stack did not go on"),
        ended(NATIVE_BAD_FRAME_POINTER, "at generated code without a frame pointer"),
        ended(NATIVE_32_BIT, "of 32-bit programs"),
        (
            tally.not_interleaved.saturating_sub(tally.compiled),
            "that contradict the Python stack",
        ),
        (tally.compiled, "of compiled Python functions"),
    ]
}

fn reasons(counted: &[(u64, &str)]) -> Vec<Reason> {
    let counted = counted.iter().filter(|&&(count, _)| count > 0);
    counted
        .map(|&(count, what)| Reason {
            count,
            what: what.to_owned(),
        })
        .collect()
}

fn list(what: &str, reasons: &[Reason]) -> Option<String> {
    let parts: Vec<String> = reasons
        .iter()
        .map(|reason| match what {
            "lost" => format!("{} {}", count(reason.count), of_number(reason.count, &reason.what)),
            _ => format!("{} {}", count(reason.count), reason.what),
        })
        .collect();
    (!parts.is_empty()).then(|| format!("{what}: {}", parts.join(", ")))
}

/// `stack of waits` if there is one, `stacks of waits` else: the first plural is the thing that is counted.
fn of_number(number: u64, things: &str) -> String {
    let is_plural = |word: &&str| word.ends_with('s') && !word.ends_with("ss");
    let Some(word) = things.split(' ').find(is_plural).filter(|_| number == 1) else {
        return things.to_owned();
    };
    let one = word.strip_suffix("es").filter(|one| one.ends_with("ss"));
    things.replacen(word, one.unwrap_or(&word[..word.len() - 1]), 1)
}

/// `1 sample`, `2 samples`, `2 processes`.
pub(crate) fn many(number: u64, what: &str) -> String {
    let ending = if what.ends_with('s') { "es" } else { "s" };
    counted(number, what, &format!("{what}{ending}"))
}

/// `1 child`, `2 children`.
fn counted(number: u64, one: &str, more: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        Summary::new(
            &Window::default(),
            &[0; COUNTERS],
            Cost::default(),
            Duration::from_secs(2),
            StoppedBy::Duration,
            0,
        )
    }

    #[test]
    fn one_thing_that_was_lost_is_one() {
        for (things, one) in [
            ("stacks of waits", "stack of waits"),
            (
                "process events because the side band was full",
                "process event because the side band was full",
            ),
            ("Python processes not walked", "Python process not walked"),
            (
                "unwind tables for which there was no room",
                "unwind table for which there was no room",
            ),
            (
                "samples of processes that were just gone",
                "sample of processes that were just gone",
            ),
        ] {
            assert_eq!(of_number(1, things), one);
            assert_eq!(of_number(2, things), things);
        }
    }

    #[test]
    fn a_recording_without_samples_says_why() {
        let lines = summary().lines();
        assert_eq!(lines[0], "0 samples in 2.0 s from 0 processes");
        assert_eq!(
            lines[1],
            "nothing ran: CPU time is sampled, and a process that waits uses none"
        );
        assert!(lines[2].starts_with("cost: "), "{lines:?}");
    }

    #[test]
    fn every_loss_is_listed_under_its_name() {
        let mut counters = [0; COUNTERS];
        counters[Counter::LostRingFull as usize] = 1234;
        let summary = Summary::new(
            &Window::default(),
            &counters,
            Cost::default(),
            Duration::from_secs(1),
            StoppedBy::TargetsGone,
            2,
        );
        let lines = summary.lines();
        assert!(lines[0].ends_with("; the target has exited"), "{lines:?}");
        assert!(
            lines.contains(
                &"lost: 1,234 samples because the ring buffer was full, 2 unreadable process events".to_owned()
            ),
            "{lines:?}"
        );
    }

    #[test]
    fn unnamed_and_cut_stacks_are_said_beside_the_complete_ones() {
        let stacks = PythonStacks {
            samples: 1000,
            complete: 990,
            truncated: 7,
            torn: 3,
            unnamed: 1,
            unseen: 0,
        };
        assert_eq!(
            stacks.line().as_deref(),
            Some(
                "1,000 with Python stacks, 99.0 % of them complete, 7 truncated at 512 frames, 3 cut where memory was \
                 not readable, 1 with unnamed functions"
            )
        );
    }
}
