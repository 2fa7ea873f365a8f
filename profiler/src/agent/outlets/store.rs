//! Parquet files on this machine: a set of two for each window, of all that was measured in it. The only place here that
//! names profiler-parquet.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;
use profiler_parquet::{Limits, Rows, Store};
use sha2::{Digest as _, Sha256};

use crate::agent::state::OutputNow;

pub struct Kept {
    store: Store,
    pub now: OutputNow,
    /// What was cut or left out of what is there, by what it was.
    pub cut: BTreeMap<&'static str, u64>,
}

impl Kept {
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let store = Store::open(directory).context("the store cannot be used; name another directory with --store")?;
        Ok(Self {
            store,
            now: OutputNow {
                name: directory.display().to_string(),
                ..OutputNow::default()
            },
            cut: BTreeMap::new(),
        })
    }

    /// Writes a window's messages as one set.
    pub fn take(&mut self, messages: &[Vec<u8>]) -> anyhow::Result<u64> {
        let written = self.write(messages);
        match &written {
            Ok(bytes) => {
                self.now.sent += 1;
                self.now.bytes += bytes;
                self.now.trouble = None;
            }
            Err(error) => {
                self.now.lost += 1;
                self.now.trouble = Some(format!("{error:#}"));
            }
        }
        written
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
