//! `file:line:column: message`, which editors read as they read a compiler's: the hottest lines, to be gone through.

use std::io::Write;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use super::{Asked, ROWS, table};
use crate::{
    profile::{FrameKind, Profile, StringId},
    report::{
        label,
        rows::{Counted, Sum},
    },
    shown,
};

/// Nothing but lines is written.
pub fn write(profile: &Profile, asked: &Asked, out: &mut dyn Write) -> anyhow::Result<()> {
    let counted = Counted::new(profile, asked.value);
    let all = counted.all(profile);
    for line in hottest(profile, asked) {
        writeln!(
            out,
            "{}:{}:1: {}: {}",
            shown::line(profile.string(line.file)),
            line.number,
            line.told(all, counted),
            label::clean(profile.string(line.function).to_owned()),
        )?;
    }
    Ok(())
}

/// Lines of Python, as they are the ones that have a file to open, as many as are asked for: what each did itself, with the
/// machine code that it called, and in all. The hottest first.
pub(super) fn hottest(profile: &Profile, asked: &Asked) -> Vec<Line> {
    let counted = Counted::new(profile, asked.value);
    let mut lines: IndexMap<(StringId, u32), Line, FxBuildHasher> = IndexMap::default();
    for ((key, values), number) in profile.samples().zip(1_u64..) {
        let sum = counted.of(values);
        let python = (profile.stack(key.stack).iter())
            .map(|id| profile.frame(*id))
            .filter(|frame| frame.kind == FrameKind::Python);
        for (depth, frame) in python.enumerate() {
            let line = lines.entry((frame.file, frame.line)).or_insert_with(|| Line {
                file: frame.file,
                number: frame.line,
                function: frame.function,
                itself: Sum::default(),
                total: Sum::default(),
                seen_in: 0,
            });
            if depth == 0 {
                line.itself.add(sum);
            }
            if line.seen_in != number {
                line.seen_in = number;
                line.total.add(sum);
            }
        }
    }
    let mut lines: Vec<_> = lines.into_values().collect();
    lines.retain(|line| {
        let path = profile.string(line.file);
        line.number > 0 && line.total.value > 0 && path.contains(['/', '.']) && !path.starts_with('<')
    });
    lines.sort_by_key(|line| std::cmp::Reverse((line.itself.value, line.total.value)));
    lines.truncate(asked.top.unwrap_or(ROWS));
    lines
}

pub(super) struct Line {
    pub(super) file: StringId,
    pub(super) number: u32,
    pub(super) function: StringId,
    pub(super) itself: Sum,
    pub(super) total: Sum,
    /// Stacks are numbered, so that a line counts once in each.
    seen_in: u64,
}

impl Line {
    /// `8.8 % ± 1.2 self, 9.0 % total`
    pub(super) fn told(&self, all: Sum, counted: Counted) -> String {
        let error = table::plus_minus(self.itself, all, counted);
        let error = if error.is_empty() { error } else { format!(" {error}") };
        format!(
            "{}{error} self, {} total",
            table::share(self.itself, all),
            table::share(self.total, all)
        )
    }
}
