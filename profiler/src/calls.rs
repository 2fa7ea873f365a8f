//! From counts of code objects to what reports of calls read.

mod outside;
mod ratio;
mod ratios;
mod repeated;
pub mod windows;

use std::time::Duration;

use indexmap::IndexMap;
use profiler_common::python::{CALLS_RESUMED, CALLS_UNLINKED, CallCount, CodeKey};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use self::{
    ratios::{Basis, Ratios},
    windows::{Estimate, Sampling},
};
use crate::{
    governor::{HIT_DEARER, HIT_ERROR, HIT_USUAL},
    python::{code::Code, codes::CodeId},
    report::calls::{Beginning, Caller, CallsReport, Cost, Count, Function, Histogram, Per, Scaled, Timed},
    resolve::Location,
    window::Window,
};

/// No CPython calls faster. (30 ns on 3.13.0, measured on calls that do next to nothing.)
pub const FASTEST_CALL_NS: u64 = 15;

/// Which functions are meant by what was typed: `execute`, `Session.execute`, `app.db:Session.execute`,
/// `db.py:Session.execute`, `__main__:execute`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    place: Where,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Where {
    Anywhere,
    /// In what the process was started as.
    Main,
    /// As the path of its file ends, without `.py`: `app/db`.
    Module(String),
}

/// What a Python process was started as: where the code of `__main__` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Main {
    /// A script, or what has a `__main__.py` in it.
    File(String),
    /// `python -m`
    Module(String),
    /// `<string>` or `<stdin>`.
    Text(&'static str),
}

impl Main {
    /// From the words of its command line (`Python/initconfig.c`, 3.8 – 3.15: options end at the first word that is none,
    /// at `-c` and at `-m`). None if it has none.
    pub fn of<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> Option<Self> {
        let mut words = words.into_iter().skip_while({
            // The interpreter's own name; before it, of a command, env and its variables.
            let mut seen = false;
            move |word| !std::mem::replace(&mut seen, is_interpreter(word.as_ref()))
        });
        let mut word = words.next()?;
        loop {
            let option = word.as_ref();
            let Some(letters) = option.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                return Some(match option {
                    "" | "-" => Self::Text("<stdin>"),
                    file => Self::File(file.trim_start_matches("./").to_owned()),
                });
            };
            if letters == "-check-hash-based-pycs" {
                words.next()?;
            } else if let Some(at) = letters.find(['c', 'm', 'W', 'X']).filter(|_| !letters.starts_with('-')) {
                let (with, rest) = letters[at..].split_at(1);
                let argument = || rest.to_owned();
                match with {
                    "c" => return Some(Self::Text("<string>")),
                    "m" if rest.is_empty() => return Some(Self::Module(words.next()?.as_ref().to_owned())),
                    "m" => return Some(Self::Module(argument())),
                    _ if rest.is_empty() => {
                        words.next()?;
                    }
                    _ => {}
                }
            }
            match words.next() {
                Some(next) => word = next,
                None => return Some(Self::Text("<stdin>")),
            }
        }
    }

    /// Whether the code of `__main__` is in this file.
    fn is(&self, file: &str) -> bool {
        match self {
            Self::Text(text) => file == *text,
            Self::File(path) => {
                let inside = file.strip_suffix("/__main__.py").unwrap_or(file);
                let path = path.trim_end_matches('/');
                [file, inside].iter().any(|file| ends_with_path(file, path))
            }
            Self::Module(module) => {
                let path = module.replace('.', "/");
                let file = file.strip_suffix(".py").unwrap_or(file);
                ends_with_path(file, &path) || ends_with_path(file, &format!("{path}/__main__"))
            }
        }
    }
}

fn is_interpreter(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or(word);
    name.starts_with("python") || name.starts_with("pypy")
}

/// Whether a path ends with this one, and not in the middle of a name.
fn ends_with_path(path: &str, end: &str) -> bool {
    path.strip_suffix(end)
        .is_some_and(|before| before.is_empty() || before.ends_with('/') || end.starts_with('/'))
}

