//! A part of a profile, or a plainer one: what `--filter` keeps, and stacks in which libraries are one frame.

use std::{borrow::Cow, str::FromStr};

use super::{
    grouping::{self, file},
    label,
    package::{self, package},
};
use crate::{
    closest,
    profile::{Frame, FrameId, FrameKind, Profile, SampleKey},
};

/// Keeps samples that have something, or have it not: `package=django`, `kind!=native`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub what: What,
    pub wanted: String,
    pub negated: bool,
}

/// What a filter looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Any frame of the stack.
    Package,
    Module,
    Function,
    File,
    /// The innermost frame: whose code ran.
    Kind,
    Thread,
    Task,
    Process,
    Service,
    Pid,
    Tid,
}

const WORDS: [(&str, What); 11] = [
    ("package", What::Package),
    ("module", What::Module),
    ("function", What::Function),
    ("file", What::File),
    ("kind", What::Kind),
    ("thread", What::Thread),
    ("task", What::Task),
    ("process", What::Process),
    ("service", What::Service),
    ("pid", What::Pid),
    ("tid", What::Tid),
];

const KINDS: [(&str, FrameKind); 4] = [
    ("python", FrameKind::Python),
    ("native", FrameKind::Native),
    ("kernel", FrameKind::Kernel),
    ("marker", FrameKind::Marker),
];

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, wanted) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` has no `=`; a filter is like package=django or kind!=native"))?;
        let (word, negated) = match word.strip_suffix('!') {
            Some(word) => (word, true),
            None => (word, false),
        };
        let word = word.trim();
        let what = WORDS.iter().find(|(known, _)| *known == word).map(|(_, what)| *what);
        let what = what.ok_or_else(|| {
            let known: Vec<_> = WORDS.iter().map(|(known, _)| *known).collect();
            format!("there is no filter `{word}`; there are {}", known.join(", "))
        })?;
        let wanted = wanted.trim().to_owned();
        if wanted.is_empty() {
            return Err(format!("`{text}` does not say which {word}"));
        }
        if what == What::Kind && !KINDS.iter().any(|(kind, _)| *kind == wanted) {
            return Err(format!(
                "there is no kind `{wanted}`; there are python, native, kernel and marker"
            ));
        }
        if matches!(what, What::Pid | What::Tid) && wanted.parse::<u32>().is_err() {
            return Err(format!("`{wanted}` is not a number of a {word}"));
        }
        Ok(Self { what, wanted, negated })
    }
}

/// Whether a function's name is the one that is wanted: whole, or without what it is inside of. `*` stands for anything.
pub(super) fn is_called(name: &str, wanted: &str) -> bool {
    matches(name, wanted)
        || (!wanted.contains('*')
            && name
                .strip_suffix(wanted)
                .is_some_and(|before| before.ends_with('.') || before.ends_with("::")))
}

fn matches(text: &str, wanted: &str) -> bool {
    let mut parts = wanted.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether a path is the one that is wanted, or ends with it.
fn is_file(path: &str, wanted: &str) -> bool {
    matches(path, wanted) || path.strip_suffix(wanted).is_some_and(|before| before.ends_with('/'))
}

/// What filters keep of a profile.
///
/// # Errors
/// If that is nothing; the error says what there is.
pub fn filtered(profile: &Profile, filters: &[Filter]) -> anyhow::Result<Profile> {
    let mut kept = profile.emptied();
    let translated = kept.translated(profile);
    let frames: Vec<Vec<bool>> = filters.iter().map(|filter| matching(profile, filter)).collect();
    let mut places = Vec::with_capacity(profile.samples().len());
    for (key, values) in profile.samples() {
        let keeps = filters
            .iter()
            .zip(&frames)
            .all(|(filter, frames)| has(profile, key, filter, frames) != filter.negated);
        places.push(keeps.then(|| kept.add_at(translated.key(key), values).0));
    }
    kept.add_times_of(profile, &places, |slice| slice);
    if kept.is_empty() && !profile.is_empty() {
        let filter = filters.iter().zip(&frames).find(|(filter, frames)| {
            !filter.negated && !profile.samples().any(|(key, _)| has(profile, key, filter, frames))
        });
        return Err(match filter {
            Some((filter, _)) => nothing_is(profile, filter),
            None => anyhow::anyhow!("no sample passes all filters together; leave one out"),
        });
    }
    Ok(kept)
}

fn nothing_is(profile: &Profile, filter: &Filter) -> anyhow::Error {
    let names: Vec<String> = match filter.what {
        What::Kind => KINDS.iter().map(|(kind, _)| (*kind).to_owned()).collect(),
        What::Package | What::Module | What::Function | What::File => profile
            .frames()
            .map(|(_, frame)| of_frame(profile, frame, filter.what).into_owned())
            .collect(),
        _ => profile
            .samples()
            .map(|(key, _)| of_sample(profile, key, filter.what))
            .collect(),
    };
    let word = WORDS
        .iter()
        .find(|(_, what)| *what == filter.what)
        .map_or("", |(word, _)| *word);
    let (closest, left_out) = closest::closest(&filter.wanted, names.into_iter().map(label::clean), 5);
    let more = if left_out > 0 { ", …" } else { "" };
    anyhow::anyhow!(
        "no sample has {word}={}; closest: {}{more}",
        filter.wanted,
        closest.join(", ")
    )
}

/// By frame, whether it is what the filter wants.
fn matching(profile: &Profile, filter: &Filter) -> Vec<bool> {
    let wanted = filter.wanted.as_str();
    profile
        .frames()
        .map(|(_, frame)| {
            let text = of_frame(profile, frame, filter.what);
            match filter.what {
                What::Function => is_called(&text, wanted),
                What::File => is_file(&text, wanted) || is_file(&file(profile, frame), wanted),
                What::Package | What::Module => matches(&text, wanted),
                What::Kind => KINDS.iter().any(|(name, kind)| *name == wanted && *kind == frame.kind),
                _ => false,
            }
        })
        .collect()
}

fn of_frame<'a>(profile: &'a Profile, frame: &Frame, what: What) -> Cow<'a, str> {
    match what {
        What::Package => package(profile, frame),
        What::Module => grouping::module(profile, frame),
        What::Function => profile.string(frame.function).into(),
        What::File => match profile.string(frame.file) {
            "" => file(profile, frame),
            path => path.into(),
        },
        _ => "".into(),
    }
}

fn of_sample(profile: &Profile, key: &SampleKey, what: What) -> String {
    let labels = &key.labels;
    match what {
        What::Thread => profile.string(labels.thread).to_owned(),
        What::Task => grouping::task(profile, labels),
        What::Process => label::process_name(profile, labels),
        What::Service => grouping::service(profile, labels),
        What::Pid => labels.pid.to_string(),
        What::Tid => labels.tid.to_string(),
        _ => String::new(),
    }
}

fn has(profile: &Profile, key: &SampleKey, filter: &Filter, frames: &[bool]) -> bool {
    let stack = profile.stack(key.stack);
    let wanted = filter.wanted.as_str();
    match filter.what {
        What::Kind => stack.first().is_some_and(|id| frames[id.index()]),
        What::Package | What::Module | What::Function | What::File => stack.iter().any(|id| frames[id.index()]),
        What::Process => {
            matches(&of_sample(profile, key, What::Process), wanted)
                || matches(profile.string(key.labels.comm), wanted)
                || matches(profile.string(key.labels.command), wanted)
        }
        What::Task => {
            let task = of_sample(profile, key, What::Task);
            // Its coroutine, without where it is.
            is_called(&task, wanted) || task.split_once(" (").is_some_and(|(name, _)| is_called(name, wanted))
        }
        what => matches(&of_sample(profile, key, what), wanted),
    }
}

/// Stacks in which each library is one frame, however deep the program's code goes into it. Machine code that does the
/// work for it stays.
pub fn with_libraries_folded(profile: &Profile) -> Profile {
    let mut folded = profile.emptied();
    let translated = folded.translated(profile);
    let libraries: Vec<Option<String>> = profile.frames().map(|(_, frame)| library(profile, frame)).collect();
    let is_glue: Vec<bool> = profile
        .frames()
        .map(|(_, frame)| frame.kind == FrameKind::Native && package(profile, frame) == "cpython")
        .collect();
    let mut stack: Vec<FrameId> = Vec::new();
    let mut places = Vec::with_capacity(profile.samples().len());
    for (key, values) in profile.samples() {
        stack.clear();
        let mut key_there = translated.key(key);
        // The last library that was met, and where it is in the new stack.
        let mut last: Option<(&str, usize)> = None;
        let whole: Vec<FrameId> = folded.stack(key_there.stack).to_vec();
        // Root first.
        for (here, there) in profile.stack(key.stack).iter().zip(&whole).rev() {
            match &libraries[here.index()] {
                Some(name) => {
                    if let Some((before, at)) = last
                        && before == name
                    {
                        stack.truncate(at + 1);
                        continue;
                    }
                    last = Some((name, stack.len()));
                    let frame = folded_frame(&mut folded, name);
                    stack.push(frame);
                }
                None => {
                    if !is_glue[here.index()] {
                        last = None;
                    }
                    stack.push(*there);
                }
            }
        }
        stack.reverse();
        key_there.stack = folded.intern_stack(&stack);
        places.push(Some(folded.add_at(key_there, values).0));
    }
    folded.add_times_of(profile, &places, |slice| slice);
    folded
}

fn library(profile: &Profile, frame: &Frame) -> Option<String> {
    let name = package(profile, frame);
    (frame.kind == FrameKind::Python && name != package::OWN && name != "none").then(|| name.into_owned())
}

fn folded_frame(profile: &mut Profile, name: &str) -> FrameId {
    // A path of which `path` makes the name again, and of which it knows that it is installed.
    let file = match name == package::STDLIB {
        true => "/lib/python3/stdlib".to_owned(),
        false => format!("/site-packages/{name}"),
    };
    let frame = Frame {
        kind: FrameKind::Python,
        function: profile.intern_string(name),
        file: profile.intern_string(&file),
        line: 0,
        first_line: 0,
        mapping: None,
        address: 0,
        inlined: false,
    };
    profile.intern_frame(frame)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_filter_is_read_or_refused_with_what_there_is() {
        let filter: Filter = "package=django".parse().unwrap();
        assert_eq!(
            (filter.what, filter.wanted.as_str(), filter.negated),
            (What::Package, "django", false)
        );
        assert!("kind!=native".parse::<Filter>().unwrap().negated);
        for (text, told) in [
            ("django", "package=django"),
            ("colour=red", "there are package"),
            ("kind=java", "python, native"),
            ("pid=x", "number"),
            ("file=", "which file"),
        ] {
            let error = text.parse::<Filter>().unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_function_is_called_by_its_whole_name_or_its_last_part() {
        assert!(is_called("Order.render", "render"));
        assert!(is_called("Order.render", "Order.render"));
        assert!(is_called("ns::f", "f"));
        assert!(!is_called("surrender", "render"));
        assert!(is_called("surrender", "*render"));
        assert!(is_called("a.b.c", "a*c"));
        assert!(!is_called("a.b.c", "b*"));
    }

    proptest! {
        #[test]
        fn a_pattern_of_stars_never_panics(text in ".*", wanted in "[a*é]*") {
            matches(&text, &wanted);
            prop_assert!(matches(&text, "*"));
        }
    }
}
