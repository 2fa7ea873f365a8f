//! A container image's folder: the binary and a Containerfile that needs no other image.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Built;
use crate::workspace;

pub fn make(built: &Built) -> Result<PathBuf> {
    let folder = built.folder.join("image");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let recipe = workspace::root().join("packaging/Containerfile");
    for (from, name) in [(&built.binary, "profiler"), (&recipe, "Containerfile")] {
        let to = folder.join(name);
        std::fs::copy(from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(folder)
}