impl Pattern {
    pub fn new(typed: &str) -> Self {
        match typed.rsplit_once(':') {
            Some(("__main__", name)) => Self {
                place: Where::Main,
                name: name.to_owned(),
            },
            Some((module, name)) => {
                let module = match module.strip_suffix(".py") {
                    Some(path) => path.to_owned(),
                    None if module.contains('/') => module.to_owned(),
                    None => module.replace('.', "/"),
                };
                Self {
                    place: match module.trim_start_matches("./") {
                        "" => Where::Anywhere,
                        module => Where::Module(module.to_owned()),
                    },
                    name: name.to_owned(),
                }
            }
            None => Self {
                place: Where::Anywhere,
                name: typed.to_owned(),
            },
        }
    }

    /// The function's, without where it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it takes knowing what a process was started as.
    pub fn is_of_main(&self) -> bool {
        self.place == Where::Main
    }

    /// `main`: what the code's process was started as, if that is known.
    pub fn matches(&self, code: &Code, main: Option<&Main>) -> bool {
        self.matches_parts(&code.filename, &code.name, code.display_name(), main)
    }

    fn matches_parts(&self, file: &str, name: &str, qualified: &str, main: Option<&Main>) -> bool {
        if self.name != qualified && self.name != name {
            return false;
        }
        match &self.place {
            Where::Anywhere => true,
            Where::Main => main.is_some_and(|main| main.is(file)),
            Where::Module(module) => {
                let file = file.strip_suffix(".py").unwrap_or(file);
                ends_with_path(file.strip_suffix("/__init__").unwrap_or(file), module)
            }
        }
    }
}

/// Times of one function's calls.
#[derive(Clone, Debug, Default)]
pub struct Timing {
    pub count: u64,
    /// With all that was ours.
    pub took_ns: f64,
    /// That was ours: of all calls, and of the one of which it was most.
    pub paid_ns: f64,
    pub most_paid_ns: f64,
    /// Of stops at breakpoints, which times are without.
    pub stops_ns: f64,
    /// Sum of the squares of their own times.
    pub squares: f64,
    pub min_ns: u64,
    pub max_ns: u64,
    pub histogram: Histogram,
    /// Times if less was ours than is thought.
    pub at_most: Histogram,
    pub missed_entries: u64,
    /// Calls by a function of itself, directly.
    pub nested: u64,
    pub nested_ns: f64,
    /// Calls whose times were forgotten.
    pub left_out: u64,
    /// By where their code is: their names may come later.
    pub callers: FxHashMap<CodeKey, u64>,
}

impl Timing {
    /// A call has ended; `took_ns` is 0 if it was not seen to begin. `paid_ns`: how much of it was ours. `stop_ns`: of a
    /// stop at a breakpoint, which the kernel side took off already, and which is known no better than that.
    pub fn add(&mut self, took_ns: u64, paid_ns: f64, stop_ns: f64, caller: Option<CodeKey>, own: CodeKey) {
        if let Some(caller) = caller {
            *self.callers.entry(caller).or_default() += 1;
        }
        if took_ns == 0 {
            self.missed_entries += 1;
            return;
        }
        let took = took_ns as f64;
        if caller == Some(own) {
            self.nested += 1;
            self.nested_ns += took - paid_ns;
        }
        self.took_ns += took;
        self.paid_ns += paid_ns;
        self.most_paid_ns = self.most_paid_ns.max(paid_ns);
        self.stops_ns += stop_ns;
        let own_ns = ((took - paid_ns) as u64).max(FASTEST_CALL_NS.min(took_ns));
        self.min_ns = if self.count == 0 {
            own_ns
        } else {
            self.min_ns.min(own_ns)
        };
        self.max_ns = self.max_ns.max(own_ns);
        self.squares += (own_ns as f64).powi(2);
        self.count += 1;
        self.histogram.add(own_ns);
        self.at_most
            .add(((took - paid_ns * (1.0 - HIT_ERROR) + stop_ns) as u64).max(own_ns));
    }

