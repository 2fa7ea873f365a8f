//! Threads with their stacks.

use std::io::{self, Write};

use super::{
    View,
    lines::{self, COLUMNS},
    states,
};
use crate::{
    dump::{
        Snapshot,
        frame::Frame,
        native,
        state::State,
        thread::{Sample, Thread},
    },
    shown,
};

/// Of threads with one stack, so many are told one by one.
const MOST_TOLD: usize = 4;

pub(super) fn write(view: View, snapshot: &Snapshot, out: &mut dyn Write) -> io::Result<()> {
    for group in groups(&snapshot.threads) {
        writeln!(out)?;
        stack(view, &group, out)?;
    }
    without_python(snapshot, out)
}

/// Threads with the same stack and state.
type Group<'a> = Vec<&'a Thread>;

fn groups(threads: &[Thread]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for thread in threads.iter().filter(|thread| thread.is_python()) {
        let same = groups.iter_mut().find(|group| is_same(group[0], thread));
        match same {
            Some(group) => group.push(thread),
            None => groups.push(vec![thread]),
        }
    }
    groups.sort_by_key(|group| rank(group[0]));
    groups
}

/// Who works comes first, then who would if it had the GIL.
fn rank(thread: &Thread) -> u8 {
    match &thread.state {
        _ if thread.owns_gil => 0,
        State::Running { .. } => 1,
        state if state.is_waiting_for_gil() => 2,
        _ => 3,
    }
}

fn is_same<'t>(one: &'t Thread, other: &'t Thread) -> bool {
    let place = |frame: &Frame| (frame.line, frame.is_unchanged, frame.link.frame.code);
    let marks = |thread: &'t Thread| {
        (
            thread.owns_gil,
            thread.is_collecting,
            thread.has_not_run,
            thread.frames.len(),
            &thread.native,
            &thread.sample,
        )
    };
    !one.frames.is_empty()
        && marks(one) == marks(other)
        && one.handles == other.handles
        && states::kind(&one.state) == states::kind(&other.state)
        && one.frames.iter().map(place).eq(other.frames.iter().map(place))
        && one
            .frames
            .iter()
            .map(|frame| &frame.locals)
            .eq(other.frames.iter().map(|frame| &frame.locals))
}

fn stack(view: View, group: &Group<'_>, out: &mut dyn Write) -> io::Result<()> {
    let told = match group.len() {
        number if number > MOST_TOLD + 1 => MOST_TOLD,
        number => number,
    };
    for thread in &group[..told] {
        lines::write(&lines::wrapped(&states::title(thread), "  "), out)?;
    }
    if let Some(rest) = group.get(told..).filter(|rest| !rest.is_empty()) {
        let line = format!("and {} more like these: {}", rest.len(), numbers(rest));
        lines::write(&lines::first_wrapped(&line, "  ", 2, COLUMNS), out)?;
    }
    let thread = group[0];
    native_note(&thread.sample, "    ", out)?;
    // What the innermost Python function has called; below the loop that runs it there is nothing that it has not.
    for native in thread.native.iter().take_while(|native| !native.is_loop) {
        let line = format!("    {}", shown::line(&native::told(native)));
        lines::write(&[lines::cut(&line, COLUMNS)], out)?;
    }
    if !thread.native.is_empty() && !thread.native.iter().any(|native| native.is_loop) {
        writeln!(out, "    … (by whom that was called could not be found out)")?;
    }
    lines::write(&lines::frames(view, &thread.frames, COLUMNS), out)?;
    if thread.frames.is_empty() {
        writeln!(out, "    (no Python frames)")?;
    } else if thread.is_cut {
        writeln!(out, "    … (the frames below could not be read, or are too many)")?;
    }
    Ok(())
}

/// What has to be known of the native frames of a thread that runs.
fn native_note(sample: &Sample, indent: &str, out: &mut dyn Write) -> io::Result<()> {
    let note = match sample {
        Sample::None | Sample::Met(_) => return Ok(()),
        Sample::Later(_) => "native frames are of a moment later",
        Sample::Missing(why) => &format!("no native frames: {}", shown::line(why)),
    };
    lines::write(&lines::wrapped_to(&format!("{indent}({note})"), indent, COLUMNS), out)
}

fn numbers(threads: &[&Thread]) -> String {
    let numbers: Vec<String> = threads.iter().map(|thread| thread.tid.to_string()).collect();
    numbers.join(", ")
}

/// Threads of C, C++ and Rust: by name and state.
fn without_python(snapshot: &Snapshot, out: &mut dyn Write) -> io::Result<()> {
    let mut groups: Vec<(String, Group<'_>)> = Vec::new();
    for thread in snapshot.threads.iter().filter(|thread| !thread.is_python()) {
        let key = format!("\"{}\": {}", shown::line(&thread.comm), states::kind(&thread.state));
        let is_same = |known: &str, first: &Thread| {
            known == key && (&first.native, &first.sample) == (&thread.native, &thread.sample)
        };
        match groups.iter_mut().find(|(known, group)| is_same(known, group[0])) {
            Some((_, group)) => group.push(thread),
            None => groups.push((key, vec![thread])),
        }
    }
    if groups.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    if snapshot.python.is_some() {
        writeln!(out, "Threads without Python")?;
    }
    for (key, group) in groups {
        let times = match group.len() {
            1 => String::new(),
            number => format!("{number} × "),
        };
        let line = format!("  {times}{key} ({})", numbers(&group));
        lines::write(&lines::first_wrapped(&line, "      ", 2, COLUMNS), out)?;
        native_note(&group[0].sample, "      ", out)?;
        for native in &group[0].native {
            let line = format!("      {}", shown::line(&native::told(native)));
            lines::write(&[lines::cut(&line, COLUMNS)], out)?;
        }
    }
    Ok(())
}
