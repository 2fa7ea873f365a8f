//! How pictures of a recording in a file are headed, and what they leave out.

use std::{collections::BTreeSet, path::Path};

use crate::{
    profile::Profile,
    report::{Interpreter, View},
};

/// Of a recording of memory, the interpreter says nothing to who looks for it; of others, what works is shown.
pub fn view(profile: &Profile, value: usize, path: &Path) -> View {
    let kind = profile.sample_types.get(value).map_or("", |value| value.kind);
    let (headline, interpreter) = match kind {
        "samples" | "cpu" => ("CPU time", Interpreter::Work),
        "waits" | "wait" => ("Waiting time", Interpreter::Work),
        "wall" => ("CPU time and waiting", Interpreter::Work),
        "inuse_space" | "inuse_objects" => ("Memory", Interpreter::Hidden),
        "peak_space" => ("Memory at its peak", Interpreter::Hidden),
        "temporary_space" => ("Memory that came and went", Interpreter::Hidden),
        "alloc_space" | "alloc_objects" => ("New memory", Interpreter::Hidden),
        kind => (kind, Interpreter::Work),
    };
    // What `why` measured is led by what it found, and the first line of its summary is on memory alone.
    let found = profile.findings.is_some();
    let headline = if found { "Findings" } else { headline };
    let pids: BTreeSet<u32> = profile.samples().map(|(key, _)| key.labels.pid).collect();
    View {
        process: pids.len() > 1,
        title: match path.file_name() {
            Some(name) => format!("{headline} in {}", name.to_string_lossy()),
            None => headline.to_owned(),
        },
        // The first line is the command.
        subtitle: match profile.comments.get(1..3).filter(|_| !found) {
            Some(lines) => lines.join(" · "),
            None => String::new(),
        },
        value,
        interpreter,
        ..View::default()
    }
}