    /// Whether what was ours is known too badly for what is left to be told within a tenth.
    pub fn is_mostly_ours(&self) -> bool {
        self.paid_ns * HIT_ERROR > 0.1 * (self.took_ns - self.paid_ns)
    }

    /// By how much their sum differs from that of as many calls that are like all the function's, 19 times of 20. From one
    /// call nothing is known of that.
    fn spread_ns(&self) -> f64 {
        let count = self.count as f64;
        if self.count < 2 {
            return 0.0;
        }
        let own_ns = (self.took_ns - self.paid_ns).max(0.0);
        let variance = ((self.squares - own_ns.powi(2) / count) / (count - 1.0)).max(0.0);
        ratio::student(self.count as usize) * (variance * count).sqrt()
    }

    /// From now on calls are timed better: what there is of times is forgotten.
    pub fn leave_out(&mut self) {
        *self = Self {
            left_out: self.left_out + self.count,
            missed_entries: self.missed_entries,
            callers: std::mem::take(&mut self.callers),
            ..Self::default()
        };
    }
}

/// How long threads waited for a processor while calls were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Delay {
    /// For each nanosecond that they had one.
    pub for_each_ns: f64,
    /// All of them, together.
    pub all_ns: f64,
}

/// What was counted, besides the samples in the recording.
pub struct Counted<'a> {
    pub counts: &'a [(CodeKey, CallCount)],
    pub codes: &'a FxHashMap<CodeKey, CodeId>,
    pub chosen: &'a FxHashSet<CodeId>,
    /// The user has named functions: only those are reported.
    pub only_chosen: bool,
    pub timing: &'a FxHashMap<CodeId, Timing>,
    /// Calls by window, if counts are to be scaled up.
    pub windows: Option<Windows<'a>>,
    pub observed: Duration,
    /// By whose calls others are to be divided.
    pub per: Option<&'a Pattern>,
    pub beginning: Beginning,
    /// Calls that were seen and could not be counted.
    pub lost: u64,
    /// Calls under way when breakpoints took over.
    pub under_way: u64,
    pub sampled: Duration,
    pub length: Duration,
    pub cost: Option<Cost>,
    pub delay: Delay,
    /// What a stop at a breakpoint takes, if calls were timed by them.
    pub stop: Option<Duration>,
    pub period: Duration,
}

/// `None`: code objects that were never seen whole.
type Functions = IndexMap<Option<CodeId>, Entry, FxBuildHasher>;

#[derive(Default)]
struct Entry {
    calls: u64,
    nested: u64,
    /// Calls while nobody counted, in about.
    more: Estimate,
    primitive_unknown: bool,
    /// Each time it is resumed is a call.
    resumed: bool,
    counted: bool,
    own_samples: u64,
    cumulative_samples: u64,
    /// By index.
    callers: FxHashMap<usize, Caller>,
}

