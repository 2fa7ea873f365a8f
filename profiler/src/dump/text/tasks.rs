//! The tasks of asyncio as a tree: below each those that it awaits.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{
    View,
    lines::{self, COLUMNS},
};
use crate::{
    dump::{
        Snapshot,
        tasks::{Task, Tasks},
    },
    humanize,
    python::tasks::TaskState,
    shown,
};

/// Of tasks that are alike, so many are told by name.
const MOST_TOLD: usize = 4;
/// Deeper than anybody nests tasks; below, lines have no room left.
const MOST_DEPTH: usize = 12;

pub(super) fn write(
    view: View,
    snapshot: &Snapshot,
    tasks: &Result<Tasks, crate::dump::tasks::NoTasks>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let tasks = match tasks {
        Ok(tasks) => tasks,
        Err(why) => return writeln!(out, "  {}", why.text()),
    };
    if snapshot.has_greenlets {
        let note = "it has greenlets (gevent, eventlet): those that are switched out are not shown";
        lines::write(&lines::wrapped(&format!("  {note}"), "  "), out)?;
    }
    if tasks.tasks.is_empty() {
        return writeln!(out, "  no asyncio tasks");
    }
    let forest = Forest::of(tasks);
    for cycle in &tasks.cycles {
        writeln!(out)?;
        let names = cycle.iter().chain(cycle.first()).map(|&at| name(&tasks.tasks[at]));
        let names: Vec<String> = names.collect();
        let line = format!("Deadlock: {}", names.join(" awaits "));
        lines::write(&lines::wrapped(&line, "  "), out)?;
    }
    let mut threads: Vec<Option<u32>> = tasks.tasks.iter().map(|task| task.tid).collect();
    threads.sort_unstable_by_key(|thread| (thread.is_none(), *thread));
    threads.dedup();
    for thread in threads {
        writeln!(out)?;
        lines::write(&lines::wrapped(&heading(snapshot, tasks, thread), "  "), out)?;
        let roots: Vec<usize> = forest
            .roots
            .iter()
            .copied()
            .filter(|&at| tasks.tasks[at].tid == thread)
            .collect();
        let mut writer = Writer {
            view,
            tasks,
            forest: &forest,
            is_told: vec![false; tasks.tasks.len()],
            out,
        };
        writer.all(&roots, "", 0)?;
    }
    Ok(())
}

/// `Tasks of thread 4242 "MainThread": 27, 1 running, 3 ready, 23 waiting`
fn heading(snapshot: &Snapshot, tasks: &Tasks, thread: Option<u32>) -> String {
    let whose = match thread {
        Some(tid) => {
            let known = snapshot.threads.iter().find(|thread| thread.tid == tid);
            let name = known.map(|thread| thread.name.as_deref().unwrap_or(&thread.comm));
            format!("Tasks of thread {tid} \"{}\"", shown::line(name.unwrap_or_default()))
        }
        None => "Tasks of a loop whose thread is not known".to_owned(),
    };
    let mut numbers: Vec<String> = Vec::new();
    for (state, word) in STATES {
        let is_it = |task: &&Task| task.tid == thread && task.state == state;
        match tasks.tasks.iter().filter(is_it).count() {
            0 => {}
            number => numbers.push(format!("{} {word}", humanize::count(number as u64))),
        }
    }
    format!("{whose}: {}", numbers.join(", "))
}

const STATES: [(TaskState, &str); 4] = [
    (TaskState::Running, "running"),
    (TaskState::Ready, "ready"),
    (TaskState::Waiting, "waiting"),
    (TaskState::Done, "done"),
];

/// Who awaits whom, from those that are awaited by none.
struct Forest {
    roots: Vec<usize>,
    awaits: Vec<Vec<usize>>,
}

impl Forest {
    fn of(tasks: &Tasks) -> Self {
        let mut awaits: Vec<Vec<usize>> = vec![Vec::new(); tasks.tasks.len()];
        for (at, task) in tasks.tasks.iter().enumerate() {
            for &parent in task.awaited_by.iter().filter(|_| task.state != TaskState::Done) {
                awaits[parent].push(at);
            }
        }
        let is_listed = |at: &usize| tasks.tasks[*at].state != TaskState::Done;
        let is_root = |at: &usize| tasks.tasks[*at].awaited_by.is_empty();
        let mut roots: Vec<usize> = (0..tasks.tasks.len())
            .filter(|at| is_listed(at) && is_root(at))
            .collect();
        // Of a circle, where nobody is first, the first.
        roots.extend(tasks.cycles.iter().filter_map(|cycle| cycle.first()));
        // What cannot be reached from any of them would be lost.
        let mut is_reached = vec![false; tasks.tasks.len()];
        let mut open = roots.clone();
        let mut rest = (0..tasks.tasks.len()).filter(is_listed);
        loop {
            while let Some(at) = open.pop() {
                if !std::mem::replace(&mut is_reached[at], true) {
                    open.extend(&awaits[at]);
                }
            }
            match rest.find(|&at| !is_reached[at]) {
                Some(at) => {
                    roots.push(at);
                    open.push(at);
                }
                None => break,
            }
        }
        let order = |&at: &usize| (rank(&tasks.tasks[at]), by_number(&tasks.tasks[at]));
        roots.sort_by_cached_key(order);
        awaits.iter_mut().for_each(|below| below.sort_by_cached_key(order));
        Self { roots, awaits }
    }
}

