//! The dump for programs. docs/dump.md describes it; [`VERSION`] changes when a reader of an earlier one would be misled.
//!
//! A list of threads, each with the keys that py-spy's has, and more.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::Serialize;

use super::{
    Snapshot,
    frame::Frame,
    locals,
    options::Options,
    state::{self, State},
    tasks::{Task, Tasks},
    thread::{self, Sample},
};
use crate::{process::peers::Peer, python::tasks::TaskState, report::path, shown};

pub const VERSION: u32 = 1;

pub fn write(options: &Options, snapshots: &[Snapshot], out: &mut dyn Write) -> io::Result<()> {
    let threads: Vec<Thread<'_>> = snapshots
        .iter()
        .flat_map(|snapshot| {
            let threads = snapshot.threads.iter().enumerate();
            threads.map(|(at, thread)| Thread::of(options, snapshot, at, thread))
        })
        .collect();
    writeln!(out, "{}", escaped(&serde_json::to_string_pretty(&threads)?))
}

/// JSON that does nothing to a terminal: what acts on one can only be in strings, and is written by its number there.
fn escaped(json: &str) -> Cow<'_, str> {
    let acts = |c: char| c != '\n' && shown::acts(c);
    if !json.contains(acts) {
        return json.into();
    }
    let mut text = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match acts(c) {
            true => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
            false => text.push(c),
        }
    }
    text.into()
}

#[derive(Serialize)]
struct Thread<'a> {
    version: u32,
    pid: u32,
    /// What the process runs.
    process: &'a str,
    python: Option<String>,
    thread_id: u64,
    os_thread_id: u32,
    thread_name: Option<&'a str>,
    os_thread_name: &'a str,
    active: bool,
    owns_gil: bool,
    state: &'static str,
    cpu: Option<u32>,
    call: Option<String>,
    waits_for: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a Peer>,
    holder: Option<Holder<'a>>,
    since_ns: Option<u64>,
    left_ns: Option<u64>,
    collecting: bool,
    handling: Option<&'a str>,
    held_still: bool,
    frames_complete: bool,
    frames: Vec<JsonFrame<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    native_frames: Vec<JsonNative<'a>>,
    /// Of a thread that runs: whether they are of the moment of the others, or why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    native_held_still: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    native_missing: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    died_of: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    has_not_run: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<Vec<JsonTask<'a>>>,
}

#[derive(Serialize)]
struct JsonNative<'a> {
    name: &'a str,
    filename: &'a str,
    address: u64,
}

#[derive(Serialize)]
struct JsonTask<'a> {
    id: u64,
    name: Option<&'a str>,
    state: &'static str,
    /// The thread of its loop, where that is known.
    os_thread_id: Option<u32>,
    awaits: Option<&'a str>,
    left_ns: Option<u64>,
    awaited_by: Vec<u64>,
    /// It is one of several that await each other in a circle.
    deadlocked: bool,
    frames: Vec<JsonFrame<'a>>,
}

#[derive(Serialize)]
struct Holder<'a> {
    os_thread_id: u32,
    thread_name: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonFrame<'a> {
    name: &'a str,
    filename: &'a str,
    short_filename: Cow<'a, str>,
    /// 0 where CPython has none either.
    line: u32,
    own: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locals: Option<Vec<Local<'a>>>,
}

#[derive(Serialize)]
struct Local<'a> {
    name: &'a str,
    addr: u64,
    arg: bool,
    r#type: &'a str,
    repr: &'a str,
}

