//! Rules over what windows say, and what happens when one is broken: a record with the evidence, once when it begins and
//! once when it is over.
//!
//! A rule is broken by two windows in a row and kept again by two in a row that are well below the limit, so that what is
//! near it does not flood anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use super::{
    digest::{Digest, Limit, ProcessNow, ServiceSums},
    file::AlertsFile,
};
use crate::{flight::names, humanize, waits::cause::Cause};

/// Windows in a row that break a rule before that is said, and that keep it.
const WINDOWS: u32 = 2;
/// A rule is kept again from this part of its limit down.
const WELL_BELOW: f64 = 0.9;
/// Rules that are broken at a time; more are counted.
const MOST_BROKEN: usize = 1000;

/// What can be looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// CPU time of a process, in percent of one CPU.
    Cpu,
    /// What is in use of what its cgroup may take up, in percent.
    Memory,
    /// At this rate of growth, its cgroup's limit is reached within so many minutes.
    GrowsToLimit,
    /// Open files of a process.
    Files,
    /// Waiting for the GIL, in percent of the time that its threads existed.
    Gil,
    /// Waiting because its cgroup has no CPU time left, in the same percent.
    Throttled,
    /// Processes that ended for want of memory: the kernel ended them, or they had a `MemoryError`.
    Oom,
}

impl Rule {
    pub const ALL: [Self; 7] = [
        Self::Cpu,
        Self::Memory,
        Self::GrowsToLimit,
        Self::Files,
        Self::Gil,
        Self::Throttled,
        Self::Oom,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::GrowsToLimit => "grows-to-limit",
            Self::Files => "files",
            Self::Gil => "gil",
            Self::Throttled => "throttled",
            Self::Oom => "oom",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    fn limit(self) -> f64 {
        match self {
            Self::Cpu => 90.0,
            Self::Memory => 85.0,
            Self::GrowsToLimit => 60.0,
            Self::Files => 1000.0,
            Self::Gil | Self::Throttled => 20.0,
            Self::Oom => 0.0,
        }
    }

    /// Of `grows-to-limit`, less is worse.
    fn is_broken(self, value: f64, limit: f64) -> bool {
        match self {
            Self::GrowsToLimit => value < limit,
            _ => value > limit,
        }
    }

    fn is_well(self, value: f64, limit: f64) -> bool {
        match self {
            Self::GrowsToLimit => value * WELL_BELOW > limit,
            _ => value <= limit * WELL_BELOW,
        }
    }

    /// What happened at all is said at once.
    fn windows(self) -> u32 {
        match self {
            Self::Oom => 1,
            _ => WINDOWS,
        }
    }

    fn told(self, value: f64, limit: f64) -> String {
        match self {
            Self::Cpu => format!("takes {value:.0} % of a CPU (limit {limit:.0} %)"),
            Self::Memory => format!("its cgroup uses {value:.0} % of the memory it may (limit {limit:.0} %)"),
            Self::GrowsToLimit => format!("reaches its memory limit in {value:.0} minutes at this rate"),
            Self::Files => format!("has {value:.0} files open (limit {limit:.0})"),
            Self::Gil => format!("waits for the GIL {value:.0} % of its threads' time (limit {limit:.0} %)"),
            Self::Throttled => format!("is out of CPU quota {value:.0} % of its threads' time (limit {limit:.0} %)"),
            Self::Oom => format!("{value:.0} ended for want of memory"),
        }
    }
}

/// Which rules hold, and where what breaks them is said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    pub limits: BTreeMap<Rule, f64>,
    pub to: Vec<To>,
}

/// Where alerts go.
#[derive(Clone, Debug, PartialEq)]
pub enum To {
    Stderr,
    File(PathBuf),
    Webhook(String),
}