/// The report.
pub fn report(window: &Window, counted: &Counted<'_>) -> CallsReport {
    let mut functions = Functions::default();
    let scaled = counted.windows.as_ref().filter(|windows| windows.sampling.is_enough());
    let one_window = counted.windows.is_some() && scaled.is_none();
    let mut unnamed = 0;
    for (key, count) in counted.counts {
        let code = counted.codes.get(key).copied();
        // All calls are counted, because a name is known only after the first one; asked for are these.
        if counted.only_chosen && !code.is_some_and(|code| counted.chosen.contains(&code)) {
            unnamed += if code.is_none() { count.calls } else { 0 };
            continue;
        }
        let entry = functions.entry(code).or_default();
        entry.counted = true;
        entry.calls = entry.calls.saturating_add(count.calls);
        entry.nested = entry.nested.saturating_add(count.nested);
        if let Some(Windows { sampling, rest, .. }) = &scaled {
            let more = sampling.of(*key, *rest);
            entry.more.calls += more.calls;
            // They were under way in the same windows, so their errors are not independent.
            entry.more.error += more.error;
        }
        entry.primitive_unknown |= count.known & CALLS_UNLINKED != 0;
        entry.resumed |= count.known & CALLS_RESUMED != 0;
    }
    if let Some(Windows { sampling, rest, .. }) = &scaled {
        let unseen = functions
            .values_mut()
            .filter(|entry| entry.counted && entry.more.calls <= 0.0);
        // That none was met does not say that there was none.
        unseen.for_each(|entry| entry.more.error = sampling.of_unseen(*rest));
    }
    let samples = add_samples(window, &mut functions);
    add_callers(counted, &mut functions);
    let threads = threads_sampled(window);
    let ratios = Ratios::new(counted, threads);
    let (repeated, perhaps_repeated) = repeated::find(window, &functions, &ratios);
    let (basis, per) = counted
        .per
        .and_then(|per| of_each(window, &functions, per, &ratios))
        .map_or((Basis::All, None), |(basis, per)| (basis, Some(per)));

    let errors: f64 = functions.values().map(|entry| entry.more.error).sum();
    let ledger = &window.ledger;
    let functions = functions
        .into_iter()
        .map(|(code, mut entry)| {
            let known = code.map(|code| ledger.codes.get(code));
            let mut callers: Vec<Caller> = std::mem::take(&mut entry.callers).into_values().collect();
            callers.sort_unstable_by_key(|caller| caller.function);
            Function {
                divided: match (code, &per) {
                    (Some(code), Some(_)) if entry.counted => ratios.calls(basis, code, &entry),
                    _ => 0.0,
                },
                file: known.map_or_else(String::new, |code| code.filename.to_string()),
                first_line: known.map_or(0, Code::first_line),
                name: known.map_or_else(|| "<unknown>".to_owned(), |code| code.display_name().to_owned()),
                calls: entry.counted.then(|| Count {
                    all: entry.scaled(entry.calls),
                    primitive: (!entry.primitive_unknown)
                        .then(|| entry.scaled(entry.calls.saturating_sub(entry.nested))),
                    exact: counted.windows.is_none(),
                    at_least: one_window,
                    error: entry.more.error as u64,
                }),
                own_samples: entry.own_samples,
                cumulative_samples: entry.cumulative_samples,
                timed: code
                    .filter(|code| counted.chosen.contains(code))
                    .and_then(|code| counted.timing.get(&code))
                    .map(|timing| timed(timing, counted.delay, counted.windows.is_some())),
                callers,
            }
        })
        .collect();
    CallsReport {
        functions,
        chosen: counted.only_chosen,
        length: counted.length,
        observed: counted.observed,
        sampled: counted.sampled,
        one_window,
        scaled: scaled.map(|Windows { sampling, rest, first }| Scaled {
            error: if counted.only_chosen {
                errors
            } else {
                sampling.of_all(*rest).error
            } as u64,
            slowed: sampling.slowed(),
            first: first.unwrap_or_default(),
        }),
        cost: counted.cost,
        beginning: counted.beginning,
        lost: counted.lost,
        unnamed,
        under_way: counted.under_way,
        threads,
        repeated,
        perhaps_repeated,
        per,
        samples,
        compiled_samples: window.ledger.tally.compiled,
        period_ns: u64::try_from(counted.period.as_nanos()).unwrap_or(u64::MAX),
        stop: counted.stop,
    }
}

/// The calls by which others are to be divided, and which counts are; none if there are none.
fn of_each(window: &Window, functions: &Functions, per: &Pattern, ratios: &Ratios<'_>) -> Option<(Basis, Per)> {
    let codes = &window.ledger.codes;
    let all: Vec<(CodeId, &Entry)> = functions
        .iter()
        .filter_map(|(code, entry)| Some(((*code)?, entry)))
        .collect();
    let is_meant = |(code, entry): &&(CodeId, &Entry)| entry.calls > 0 && per.matches(codes.get(*code), None);
    let divisors: Vec<(CodeId, &Entry)> = all.iter().filter(is_meant).copied().collect();
    let calls: u64 = divisors.iter().map(|(_, entry)| entry.outermost()).sum();
    let (first, _) = divisors.first().filter(|_| calls > 0)?;
    let found = ratios.of(&all, &divisors);
    let (basis, ratio) = found.map_or((Basis::All, None), |(basis, ratio)| (basis, Some(ratio)));
    let outermost = |(code, entry): &(CodeId, &Entry)| ratios.outermost_calls(basis, *code, entry);
    let per = Per {
        name: codes.get(*first).display_name().to_owned(),
        calls,
        divisor: divisors.iter().map(outermost).sum(),
        least: ratio.map_or(0.0, |ratio| ratio.least / ratio.each),
        most: ratio.and_then(|ratio| Some(ratio.most? / ratio.each)),
        resumed: divisors.iter().any(|(_, entry)| entry.resumed),
    };
    Some((basis, per))
}

