//! A cgroup that has only so much CPU time.

use anyhow::{Context as _, Result};

use crate::cgroup::Cgroup;

/// Removed when dropped.
#[derive(Debug)]
pub struct QuotaCgroup(Cgroup);

impl QuotaCgroup {
    /// So much of each period, in microseconds. `None`, said aloud, where there is no such cgroup to be had.
    pub fn new(quota_us: u32, period_us: u32) -> Result<Option<Self>> {
        let Some(cgroup) = Cgroup::new("cpu", "quota")? else {
            return Ok(None);
        };
        if cgroup.is_first {
            cgroup.write("cpu.cfs_period_us", &period_us.to_string())?;
            cgroup.write("cpu.cfs_quota_us", &quota_us.to_string())?;
        } else {
            cgroup.write("cpu.max", &format!("{quota_us} {period_us}"))?;
        }
        Ok(Some(Self(cgroup)))
    }

    pub fn take(&self, pid: u32) -> Result<()> {
        self.0.take(pid)
    }

    /// How long it was held back so far, on all CPUs together, as `cpu.stat` says it.
    pub fn throttled_ns(&self) -> Result<u64> {
        let text = self.0.read("cpu.stat")?;
        let (name, unit) = if self.0.is_first {
            ("throttled_time", 1)
        } else {
            ("throttled_usec", 1000)
        };
        let value = text.lines().find_map(|line| {
            let (found, value) = line.split_once(' ')?;
            (found == name).then(|| value.parse::<u64>().ok())?
        });
        Ok(value.with_context(|| format!("no {name}: {text}"))? * unit)
    }
}
