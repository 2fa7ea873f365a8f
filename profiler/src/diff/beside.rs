//! Two sides beside each other: one profile whose two values are what was before and what came after.
//!
//! A picture of both takes stacks that are the same on both sides for one. What has another number or place on either side
//! and is the same nevertheless has one here: processes and threads are told by their names, functions by theirs and the
//! shortest path of their file ([`rows`](super::rows) has the same rule), machine code by its file's name.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    profile::{Frame, FrameId, FrameKind, Labels, Mapping, Profile, SampleKey, Sources, StackId, ValueType},
    report::path,
};

/// Both sides as one profile.
pub struct Beside {
    /// One value each. Source text is that of after, or where it has none, of before.
    pub profile: Profile,
    /// What files were before, of which after has another text.
    pub before: Sources,
}

/// Set in the number of a line of Python that is one of before, as after has no such line.
pub const OF_BEFORE: u32 = 1 << 30;

/// `moves`: where a function begins at another line after, so do its lines of before; else all have their numbers.
pub fn beside(sides: [&Profile; 2], values: [usize; 2], moves: bool) -> Beside {
    let unit = |side: usize| {
        sides[side]
            .sample_types
            .get(values[side])
            .map_or("", |value| value.unit)
    };
    let types = vec![
        ValueType {
            kind: "before",
            unit: unit(0),
        },
        ValueType {
            kind: "after",
            unit: unit(1),
        },
    ];
    let mut both = Profile::new(types, None);
    both.default_type = 1;
    let names = Names::of(sides);
    for (side, profile) in sides.into_iter().enumerate() {
        let mut frames: FxHashMap<FrameId, FrameId> = FxHashMap::default();
        let mut stacks: FxHashMap<StackId, StackId> = FxHashMap::default();
        for (key, counted) in profile.samples() {
            let value = counted.get(values[side]).copied().unwrap_or(0);
            let stack = *stacks.entry(key.stack).or_insert_with(|| {
                let translate = |id: &FrameId| {
                    let frame = profile.frame(*id);
                    *(frames.entry(*id)).or_insert_with(|| names.frame(&mut both, profile, frame, moves, side))
                };
                let stack: Vec<FrameId> = profile.stack(key.stack).iter().map(translate).collect();
                both.intern_stack(&stack)
            });
            let key = SampleKey {
                stack,
                labels: labels(&mut both, profile, &key.labels),
            };
            both.add(key, &if side == 0 { [value, 0] } else { [0, value] });
        }
    }
    let mut was = Sources::default();
    for (side, profile) in sides.into_iter().enumerate().rev() {
        for (path, text) in profile.sources.iter() {
            let path = names.path(path);
            if !both.sources.insert(path, text) && side == 0 && both.sources.get(path) != Some(text) {
                was.insert(path, text);
            }
        }
    }
    Beside {
        profile: both,
        before: was,
    }
}

/// Without numbers, which no two runs have in common.
fn labels(both: &mut Profile, profile: &Profile, labels: &Labels) -> Labels {
    Labels {
        pid: 0,
        tid: 0,
        comm: both.intern_string(profile.string(labels.comm)),
        command: both.intern_string(profile.string(labels.command)),
        thread: both.intern_string(profile.string(labels.thread)),
        cgroup: Profile::EMPTY,
        container: Profile::EMPTY,
        task: both.intern_string(profile.string(labels.task)),
    }
}

/// What names of either side are in both.
struct Names {
    /// Paths of Python's files by the shortest part that tells them apart, and of what only one side has in another
    /// directory, by that of the other.
    files: FxHashMap<String, String>,
    moved: FxHashMap<String, String>,
    /// Where functions begin, if there is one of that name in the file.
    first_lines: FxHashMap<(String, String), u32>,
    /// Functions of Python that after has.
    after: FxHashSet<(String, String)>,
    /// By the same as `files`, the lines of what has text on both sides.
    texts: FxHashMap<String, [Vec<String>; 2]>,
    /// Paths of mapped files by their names.
    mapped: FxHashMap<String, String>,
}

