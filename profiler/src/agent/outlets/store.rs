//! Parquet files on this machine: a set of two for each window, of all that was measured in it. The only place here that
//! names profiler-parquet.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use profiler_parquet::{Hour, Limits, Rows, Store};
use sha2::{Digest as _, Sha256};

use crate::agent::state::OutputNow;

/// For how long after its end an hour is left alone.
const SETTLED: Duration = Duration::from_secs(600);

pub struct Kept {
    store: Store,
    keep: Duration,
    /// The hour in which it was put in order last.
    tidied: Option<Hour>,
    pub now: OutputNow,
    /// What was cut or left out of what is there, by what it was.
    pub cut: BTreeMap<&'static str, u64>,
}

impl Kept {
    pub fn open(directory: &Path, keep: Duration) -> anyhow::Result<Self> {
        let store = Store::open(directory).context("the store cannot be used; name another directory with --store")?;
        Ok(Self {
            store,
            keep,
            tidied: None,
            now: OutputNow {
                name: directory.display().to_string(),
                ..OutputNow::default()
            },
            cut: BTreeMap::new(),
        })
    }

    /// Writes a window's messages as one set; once an hour puts the store in order.
    pub fn take(&mut self, messages: &[Vec<u8>]) -> anyhow::Result<u64> {
        let written = self.write(messages);
        match &written {
            Ok(bytes) => {
                self.now.sent += 1;
                self.now.bytes += bytes;
                // The window is there, whatever becomes of older ones.
                self.now.trouble = self.tidy(SystemTime::now()).err().map(|error| format!("{error:#}"));
            }
            Err(error) => {
                self.now.lost += 1;
                self.now.trouble = Some(format!("{error:#}"));
            }
        }
        written
    }

    /// Makes few sets of the many of an hour that is over, and takes away what is too old.
    fn tidy(&mut self, now: SystemTime) -> anyhow::Result<()> {
        let us = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
        };
        // Others write into this store, and their windows come late.
        let settled = Hour::of(us(now - SETTLED));
        if settled.is_none() || settled == self.tidied {
            return Ok(());
        }
        // Another try can wait for an hour, too.
        self.tidied = settled;
        // Not by this clock alone: it may have jumped.
        self.store
            .forget_older(self.keep, us(now))
            .context("what is too old cannot be taken away")?;
        let swept = self.store.sweep();
        let mut outcome = swept.map(|_| ()).context("what crashed writers left cannot be removed");
        for over in self.store.hours()?.into_iter().filter(|over| Some(*over) < settled) {
            // One that is damaged must not keep the others as they are.
            if let Err(error) = self.store.compact(over, false) {
                outcome = Err(error).context("an hour's files cannot be put together");
            }
        }
        outcome
    }

    fn write(&mut self, messages: &[Vec<u8>]) -> anyhow::Result<u64> {
        let mut rows = Rows::default();
        let mut hash = Sha256::new();
        for message in messages {
            rows.add(message, &Limits::default())
                .context("a window has no room in the store")?;
            hash.update(message);
        }
        if rows.is_empty() {
            return Ok(0);
        }
        let written = self.store.write(&rows, hash.finalize().into());
        let written = written.context("a window is not in the store")?;
        for (what, number) in written.lost.counts().into_iter().filter(|(_, number)| *number > 0) {
            *self.cut.entry(what).or_default() += number;
        }
        Ok(written.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_that_are_too_old_go_and_what_is_no_hour_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut kept = Kept::open(directory.path(), Duration::from_secs(14 * 24 * 3600)).expect("a store");
        // 2026-12-01T13:00:00Z.
        let now = UNIX_EPOCH + Duration::from_secs(1_796_130_000);
        let hour = |day: &str| directory.path().join(format!("v1/day={day}/hour=13"));
        for day in ["2026-11-16", "2026-11-18"] {
            std::fs::create_dir_all(hour(day)).expect("an hour");
        }
        // So many that the store says the same as the clock.
        for at in 0..24 {
            let hour = directory.path().join(format!("v1/day=2026-11-30/hour={at:02}"));
            std::fs::create_dir_all(hour).expect("an hour");
        }
        let other = directory.path().join("v1/day=notes");
        std::fs::create_dir_all(&other).expect("a directory");
        kept.tidy(now).expect("in order");
        assert_eq!(
            [hour("2026-11-16"), hour("2026-11-18"), other].map(|path| path.exists()),
            [false, true, true]
        );
    }
}
