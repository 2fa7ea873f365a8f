//! Cgroups of the tests' own, of whichever version the machine has a controller in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::skip::skip;

/// Removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    root: PathBuf,
    /// Of version 1.
    pub is_first: bool,
}

impl Cgroup {
    /// One that this controller has a say in. `None`, said aloud, where there is none to be had.
    pub fn new(controller: &str, name: &str) -> Result<Option<Self>> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let found = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (point, kind, options) = (fields.nth(1)?, fields.next()?, fields.next()?);
            let root = PathBuf::from(point);
            match kind {
                "cgroup" => options
                    .split(',')
                    .any(|option| option == controller)
                    .then_some((root, true)),
                "cgroup2" => {
                    let controllers = fs::read_to_string(root.join("cgroup.controllers")).ok()?;
                    let has = controllers.split_whitespace().any(|found| found == controller);
                    has.then_some((root, false))
                }
                _ => None,
            }
        });
        let Some((root, is_first)) = found else {
            skip(format!("no file system of cgroups has the {controller} controller"));
            return Ok(None);
        };
        if !is_first {
            fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"))
                .with_context(|| format!("cannot hand out the {controller} controller"))?;
        }
        let path = root.join(format!("profiler-e2e-{name}-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&path) {
            skip(format!("cannot make a cgroup in {}: {error}", root.display()));
            return Ok(None);
        }
        Ok(Some(Self { path, root, is_first }))
    }

    /// One whose processes may have so many bytes of memory, and no more by swapping.
    pub fn of_memory(bytes: u64) -> Result<Option<Self>> {
        let Some(cgroup) = Self::new("memory", "memory")? else {
            return Ok(None);
        };
        let bytes = bytes.to_string();
        if cgroup.is_first {
            cgroup.write("memory.limit_in_bytes", &bytes)?;
        } else {
            cgroup.write("memory.max", &bytes)?;
            // Not there without swap.
            let _ = cgroup.write("memory.swap.max", "0");
        }
        Ok(Some(cgroup))
    }

    /// As processes in it are told to be in: from the root of its hierarchy.
    pub fn name(&self) -> Result<String> {
        Ok(format!("/{}", self.path.strip_prefix(&self.root)?.display()))
    }

    pub fn take(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.path.join(file), text).with_context(|| format!("cannot write {text} to {file}"))
    }

    pub fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.path.join(file)).with_context(|| format!("cannot read {file}"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Only an empty one can be removed.
        let there = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for pid in there.lines() {
            let _ = fs::write(Path::new(&self.root).join("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.path);
    }
}