impl Names {
    fn of(sides: [&Profile; 2]) -> Self {
        let mut names = Self {
            files: FxHashMap::default(),
            moved: moved(sides),
            first_lines: FxHashMap::default(),
            after: FxHashSet::default(),
            texts: FxHashMap::default(),
            mapped: FxHashMap::default(),
        };
        // What came after is what there is.
        for (side, profile) in sides.into_iter().enumerate().rev() {
            let mut own: FxHashMap<(String, String), u32> = FxHashMap::default();
            for (_, frame) in profile.frames() {
                match frame.kind {
                    FrameKind::Python => {
                        let file = names.short(profile.string(frame.file));
                        let path = profile.string(frame.file).to_owned();
                        names.files.entry(file.clone()).or_insert(path);
                        let function = (profile.string(frame.function).to_owned(), file);
                        // Two of one name are told as one, which begins nowhere.
                        own.entry(function)
                            .and_modify(|line| *line = if *line == frame.first_line { *line } else { 0 })
                            .or_insert(frame.first_line);
                    }
                    FrameKind::Native => {
                        let path = mapped(profile, frame);
                        let name = path::file_name(path).to_owned();
                        names.mapped.entry(name).or_insert_with(|| path.to_owned());
                    }
                    FrameKind::Kernel | FrameKind::Marker => {}
                }
            }
            if side == 1 {
                names.after.extend(own.keys().cloned());
            }
            for (function, line) in own {
                names.first_lines.entry(function).or_insert(line);
            }
        }
        let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
        for (path, text) in sides[0].sources.iter() {
            let file = names.short(path);
            let after = sides[1].sources.iter().find(|(path, _)| names.short(path) == file);
            if let Some((_, after)) = after {
                names.texts.insert(file, [lines(text), lines(after)]);
            }
        }
        names
    }

    fn short(&self, file: &str) -> String {
        let short = path::short(file).into_owned();
        self.moved.get(&short).cloned().unwrap_or(short)
    }

    /// Under which a file of either side stands in both.
    fn path<'a>(&'a self, file: &'a str) -> &'a str {
        self.files.get(&self.short(file)).map_or(file, |path| path)
    }

    fn frame(&self, both: &mut Profile, profile: &Profile, frame: &Frame, moves: bool, side: usize) -> FrameId {
        let function = both.intern_string(profile.string(frame.function));
        let python = frame.kind == FrameKind::Python;
        let file = match python {
            true => self.short(profile.string(frame.file)),
            false => String::new(),
        };
        let named = (profile.string(frame.function).to_owned(), file.clone());
        let first_line = match python {
            true => self.first_lines.get(&named).copied().unwrap_or(0),
            false => 0,
        };
        let line = match (python, moves) {
            (false, _) => 0,
            (true, false) => frame.line,
            (true, true) => moved_line(frame, first_line),
        };
        let line = match (python, side) {
            (true, 0) => self.line_after(&named, frame.line, line),
            _ => line.min(OF_BEFORE - 1),
        };
        let path = match python {
            true => self.files.get(&file).map_or(&*file, |path| path),
            false => profile.string(frame.file),
        };
        let mapping = frame.mapping.map(|_| {
            let path = mapped(profile, frame);
            let path = self.mapped.get(path::file_name(path)).map_or(path, |path| path);
            let path = both.intern_string(path);
            both.intern_mapping(Mapping {
                path,
                build_id: Profile::EMPTY,
            })
        });
        let file = both.intern_string(path);
        both.intern_frame(Frame {
            kind: frame.kind,
            function,
            file,
            line,
            first_line,
            mapping,
            // What has a name is told by that.
            address: if function == Profile::EMPTY { frame.address } else { 0 },
            inlined: false,
        })
    }
}

