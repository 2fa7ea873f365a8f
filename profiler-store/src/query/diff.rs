//! `diff`: which functions have another share than in another range, or another service.
//!
//! Shares, not amounts: ranges are of different lengths and fleets of different sizes. What a share could be by chance is not
//! said here; `profiler diff` of two flames does that.

use std::{collections::BTreeMap, io::Write as _};

use anyhow::{Result, bail};

use super::{engine::Engine, stacks, top};
use crate::{
    cli::Which,
    text::{amount, clean, fit},
};

/// What is compared with.
pub fn base(which: &Which, from: Option<i64>, to: Option<i64>, service: Option<&str>) -> Result<Which> {
    if from.is_none() && to.is_none() && service.is_none() {
        bail!("say what to compare with: --base-from and --base-to, or --base-service");
    }
    let mut base = which.clone();
    if from.is_some() || to.is_some() {
        (base.from, base.to, base.last) = (from, to, None);
    }
    if let Some(service) = service {
        base.service = Some(service.to_owned());
    }
    Ok(base)
}

pub async fn run(engine: &Engine, which: &Which, base: &Which, number: usize) -> Result<()> {
    let chosen = which.choose(engine).await?;
    let mut base = base.clone();
    base.kind = Some(chosen.kind.clone());
    // A share of nanoseconds compares with no share of counts.
    base.unit = Some(chosen.unit.clone());
    let before = base.choose(engine).await?;
    let (now, then) = (
        stacks::of(engine, which, &chosen).await?,
        stacks::of(engine, &base, &before).await?,
    );
    let mut shares: BTreeMap<String, [f64; 2]> = BTreeMap::new();
    for (side, stacks) in [&then, &now].into_iter().enumerate() {
        let total = stacks.total().max(1) as f64;
        for function in top::functions(stacks, false) {
            shares.entry(function.name).or_default()[side] = function.own as f64 / total;
        }
    }
    let mut shares: Vec<(String, [f64; 2])> = shares.into_iter().collect();
    let change = |[then, now]: &[f64; 2]| now - then;
    shares.sort_by(|(_, one), (_, other)| change(other).abs().total_cmp(&change(one).abs()));
    let mut out = std::io::stdout().lock();
    for (sign, words, stacks) in [('-', &before.words, &then), ('+', &chosen.words, &now)] {
        let line = format!(
            "{sign} {} of {words}: {}",
            clean(&chosen.kind),
            amount(stacks.total() as f64, &chosen.unit)
        );
        writeln!(out, "{}", fit(&line, 80))?;
    }
    writeln!(out, "   change      then       now  function (its own share)")?;
    for (name, [then, now]) in shares.iter().take(number) {
        let percent = |share: f64| share * 100.0;
        writeln!(
            out,
            "{:+7.1} pt {:6.1} % {:7.1} %  {}",
            percent(now - then),
            percent(*then),
            percent(*now),
            fit(name, 49)
        )?;
    }
    Ok(())
}
