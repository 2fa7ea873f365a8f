//! Which task of asyncio a stack is of: told by the coroutine that its event loop runs.
//!
//! A task drives one coroutine from C, so in a stack that coroutine is the Python function right above the one with which a
//! loop runs what is due: `Handle._run` of asyncio, `Task.__step` where tasks are Python's, or the machine code of uvloop. A
//! code object says of itself whether it is a coroutine's. Nothing else is believed: what a loop runs that is no coroutine is
//! a callback, and where frames are missing between the two, the task is not known.
//!
//! The innermost loop counts, as for `asyncio.current_task`. A task that begins at once (`eager_start`) runs inside whoever
//! made it, and is that one's until it first waits. Names (`Task-7`) are in no stack.

use std::path::Path;

use crate::{
    profile::{FrameId, Profile, StringId},
    report::path,
    resolve::{Location, Marker},
    window::Window,
};

/// What a loop does that is of no task: it polls, and runs callbacks.
pub const LOOP: &str = "[event loop]";

/// What a location is to the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A function that can be a task's.
    Coroutine,
    /// What runs coroutines and callbacks, and nothing else.
    Runner,
    /// What runs a loop, whose own frames come in between if it is Python's.
    Beginning,
    /// Any other Python function.
    Function,
    /// Machine code of a loop.
    Native,
    /// Python frames are missing here, or have no name.
    Missing,
    /// Other machine code.
    Nothing,
}

/// What was found of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// The frame at this place, from the leaf.
    Task(usize),
    Loop,
    /// There is no loop, or it is not known what it runs.
    Nothing,
}

/// The tasks of stacks, by what they are made of.
pub struct Tasks {
    parts: Vec<Part>,
    /// Nobody runs a loop: most programs.
    none: bool,
}

impl Tasks {
    pub fn new(window: &Window) -> Self {
        let parts: Vec<Part> = (window.ledger.resolved.locations())
            .map(|location| part(window, location))
            .collect();
        let runs = |part: &Part| matches!(part, Part::Runner | Part::Beginning | Part::Native);
        let none = !parts.iter().any(runs);
        Self { parts, none }
    }

    /// The name of a stack's task. `locations`: leaf first; `frames`: of each location.
    pub fn of(&self, locations: &[u32], frames: &[Vec<FrameId>], profile: &mut Profile) -> StringId {
        if self.none {
            return Profile::EMPTY;
        }
        let part = |location: &u32| self.parts.get(*location as usize).copied().unwrap_or(Part::Missing);
        match find(locations.iter().map(part)) {
            Found::Nothing => Profile::EMPTY,
            Found::Loop => profile.intern_string(LOOP),
            Found::Task(at) => {
                let location = locations.get(at).map_or(0, |location| *location as usize);
                match frames.get(location).and_then(|frames| frames.first()) {
                    Some(&frame) => {
                        let name = name(profile, frame);
                        profile.intern_string(&name)
                    }
                    None => Profile::EMPTY,
                }
            }
        }
    }
}

/// As a function reads in a report, so that two of one name are told apart: `serve (shop/api.py:31)`.
fn name(profile: &Profile, frame: FrameId) -> String {
    let frame = profile.frame(frame);
    let file = profile.string(frame.file);
    format!(
        "{} ({}:{})",
        profile.string(frame.function),
        path::short(file),
        frame.first_line
    )
}

fn part(window: &Window, location: &Location) -> Part {
    match *location {
        Location::Python { code, .. } => {
            let code = window.ledger.codes.get(code);
            match runs(&code.filename, &code.name) {
                Some(part) => part,
                None if code.is_coroutine() => Part::Coroutine,
                None => Part::Function,
            }
        }
        Location::Native { file, .. } if is_uvloop(&window.file(file).path) => Part::Native,
        Location::Marker(Marker::NativeEnd(_)) => Part::Nothing,
        Location::Marker(_) => Part::Missing,
        _ => Part::Nothing,
    }
}

/// What functions of a loop are. By `co_name`, which has no class, and is the same in all versions.
fn runs(file: &str, name: &str) -> Option<Part> {
    let (_, file) = file.rsplit_once("asyncio/")?;
    match (file, name) {
        ("events.py", "_run") | ("base_events.py", "_run_once") => Some(Part::Runner),
        ("tasks.py", "__step" | "__step_run_and_handle_result" | "__eager_start") => Some(Part::Runner),
        ("runners.py", "run") => Some(Part::Beginning),
        _ => None,
    }
}

