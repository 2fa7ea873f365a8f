//! Functions that were named and have no calls: why, as far as it is known.

use std::time::Duration;

use crate::{
    calls::{Main, Pattern},
    humanize,
    python::{code::Code, codes::CodeId},
};

/// How many names are offered in place of one that is not there.
const OFFERED: usize = 3;
/// Longer ones are cut.
const LONGEST_NAME: usize = 60;
/// Names that differ in so many characters may be slips of the pen.
const SLIPS: usize = 2;

/// What is known when counting is over.
pub(super) struct Seen<'a> {
    /// Code whose calls were counted.
    pub called: &'a [CodeId],
    /// All code that was met, in samples, too.
    pub codes: &'a [(CodeId, &'a Code)],
    /// What processes were started as.
    pub mains: &'a [&'a Main],
    /// For how long calls were counted, and whether it ended because the budget was spent.
    pub observed: Duration,
    pub spent: bool,
    /// A call counts when it ends, and not when it begins.
    pub counts_ends: bool,
}

/// Says why there are no calls of what was typed; none if there are some.
pub(super) fn absence(pattern: &Pattern, typed: &str, seen: &Seen<'_>) -> Option<String> {
    let matches =
        |code: &Code| pattern.matches(code, None) || seen.mains.iter().any(|main| pattern.matches(code, Some(main)));
    let mut met = false;
    for (id, code) in seen.codes {
        if matches(code) {
            if seen.called.contains(id) {
                return None;
            }
            met = true;
        }
    }
    let observed = humanize::duration(seen.observed);
    if met {
        let ended = if seen.counts_ends { "returned" } else { "began" };
        let time = match seen.spent {
            true => format!("before the budget was spent, after {observed}: count longer with a larger --max-overhead"),
            false => format!("in the {observed} in which calls were counted: record for longer"),
        };
        return Some(format!("`{typed}` ran, but no call of it {ended} {time}"));
    }
    let similar = similar(pattern.name(), seen);
    let offered = match &similar[..] {
        [] => String::new(),
        names => format!("; similar: {}", names.join(", ")),
    };
    Some(match seen.spent {
        true => format!(
            "`{typed}` was not reached before the budget was spent, after {observed}: count longer with a larger \
             --max-overhead, or begin when the program is there (-p PID){offered}"
        ),
        false => format!(
            "no call of `{typed}` was seen among those of {}{}",
            match seen.called.len() {
                1 => "one function".to_owned(),
                called => format!("{} functions", humanize::count(called as u64)),
            },
            match offered.is_empty() {
                true => "; functions are named MODULE:NAME, as in app.db:Session.execute, FILE:NAME or __main__:NAME",
                false => &offered,
            }
        ),
    })
}

/// Names that resemble one, best first, as they can be typed.
fn similar(name: &str, seen: &Seen<'_>) -> Vec<String> {
    let wanted = last_part(name).to_lowercase();
    if wanted.len() < 3 {
        return Vec::new();
    }
    let mut found: Vec<(usize, String)> = Vec::new();
    for (_, code) in seen.codes {
        let own = last_part(&code.name).to_lowercase();
        let rank = if own == wanted {
            0
        } else if is_close(&own, &wanted) {
            1
        } else if own.len() >= 3 && (own.contains(&wanted) || wanted.contains(&own)) {
            2
        } else {
            continue;
        };
        let file = code.filename.rsplit('/').next().unwrap_or(&code.filename);
        let typed: String = format!("{file}:{}", code.display_name());
        let typed: String = typed.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
        found.push((rank, typed));
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(OFFERED);
    found.into_iter().map(|(_, typed)| typed).collect()
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Whether one name becomes the other by at most [`SLIPS`] characters put in, left out or changed; in short names by one.
fn is_close(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (
        a.chars().take(LONGEST_NAME).collect(),
        b.chars().take(LONGEST_NAME).collect(),
    );
    let most = if a.len().min(b.len()) < 6 { 1 } else { SLIPS };
    if a.len().abs_diff(b.len()) > most {
        return false;
    }
    // Levenshtein's distance, a row at a time.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = changed.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()] <= most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_pen_are_close_and_other_names_are_not() {
        for (a, b) in [
            ("business", "busines"),
            ("execute", "exceute"),
            ("load", "loads"),
            ("tick", "tock"),
        ] {
            assert!(is_close(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("load", "save"),
            ("execute", "executemany"),
            ("add", "bee"),
            ("", "abcd"),
        ] {
            assert!(!is_close(a, b), "{a} {b}");
        }
    }
}
