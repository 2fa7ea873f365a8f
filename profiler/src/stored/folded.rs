//! Folded text: one line per stack, root first, and how often it was met: `main (app.py:3);f (app.py:9);read 12`.
//!
//! There is no standard for what a frame looks like. These are read: what this program writes (`report::label`), what
//! py-spy writes (`f (app.py:9)`, `process 42:"python app.py"`), and names alone, with FlameGraph's endings for the
//! kernel (`_[k]`), for inlined functions (`_[i]`) and for generated code (`_[j]`).

use anyhow::{Context as _, ensure};

use super::nobody;
use crate::profile::{Frame, FrameId, FrameKind, Labels, Mapping, Profile, SampleKey, ValueType};

/// So many stacks that differ take a gigabyte.
const MAX_STACKS: usize = 4 << 20;
/// Deeper than any stack that a kernel or CPython makes.
const MAX_DEPTH: usize = 1 << 20;

const SAMPLES: ValueType = ValueType {
    kind: "samples",
    unit: "count",
};

/// Whether it is a stack with its count.
pub(super) fn is_line(line: &str) -> bool {
    split(line).is_some()
}

/// The stack and its count.
fn split(line: &str) -> Option<(&str, i64)> {
    let (stack, count) = line.trim_end().rsplit_once([' ', '\t'])?;
    // Some writers count in fractions.
    let whole = match count.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit()) => whole,
        Some(_) => return None,
        None => count,
    };
    if whole.is_empty() || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let stack = stack.trim();
    (!stack.is_empty()).then_some((stack, whole.parse().ok()?))
}

pub(super) fn read(bytes: &[u8]) -> anyhow::Result<Profile> {
    let mut profile = Profile::new(vec![SAMPLES], None);
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut total = 0_i64;
    let mut stack: Vec<FrameId> = Vec::new();
    for (line, number) in bytes.split(|byte| *byte == b'\n').zip(1_usize..) {
        let line = String::from_utf8_lossy(line.trim_ascii());
        if line.is_empty() || line.starts_with("# ") {
            continue;
        }
        let (text, count) =
            split(&line).with_context(|| format!("line {number} does not end with a space and a number"))?;
        total = total.checked_add(count).context("the counts are too large to add up")?;
        let mut labels = nobody();
        stack.clear();
        let mut parts = text.split(';').map(str::trim).peekable();
        while let Some(part) = parts.peek() {
            if !root(&mut profile, part, &mut labels) {
                break;
            }
            parts.next();
        }
        for part in parts.filter(|part| !part.is_empty()) {
            let frame = frame(&mut profile, part);
            stack.push(profile.intern_frame(frame));
            ensure!(
                stack.len() <= MAX_DEPTH,
                "line {number} has more than {MAX_DEPTH} frames"
            );
        }
        stack.reverse();
        let stack = profile.intern_stack(&stack);
        profile.add(SampleKey { stack, labels }, &[count]);
        ensure!(
            profile.samples().len() <= MAX_STACKS,
            "more than {MAX_STACKS} stacks that differ"
        );
    }
    ensure!(!profile.is_empty(), "there is no stack in it");
    Ok(profile)
}

/// Takes up a root that is a process or a thread, as this program and py-spy write them. Whether it is one.
fn root(profile: &mut Profile, part: &str, labels: &mut Labels) -> bool {
    // `gunicorn shop.wsgi (process 4242)`, `worker-1 (thread 4243)`.
    if let Some((name, number)) = part.strip_suffix(')').and_then(|part| part.rsplit_once(" (")) {
        if let Some(pid) = number.strip_prefix("process ").and_then(|pid| pid.parse().ok()) {
            labels.pid = pid;
            labels.command = profile.intern_string(name);
            return true;
        }
        if let Some(tid) = number.strip_prefix("thread ").and_then(|tid| tid.parse().ok()) {
            labels.tid = tid;
            labels.thread = profile.intern_string(name);
            return true;
        }
    }
    // `process 4242:"python app.py"`
    let spied = part.strip_prefix("process ").and_then(|rest| rest.split_once(':'));
    if let Some((pid, command)) = spied
        && let Ok(pid) = pid.parse()
    {
        labels.pid = pid;
        labels.command = profile.intern_string(command.trim_matches('"'));
        return true;
    }
    // `thread (0x7F1C2B)`, `thread (0x7F1C2B): worker-1`
    if let Some(rest) = part.strip_prefix("thread (0x")
        && let Some((number, name)) = rest.split_once(')')
    {
        let name = name.trim_start_matches([':', ' ']);
        let name = if name.is_empty() {
            format!("0x{number}")
        } else {
            name.to_owned()
        };
        labels.thread = profile.intern_string(&name);
        return true;
    }
    false
}

fn frame(profile: &mut Profile, text: &str) -> Frame {
    let mut frame = Frame {
        kind: FrameKind::Native,
        function: Profile::EMPTY,
        file: Profile::EMPTY,
        line: 0,
        first_line: 0,
        mapping: None,
        address: 0,
        inlined: false,
    };
    if let Some(function) = text.strip_suffix("_[k]") {
        frame.kind = FrameKind::Kernel;
        frame.function = profile.intern_string(function);
        return frame;
    }
    let text = match text.strip_suffix("_[i]") {
        Some(text) => {
            frame.inlined = true;
            text
        }
        None => text.strip_suffix("_[j]").unwrap_or(text),
    };
    if text.starts_with('[') && text.ends_with(']') {
        // `[libfoo.so+0x1234]`, or a mark like `[truncated]`.
        if !text.contains("+0x") && !text.starts_with("[0x") {
            frame.kind = FrameKind::Marker;
        }
        frame.function = profile.intern_string(text);
        return frame;
    }
    let Some((function, place)) = text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")) else {
        frame.function = profile.intern_string(text);
        return frame;
    };
    frame.function = profile.intern_string(function);
    let (file, line) = match place.rsplit_once(':') {
        Some((file, line)) => match line.parse() {
            Ok(line) => (file, line),
            Err(_) => (place, 0),
        },
        None => (place, 0),
    };
    frame.line = line;
    if is_python(file) {
        frame.kind = FrameKind::Python;
        if file != UNKNOWN_FILE {
            frame.file = profile.intern_string(file);
        }
    } else if line > 0 {
        frame.file = profile.intern_string(file);
    } else {
        let path = profile.intern_string(file);
        let build_id = Profile::EMPTY;
        frame.mapping = Some(profile.intern_mapping(Mapping { path, build_id }));
    }
    frame
}

/// What this program writes for a Python file that it does not know.
const UNKNOWN_FILE: &str = "<unknown>";

fn is_python(file: &str) -> bool {
    file.ends_with(".py") || (file.starts_with('<') && file.ends_with('>'))
}
