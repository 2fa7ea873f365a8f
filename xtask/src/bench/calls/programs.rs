//! The programs whose calls are counted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Calls and little else.
pub const YARDSTICK: &str = "yardstick.py";
/// Calls a function a thousand times a second.
pub const OFTEN: &str = "often.py";

const SOURCES: [(&str, &str); 2] = [
    (YARDSTICK, include_str!("programs/yardstick.py")),
    (OFTEN, include_str!("programs/often.py")),
];

pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Writes them below `directory`.
    pub fn make(directory: &Path) -> Result<Self> {
        let directory = directory.join("programs");
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for (name, text) in SOURCES {
            let file = directory.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(Self { directory })
    }

    /// Where one of them is.
    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}
