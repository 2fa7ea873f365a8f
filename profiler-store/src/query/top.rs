//! `top`: functions by what was in them, and in what they called.

use std::io::Write as _;

use anyhow::Result;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    engine::Engine,
    stacks::{self, Frame, Stacks},
};
use crate::{
    cli::Which,
    text::{amount, clean, fit},
};

pub async fn run(engine: &Engine, which: &Which, number: usize, lines: bool) -> Result<()> {
    let chosen = which.choose(engine).await?;
    let stacks = stacks::of(engine, which, &chosen).await?;
    let total = stacks.total();
    let functions = functions(&stacks, lines);
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}",
        fit(
            &format!(
                "{} of {}: {}",
                clean(&chosen.kind),
                chosen.words,
                amount(total as f64, &chosen.unit)
            ),
            80
        )
    )?;
    writeln!(
        out,
        "    self            total           {}",
        if lines { "line" } else { "function" }
    )?;
    for function in functions.iter().take(number) {
        writeln!(
            out,
            "{} {:>9} {} {:>9} {}",
            share(function.own, total),
            amount(function.own as f64, &chosen.unit),
            share(function.total, total),
            amount(function.total as f64, &chosen.unit),
            fit(&function.name, 46)
        )?;
    }
    if functions.len() > number {
        writeln!(out, "… and {} more (-n)", functions.len() - number)?;
    }
    Ok(())
}

pub fn share(value: i128, total: i128) -> String {
    match total {
        0 => "      -".to_owned(),
        total => format!("{:5.1} %", value as f64 / total as f64 * 100.0),
    }
}

pub struct Function {
    pub name: String,
    pub own: i128,
    pub total: i128,
}

/// Most of its own first.
pub fn functions(stacks: &Stacks, lines: bool) -> Vec<Function> {
    let mut numbers: FxHashMap<String, usize> = FxHashMap::default();
    let mut functions = Vec::new();
    // By frame, the function it is of.
    let mut of = Vec::with_capacity(stacks.frames.len());
    for frame in &stacks.frames {
        let name = name(frame, lines);
        of.push(*numbers.entry(name.clone()).or_insert_with(|| {
            functions.push(Function { name, own: 0, total: 0 });
            functions.len() - 1
        }));
    }
    let mut met = FxHashSet::default();
    for stack in &stacks.stacks {
        met.clear();
        for (depth, frame) in stack.frames.iter().enumerate() {
            let number = of[*frame as usize];
            let function = &mut functions[number];
            if depth == 0 {
                function.own = function.own.saturating_add(stack.value);
            }
            // Once, however often it called itself.
            if met.insert(number) {
                function.total = function.total.saturating_add(stack.value);
            }
        }
    }
    functions.sort_by(|one, other| (other.own, other.total, &one.name).cmp(&(one.own, one.total, &other.name)));
    functions
}

/// `work (shop/app.py:15)`, `memcpy (libc.so.6)`, `[libc.so.6+0x1234]`, `do_sys_open_[k]`.
pub fn name(frame: &Frame, lines: bool) -> String {
    let short = |path: &str| {
        let parts: Vec<&str> = path.rsplitn(3, '/').collect();
        parts.iter().take(2).rev().copied().collect::<Vec<_>>().join("/")
    };
    let file = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let text = match (&*frame.function, &*frame.kind) {
        ("", "kernel") => format!("[{:#x}]_[k]", frame.address),
        ("", _) if !frame.binary.is_empty() => format!("[{}+{:#x}]", file(&frame.binary), frame.address),
        ("", _) => "[unknown]".to_owned(),
        (function, "kernel") => format!("{function}_[k]"),
        (function, _) if !frame.file.is_empty() => {
            let line = if lines { frame.line } else { frame.first_line };
            match line {
                0 => format!("{function} ({})", short(&frame.file)),
                line => format!("{function} ({}:{line})", short(&frame.file)),
            }
        }
        (function, _) if !frame.binary.is_empty() => format!("{function} ({})", file(&frame.binary)),
        (function, _) => function.to_owned(),
    };
    clean(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::stacks::Stack;

    fn frame(function: &str) -> Frame {
        Frame {
            function: function.to_owned(),
            ..Frame::default()
        }
    }

    #[test]
    fn recursion_counts_once_and_the_leaf_is_its_own() {
        let stacks = Stacks {
            frames: vec![frame("main"), frame("again")],
            stacks: vec![
                Stack {
                    value: 5,
                    frames: vec![1, 1, 1, 0],
                },
                Stack {
                    value: 2,
                    frames: vec![0],
                },
            ],
        };
        let told: Vec<_> = functions(&stacks, false)
            .into_iter()
            .map(|f| (f.name, f.own, f.total))
            .collect();
        assert_eq!(told, [("again".to_owned(), 5, 5), ("main".to_owned(), 2, 7)]);
    }

    #[test]
    fn a_frame_reads_as_in_the_profilers_reports() {
        let native = Frame {
            binary: "/usr/lib/libc.so.6".to_owned(),
            address: 0x1234,
            kind: "native".to_owned(),
            ..Frame::default()
        };
        assert_eq!(name(&native, false), "[libc.so.6+0x1234]");
        let python = Frame {
            function: "work".to_owned(),
            file: "/srv/shop/app.py".to_owned(),
            line: 20,
            first_line: 15,
            ..Frame::default()
        };
        assert_eq!(name(&python, false), "work (shop/app.py:15)");
        assert_eq!(name(&python, true), "work (shop/app.py:20)");
    }
}