impl Entry {
    /// Calls not made from within another of the same function.
    fn outermost(&self) -> u64 {
        self.calls.saturating_sub(self.nested)
    }

    /// What of its calls is in the whole recording, if that is so in what was counted.
    fn scaled(&self, part: u64) -> u64 {
        let scale = 1.0 + self.more.calls / self.calls.max(1) as f64;
        (part as f64 * scale).round() as u64
    }
}

/// How many threads can have used CPU time at once: those that were met, and no more than there are processors.
fn threads_sampled(window: &Window) -> u64 {
    let threads: FxHashSet<(u32, u32)> = window
        .ledger
        .samples
        .keys()
        .map(|sampled| (sampled.pid, sampled.tid))
        .collect();
    let processors = std::thread::available_parallelism().map_or(u64::MAX, |count| count.get() as u64);
    (threads.len() as u64).clamp(1, processors.max(1))
}

/// Adds what the samples of the CPU clock say; how many were in Python functions.
fn add_samples(window: &Window, functions: &mut Functions) -> u64 {
    let ledger = &window.ledger;
    let locations: Vec<&Location> = ledger.resolved.locations().collect();
    let stacks: Vec<&[u32]> = ledger.resolved.stacks().collect();
    let mut samples = 0;
    let mut seen: FxHashSet<usize> = FxHashSet::default();
    let mut edges: FxHashSet<(usize, usize)> = FxHashSet::default();
    for (sampled, &count) in &ledger.samples {
        let Some(stack) = stacks.get(sampled.stack as usize) else {
            continue;
        };
        seen.clear();
        edges.clear();
        let mut callee: Option<usize> = None;
        for &location in *stack {
            let Some(Location::Python { code, .. }) = locations.get(location as usize) else {
                continue;
            };
            let entry = functions.entry(Some(*code));
            let index = entry.index();
            let entry = entry.or_default();
            if callee.is_none() {
                samples += count;
                entry.own_samples += count;
            }
            if seen.insert(index) {
                entry.cumulative_samples += count;
            }
            if let Some(callee) = callee {
                let is_leaf = edges.is_empty();
                if edges.insert((callee, index))
                    && let Some((_, entry)) = functions.get_index_mut(callee)
                {
                    let edge = entry.callers.entry(index).or_insert(Caller {
                        function: index,
                        ..Caller::default()
                    });
                    edge.cumulative_samples += count;
                    if is_leaf {
                        edge.own_samples += count;
                    }
                }
            }
            callee = Some(index);
        }
    }
    samples
}

/// Adds who called the functions whose calls were timed.
fn add_callers(counted: &Counted<'_>, functions: &mut Functions) {
    for (&code, timing) in counted.timing {
        for (caller, &calls) in &timing.callers {
            let from = functions.entry(counted.codes.get(caller).copied());
            let index = from.index();
            from.or_default();
            let edge = functions.entry(Some(code)).or_default().callers.entry(index);
            edge.or_insert(Caller {
                function: index,
                ..Caller::default()
            })
            .calls += calls;
        }
    }
}

/// What is ours of waits for a processor can be so many times what it is if they are as frequent wherever a thread runs. The
/// scheduler lets who has slept run at once, and wait only when that turn is over: what probes add comes after it. (The
/// table that pandas reads took 18 to 40 ms, waits included, and 63 with probes after that by which they are just as frequent
/// had been taken for the error, 18 ms; at a load of 4 to 16.)
const MOST_DELAYED: f64 = 5.0;

