//! The hottest lines and functions of a CPU profile, for the terminal: which line of mine is it?
//!
//! The first block has lines of the program's own code, by the time in them and in the libraries they called
//! (`owner` says whose a stack is); the second one functions of libraries, and native code of threads and
//! programs without Python, by the time in themselves. What a function calls that is not Python counts as its own.

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    amount::points,
    label,
    layout::{Grid, Last},
    overview::plus_minus_of,
    owner::Owners,
    rows::{Counted, Sum},
};
use crate::{
    humanize::percent,
    profile::{FrameId, FrameKind, MappingId, Profile, StringId},
};

/// Rows of both blocks together.
const ROWS: usize = 10;
/// Libraries have so many of them at least, if there are as many.
const LIBRARY_ROWS: usize = 4;

/// Lines of one's own code have at least this share.
const LEAST: f64 = 0.005;

/// What a row stands for: lines of one's own code are told apart, functions of others are not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    kind: FrameKind,
    function: StringId,
    file: StringId,
    first_line: u32,
    line: u32,
    mapping: Option<MappingId>,
}

#[derive(Default)]
struct Row {
    own: bool,
    own_self: i64,
    /// With the libraries that it called; of others the same as `own_self`.
    led_to: i64,
    /// Of that, where it is an estimate.
    variance: f64,
    total: i64,
    /// Where the most of it is.
    frames: FxHashMap<FrameId, i64>,
    /// Stacks are numbered, so that a function counts once in each.
    seen_in: u32,
}

/// The blocks as text of lines no wider than `width`; empty for a profile without samples.
pub fn text(profile: &Profile, value: usize, width: usize) -> String {
    rows_of(profile, value, ROWS, None, width)
}

/// The same of that many rows, with the errors of their shares if the recording says how it was counted.
pub(super) fn rows_of(profile: &Profile, value: usize, most: usize, counted: Option<Counted>, width: usize) -> String {
    let rows = rows(profile, value, counted);
    let all = match counted {
        Some(counted) => counted.all(profile),
        None => Sum {
            value: profile.total(value),
            ..Sum::default()
        },
    };
    if all.value <= 0 {
        return String::new();
    }
    let (mut own, mut others): (Vec<&Row>, Vec<&Row>) =
        rows.values().filter(|row| row.led_to > 0).partition(|row| row.own);
    // A line of one sample in a thousand of others' is no answer.
    own.retain(|row| row.led_to as f64 >= LEAST * all.value as f64);
    for rows in [&mut own, &mut others] {
        rows.sort_by_key(|row| std::cmp::Reverse((row.led_to, row.total)));
    }
    own.truncate(most.saturating_sub(LIBRARY_ROWS.min(others.len())).max(1));
    others.truncate(most.saturating_sub(own.len()));
    let share = |value: i64| percent(value as f64 / all.value as f64);
    let led_to = |row: &Row| Sum {
        value: row.led_to,
        // Each sample counts the same of the value, so its share is that of its samples.
        samples: (row.led_to as f64 / all.value as f64 * all.samples as f64).round() as u64,
        variance: row.variance,
    };
    let is_estimate = all.variance > 0.0;
    let value_type = profile.sample_types[value];
    // Of samples the error of the share, of estimates that of the amount, as the run told it.
    let errors = |rows: &[&Row]| -> Vec<String> {
        let error = |row: &&Row| match counted {
            Some(_) if is_estimate => plus_minus_of(led_to(row), value_type),
            Some(counted) if counted.samples.is_some() => counted.error(led_to(row), all).map_or(String::new(), points),
            _ => String::new(),
        };
        rows.iter().map(error).collect()
    };
    let amounts = |rows: &[&Row]| -> Vec<String> {
        let amount = |row: &&Row| super::amount::amount(row.led_to, value_type);
        rows.iter().filter(|_| is_estimate).map(amount).collect()
    };
    // Where there is no room for all, an amount keeps its error.
    let (of_totals, of_errors) = if is_estimate { (2, 1) } else { (1, 2) };
    let mut text = String::new();
    if !own.is_empty() {
        let mut grid = Grid::new("your code, line by line", lasts(profile, &own));
        grid.column(0, "self", own.iter().map(|row| share(row.own_self)).collect());
        grid.column(0, "with libs", own.iter().map(|row| share(row.led_to)).collect());
        grid.column(1, "amount", amounts(&own));
        grid.column(of_errors, "±", errors(&own));
        grid.column(of_totals, "total", own.iter().map(|row| share(row.total)).collect());
        text.push_str(&grid.render(width));
    }
    if !own.is_empty() && !others.is_empty() {
        text.push('\n');
    }
    if !others.is_empty() {
        let title = match own.is_empty() {
            true => "function, at its hottest line",
            false => "libraries, at their hottest lines",
        };
        let mut grid = Grid::new(title, lasts(profile, &others));
        grid.column(0, "self", others.iter().map(|row| share(row.own_self)).collect());
        grid.column(1, "amount", amounts(&others));
        grid.column(of_errors, "±", errors(&others));
        grid.column(of_totals, "total", others.iter().map(|row| share(row.total)).collect());
        text.push_str(&grid.render(width));
    }
    text
}