impl Rules {
    pub fn new(file: AlertsFile, typed: &[PathBuf]) -> Result<Self, String> {
        let known = || Rule::ALL.map(Rule::name).join(", ");
        let mut limits: BTreeMap<Rule, f64> = Rule::ALL.into_iter().map(|rule| (rule, rule.limit())).collect();
        for (name, limit) in file.above {
            let rule = Rule::of_name(&name).ok_or_else(|| format!("there is no alert {name:?}: {}", known()))?;
            if !limit.is_finite() || limit < 0.0 {
                return Err(format!("the limit of the alert {name} is a number from 0 on"));
            }
            limits.insert(rule, limit);
        }
        for name in file.off {
            let rule = Rule::of_name(&name).ok_or_else(|| format!("there is no alert {name:?}: {}", known()))?;
            limits.remove(&rule);
        }
        let to = (file.to.iter().map(|to| To::of(to)))
            .chain(typed.iter().map(|path| To::of_path(path)))
            .collect();
        Ok(Self { limits, to })
    }
}

impl To {
    fn of(text: &str) -> Self {
        match text.starts_with("http://") || text.starts_with("https://") {
            true => Self::Webhook(text.to_owned()),
            false => Self::of_path(Path::new(text)),
        }
    }

    fn of_path(path: &Path) -> Self {
        match path == Path::new("-") {
            true => Self::Stderr,
            false => Self::File(path.to_owned()),
        }
    }
}

/// What is said when a rule is broken, and when it is kept again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alert {
    pub rule: Rule,
    pub state: State,
    pub service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    pub value: f64,
    pub limit: f64,
    /// In words.
    pub what: String,
    /// When the window began that decided it (UTC), and how long that was.
    pub window: String,
    pub window_s: f64,
    pub evidence: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Begins,
    Over,
    /// It is not measured any more: it has ended, or others did more.
    Gone,
}

type Subject = (Rule, String, Option<u32>);

/// What is broken, and for how long.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    broken: BTreeMap<Subject, Held>,
    /// What was broken and not followed, because too much was.
    pub not_followed: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    broken: u32,
    kept: u32,
    is_said: bool,
    value: f64,
}

impl Watch {
    /// What is to be said after a window.
    pub fn look(&mut self, digest: &Digest, rules: &Rules) -> Vec<Alert> {
        let mut seen = BTreeSet::new();
        let mut alerts = Vec::new();
        for (subject, value) in measured(digest) {
            let Some(limit) = rules.limits.get(&subject.0).copied() else {
                continue;
            };
            let rule = subject.0;
            if !self.broken.contains_key(&subject) {
                if !rule.is_broken(value, limit) {
                    continue;
                }
                if self.broken.len() >= MOST_BROKEN {
                    self.not_followed += 1;
                    continue;
                }
            }
            seen.insert(subject.clone());
            let held = self.broken.entry(subject.clone()).or_default();
            held.value = value;
            if rule.is_broken(value, limit) {
                held.broken += 1;
                held.kept = 0;
            } else if rule.is_well(value, limit) {
                held.kept += 1;
            }
            if held.broken >= rule.windows() && !held.is_said {
                held.is_said = true;
                alerts.push(alert(digest, &subject, value, limit, State::Begins));
            }
            if held.kept >= WINDOWS || (!held.is_said && held.kept > 0) {
                if held.is_said {
                    alerts.push(alert(digest, &subject, value, limit, State::Over));
                }
                self.broken.remove(&subject);
            }
        }
        // What is not measured any more is gone.
        let gone: Vec<Subject> = (self.broken.keys())
            .filter(|subject| !seen.contains(*subject))
            .cloned()
            .collect();
        for subject in gone {
            let held = self.broken.remove(&subject).unwrap_or_default();
            let limit = rules.limits.get(&subject.0).copied().unwrap_or_default();
            if held.is_said && subject.0 != Rule::Oom {
                alerts.push(alert(digest, &subject, held.value, limit, State::Gone));
            }
        }
        alerts
    }
}