impl Names {
    /// Where after has a line of before: it has moved as far as its function, and if the text of both is known, to where the
    /// same words stand. What after has not keeps its number, and is marked.
    fn line_after(&self, named: &(String, String), line: u32, moved: u32) -> u32 {
        let of_before = line.min(OF_BEFORE - 1) | OF_BEFORE;
        let moved = moved.min(OF_BEFORE - 1);
        let Some([before, after]) = self.texts.get(&named.1) else {
            return if self.after.contains(named) { moved } else { of_before };
        };
        let at = |lines: &[String], line: u32| {
            let line = usize::try_from(line).ok()?.checked_sub(1)?;
            lines.get(line).cloned()
        };
        let Some(words) = at(before, line).filter(|words| !words.is_empty()) else {
            return moved;
        };
        let nearest = (0..=FARTHEST).flat_map(|by| [moved.saturating_add(by), moved.saturating_sub(by)]);
        let found = nearest
            .into_iter()
            .find(|line| at(after, *line).as_ref() == Some(&words));
        found.unwrap_or(of_before)
    }
}

/// So many lines further up or down, what reads the same is another line.
const FARTHEST: u32 = 200;

/// Where a line is in a function that begins at this one; its own number, where either does not say where it begins.
fn moved_line(frame: &Frame, first_line: u32) -> u32 {
    match frame.line.checked_sub(frame.first_line) {
        Some(behind) if first_line > 0 && frame.first_line > 0 => first_line.saturating_add(behind),
        _ => frame.line,
    }
}

fn mapped<'a>(profile: &'a Profile, frame: &Frame) -> &'a str {
    let mapping = frame.mapping.map(|mapping| profile.mapping(mapping).path);
    mapping.map_or("", |path| profile.string(path))
}

