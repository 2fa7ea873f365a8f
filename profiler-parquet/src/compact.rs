//! Few large sets of many small ones: an hour of agents is thousands of files, and reading is mostly opening.
//!
//! The new sets are written aside and come in the old ones' place at once (`Store::replace_hour`). The same samples are in
//! the store before and after.

use sha2::{Digest as _, Sha256};

use crate::{
    rows::Rows,
    store::{Store, StoreError},
    when::Hour,
};

/// Samples of a set, at most: what is in memory at once.
const SAMPLES_PER_SET: usize = 4 << 20;

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
        let known = self.sets(hour)?;
        let mut done = Compacted {
            sets: known.len(),
            into: known.len(),
            ..Compacted::default()
        };
        let is_rolled_up = known.iter().all(|set| set.ends_with(ROLLED_UP));
        if known.len() < 2 && (!rolled_up || is_rolled_up) {
            return Ok(done);
        }
        let aside = self.aside()?;
        let became = self.merged(hour, &known, &aside, rolled_up, &mut done);
        match became.and_then(|()| self.replace_hour(hour, &aside, &known)) {
            Ok(()) => Ok(done),
            Err(error) => {
                // Nobody reads it; what could not be removed stays there.
                let _ = std::fs::remove_dir_all(&aside);
                Err(error)
            }
        }
    }

    fn merged(
        &self,
        hour: Hour,
        known: &[String],
        aside: &std::path::Path,
        rolled_up: bool,
        done: &mut Compacted,
    ) -> Result<(), StoreError> {
        done.into = 0;
        let mut rows = Rows::default();
        let mut hash = Sha256::new();
        for (at, set) in known.iter().enumerate() {
            let files = self.files(hour, set);
            for file in [&files.frames, &files.samples] {
                done.bytes_before += std::fs::metadata(file).map_or(0, |metadata| metadata.len());
            }
            rows.read(&files).map_err(|source| StoreError::Parquet {
                path: files.samples.clone(),
                source,
            })?;
            hash.update(set);
            if rolled_up && rows.samples() > SAMPLES_PER_SET {
                rows.rolled_up(hour.start_us(), hour.end_us());
            }
            if at + 1 == known.len() || rows.samples() > SAMPLES_PER_SET {
                let mut rows = std::mem::take(&mut rows);
                if rolled_up {
                    rows.rolled_up(hour.start_us(), hour.end_us());
                }
                let mut name = crate::store::name(hour, hash.finalize_reset().into());
                if rolled_up {
                    name.push_str(ROLLED_UP);
                }
                let (samples, bytes) = self.write_aside(&rows, aside, &name)?;
                done.samples += samples;
                done.bytes += bytes;
                done.into += 1;
            }
        }
        Ok(())
    }
}