/// All that rules are about.
fn measured(digest: &Digest) -> Vec<(Subject, f64)> {
    let length = digest.length.as_secs_f64().max(f64::MIN_POSITIVE);
    let mut all = Vec::new();
    for process in &digest.processes {
        let mut add = |rule, value| {
            all.push(((rule, process.service.clone(), Some(process.pid)), value));
        };
        add(Rule::Cpu, process.cpu_ns as f64 / 1e9 / length * 100.0);
        if let Some(files) = process.files {
            add(Rule::Files, files as f64);
        }
    }
    // Of a cgroup, once: by the process that has most.
    let mut largest: BTreeMap<&str, (&Limit, &ProcessNow, i64)> = BTreeMap::new();
    for process in &digest.processes {
        if let Some(limit) = process.limit.as_ref().filter(|limit| limit.most > 0) {
            let entry = largest.entry(&limit.cgroup).or_insert((limit, process, 0));
            entry.2 = entry.2.saturating_add(process.growth_bytes);
            if process.resident_bytes > entry.1.resident_bytes {
                (entry.0, entry.1) = (limit, process);
            }
        }
    }
    for (limit, process, growth) in largest.into_values() {
        // Named by its service alone: which of its processes is the largest can change from window to window.
        let mut add = |rule, value| all.push(((rule, process.service.clone(), None), value));
        add(Rule::Memory, limit.has as f64 / limit.most as f64 * 100.0);
        if let Some(minutes) = minutes_to_limit(growth, limit, length) {
            add(Rule::GrowsToLimit, minutes);
        }
    }
    for (service, sums) in &digest.services {
        let mut add = |rule, value| all.push(((rule, service.clone(), None), value));
        if sums.threads_ns > 0 {
            let percent = |cause| sums.waiting(cause) as f64 / sums.threads_ns as f64 * 100.0;
            add(Rule::Gil, percent(Cause::Gil));
            add(Rule::Throttled, percent(Cause::Throttled));
        }
        add(Rule::Oom, sums.victims.len() as f64);
    }
    all
}

/// Only of what grows by more than noise: a hundredth of what is left, in a window.
fn minutes_to_limit(growth: i64, limit: &Limit, length: f64) -> Option<f64> {
    let left = limit.most.saturating_sub(limit.has) as f64;
    let growth = growth as f64;
    (growth > left / 100.0 && growth > 0.0).then(|| left / growth * length / 60.0)
}

fn alert(digest: &Digest, subject: &Subject, value: f64, limit: f64, state: State) -> Alert {
    let (rule, service, pid) = subject;
    let what = match state {
        State::Begins => rule.told(value, limit),
        State::Over => format!("{} again within its limit of {limit:.0}", rule.name()),
        State::Gone => format!("{}: not among what is measured any more", rule.name()),
    };
    let sums = digest.services.get(service);
    Alert {
        rule: *rule,
        state,
        service: service.clone(),
        pid: *pid,
        value,
        limit,
        what,
        window: names::stamp(digest.began),
        window_s: digest.length.as_secs_f64(),
        evidence: match (state, sums) {
            (State::Begins, Some(sums)) => evidence(*rule, sums, digest.length),
            _ => Vec::new(),
        },
    }
}

/// The service's lines that have most of what the rule is about.
fn evidence(rule: Rule, sums: &ServiceSums, length: Duration) -> Vec<String> {
    let cpu = || {
        let share = |ns: u64| ns as f64 / 1e9 / length.as_secs_f64().max(f64::MIN_POSITIVE);
        (sums.lines.iter())
            .map(|(line, ns)| format!("{} of a CPU: {line}", humanize::percent(share(*ns))))
            .collect()
    };
    match rule {
        Rule::Cpu | Rule::Gil | Rule::Throttled => cpu(),
        Rule::Memory | Rule::GrowsToLimit => (sums.growing.iter())
            .map(|(line, bytes)| format!("{} new: {line}", humanize::bytes(*bytes)))
            .collect(),
        Rule::Oom => sums.victims.clone(),
        Rule::Files => Vec::new(),
    }
}
