//! Reports of `profiler calls`: how often functions are called, and how long they take.
//!
//! A [`CallsReport`] has what was counted, and what samples of the CPU clock taken meanwhile say of times. It does not
//! say how anything was counted, and nothing here asks. Words are cProfile's, as its users know what they mean: `ncalls`,
//! `tottime`, `cumtime`, `percall`, and *primitive* calls, which are not made from within a call of the same function.
//!
//! | module | makes |
//! |---|---|
//! | [`table`] | rows, their order and their sums, and the table as text |
//! | [`summary`] | what is above and below it, and what goes to standard error |
//! | [`blocks`] | what is known of one function: times from entry to exit, a histogram, callers |
//! | [`export`] | CSV and JSON, and which file is written how |
//! | [`pstats`] | the file that Python's `pstats` and snakeviz read, in the format of [`marshal`] |
//! | [`profile`] | the stacks of a page: CPU time, and beside it calls |
//! | [`histogram`] | counts of times, and percentiles from them |
//! | [`merge`] | one row for each function, however many code objects it was |

use std::time::Duration;

use crate::governor::SlowDown;

pub mod blocks;
pub mod export;
pub mod histogram;
pub mod marshal;
pub mod merge;
pub mod profile;
pub mod pstats;
pub mod summary;
pub mod table;

#[cfg(test)]
mod tests;

pub use histogram::Histogram;
pub use summary::lines;

#[derive(Clone, Debug)]
pub struct CallsReport {
    /// In any order. Functions with the same file, line and name are one to reports.
    pub functions: Vec<Function>,
    /// Only functions that the user named were counted.
    pub chosen: bool,
    /// Of the recording.
    pub length: Duration,
    /// The part of it in which calls were counted.
    pub observed: Duration,
    /// The part of it in which the samples were taken. It may differ from `observed`, and need not be the same time.
    pub sampled: Duration,
    /// Counts are of windows, and were scaled up from `observed` to `length`.
    pub scaled: Option<Scaled>,
    /// Counts are those of one window, of a longer recording: there were at least so many calls.
    pub one_window: bool,
    /// What counting cost the program, if that is known.
    pub cost: Option<Cost>,
    /// Whether processes that began in the recording are counted from their beginning.
    pub beginning: Beginning,
    /// Calls that were seen and could not be counted.
    pub lost: u64,
    /// Calls of functions whose names are not known, while only those that the user named are told: they may be among them.
    pub unnamed: u64,
    /// Calls under way when breakpoints took over: each may be missing, or counted twice.
    pub under_way: u64,
    /// How many threads used CPU time.
    pub threads: u64,
    /// What is called again and again for one call of another function, and better were not.
    pub repeated: Vec<Repeated>,
    /// What may be called so, of which too little was seen.
    pub perhaps_repeated: Vec<Repeated>,
    /// By whose calls the user wants those of others divided.
    pub per: Option<Per>,
    /// Of CPU time, in Python functions.
    pub samples: u64,
    /// Of compiled Python functions, which no evaluation loop runs: their calls cannot be seen.
    pub compiled_samples: u64,
    /// How much CPU time one sample stands for.
    pub period_ns: u64,
    /// Calls were timed by breakpoints: what a stop at one takes. So much was taken off each time, and about as much a time
    /// can be wrong.
    pub stop: Option<Duration>,
}

/// What counting cost the program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// How many times as long it took over the whole recording.
    pub over_all: SlowDown,
    /// The same while calls were counted.
    pub within: SlowDown,
    /// Of its time.
    pub spent: Duration,
    /// It waits nearly all the time, and what was spent is too little to be felt.
    pub idle: bool,
}

/// Calls of one function for each of another, and the ends of its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub each: f64,
    pub least: f64,
    /// None: there are at least so many.
    pub most: Option<f64>,
}

impl Ratio {
    /// How far apart the ends are: the larger as a multiple of the smaller.
    pub fn width(&self) -> f64 {
        self.most.map_or(f64::INFINITY, |most| most / self.least)
    }
}