/// Files that only what was before has, and that lie under the same name in one other directory after.
fn moved(sides: [&Profile; 2]) -> FxHashMap<String, String> {
    let [before, after] = sides.map(|profile| {
        let python = profile.frames().filter(|(_, frame)| frame.kind == FrameKind::Python);
        let short = python.map(|(_, frame)| path::short(profile.string(frame.file)).into_owned());
        short.collect::<FxHashSet<String>>()
    });
    let mut alone: FxHashMap<&str, [Vec<&String>; 2]> = FxHashMap::default();
    for (side, files) in [before.difference(&after), after.difference(&before)]
        .into_iter()
        .enumerate()
    {
        for file in files {
            alone.entry(path::file_name(file)).or_default()[side].push(file);
        }
    }
    let one_each = alone.into_values().filter_map(|sides| match (&*sides[0], &*sides[1]) {
        ([before], [after]) => Some(((*before).clone(), (*after).clone())),
        _ => None,
    });
    one_each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::made;

    fn samples(profile: &Profile) -> Vec<(String, [i64; 2])> {
        let mut samples: Vec<_> = (profile.samples())
            .map(|(key, values)| {
                let frame = profile.frame(profile.stack(key.stack)[0]);
                let name = format!("{} {}", profile.string(frame.function), profile.string(frame.file));
                (name, [values[0], values[1]])
            })
            .collect();
        samples.sort();
        samples
    }

    #[test]
    fn a_stack_of_both_sides_is_one_with_two_values() {
        let mut before = made::cpu(10, &[]);
        made::add(&mut before, 17, 3, &["f", "main"]);
        made::add(&mut before, 17, 2, &["old", "main"]);
        let mut after = made::cpu(10, &[]);
        made::add(&mut after, 99, 4, &["f", "main"]);
        let both = beside([&before, &after], [0, 0], true).profile;
        let file = "/srv/shop/app/orders.py";
        assert_eq!(
            samples(&both),
            [(format!("f {file}"), [3, 4]), (format!("old {file}"), [2, 0])]
        );
    }

    #[test]
    fn lines_move_with_their_function() {
        let frame = |line, first_line| Frame {
            kind: FrameKind::Python,
            function: Profile::EMPTY,
            file: Profile::EMPTY,
            line,
            first_line,
            mapping: None,
            address: 0,
            inlined: false,
        };
        assert_eq!(moved_line(&frame(12, 10), 30), 32);
        assert_eq!(moved_line(&frame(12, 10), 10), 12);
        // Two of one name, or a file that does not say where functions begin.
        assert_eq!(moved_line(&frame(12, 10), 0), 12);
        assert_eq!(moved_line(&frame(12, 0), 30), 12);
        assert_eq!(moved_line(&frame(9, 10), 30), 9);
        assert_eq!(moved_line(&frame(u32::MAX, 1), u32::MAX), u32::MAX);
    }

    #[test]
    fn source_is_that_of_after_and_what_it_was_before_is_kept_where_that_is_another() {
        let mut before = made::cpu(10, &[]);
        made::add_in("/base/one/two/orders.py", &mut before, 1, 3, &["f"]);
        made::add_in("/base/one/two/gone.py", &mut before, 1, 1, &["g"]);
        let texts = [("/base/one/two/orders.py", "old"), ("/base/one/two/gone.py", "gone")];
        before.sources = Sources::from_iter(texts);
        let mut after = made::cpu(10, &[]);
        made::add_in("/head/three/four/orders.py", &mut after, 1, 5, &["f"]);
        after.sources = Sources::from_iter([("/head/three/four/orders.py", "new")]);
        let both = beside([&before, &after], [0, 0], true);
        let now = [("/base/one/two/gone.py", "gone"), ("/head/three/four/orders.py", "new")];
        assert_eq!(both.profile.sources, Sources::from_iter(now));
        assert_eq!(both.before, Sources::from_iter([("/head/three/four/orders.py", "old")]));
    }

    #[test]
    fn a_line_of_before_is_where_after_has_the_same_words_and_marked_if_it_has_them_not() {
        let side = |text: &str, lines: &[(&str, u32)]| {
            let mut profile = made::cpu(10, &[]);
            for (function, line) in lines {
                made::add_in("/srv/a.py", &mut profile, 1, 1, &[function]);
                let key = profile.samples().last().unwrap().0.clone();
                let frame = profile.frame(profile.stack(key.stack)[0]).clone();
                let frame = profile.intern_frame(Frame {
                    line: *line,
                    first_line: 1,
                    ..frame
                });
                let stack = profile.intern_stack(&[frame]);
                profile.add(SampleKey { stack, ..key }, &[100, 100]);
            }
            profile.sources =
                Sources::from_iter([("/srv/a.py", text)].into_iter().filter(|(_, text)| !text.is_empty()));
            profile
        };
        let lines = |before: &Profile, after: &Profile| {
            let both = beside([before, after], [0, 0], true).profile;
            let mut lines: Vec<_> = (both.samples())
                .filter(|(_, values)| values[0] == 100)
                .map(|(key, _)| both.frame(both.stack(key.stack)[0]).line)
                .collect();
            lines.sort_unstable();
            lines
        };
        let old = "def f():\n  a()\n  b()\n  c()";
        let new = "def f():\n  a()\n  x()\n    b()\n";
        let of = |text| side(text, &[("f", 2), ("f", 3), ("f", 4)]);
        let after = |text| side(text, &[("f", 2)]);
        assert_eq!(lines(&of(old), &after(new)), [2, 4, 4 | OF_BEFORE]);
        // Where nothing is known of the text, lines move with their function.
        assert_eq!(lines(&of(""), &after(new)), [2, 3, 4]);
        // Nor is anything known of a function that after has not.
        assert_eq!(lines(&side("", &[("g", 2)]), &after("")), [2 | OF_BEFORE]);
    }

    #[test]
    fn another_checkout_is_the_same_program_and_another_file_is_not() {
        let mut before = made::cpu(10, &[]);
        made::add_in("/base/one/two/orders.py", &mut before, 1, 3, &["f"]);
        made::add_in("/base/one/two/gone.py", &mut before, 1, 1, &["g"]);
        let mut after = made::cpu(10, &[]);
        made::add_in("/head/three/four/orders.py", &mut after, 1, 5, &["f"]);
        let both = beside([&before, &after], [0, 0], true).profile;
        assert_eq!(
            samples(&both),
            [
                ("f /head/three/four/orders.py".to_owned(), [3, 5]),
                ("g /base/one/two/gone.py".to_owned(), [1, 0])
            ]
        );
    }
}