/// `in_windows`: calls that were timed are a sample of all.
fn timed(timing: &Timing, delay: Delay, in_windows: bool) -> Timed {
    let delayed_ns = timing.paid_ns * delay.for_each_ns.max(0.0);
    // A hit can have cost that much more than is thought, and the waits that came of it with it.
    let dearer = HIT_USUAL * HIT_DEARER;
    // It is no more than there was in all.
    let most_delayed_ns = (delayed_ns * dearer).max((delayed_ns * MOST_DELAYED).min(delay.all_ns));
    Timed {
        count: timing.count,
        total_ns: (timing.took_ns - timing.paid_ns).max(0.0) as u64,
        min_ns: timing.min_ns,
        max_ns: timing.max_ns,
        histogram: timing.histogram.clone(),
        missed_entries: timing.missed_entries,
        nested: timing.nested,
        nested_ns: timing.nested_ns.max(0.0) as u64,
        taken_off_ns: timing.paid_ns as u64,
        most_taken_off_ns: timing.most_paid_ns as u64,
        delayed_ns: delayed_ns as u64,
        less_ns: (timing.paid_ns * (dearer - 1.0) + most_delayed_ns + timing.stops_ns) as u64,
        more_ns: (timing.paid_ns * HIT_ERROR + timing.stops_ns) as u64,
        spread_ns: in_windows.then(|| timing.spread_ns() as u64),
        at_most: timing.at_most.clone(),
        left_out: timing.left_out,
    }
}

