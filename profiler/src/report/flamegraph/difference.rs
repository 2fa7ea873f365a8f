//! What changed between two profiles: widths are what came after, red is more than before and blue less.
//!
//! inferno colours a frame by what it has itself more of, so a caller is white where it is only its callees that changed.
//! A stack that is gone has no width: the table tells of it.

use std::{collections::BTreeMap, fmt::Write as _, io::Write};

use anyhow::Context as _;
use inferno::flamegraph;

use super::{ANNOTATION, count, empty, fold, options, with_binary_units, with_script};
use crate::{profile::Profile, report::View};

/// Draws `after`; `before`'s value of that number is multiplied by `scale`, so that equal programs look equal.
pub fn write_difference(
    [before, after]: [&Profile; 2],
    before_value: usize,
    scale: f64,
    view: &View,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let value_type = view.value_type(after)?;
    let mut stacks: BTreeMap<String, [i64; 2]> = BTreeMap::new();
    let mut total = 0_i64;
    for (side, profile) in [before, after].into_iter().enumerate() {
        let view = View {
            value: if side == 0 { before_value } else { view.value },
            ..view.clone()
        };
        let fold = fold(profile, &view);
        for line in &fold.lines {
            let value = match side {
                0 => (line.value as f64 * scale).round() as i64,
                _ => line.value,
            };
            // A negative value has no width.
            if value <= 0 {
                continue;
            }
            let mut stack = String::new();
            for name in &line.names {
                if !stack.is_empty() {
                    stack.push(';');
                }
                if let Some((name, _)) = fold.names.get(*name as usize) {
                    stack.push_str(name);
                    stack.push_str(ANNOTATION);
                }
            }
            if side == 1 {
                total = total.saturating_add(value);
            }
            let sum = &mut stacks.entry(stack).or_default()[side];
            *sum = sum.saturating_add(value);
        }
    }
    if total == 0 {
        out.write_all(empty(after, view, value_type).as_bytes())?;
        return Ok(());
    }
    let lines: Vec<String> = (stacks.into_iter())
        .map(|(mut stack, [before, after])| {
            // Writing to a string cannot fail.
            let _ = write!(stack, " {before} {after}");
            stack
        })
        .collect();
    let mut svg = Vec::new();
    let mut options = options(view, count(value_type, total));
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)
        .context("cannot draw the flame graph")?;
    let mut svg = String::from_utf8(svg).context("cannot draw the flame graph")?;
    if value_type.unit == "bytes" {
        svg = with_binary_units(&svg);
    }
    out.write_all(with_script(svg).as_bytes())?;
    Ok(())
}