/// `uvloop/loop.cpython-312-x86_64-linux-gnu.so`.
fn is_uvloop(path: &Path) -> bool {
    let is = |part: Option<&std::ffi::OsStr>, wanted: &str| {
        part.is_some_and(|part| part.to_string_lossy().starts_with(wanted))
    };
    is(path.file_name(), "loop.") && is(path.parent().and_then(Path::file_name), "uvloop")
}

/// The task of a stack, leaf first.
fn find(stack: impl Iterator<Item = Part>) -> Found {
    // The outermost Python function so far.
    let mut last: Option<(usize, Part)> = None;
    // Below it, towards the root, lies machine code of a loop.
    let mut driven = false;
    let mut in_loop = false;
    let coroutine = |last: Option<(usize, Part)>| last.filter(|(_, part)| *part == Part::Coroutine).map(|(at, _)| at);
    for (at, part) in stack.enumerate() {
        match part {
            Part::Nothing => {}
            Part::Native => (driven, in_loop) = (true, true),
            Part::Runner => return coroutine(last).map_or_else(|| besides(last), Found::Task),
            Part::Beginning | Part::Function => {
                // A loop calls its own functions from machine code, too; these are no coroutines.
                let runs = driven || part == Part::Beginning;
                if let Some(at) = coroutine(last).filter(|_| runs) {
                    return Found::Task(at);
                }
                (last, driven) = (Some((at, part)), false);
            }
            // Who awaits another, through the loop's own coroutines or not.
            Part::Coroutine | Part::Missing => (last, driven) = (Some((at, part)), false),
        }
    }
    match coroutine(last).filter(|_| driven) {
        Some(at) => Found::Task(at),
        None if in_loop => besides(last),
        None => Found::Nothing,
    }
}

/// What a loop does that runs no coroutine.
fn besides(last: Option<(usize, Part)>) -> Found {
    match last {
        Some((_, Part::Missing)) => Found::Nothing,
        _ => Found::Loop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By letters, leaf first: `c` a coroutine, `f` a function, `R` a runner, `B` a beginning, `u` uvloop, `n` other machine
    /// code, `?` missing.
    fn of(stack: &str) -> Found {
        find(stack.chars().map(|letter| match letter {
            'c' => Part::Coroutine,
            'f' => Part::Function,
            'R' => Part::Runner,
            'B' => Part::Beginning,
            'u' => Part::Native,
            'n' => Part::Nothing,
            _ => Part::Missing,
        }))
    }

    #[test]
    fn the_task_is_the_coroutine_that_the_loop_runs() {
        for (stack, task) in [
            // What it awaits and calls is above it.
            ("ffccnRnRnBf", 3),
            ("cnRf", 0),
            // Without machine code.
            ("fccRRBf", 2),
            // uvloop, with and without its own frames.
            ("nfcnunBf", 2),
            ("cBf", 0),
            ("ccnun", 1),
            // It calls the loop, which calls a function: a protocol's factory.
            ("nfucunBf", 3),
            // Of loops inside of one another, the innermost.
            ("cRfcRf", 0),
            // A function without a name is called by what is known.
            ("?cR", 1),
        ] {
            assert_eq!(of(stack), Found::Task(task), "{stack}");
        }
    }

    #[test]
    fn what_a_loop_runs_besides_and_what_is_not_known_has_no_task() {
        for stack in ["nfRBf", "nRRBf", "fnRf", "nunBf", "fnunBf", "cfRBf"] {
            assert_eq!(of(stack), Found::Loop, "{stack}");
        }
        // A coroutine that is driven by hand, or by a loop that is not known; frames that are missing; no loop at all.
        for stack in ["cff", "ccf", "fc?R", "nu?", "nfnf", "", "c"] {
            assert_eq!(of(stack), Found::Nothing, "{stack}");
        }
    }

    #[test]
    fn loops_are_told_by_their_files() {
        assert_eq!(
            runs("/usr/lib/python3.12/asyncio/events.py", "_run"),
            Some(Part::Runner)
        );
        assert_eq!(runs("/srv/app/events.py", "_run"), None);
        assert_eq!(
            runs("/usr/lib/python3.12/asyncio/runners.py", "run"),
            Some(Part::Beginning)
        );
        assert!(is_uvloop(Path::new(
            "/v/site-packages/uvloop/loop.cpython-312-x86_64-linux-gnu.so"
        )));
        assert!(!is_uvloop(Path::new(
            "/v/site-packages/shop/loop.cpython-312-x86_64-linux-gnu.so"
        )));
    }
}
