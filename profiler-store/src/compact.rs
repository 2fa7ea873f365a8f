//! `compact`: what is done to a store once an hour or a day.

use anyhow::Result;
use profiler_parquet::{Hour, Store};

use crate::{cli::Compact, text::amount, times};

/// For how long after its end an hour is left alone: windows come late.
const SETTLED_US: i64 = 10 * 60 * 1_000_000;

pub fn run(options: &Compact) -> Result<()> {
    let store = Store::open(&options.store)?;
    let now = times::now_us();
    let before = |ago: std::time::Duration| {
        let ago = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
        Hour::of(now.saturating_sub(ago))
    };
    let swept = store.sweep()?;
    if swept > 0 {
        eprintln!("profiler-store: {swept} unfinished files and directories of writers that crashed are gone");
    }
    if let Some(keep) = options.keep {
        let gone = store.forget_older(keep, now)?;
        eprintln!("profiler-store: {gone} hours were older and are gone");
    }
    if options.keep_only {
        return Ok(());
    }
    let roll_up_before = options.roll_up.and_then(before);
    for hour in store.hours()? {
        if hour.end_us() + SETTLED_US > now {
            continue;
        }
        let done = store.compact(hour, roll_up_before.is_some_and(|before| hour < before))?;
        if done.samples > 0 {
            let bytes = |bytes: u64| amount(bytes as f64, "bytes");
            eprintln!(
                "profiler-store: {hour}: {} sets became {}: {} samples, {} instead of {}",
                done.sets,
                done.into,
                done.samples,
                bytes(done.bytes),
                bytes(done.bytes_before),
            );
        }
    }
    Ok(())
}