/// When calls were counted, if that was not all the time.
pub struct Windows<'a> {
    /// How long a command's first one was, in which it may be as slow as it is made: all of that is counted, and it is no
    /// sample of the rest.
    pub first: Option<Duration>,
    pub sampling: &'a Sampling,
    /// What the program had for itself while nobody counted.
    pub rest: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_from_a_breakpoint_can_be_wrong_by_the_stop_that_was_taken_off() {
        let key = CodeKey::identified(0x1000, 1, 7);
        let [mut watched, mut probed] = [Timing::default(), Timing::default()];
        for _ in 0..40 {
            watched.add(9_600, 3_100.0, 15_800.0, None, key);
            probed.add(9_600, 3_100.0, 0.0, None, key);
        }
        let [watched, probed] = [&watched, &probed].map(|timing| timed(timing, Delay::default(), false));
        assert_eq!((watched.total_ns, watched.more_ns), (40 * 6_500, 40 * (15_800 + 775)));
        assert_eq!((probed.total_ns, probed.more_ns), (40 * 6_500, 40 * 775));
        assert!(watched.is_out_of_reach() && !probed.is_out_of_reach());
        // As wrong as that a percentile can be.
        let most = watched.most_percentile(0.5).unwrap();
        assert!((22_000..24_000).contains(&most), "{most}");
    }

    /// 20 calls that took 18.6 ms of the clock, 9.3 of them for probes, while the thread waited for a processor for half of
    /// the time. Truly they take 0.18 ms: told was 9.3 ms ± 2.3.
    #[test]
    fn what_a_call_waits_for_a_processor_since_probes_have_made_it_long_is_not_taken_for_its_own() {
        let key = CodeKey::identified(0x1000, 1, 7);
        let mut timing = Timing::default();
        for _ in 0..20 {
            timing.add(18_600_000, 9_300_000.0, 0.0, None, key);
        }
        let beside = Delay {
            for_each_ns: 0.9,
            all_ns: 200e6,
        };
        let [alone, beside_others] = [Delay::default(), beside].map(|delay| timed(&timing, delay, false));
        assert!(!alone.is_out_of_reach() && alone.delayed_ns == 0);
        assert!(beside_others.is_out_of_reach() && beside_others.delayed_ns == 20 * 8_370_000);
        // It is no reason why it should have been more.
        assert_eq!(beside_others.most_ns(), alone.most_ns());
        // Of a call that is hardly ours it does not matter how long it waited.
        let mut timing = Timing::default();
        timing.add(18_600_000, 30_000.0, 0.0, None, key);
        assert!(timed(&timing, beside, false).is_precise());
    }

    /// pandas' `read_csv`: 63 ms ± 18 was told, where it takes 18 to 29 with the waits that it has without probes.
    #[test]
    fn waits_that_probes_bring_can_be_more_than_their_part_and_are_no_more_than_all() {
        let key = CodeKey::identified(0x1000, 1, 7);
        let mut timing = Timing::default();
        for _ in 0..10 {
            timing.add(67_000_000, 4_000_000.0, 0.0, None, key);
        }
        let of = |all_ns| {
            let delay = Delay {
                for_each_ns: 2.0,
                all_ns,
            };
            timed(&timing, delay, false)
        };
        let [many, few] = [of(900e6), of(100e6)];
        assert!(many.is_out_of_reach(), "{many:?}");
        // In these windows threads waited for less than that.
        assert!(!few.is_out_of_reach() && few.less_ns < 10 * 13_000_000, "{few:?}");
    }

    #[test]
    fn calls_timed_in_windows_are_some_of_all_and_how_they_differ_is_in_the_error_of_their_mean() {
        let key = CodeKey::identified(0x1000, 1, 7);
        let mut timing = Timing::default();
        timing.add(5_000_000, 0.0, 0.0, None, key);
        let one = timed(&timing, Delay::default(), true);
        assert_eq!((one.spread_ns, one.mean_error_ns()), (Some(0), Some(0)));
        for took_ns in [4_000_000, 6_000_000, 5_000_000] {
            timing.add(took_ns, 0.0, 0.0, None, key);
        }
        let [all, some] = [false, true].map(|in_windows| timed(&timing, Delay::default(), in_windows));
        assert_eq!((all.mean_error_ns(), all.is_precise()), (Some(0), true));
        // Student's t of four: 3.18 * 0.816 ms / 2.
        let error = some.mean_error_ns().unwrap_or_default();
        assert!(
            (1_290_000..1_310_000).contains(&error) && !some.is_out_of_reach(),
            "{some:?}"
        );
    }

    #[test]
    fn a_function_is_meant_by_its_name_with_or_without_where_it_is() {
        let file = "/srv/shop/app/db.py";
        let matches = |typed| Pattern::new(typed).matches_parts(file, "execute", "Session.execute", None);
        for typed in [
            "execute",
            "Session.execute",
            "db:execute",
            "app.db:Session.execute",
            "app/db.py:Session.execute",
            "/srv/shop/app/db.py:execute",
            ":execute",
        ] {
            assert!(matches(typed), "{typed}");
        }
        for typed in ["exec", "Session", "b:execute", "app.other:execute", "shop.db:execute"] {
            assert!(!matches(typed), "{typed}");
        }
        assert!(Pattern::new("app:main").matches_parts("/srv/app/__init__.py", "main", "main", None));
    }

    #[test]
    fn main_is_what_the_process_was_started_as() {
        let is = |line: &str, file: &str| {
            let main = Main::of(line.split(' '));
            Pattern::new("__main__:run").matches_parts(file, "run", "run", main.as_ref())
        };
        for (line, file) in [
            ("python3 ./app/server.py --port 80", "/srv/app/server.py"),
            ("/usr/bin/python3.12 -u -X dev -Wignore server.py", "server.py"),
            ("env A=1 python3 server.py", "/srv/server.py"),
            ("python3 app", "/srv/app/__main__.py"),
            ("python3 -um app.tool x.py", "/srv/app/tool.py"),
            ("python3 -m app", "/srv/app/__main__.py"),
            ("python3 -c pass", "<string>"),
            ("python3 -", "<stdin>"),
            ("python3 -q", "<stdin>"),
        ] {
            assert!(is(line, file), "{line}");
        }
        for (line, file) in [
            ("python3 server.py", "/srv/other.py"),
            ("python3 server.py", "/srv/myserver.py"),
            ("python3 -m app x.py", "x.py"),
            ("gunicorn app:app", "app.py"),
        ] {
            assert!(!is(line, file), "{line}");
        }
    }
}