fn rows(profile: &Profile, value: usize, counted: Option<Counted>) -> IndexMap<Key, Row, FxBuildHasher> {
    let mut owners = Owners::new(profile);
    let mut rows = Found::new(profile);
    for ((sample, values), number) in profile.samples().zip(1..) {
        let variance = counted.map_or(0.0, |counted| counted.of(values).variance);
        let value = values[value];
        if value == 0 {
            continue;
        }
        let owner = owners.find(sample.stack);
        let stack = profile.stack(sample.stack);
        let Some(owned) = owner.frame else { continue };
        let own = owners.is_own(owned);
        let row = rows.of(owned, own);
        row.own = own;
        row.led_to += value;
        row.variance += variance;
        *row.frames.entry(owned).or_default() += value;
        if owner.library.is_none() {
            row.own_self += value;
        }
        if let Some(library) = owner.library {
            let row = rows.of(library, false);
            row.own_self += value;
            row.led_to += value;
            row.variance += variance;
            *row.frames.entry(library).or_default() += value;
        }
        for id in stack {
            let row = rows.of(*id, owners.is_own(*id));
            if row.seen_in != number {
                row.seen_in = number;
                row.total += value;
            }
        }
    }
    rows.rows
}

/// Rows by what they stand for; of each frame that is worked out once.
struct Found<'a> {
    profile: &'a Profile,
    rows: IndexMap<Key, Row, FxBuildHasher>,
    /// Of lines that are not told apart, and of those that are: the row, and one.
    known: [Vec<u32>; 2],
}

impl<'a> Found<'a> {
    fn new(profile: &'a Profile) -> Self {
        let frames = profile.frames().len();
        Self {
            profile,
            rows: IndexMap::default(),
            known: [vec![0; frames], vec![0; frames]],
        }
    }

    fn of(&mut self, id: FrameId, own: bool) -> &mut Row {
        let known = &mut self.known[usize::from(own)][id.index()];
        if *known == 0 {
            let entry = self.rows.entry(key(self.profile, id, own));
            *known = entry.index() as u32 + 1;
            entry.or_default();
        }
        &mut self.rows[*known as usize - 1]
    }
}

fn key(profile: &Profile, id: FrameId, own: bool) -> Key {
    let frame = profile.frame(id);
    let by_line = if own { frame.line } else { 0 };
    Key {
        kind: frame.kind,
        function: frame.function,
        // Native code is told by the file it is mapped from.
        file: if frame.kind == FrameKind::Python {
            frame.file
        } else {
            Profile::EMPTY
        },
        first_line: if frame.kind == FrameKind::Python {
            frame.first_line
        } else {
            0
        },
        line: by_line,
        mapping: frame.mapping,
    }
}

