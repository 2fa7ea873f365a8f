//! Folded stacks, read without the help of whoever wrote them.

use std::{collections::BTreeMap, fmt};

use anyhow::{Context as _, Result, ensure};

/// Stacks, root first, and how often each was met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    pub stacks: BTreeMap<Vec<String>, u64>,
}

impl Folded {
    pub fn parse(text: &str) -> Result<Self> {
        let mut stacks = BTreeMap::new();
        for line in text.lines() {
            let (stack, count) = line.rsplit_once(' ').with_context(|| format!("no count in {line:?}"))?;
            let count: u64 = count.parse().with_context(|| format!("no count in {line:?}"))?;
            let stack: Vec<String> = stack.split(';').map(file_by_name).collect();
            ensure!(
                stack.iter().all(|frame| !frame.is_empty()),
                "an empty frame in {line:?}"
            );
            ensure!(stacks.insert(stack, count).is_none(), "a stack twice: {line:?}");
        }
        Ok(Self { stacks })
    }

    /// All samples.
    pub fn total(&self) -> u64 {
        self.stacks.values().sum()
    }

    /// The samples whose stack is as `wanted` says.
    pub fn count(&self, wanted: impl Fn(&[String]) -> bool) -> u64 {
        self.stacks
            .iter()
            .filter(|(stack, _)| wanted(stack))
            .map(|(_, count)| count)
            .sum()
    }

    /// The share of the samples whose stack is as `wanted` says.
    pub fn share(&self, wanted: impl Fn(&[String]) -> bool) -> f64 {
        self.count(wanted) as f64 / self.total().max(1) as f64
    }

    /// The share of the samples with a frame of this function, whatever its line.
    pub fn share_of(&self, function: &str) -> f64 {
        self.share(|stack| has(stack, function))
    }

    /// The samples with a frame of this function.
    pub fn count_of(&self, function: &str) -> u64 {
        self.count(|stack| has(stack, function))
    }

    /// The samples with a stack as `wanted` says, and no others.
    pub fn only(&self, wanted: impl Fn(&[String]) -> bool) -> Self {
        let stacks = self.stacks.iter().filter(|(stack, _)| wanted(stack));
        Self {
            stacks: stacks.map(|(stack, count)| (stack.clone(), *count)).collect(),
        }
    }

    /// The stacks below a root such as `process 4242:` or `thread 4243:`, wherever among the first frames that is.
    pub fn below(&self, root: &str) -> Self {
        let end = format!(" ({})", root.trim_end_matches(':'));
        self.only(|stack| stack.iter().take(2).any(|frame| frame.ends_with(&end)))
    }

    /// The commonest stacks, for messages.
    pub fn top(&self, number: usize) -> String {
        let mut stacks: Vec<_> = self.stacks.iter().collect();
        stacks.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let lines: Vec<String> = stacks
            .iter()
            .take(number)
            .map(|(stack, count)| format!("  {count:>5} {}", shortened(stack)))
            .collect();
        lines.join("\n")
    }
}

impl fmt::Display for Folded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} samples in {} stacks\n{}",
            self.total(),
            self.stacks.len(),
            self.top(12)
        )
    }
}

/// `f (pkg/file.py:12)` as `f (file.py:12)`: workloads have different names, and which part of a path is shown is for
/// `report::path`'s own tests.
fn file_by_name(frame: &str) -> String {
    match frame.rsplit_once(" (") {
        Some((function, place)) if is_python(frame) && !place.starts_with('<') => {
            // `__init__.py` alone is none.
            let parts = if place.contains("/__") { 2 } else { 1 };
            let start = place
                .rmatch_indices('/')
                .nth(parts - 1)
                .map_or(0, |(slash, _)| slash + 1);
            let name = &place[start..];
            format!("{function} ({name}")
        }
        _ => frame.to_owned(),
    }
}

/// Whether a stack has a frame of this Python function, or of this native or kernel symbol.
pub fn has(stack: &[String], function: &str) -> bool {
    stack.iter().any(|frame| is(frame, function))
}

/// Whether a frame is of this function: `f (file.py:12)`, `f (libfoo.so)`, `f_[k]`.
pub fn is(frame: &str, function: &str) -> bool {
    frame
        .strip_prefix(function)
        .is_some_and(|rest| rest.starts_with(" (") || rest == "_[k]")
}

/// Whether the functions occur in this order, next to each other.
pub fn has_chain(stack: &[String], functions: &[&str]) -> bool {
    stack
        .windows(functions.len())
        .any(|frames| frames.iter().zip(functions).all(|(frame, wanted)| is(frame, wanted)))
}

/// Like [`has_chain`], whatever native frames lie in between.
pub fn has_chain_among_python(stack: &[String], functions: &[&str]) -> bool {
    let python: Vec<String> = stack.iter().filter(|frame| is_python(frame)).cloned().collect();
    has_chain(&python, functions)
}

/// Whether a frame is one of CPython's functions: `f (file.py:12)`. Native frames have no line.
pub fn is_python(frame: &str) -> bool {
    let position = frame.rsplit_once(" (").and_then(|(_, rest)| rest.strip_suffix(')'));
    let line = position.and_then(|position| position.rsplit_once(':'));
    line.is_some_and(|(file, line)| !file.is_empty() && !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit()))
}

fn shortened(stack: &[String]) -> String {
    const ENDS: usize = 12;
    if stack.len() <= 2 * ENDS {
        return stack.join(";");
    }
    let (root, leaf) = (&stack[..ENDS], &stack[stack.len() - ENDS..]);
    format!(
        "{};… {} more …;{}",
        root.join(";"),
        stack.len() - 2 * ENDS,
        leaf.join(";")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_shares_are_of_whole_stacks() {
        let folded =
            Folded::parse("<module> (a.py:1);f (a.py:2) 3\n<module> (a.py:1);g (libc.so.6);read_[k] 1\n").unwrap();
        assert_eq!(folded.total(), 4);
        assert!((folded.share_of("f") - 0.75).abs() < 1e-9);
        assert_eq!(folded.count_of("read"), 1);
        assert_eq!(folded.count(|stack| has_chain(stack, &["<module>", "g", "read"])), 1);
        assert_eq!(folded.count(|stack| stack.iter().any(|frame| is_python(frame))), 4);
        assert_eq!(folded.count(|stack| is_python(&stack[1])), 3);
        assert!(Folded::parse("a 1\na 2\n").is_err());
    }
}