impl<'a> Thread<'a> {
    fn of(options: &Options, snapshot: &'a Snapshot, at: usize, thread: &'a thread::Thread) -> Self {
        let wait = thread.state.wait();
        Self {
            version: VERSION,
            pid: snapshot.pid,
            process: &snapshot.command,
            python: snapshot.python.map(|version| version.to_string()),
            thread_id: thread.ident,
            os_thread_id: thread.tid,
            thread_name: thread.name.as_deref(),
            os_thread_name: &thread.comm,
            active: matches!(thread.state, State::Running { .. }),
            owns_gil: thread.owns_gil,
            state: thread.state.name(),
            cpu: match thread.state {
                State::Running { cpu } => Some(cpu),
                _ => None,
            },
            call: wait
                .filter(|wait| wait.call != profiler_common::wait::NO_CALL)
                .map(|wait| state::call_name(wait.call)),
            waits_for: wait.map(|wait| &*wait.target).filter(|target| !target.is_empty()),
            peer: wait.and_then(|wait| wait.peer.as_ref()),
            holder: wait.and_then(|wait| wait.holder.as_ref()).map(|holder| Holder {
                os_thread_id: holder.tid,
                thread_name: holder.name.as_deref(),
            }),
            since_ns: thread.since_ns,
            left_ns: wait.and_then(|wait| wait.left_ns),
            collecting: thread.is_collecting,
            handling: thread.handles.as_deref(),
            held_still: thread.held_still,
            frames_complete: !thread.is_cut,
            frames: thread
                .frames
                .iter()
                .map(|frame| JsonFrame::of(options, frame))
                .collect(),
            native_frames: thread.native.iter().map(JsonNative::of).collect(),
            native_held_still: match thread.sample {
                Sample::Met(_) => Some(true),
                Sample::Later(_) => Some(false),
                Sample::None | Sample::Missing(_) => None,
            },
            native_missing: match &thread.sample {
                Sample::Missing(why) => Some(why),
                _ => None,
            },
            died_of: thread.died_of,
            has_not_run: options.repeat.map(|_| thread.has_not_run),
            tasks: match &snapshot.tasks {
                Some(Ok(tasks)) => Some(JsonTask::of_thread(options, snapshot, tasks, at)),
                _ => None,
            },
        }
    }
}

impl<'a> JsonNative<'a> {
    fn of(frame: &'a thread::Native) -> Self {
        Self {
            name: &frame.function,
            filename: &frame.file,
            address: frame.address,
        }
    }
}

impl<'a> JsonTask<'a> {
    /// Those of a thread's loop; the first thread has those, too, whose thread is not known.
    fn of_thread(options: &Options, snapshot: &Snapshot, tasks: &'a Tasks, at: usize) -> Vec<Self> {
        let tid = snapshot.threads[at].tid;
        let is_here = |task: &Task| match task.tid {
            Some(of) if snapshot.threads.iter().any(|thread| thread.tid == of) => of == tid,
            _ => at == 0,
        };
        let here = tasks.tasks.iter().enumerate().filter(|(_, task)| is_here(task));
        here.map(|(at, task)| Self {
            id: task.id,
            name: task.name.as_deref(),
            state: match task.state {
                TaskState::Running => "running",
                TaskState::Ready => "ready",
                TaskState::Waiting => "waiting",
                TaskState::Done => "done",
            },
            os_thread_id: task.tid,
            awaits: task.awaits.as_deref(),
            left_ns: task.left_ns,
            awaited_by: task.awaited_by.iter().map(|&parent| tasks.tasks[parent].id).collect(),
            deadlocked: tasks.cycles.iter().any(|cycle| cycle.contains(&at)),
            frames: task.frames.iter().map(|frame| JsonFrame::of(options, frame)).collect(),
        })
        .collect()
    }
}

impl<'a> JsonFrame<'a> {
    fn of(options: &Options, frame: &'a Frame) -> Self {
        let local = |local: &'a locals::Local| Local {
            name: &local.name,
            addr: local.address,
            arg: local.is_argument,
            r#type: &local.kind,
            repr: &local.text,
        };
        Self {
            name: frame.name(),
            filename: frame.file(),
            short_filename: path::short(frame.file()),
            line: frame.line.unwrap_or(0),
            own: frame.is_own(),
            unchanged: options.repeat.map(|_| frame.is_unchanged),
            locals: frame.locals.as_ref().map(|locals| locals.iter().map(local).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_text_acts_and_none_is_lost(text in ".*") {
            let json = serde_json::to_string_pretty(&[&text]).unwrap();
            let safe = escaped(&json);
            assert!(!safe.contains(|c| c != '\n' && shown::acts(c)));
            let read: Vec<String> = serde_json::from_str(&safe).unwrap();
            assert_eq!(read, [text]);
        }
    }
}