fn rank(task: &Task) -> u8 {
    match task.state {
        TaskState::Running => 0,
        TaskState::Ready => 1,
        TaskState::Waiting => 2,
        TaskState::Done => 3,
    }
}

/// `fetch-9` comes before `fetch-10`.
fn by_number(task: &Task) -> (String, u64) {
    let name = task.name.as_deref().unwrap_or_default();
    let text = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (text.to_owned(), name[text.len()..].parse().unwrap_or(0))
}

struct Writer<'a> {
    view: View,
    tasks: &'a Tasks,
    forest: &'a Forest,
    /// A task that several await is told once.
    is_told: Vec<bool>,
    out: &'a mut dyn Write,
}

impl Writer<'_> {
    /// Tasks beside each other, those that are alike once.
    fn all(&mut self, tasks: &[usize], indent: &str, depth: usize) -> io::Result<()> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for &at in tasks {
            match groups.iter_mut().find(|group| self.is_alike(group[0], at)) {
                Some(group) => group.push(at),
                None => groups.push(vec![at]),
            }
        }
        for group in groups {
            if depth == 0 {
                writeln!(self.out)?;
            }
            self.group(&group, indent, depth)?;
        }
        Ok(())
    }

    fn is_alike(&self, one: usize, other: usize) -> bool {
        let place = |at: usize| {
            let frames = self.tasks.tasks[at].frames.iter();
            frames.map(|frame| (frame.link.frame.code, frame.line))
        };
        let is_leaf = |at: usize| self.forest.awaits[at].is_empty();
        let state = |at: usize| (self.tasks.tasks[at].state, &self.tasks.tasks[at].awaits);
        is_leaf(one) && is_leaf(other) && state(one) == state(other) && place(one).eq(place(other))
    }

    fn group(&mut self, group: &[usize], indent: &str, depth: usize) -> io::Result<()> {
        let room = COLUMNS.saturating_sub(indent.chars().count());
        let told = if group.len() > MOST_TOLD + 1 {
            MOST_TOLD
        } else {
            group.len()
        };
        let first = group[0];
        for &at in &group[..told] {
            let again = if self.is_told[at] { ", as above" } else { "" };
            self.lines(
                &lines::wrapped_to(&format!("{}{again}", title(&self.tasks.tasks[at])), "  ", room),
                indent,
            )?;
        }
        if let Some(rest) = group.get(told..).filter(|rest| !rest.is_empty()) {
            let names: Vec<String> = rest.iter().map(|&at| name(&self.tasks.tasks[at])).collect();
            let number = humanize::count(rest.len() as u64);
            let line = format!("and {number} more like these: {}", names.join(", "));
            self.lines(&lines::first_wrapped(&line, "  ", 2, room), indent)?;
        }
        if self.is_told[first] {
            return Ok(());
        }
        group.iter().for_each(|&at| self.is_told[at] = true);
        let frames = lines::frames(self.view, &self.tasks.tasks[first].frames, room);
        self.lines(&frames, indent)?;
        let below = self.forest.awaits[first].clone();
        if below.is_empty() {
            return Ok(());
        }
        if depth >= MOST_DEPTH {
            return self.lines(&["    …".to_owned()], indent);
        }
        self.lines(&["  awaits".to_owned()], indent)?;
        self.all(&below, &format!("{indent}  | "), depth + 1)
    }

    fn lines(&mut self, lines: &[String], indent: &str) -> io::Result<()> {
        lines.iter().try_for_each(|line| writeln!(self.out, "{indent}{line}"))
    }
}

/// `Task "fetch-7": waits, 12.3 s to go`
fn title(task: &Task) -> String {
    let state = match task.state {
        TaskState::Running => "running".to_owned(),
        TaskState::Ready => "ready to run".to_owned(),
        TaskState::Done => "done".to_owned(),
        TaskState::Waiting => match task.left_ns {
            Some(left) => format!("sleeps, {} to go", humanize::duration(Duration::from_nanos(left))),
            None => "waits".to_owned(),
        },
    };
    format!("Task {}: {state}", name(task))
}

fn name(task: &Task) -> String {
    match &task.name {
        Some(name) => format!("\"{}\"", shown::line(name)),
        None => format!("at {:#x}", task.id),
    }
}