fn lasts(profile: &Profile, rows: &[&Row]) -> Vec<Last> {
    let hottest = |row: &&Row| {
        let hottest = row
            .frames
            .iter()
            .max_by_key(|(id, value)| (**value, std::cmp::Reverse(**id)));
        let Some((id, _)) = hottest else { return Last::default() };
        let frame = profile.frame(*id);
        let text = label::frame(profile, frame);
        let shorter = (frame.kind == FrameKind::Python).then(|| label::shorter(profile, frame));
        Last {
            text,
            shorter,
            ..Last::default()
        }
    };
    rows.iter().map(hottest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Frame, Labels, SampleKey, ValueType};

    const LIBRARY: &str = "/v/lib/python3.12/site-packages/orm/query.py";

    fn add(profile: &mut Profile, count: i64, leaf_first: &[(&str, &str, u32)]) {
        let stack: Vec<FrameId> = leaf_first
            .iter()
            .map(|(function, file, line)| {
                let python = file.ends_with(".py");
                let mapping = crate::profile::Mapping {
                    path: profile.intern_string(file),
                    build_id: Profile::EMPTY,
                };
                let frame = Frame {
                    kind: if python { FrameKind::Python } else { FrameKind::Native },
                    function: profile.intern_string(function),
                    file: if python {
                        profile.intern_string(file)
                    } else {
                        Profile::EMPTY
                    },
                    line: *line,
                    first_line: 1,
                    mapping: (!python).then(|| profile.intern_mapping(mapping)),
                    address: 0,
                    inlined: false,
                };
                profile.intern_frame(frame)
            })
            .collect();
        let key = SampleKey {
            stack: profile.intern_stack(&stack),
            labels: Labels {
                pid: 1,
                tid: 1,
                comm: Profile::EMPTY,
                command: Profile::EMPTY,
                thread: Profile::EMPTY,
                cgroup: Profile::EMPTY,
                container: Profile::EMPTY,
                task: Profile::EMPTY,
            },
        };
        profile.add(key, &[count]);
    }

    fn samples() -> Profile {
        let samples = ValueType {
            kind: "samples",
            unit: "count",
        };
        Profile::new(vec![samples], None)
    }

    #[test]
    fn a_line_has_what_it_did_itself_and_what_libraries_did_for_it() {
        let mut profile = samples();
        let main = ("main", "/srv/shop/main.py", 3);
        let orders = ("orders", "/srv/shop/views.py", 10);
        add(
            &mut profile,
            60,
            &[
                ("sqlite3_step", "/lib/libsqlite3.so.0", 0),
                ("fetch", LIBRARY, 7),
                orders,
                main,
            ],
        );
        add(
            &mut profile,
            5,
            &[("fetch", LIBRARY, 8), ("fetch", LIBRARY, 9), orders, main],
        );
        add(&mut profile, 15, &[("memcpy", "/lib/libc.so.6", 0), orders, main]);
        add(&mut profile, 20, &[("loop", LIBRARY, 1)]);
        let text = text(&profile, 0, 80);
        assert_eq!(
            text,
            concat!(
                "  self  with libs   total  your code, line by line\n",
                "15.0 %     80.0 %  80.0 %  orders (srv/shop/views.py:10)\n",
                "\n",
                "  self   total  libraries, at their hottest lines\n",
                "65.0 %  65.0 %  fetch (orm/query.py:7)\n",
                "20.0 %  20.0 %  loop (orm/query.py:1)\n",
            )
        );
    }

    #[test]
    fn of_a_native_program_it_is_functions() {
        let mut profile = samples();
        add(
            &mut profile,
            3,
            &[
                ("memcpy", "/lib/libc.so.6", 0),
                ("encode", "/opt/x264", 0),
                ("main", "/opt/x264", 0),
            ],
        );
        add(&mut profile, 1, &[("main", "/opt/x264", 0)]);
        assert_eq!(
            text(&profile, 0, 80),
            concat!(
                "  self    total  function, at its hottest line\n",
                "75.0 %   75.0 %  encode (x264)\n",
                "25.0 %  100.0 %  main (x264)\n",
            )
        );
        assert_eq!(text(&samples(), 0, 80), "");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut profile = samples();
        let file = format!("/srv/{}/views.py", "größe".repeat(20));
        let function = "a_function_of_a_long_name".repeat(5);
        for line in 1..30 {
            add(&mut profile, i64::from(line), &[(&function, &file, line)]);
        }
        let text = text(&profile, 0, 80);
        assert_eq!(text.lines().count(), 1 + ROWS);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
