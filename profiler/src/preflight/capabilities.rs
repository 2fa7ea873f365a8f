//! The rights that a recording needs.

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::{Roots, status_field};

/// A capability, by its bit in /proc/PID/status (include/uapi/linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capability {
    pub(super) bit: u32,
    name: &'static str,
}

pub(super) const SYS_PTRACE: Capability = Capability {
    bit: 19,
    name: "SYS_PTRACE",
};
pub(super) const SYS_ADMIN: Capability = Capability {
    bit: 21,
    name: "SYS_ADMIN",
};
pub(super) const PERFMON: Capability = Capability {
    bit: 38,
    name: "PERFMON",
};
const BPF: Capability = Capability { bit: 39, name: "BPF" };
const CHECKPOINT_RESTORE: Capability = Capability {
    bit: 40,
    name: "CHECKPOINT_RESTORE",
};

/// Each need, and the capability that also covers it (capabilities(7)): programs and maps; perf events and reading
/// memory from BPF; /proc/PID/{maps,mem,root} of others; /proc/PID/map_files, which has the files deleted since.
const NEEDS: [(Capability, Option<Capability>); 4] = [
    (BPF, Some(SYS_ADMIN)),
    (PERFMON, Some(SYS_ADMIN)),
    (SYS_PTRACE, None),
    (CHECKPOINT_RESTORE, Some(SYS_ADMIN)),
];

pub(super) fn check(roots: &Roots) -> Result<()> {
    let path = roots.proc.join("self/status");
    let status = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let missing = missing(&status)
        .with_context(|| format!("{} does not tell our capabilities; run with sudo", path.display()))?;
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = missing
        .iter()
        .map(|capability| format!("CAP_{}", capability.name))
        .collect();
    let flags: Vec<String> = missing
        .iter()
        .map(|capability| format!("--cap-add={}", capability.name))
        .collect();
    bail!(
        "missing {}: run with sudo, or in a container as root with {}",
        enumerate(&names),
        flags.join(" ")
    )
}

pub(super) fn missing(status: &[u8]) -> Option<Vec<Capability>> {
    let effective = u64::from_str_radix(status_field(status, "CapEff")?, 16).ok()?;
    let has = |capability: Capability| effective & 1 << capability.bit != 0;
    let missing = NEEDS
        .iter()
        .filter(|(need, instead)| !has(*need) && !instead.is_some_and(has));
    Some(missing.map(|(need, _)| *need).collect())
}

/// `a`, `a and b`, `a, b and c`.
fn enumerate(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}