/// A function that asks outside of the program, many times for each call of one of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Repeated {
    /// One of what it asks for.
    pub what: &'static str,
    pub function: String,
    pub caller: String,
    /// Where the caller does so.
    pub file: String,
    pub line: u32,
    /// How often for each call.
    pub ratio: Ratio,
    /// Of the caller, of which the end was seen.
    pub calls: u64,
    /// That show who it is.
    pub samples: u64,
}

/// A function by whose calls those of others are divided.
#[derive(Clone, Debug, PartialEq)]
pub struct Per {
    pub name: String,
    /// That were counted, without those from within a call of itself.
    pub calls: u64,
    /// The same, as the others' are counted that are divided ([`Function::divided`]).
    pub divisor: f64,
    /// How many times what is told it can be in truth, of all functions together; at most, if that can be said.
    pub least: f64,
    pub most: Option<f64>,
    /// It is a generator or a coroutine: its calls are resumptions.
    pub resumed: bool,
}

impl Per {
    /// How many calls there are for each of its own.
    pub fn each(&self, divided: f64) -> f64 {
        ratio(divided, self.divisor)
    }
}

/// Processes that were not counted from their first call on, of those that began in the recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beginning {
    /// In so many counting began after the interpreter had started, …
    pub late: u64,
    /// … at most so long after.
    pub most: Duration,
    /// So many had ended before counting could begin.
    pub missed: u64,
}

impl Beginning {
    /// Every process is counted from its first call on, or was there before the recording.
    pub fn is_whole(self) -> bool {
        self.late == 0 && self.missed == 0
    }
}

/// What is known of counts that are estimates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaled {
    /// Half the width of the 95 % interval of all calls together. The functions' own errors do not tell it: a window in
    /// which the program was busy counts too many of all functions.
    pub error: u64,
    /// Of that, as a part of the counts, what comes of not knowing well enough how much windows slow the program down.
    pub slowed: f64,
    /// From the beginning of a command until so long after, every call was counted, and nothing scaled up.
    pub first: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// As its code object has it.
    pub file: String,
    pub first_line: u32,
    /// Qualified where the interpreter knows it.
    pub name: String,
    /// `None` if nobody counted: the function is here as a caller, or for its samples.
    pub calls: Option<Count>,
    /// Calls to be divided by those of another function: of windows, each has its weight. 0 if there is none ([`Per`]).
    pub divided: f64,
    /// Samples in which it was the innermost Python function.
    pub own_samples: u64,
    /// Samples whose stack it was on, however often.
    pub cumulative_samples: u64,
    /// Its calls were timed.
    pub timed: Option<Timed>,
    pub callers: Vec<Caller>,
}

/// How often a function was called. Calls that had not ended when counting did are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub all: u64,
    /// Calls not made from within a call of the same function, where that is known.
    pub primitive: Option<u64>,
    pub exact: bool,
    /// There were no fewer, and nobody knows how many more.
    pub at_least: bool,
    /// Half the width of the 95 % interval of `all`; 0 if it is exact, or nothing is known of it.
    pub error: u64,
}

/// Calls from one function to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Index into the functions.
    pub function: usize,
    /// 0 if nobody counted, and the caller is known from samples.
    pub calls: u64,
    /// Samples with the callee innermost and called from here.
    pub own_samples: u64,
    /// Samples with this call on their stack.
    pub cumulative_samples: u64,
}

/// Times from entry to exit, waiting included, in the time observed. Times of calls within calls of the same function
/// are in both. What probes cost within a call has been taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    pub count: u64,
    pub total_ns: u64,
    pub min_ns: u64,
    pub max_ns: u64,
    pub histogram: Histogram,
    /// Calls that were seen to end, but not to begin: they are not in `count`.
    pub missed_entries: u64,
    /// How many of `count` were made from within a call of the same function.
    pub nested: u64,
    /// Their part of `total_ns`.
    pub nested_ns: u64,
    /// What was taken off in all, and of one call at most.
    pub taken_off_ns: u64,
    pub most_taken_off_ns: u64,
    /// Of `total_ns`, about so much was waited for a processor only because probes had made calls longer.
    pub delayed_ns: u64,
    /// By how much `total_ns` can be too long for all that, and by how much too short.
    pub less_ns: u64,
    pub more_ns: u64,
    /// By how much `total_ns` differs from the sum of as many calls like all the function's, if these are some of them: 95 %.
    pub spread_ns: Option<u64>,
    /// The times if it is.
    pub at_most: Histogram,
    /// Calls whose time is not among these: it was mostly ours, and other calls were timed better.
    pub left_out: u64,
}

