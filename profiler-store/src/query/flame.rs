//! `flame`: all stacks, for what draws them: folded text, or pprof.

use std::{
    collections::BTreeMap,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

use super::{
    engine::Engine,
    pprof,
    stacks::{self, Stacks},
    top,
};
use crate::cli::Which;

pub async fn run(engine: &Engine, which: &Which, output: Option<&Path>) -> Result<()> {
    let chosen = which.choose(engine).await?;
    let stacks = stacks::of(engine, which, &chosen).await?;
    let Some(path) = output else {
        return folded(&stacks, BufWriter::new(std::io::stdout().lock()));
    };
    let name = path.to_string_lossy();
    let write: &dyn Fn(&mut Vec<u8>) -> Result<()> = if name.ends_with(".folded") || name.ends_with(".txt") {
        &|out| folded(&stacks, out)
    } else if name.ends_with(".pb.gz") || name.ends_with(".pprof") {
        &|out| pprof::write(&stacks, &chosen.kind, &chosen.unit, out)
    } else {
        bail!("{name}: a flame is .folded or .pb.gz; `profiler convert` makes others of that");
    };
    let mut bytes = Vec::new();
    write(&mut bytes)?;
    // Never half of a file.
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, bytes).with_context(|| format!("cannot write {}", temporary.display()))?;
    std::fs::rename(&temporary, path).with_context(|| format!("cannot write {}", path.display()))
}

/// `root;caller;leaf 42`, sorted.
fn folded(stacks: &Stacks, mut out: impl Write) -> Result<()> {
    let mut lines: BTreeMap<String, i128> = BTreeMap::new();
    for stack in stacks.stacks.iter().filter(|stack| stack.value != 0) {
        let names = stack
            .frames
            .iter()
            .rev()
            .filter_map(|frame| stacks.frames.get(*frame as usize));
        let names: Vec<String> = names.map(|frame| top::name(frame, true).replace(';', ":")).collect();
        let sum = lines.entry(names.join(";")).or_default();
        *sum = sum.saturating_add(stack.value);
    }
    for (stack, value) in lines {
        writeln!(out, "{stack} {value}")?;
    }
    out.flush()?;
    Ok(())
}
