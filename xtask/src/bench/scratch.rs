//! A directory for what the benchmark writes and nobody keeps.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Removed with all that is in it when this is dropped.
pub struct Scratch {
    directory: PathBuf,
}

impl Scratch {
    /// Not below `target/`: as root this would leave root's files in the user's directory if it were interrupted.
    pub fn new() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("profiler-bench-{}", std::process::id()));
        // Fails if it exists, so nobody can have put something there for root to write through.
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { directory })
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("xtask: cannot remove {}: {error}", self.directory.display());
        }
    }
}
