//! What `profiler report` shows of a profile: what was recorded, who was seen, and where it was.
//!
//! | module | makes |
//! |---|---|
//! | `head` | what was recorded, and how far it can be trusted |
//! | `who` | processes and threads |
//! | `table` | rows of any kind, with their errors |
//! | `tree` | the tree of calls |
//! | `neighbours` | callers and callees of a function |
//! | `source` | the lines of a function |
//! | `json`, `quickfix`, `sarif` | the same for programs, editors and CI |

use super::{Interpreter, grouping::By, hottest, package, rows::Counted};
use crate::profile::Profile;

mod head;
pub mod json;
mod neighbours;
pub mod quickfix;
pub mod sarif;
mod source;
mod table;
mod tree;
mod who;

pub(super) use table::plus_minus_of;

#[cfg(test)]
mod tests;

/// What is asked of a profile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// Index of the sample type that is shown.
    pub value: usize,
    /// `None`: lines of one's own code, and functions of libraries.
    pub by: Option<By>,
    pub tree: bool,
    pub callers: Option<String>,
    pub callees: Option<String>,
    pub source: Option<String>,
    /// Rows.
    pub top: Option<usize>,
    pub interpreter: Interpreter,
    pub merge_workers: bool,
    /// What the recording had of the value before a part of it was chosen, if one was.
    pub before: Option<i64>,
}

impl Asked {
    fn top(&self, default: usize) -> usize {
        self.top.unwrap_or(default)
    }
}

/// Rows of a table.
const ROWS: usize = 20;
/// Lines of a tree.
const NODES: usize = 40;

/// Why a report cannot be made of a profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no function is called {wanted}; closest: {}", closest.join(", "))]
pub struct NoSuchFunction {
    pub wanted: String,
    pub closest: Vec<String>,
}

/// The report, in lines no wider than `width`.
pub fn text(profile: &Profile, asked: &Asked, width: usize) -> Result<String, NoSuchFunction> {
    let counted = Counted::new(profile, asked.value);
    let all = counted.all(profile);
    let mut text = head::text(profile, asked, counted, all, width);
    if all.value <= 0 {
        return Ok(text);
    }
    let mut push = |block: String| {
        if !block.is_empty() {
            text.push('\n');
            text.push_str(&block);
        }
    };
    let asks_for_function = asked.callers.is_some() || asked.callees.is_some() || asked.source.is_some();
    let asks_for_all = !asks_for_function && !asked.tree && asked.by.is_none();
    if asks_for_all {
        push(who::text(profile, asked, counted, all, width));
    }
    if let Some(function) = &asked.source {
        push(source::text(profile, asked, counted, function, width)?);
    }
    if let Some(function) = &asked.callers {
        push(neighbours::text(
            profile,
            asked,
            counted,
            function,
            neighbours::Side::Callers,
            width,
        )?);
    }
    if let Some(function) = &asked.callees {
        push(neighbours::text(
            profile,
            asked,
            counted,
            function,
            neighbours::Side::Callees,
            width,
        )?);
    }
    if asked.tree {
        push(tree::text(profile, asked, counted, all, width));
    } else if let Some(by) = asked.by {
        push(table::text(profile, asked, counted, by, width));
    } else if asks_for_all {
        push(match package::knows_whose(profile) {
            true => hottest::rows_of(profile, asked.value, asked.top(ROWS), Some(counted), width),
            false => table::text(profile, asked, counted, By::Function, width),
        });
        push(head::notes(profile, width));
    }
    Ok(text)
}
