//! Which line took an event loop so long: a function that most of a stall went through, and its line.

use std::{collections::BTreeMap, time::Duration};

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};
use serde::Serialize;

use super::{
    StallTime, Stalled, WaitsReport,
    rows::{Place, place},
    table::{time, visible},
};
use crate::{
    humanize::{count, percent},
    profile::{Frame, FrameId, FrameKind, Profile, StackId, StringId},
    python::tasks::RunningTask,
    report::{
        label,
        layout::{Grid, Last, paragraph, span},
        owner::Owners,
    },
    shown,
    summary::many,
    waits::cause::Cause,
};

/// A function took a stall if so much of it was in it, and no function that it called had as much.
const MOST: f64 = 0.75;

/// What took a stall.
struct Took {
    place: Place,
    /// What of it was on a CPU (`None`), or a wait.
    what: Option<Cause>,
    /// How much of the stall that was, there.
    ns: u64,
    task: Task,
    /// One stack of it.
    stack: Option<StackId>,
}

/// What asyncio was running.
#[derive(Clone, Default)]
struct Task {
    /// What the task is called, if it was seen running.
    name: Option<String>,
    /// Its coroutine, with its place if that is in the stack.
    coroutine: Option<String>,
}

impl Task {
    fn of(profile: &Profile, stack: StackId, seen: Option<&RunningTask>) -> Self {
        let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
        let called = coroutine(profile, stack);
        // What took it most of the time is another one's doing than what was seen.
        let is_another = |seen: &RunningTask| {
            let (Some(called), Some(seen)) = (called, &seen.coroutine) else {
                return false;
            };
            last(profile.string(called.function)) != last(seen)
        };
        let seen = seen.filter(|seen| !is_another(seen));
        Self {
            name: seen.and_then(|seen| seen.name.clone()),
            coroutine: match called {
                Some(called) => Some(label::frame(profile, called)),
                None => seen.and_then(|seen| seen.coroutine.clone()),
            },
        }
    }

    fn text(&self) -> Option<String> {
        let parts: Vec<&str> = [&self.name, &self.coroutine]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        (!parts.is_empty()).then(|| format!("task {}", shown::line(&parts.join(": "))))
    }
}

fn took(profile: &Profile, owners: &mut Owners<'_>, stall: &StallTime) -> Took {
    // From the root, of the program's own code.
    let own: Vec<Vec<FrameId>> = stall
        .parts
        .iter()
        .map(|&(_, stack, _)| {
            let frames = profile.stack(stack).iter().rev().copied();
            frames.filter(|&id| owners.is_own(id)).collect()
        })
        .collect();
    let mut inside: Vec<usize> = (0..stall.parts.len()).collect();
    let mut depth = 0;
    loop {
        let mut functions: FxHashMap<(StringId, StringId), u64> = FxHashMap::default();
        for &part in &inside {
            if let Some(&id) = own[part].get(depth) {
                *functions.entry(function(profile, id)).or_default() += stall.parts[part].2;
            }
        }
        let most = functions.into_iter().max_by_key(|&(function, ns)| (ns, function));
        let Some((most, _)) = most.filter(|&(_, ns)| ns as f64 >= MOST * stall.length_ns as f64) else {
            break;
        };
        inside.retain(|&part| own[part].get(depth).is_some_and(|&id| function(profile, id) == most));
        depth += 1;
    }
    // Of that function, the line, and of its time, the kind.
    let mut lines: FxHashMap<Option<FrameId>, u64> = FxHashMap::default();
    let mut kinds: FxHashMap<Option<Cause>, u64> = FxHashMap::default();
    for &part in &inside {
        let (cause, _, ns) = stall.parts[part];
        let line = depth.checked_sub(1).and_then(|depth| own[part].get(depth)).copied();
        *lines.entry(line).or_default() += ns;
        *kinds.entry(cause).or_default() += ns;
    }
    let line = lines
        .into_iter()
        .max_by_key(|&(line, ns)| (ns, line))
        .and_then(|(line, _)| line);
    let kind = kinds.into_iter().max_by_key(|&(cause, ns)| (ns, cause));
    let Some(stack) = inside.first().map(|&part| stall.parts[part].1) else {
        return Took {
            place: Place {
                name: "[not known]".to_owned(),
                ..Place::default()
            },
            what: None,
            ns: 0,
            task: Task::default(),
            stack: None,
        };
    };
    let mut owner = owners.find(stack);
    if line.is_some() {
        owner.frame = line;
    }
    Took {
        place: place(profile, stack, owner),
        what: kind.and_then(|(cause, _)| cause),
        ns: kind.map_or(0, |(_, ns)| ns),
        task: Task::of(profile, stack, stall.task.as_ref()),
        stack: Some(stack),
    }
}

fn function(profile: &Profile, id: FrameId) -> (StringId, StringId) {
    let frame = profile.frame(id);
    (frame.function, frame.file)
}

/// The coroutine that asyncio runs: what the loop's innermost `Handle._run` has called.
fn coroutine(profile: &Profile, stack: StackId) -> Option<&Frame> {
    let is_handle = |id: &FrameId| {
        let frame = profile.frame(*id);
        frame.kind == FrameKind::Python
            && matches!(profile.string(frame.function), "Handle._run" | "_run")
            && profile.string(frame.file).ends_with("asyncio/events.py")
    };
    let frames = profile.stack(stack);
    let handle = frames.iter().position(is_handle)?;
    let called = frames[..handle].iter().rev().map(|&id| profile.frame(id));
    called.into_iter().find(|frame| frame.kind == FrameKind::Python)
}