/// A time in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Time {
    pub seconds: f64,
    /// Half the width of the 95 % interval; `None` if the time was measured.
    pub error: Option<f64>,
}

impl CallsReport {
    /// The time that counts and times are of.
    pub fn counted(&self) -> Duration {
        match self.scaled {
            Some(_) => self.length,
            None => self.observed,
        }
    }

    pub fn per_second(&self, calls: u64) -> f64 {
        ratio(calls as f64, self.counted().as_secs_f64())
    }

    /// Whether no call that ended in the time observed is missing.
    pub fn has_every_call(&self) -> bool {
        self.beginning.is_whole() && self.lost == 0 && self.unnamed == 0 && self.under_way == 0
    }

    /// What that many samples say of the time counted.
    pub fn estimate(&self, samples: u64) -> Time {
        let sampled = self.sampled.as_secs_f64();
        // Calls and times of one row are divided by one another, so both are to be of the same span.
        let scale = if sampled > 0.0 {
            self.counted().as_secs_f64() / sampled
        } else {
            1.0
        };
        let sample = self.period_ns as f64 / 1e9 * scale;
        // A sample more or less than the time has room for is no time that anybody spent.
        let most = self.counted().as_secs_f64() * self.threads.max(1) as f64;
        Time {
            seconds: (samples as f64 * sample).min(most),
            // Samples of a clock that a function is rarely hit by are as good as independent.
            error: Some(1.96 * (samples as f64).sqrt() * sample),
        }
    }

    /// A function without a sample has, with a probability of 95 %, taken less than this: e⁻³ is 5 %.
    pub fn unseen(&self) -> f64 {
        self.estimate(3).seconds
    }

    /// Time in a function itself.
    pub fn tottime(&self, function: &Function) -> Time {
        let Time { seconds, error } = self.estimate(function.own_samples);
        // It is a part of the other, which may be known better.
        let seconds = seconds.min(self.cumtime(function).seconds);
        Time { seconds, error }
    }

    /// Time in a function and what it called: measured if its calls were timed, or else by samples.
    pub fn cumtime(&self, function: &Function) -> Time {
        let Some(timed) = function.told_by_times() else {
            return self.estimate(function.cumulative_samples);
        };
        let seconds = timed.outermost_ns() as f64 / 1e9;
        let sampled = self.estimate(function.cumulative_samples);
        match self.scaled {
            // Calls that were under way when counting began or ended were not timed, and have most of the time.
            _ if sampled.seconds - 1.5 * sampled.error.unwrap_or(0.0) > self.counted_seconds(seconds) => sampled,
            None => Time {
                seconds,
                error: (!timed.is_precise()).then_some(timed.error_ns() as f64 / 1e9),
            },
            Some(_) => {
                // Of calls that were timed, to all: a window in which the program is slowed down has fewer of them.
                let count = function.calls.unwrap_or_default();
                let scale = ratio(count.all as f64, timed.count as f64);
                let of_count = seconds * ratio(count.error as f64, count.all as f64);
                Time {
                    seconds: seconds * scale,
                    error: Some(scale * (of_count + timed.of_all_ns() as f64 / 1e9)),
                }
            }
        }
    }

    /// What was measured in the time observed, for the time that counts are of.
    fn counted_seconds(&self, seconds: f64) -> f64 {
        match self.scaled {
            None => seconds,
            Some(_) => ratio(seconds * self.length.as_secs_f64(), self.observed.as_secs_f64()),
        }
    }

