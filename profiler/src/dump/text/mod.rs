//! The dump for people: 80 columns, what works or has the GIL first, equal stacks once.

mod lines;
mod stacks;
mod states;
mod tasks;

use std::io::{self, Write};

use super::{
    Snapshot,
    options::{Options, Values},
};
use crate::{humanize, shown};

/// What is shown of each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct View {
    /// Local variables of all frames, whole; otherwise those of the program's own frames and of the innermost, a line each.
    is_long: bool,
    /// Frames are marked that have not changed between the looks.
    marks_unchanged: bool,
}

pub fn write(options: &Options, snapshots: &[Snapshot], out: &mut dyn Write) -> io::Result<()> {
    let view = View {
        is_long: options.locals.is_some_and(|locals| locals.values == Values::Long),
        marks_unchanged: options.repeat.is_some(),
    };
    for (at, snapshot) in snapshots.iter().enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        process(options, view, snapshot, out)?;
    }
    Ok(())
}

fn process(options: &Options, view: View, snapshot: &Snapshot, out: &mut dyn Write) -> io::Result<()> {
    let threads = match snapshot.threads.len() {
        1 => "1 thread".to_owned(),
        number => format!("{number} threads"),
    };
    let python = match (&snapshot.python, &snapshot.without) {
        (Some(version), _) => format!("CPython {version}"),
        (None, Some(why)) => why.clone(),
        (None, None) => "no Python in it".to_owned(),
    };
    let title = format!(
        "{} ({}): {threads}, {python}",
        shown::line(&snapshot.command),
        snapshot.pid
    );
    lines::write(&lines::wrapped(&title, "  "), out)?;
    let mut notes: Vec<String> = Vec::new();
    if snapshot.python.is_some() {
        notes.push("> marks the program's own code".to_owned());
    }
    if let Some(repeat) = &options.repeat {
        let time = humanize::duration(repeat.interval * (repeat.times - 1));
        notes.push(format!("= what has not changed in {time} ({} looks)", repeat.times));
    }
    if !notes.is_empty() {
        lines::write(&lines::wrapped(&format!("  {}", notes.join(", ")), "  "), out)?;
    }
    if snapshot.is_cut {
        writeln!(out, "  it was too much to read: something is missing")?;
    }
    if let Some(tasks) = &snapshot.tasks {
        return tasks::write(view, snapshot, tasks, out);
    }
    stacks::write(view, snapshot, out)
}
