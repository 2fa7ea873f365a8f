//! Few large sets of many small ones: an hour of agents is thousands of files, and reading is mostly opening.
//!
//! The new sets are written aside and come in the old ones' place at once (`Store::replace_hour`). The same samples are in
//! the store before and after. Rows take so much memory at once and no more (`Limits::set_bytes`): a set that reaches that is
//! finished where it is, between two groups of rows of a file, and its name says that it need not be read again.

use sha2::{Digest as _, Sha256};

use crate::{
    rows::Rows,
    store::{Aside, Store, StoreError},
    when::Hour,
};

/// What the names of sets have that were finished because they were large: nothing gets better by reading them again.
const FULL: &str = "-full";

/// How names of sets end whose windows are one.
const ROLLED_UP: &str = "-hour";

/// What became of an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    pub sets: usize,
    pub into: usize,
    pub samples: u64,
    pub bytes_before: u64,
    pub bytes: u64,
}

impl Store {
    /// Makes few sets of an hour's many. `rolled_up`: and one window of all its windows, without processes and threads.
    pub fn compact(&self, hour: Hour, rolled_up: bool) -> Result<Compacted, StoreError> {
        let mut known = self.sets(hour)?;
        let mut done = Compacted {
            sets: known.len(),
            into: known.len(),
            ..Compacted::default()
        };
        let is_rolled_up = |set: &String| set.ends_with(ROLLED_UP);
        let is_full = |set: &String| set.trim_end_matches(ROLLED_UP).ends_with(FULL);
        known.retain(|set| !is_full(set) || rolled_up && !is_rolled_up(set));
        if known.len() < 2 && (!rolled_up || known.iter().all(is_rolled_up)) {
            return Ok(done);
        }
        done.sets = known.len();
        let aside = self.aside()?;
        self.merged(hour, &known, &aside, rolled_up, &mut done)?;
        self.replace_hour(hour, aside, &known)?;
        Ok(done)
    }

    fn merged(
        &self,
        hour: Hour,
        known: &[String],
        aside: &Aside,
        rolled_up: bool,
        done: &mut Compacted,
    ) -> Result<(), StoreError> {
        done.into = 0;
        let most = self.limits.set_bytes;
        let mut rows = Rows::default();
        let mut hash = Sha256::new();
        let mut is_full = |rows: &mut Rows| {
            if rows.bytes() <= most || !rolled_up {
                return rows.bytes() > most;
            }
            rows.rolled_up(hour.start_us(), hour.end_us());
            // Else it would be full again at once, and again rolled up.
            rows.bytes() > most / 2
        };
        for set in known {
            let files = self.files(hour, set);
            for file in [&files.frames, &files.samples] {
                done.bytes_before += std::fs::metadata(file).map_or(0, |metadata| metadata.len());
            }
            hash.update(set);
            let mut group = 0;
            loop {
                let next = rows
                    .read(&files, group, &mut is_full)
                    .map_err(|source| StoreError::Parquet {
                        path: files.samples.clone(),
                        source,
                    })?;
                let Some(next) = next else { break };
                group = next;
                let rows = std::mem::take(&mut rows);
                self.put(hour, rows, (&mut hash, FULL), aside, rolled_up, done)?;
                // What is left of this set is another set.
                hash.update(set);
                hash.update(next.to_le_bytes());
            }
            if is_full(&mut rows) {
                let rows = std::mem::take(&mut rows);
                self.put(hour, rows, (&mut hash, FULL), aside, rolled_up, done)?;
            }
        }
        if !rows.is_empty() {
            self.put(hour, rows, (&mut hash, ""), aside, rolled_up, done)?;
        }
        Ok(())
    }

    fn put(
        &self,
        hour: Hour,
        mut rows: Rows,
        (hash, full): (&mut Sha256, &str),
        aside: &Aside,
        rolled_up: bool,
        done: &mut Compacted,
    ) -> Result<(), StoreError> {
        let mut name = crate::store::name(hour, hash.finalize_reset().into());
        name.push_str(full);
        if rolled_up {
            rows.rolled_up(hour.start_us(), hour.end_us());
            name.push_str(ROLLED_UP);
        }
        let (samples, bytes) = self.write_aside(&rows, aside, &name)?;
        done.samples += samples;
        done.bytes += bytes;
        done.into += 1;
        Ok(())
    }
}