    /// `tottime` by call.
    pub fn own_percall(&self, function: &Function) -> Option<f64> {
        // Of counts that nobody can scale up there is no time to divide.
        let calls = function.calls.filter(|count| !count.at_least)?.all;
        (calls > 0 && function.own_samples > 0).then(|| self.tottime(function).seconds / calls as f64)
    }

    /// `cumtime` by primitive call, as cProfile has it. Of timed calls it is the mean of those that were timed.
    pub fn percall(&self, function: &Function) -> Option<f64> {
        if let Some(timed) = function.in_reach() {
            let outermost = timed.count.saturating_sub(timed.nested);
            if outermost > 0 {
                return Some(timed.outermost_ns() as f64 / 1e9 / outermost as f64);
            }
        }
        // While calls are timed in windows, samples are mostly of what probes have made long.
        let is_known = |count: &Count| !count.at_least && (count.exact || function.timed.is_none());
        let count = function.calls.filter(is_known)?;
        let calls = count.primitive.unwrap_or(count.all);
        (calls > 0 && function.cumulative_samples > 0).then(|| self.cumtime(function).seconds / calls as f64)
    }
}

impl Function {
    /// What makes it one function.
    fn key(&self) -> (&str, u32, &str) {
        (&self.file, self.first_line, &self.name)
    }

    /// Its times, if calls were timed and were not mostly ours.
    pub fn in_reach(&self) -> Option<&Timed> {
        self.timed
            .as_ref()
            .filter(|timed| timed.count > 0 && !timed.is_out_of_reach())
    }

    /// Its times, if samples do not say more of it: those of calls that were mostly ours are better than nothing.
    pub fn told_by_times(&self) -> Option<&Timed> {
        let timed = self.timed.as_ref().filter(|timed| timed.count > 0)?;
        (self.cumulative_samples == 0 || !timed.is_out_of_reach()).then_some(timed)
    }

    fn all_calls(&self) -> u64 {
        self.calls.map_or(0, |count| count.all)
    }
}

impl Timed {
    /// Time in calls that were not made from within a call of the same function: cProfile's `cumtime`.
    pub fn outermost_ns(&self) -> u64 {
        self.total_ns.saturating_sub(self.nested_ns)
    }

    /// Whether what was taken off leaves the times as good as the histogram has them.
    pub fn is_precise(&self) -> bool {
        self.error_ns() as f64 <= self.total_ns as f64 * Histogram::ERROR
    }

    /// Whether so much was taken off that what is left is not known: no more than the most it can be.
    pub fn is_out_of_reach(&self) -> bool {
        self.error_ns() >= self.total_ns / 2
    }

    /// By how much `total_ns` can be wrong.
    pub fn error_ns(&self) -> u64 {
        self.less_ns.max(self.more_ns)
    }

    /// The largest that the times' sum can be.
    pub fn most_ns(&self) -> u64 {
        self.total_ns.saturating_add(self.more_ns)
    }

    pub fn mean_ns(&self) -> Option<u64> {
        self.total_ns.checked_div(self.count)
    }

    /// By how much that can be off as the mean of all calls.
    pub fn mean_error_ns(&self) -> Option<u64> {
        self.of_all_ns().checked_div(self.count)
    }

    /// By how much `total_ns` can be off as a part of all calls' time.
    fn of_all_ns(&self) -> u64 {
        self.error_ns().saturating_add(self.spread_ns.unwrap_or(0))
    }

    /// The largest that a percentile can be.
    pub fn most_percentile(&self, share: f64) -> Option<u64> {
        self.at_most.percentile(share).max(self.percentile(share))
    }

    /// A percentile, given as a share of one, within [`Histogram::ERROR`] of the true one.
    pub fn percentile(&self, share: f64) -> Option<u64> {
        let time = self.histogram.percentile(share)?;
        // The ends are known better than the histogram knows them. Not `clamp`, which panics where they contradict.
        Some(time.max(self.min_ns).min(self.max_ns))
    }
}

/// The percentiles of all reports.
const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];

/// 0 of nothing.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