fn what(cause: Option<Cause>) -> &'static str {
    cause.map_or("CPU", Cause::name)
}

/// The stalls by the lines that took them.
pub(super) fn table(report: &WaitsReport, stalled: &Stalled, top: usize, width: usize) -> String {
    let limit = time(stalled.limit_ns);
    if stalled.stalls.is_empty() {
        return paragraph(
            &format!("No event loop took {limit} or more to come back and poll."),
            width,
        );
    }
    let profile = &report.profile;
    let mut owners = Owners::new(profile);
    let mut lines: IndexMap<(Place, Option<Cause>), Line, FxBuildHasher> = IndexMap::default();
    for stall in &stalled.stalls {
        let took = took(profile, &mut owners, stall);
        let line = lines.entry((took.place, took.what)).or_default();
        line.number += 1;
        line.ns = line.ns.saturating_add(stall.length_ns);
        line.of_it_ns = line.of_it_ns.saturating_add(took.ns);
        if stall.length_ns >= line.longest_ns {
            line.longest_ns = stall.length_ns;
            line.longest_at_ns = stall.at_ns;
            line.unended = stall.unended;
            line.task = took.task;
        }
    }
    lines.sort_by(|_, a, _, b| b.ns.cmp(&a.ns));
    let all: u64 = stalled
        .stalls
        .iter()
        .fold(0, |sum, stall| sum.saturating_add(stall.length_ns));
    let number = stalled.stalls.len() as u64 + stalled.left_out;
    let mut text = paragraph(
        &format!(
            "An event loop did not poll for {limit} or more: {} in {}, {} all together.",
            many(number, "stall"),
            span(report.length),
            time(all),
        ),
        width,
    );
    let shown = visible(lines.len(), top);
    let last = lines.iter().map(|((place, _), line)| Last {
        text: place.name.clone(),
        addition: match &*place.via {
            "" => String::new(),
            via => format!("via {via}"),
        },
        remark: line.remark(),
        ..Last::default()
    });
    let mut last: Vec<Last> = last.take(shown).collect();
    if lines.len() > shown {
        last.push(Last {
            text: format!("({} more)", count((lines.len() - shown) as u64)),
            ..Last::default()
        });
    }
    let mut grid = Grid::new("took it so long", last);
    let column = |of: &dyn Fn(&Option<Cause>, &Line) -> String| {
        let cells = lines.iter().map(|((_, cause), line)| of(cause, line));
        cells.take(shown).collect::<Vec<_>>()
    };
    grid.column(0, "stalled", column(&|_, line| time(line.ns)));
    grid.column(0, "count", column(&|_, line| count(line.number)));
    grid.column(1, "max", column(&|_, line| time(line.longest_ns)));
    grid.column(
        2,
        "of it",
        column(&|cause, line| {
            let share = percent(line.of_it_ns as f64 / line.ns.max(1) as f64);
            format!("{share} {}", what(*cause))
        }),
    );
    text.push('\n');
    text.push_str(&grid.render(width));
    text
}

/// Stalls that one line took.
#[derive(Default)]
struct Line {
    number: u64,
    ns: u64,
    of_it_ns: u64,
    longest_ns: u64,
    longest_at_ns: u64,
    unended: bool,
    /// Of the longest.
    task: Task,
}

impl Line {
    fn remark(&self) -> String {
        let at = span(Duration::from_nanos(self.longest_at_ns));
        let mut parts = vec![match (self.number, self.unended) {
            (_, true) => format!("not back since {at}"),
            (1, false) => format!("at {at}"),
            (_, false) => format!("the longest at {at}"),
        }];
        parts.extend(self.task.text());
        parts.join(", ")
    }
}

#[derive(Serialize)]
pub(super) struct Json {
    limit_ns: u64,
    left_out: u64,
    stalls: Vec<JsonStall>,
}

#[derive(Serialize)]
struct JsonStall {
    at_ns: u64,
    length_ns: u64,
    unended: bool,
    pid: u32,
    tid: u32,
    thread: String,
    command: String,
    /// What took it, and how much of it.
    what: &'static str,
    what_ns: u64,
    #[serde(flatten)]
    place: Place,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_name: Option<String>,
    on_cpu_ns: u64,
    waiting_ns: BTreeMap<&'static str, u64>,
    /// Leaf first.
    stack: Vec<String>,
}

pub(super) fn json(report: &WaitsReport, stalled: &Stalled) -> Json {
    let profile = &report.profile;
    let mut owners = Owners::new(profile);
    let one = |stall: &StallTime| {
        let took = took(profile, &mut owners, stall);
        let mut waiting_ns: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut on_cpu_ns = 0u64;
        for &(cause, _, ns) in &stall.parts {
            match cause {
                Some(cause) => *waiting_ns.entry(cause.name()).or_default() += ns,
                None => on_cpu_ns += ns,
            }
        }
        JsonStall {
            at_ns: stall.at_ns,
            length_ns: stall.length_ns,
            unended: stall.unended,
            pid: stall.pid,
            tid: stall.tid,
            thread: stall.thread.clone(),
            command: stall.command.clone(),
            what: what(took.what),
            what_ns: took.ns,
            place: took.place,
            task: took.task.coroutine,
            task_name: took.task.name,
            on_cpu_ns,
            waiting_ns,
            stack: label::stack(profile, took.stack),
        }
    };
    Json {
        limit_ns: stalled.limit_ns,
        left_out: stalled.left_out,
        stalls: stalled.stalls.iter().map(one).collect(),
    }
}
