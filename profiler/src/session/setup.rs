//! What a session begins with: how the kernel side is loaded, and which processes it is about.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use anyhow::anyhow;
use profiler_common::{
    config::{
        Config as KernelConfig, FEATURE_FILTER_CGROUP, FEATURE_FILTER_COMM, FEATURE_FILTER_PID, FEATURE_FILTER_TID,
        FEATURE_KERNEL_STACK, FEATURE_NATIVE_STACK, FEATURE_PID_NAMESPACE, FEATURE_TASK_POINTERS,
    },
    limits::{COMM_BYTES, GATE_STRETCH_NS},
};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    bpf::{Kernel, LoadOptions},
    config::{Config, Target, Verbosity},
    cost,
    instruments::Needs,
    preflight::Findings,
    process::{ancestry, file::FileKey, maps},
    recording::{Recording, Scope},
    unwind::store::Sizes,
};

pub(super) fn load_options(config: &Config, findings: &Findings, needs: Needs, cpus: usize) -> LoadOptions {
    let mut kernel = KernelConfig {
        own_pid: std::process::id(),
        hash_seed: seed(),
        gate_stretch: (GATE_STRETCH_NS / cost::jiffy_ns()).max(1),
        features: needs.features(),
        ..KernelConfig::default()
    };
    let mut feature = |wanted: bool, bit: u32| kernel.features |= if wanted { bit } else { 0 };
    feature(config.kernel_stacks, FEATURE_KERNEL_STACK);
    feature(config.native_stacks, FEATURE_NATIVE_STACK);
    feature(!matches!(config.target, Target::All), FEATURE_FILTER_PID);
    feature(!config.tids.is_empty(), FEATURE_FILTER_TID);
    feature(config.comm.is_some(), FEATURE_FILTER_COMM);
    feature(findings.cgroup.is_some(), FEATURE_FILTER_CGROUP);
    feature(findings.task_pointers, FEATURE_TASK_POINTERS);
    feature(findings.pid_namespace.is_some(), FEATURE_PID_NAMESPACE);
    kernel.pid_namespace = findings.pid_namespace.unwrap_or_default();
    if let Some(comm) = &config.comm {
        kernel.comm = comm_words(comm);
    }
    if let Some(cgroup) = findings.cgroup {
        kernel.cgroup_id = cgroup.id;
        kernel.cgroup_level = cgroup.level;
    }
    LoadOptions {
        config: kernel,
        ring_bytes: ring_bytes(cpus),
        log: config.verbosity >= Verbosity::Debug,
        needs,
        follow_forks: config.subprocesses || matches!(config.target, Target::All),
        probe: config.probe.is_some(),
        unwind: match &config.target {
            _ if !config.native_stacks => Sizes::NONE,
            Target::All => Sizes::MACHINE,
            Target::Pids(pids) => Sizes::for_code(code_bytes(pids)),
            Target::Command(_) => Sizes::for_code(0),
        },
    }
}

/// A thread name as the kernel compares it: NUL padded, in two words.
fn comm_words(comm: &OsStr) -> [u64; 2] {
    let comm = comm.as_bytes();
    let mut bytes = [0u8; COMM_BYTES];
    let len = comm.len().min(COMM_BYTES - 1);
    bytes[..len].copy_from_slice(&comm[..len]);
    let (low, high) = bytes.split_at(8);
    let word = |half: &[u8]| half.iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
    [word(low), word(high)]
}

/// Two unpredictable words.
fn seed() -> [u64; 2] {
    use std::hash::{BuildHasher as _, RandomState};
    // The standard library seeds each `RandomState` from the system's generator.
    [RandomState::new().hash_one(0), RandomState::new().hash_one(1)]
}

/// Half a megabyte for each CPU and at least four in all: we share the CPUs with what we look at, and may not get one
/// for a while. A known stack is 64 bytes, a new one some 600.
fn ring_bytes(cpus: usize) -> u32 {
    const MOST_BYTES: u32 = 64 << 20;
    let bytes = u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(512 << 10);
    bytes.clamp(4 << 20, MOST_BYTES).next_power_of_two()
}

/// Tells the kernel side its targets and says which processes the recording is about.
pub(super) fn scope(config: &Config, command_pid: Option<u32>, kernel: &mut Kernel) -> anyhow::Result<Scope> {
    for &tid in &config.tids {
        kernel.add_target_tid(tid)?;
    }
    let named: Vec<u32> = match (&config.target, command_pid) {
        (Target::All, _) => return Ok(Scope::All),
        (Target::Pids(pids), _) => pids.clone(),
        (Target::Command(_), Some(pid)) => vec![pid],
        (Target::Command(_), None) => return Err(anyhow!("the command was not started")),
    };
    let mut pids: FxHashSet<u32> = named.iter().copied().collect();
    for &pid in &named {
        kernel.add_target(pid)?;
    }
    if config.subprocesses {
        // Listed after the kernel side follows forks: a child cannot slip through in between.
        for pid in ancestry::descendants(Path::new("/proc"), &named)? {
            kernel.add_target(pid)?;
            pids.insert(pid);
        }
    }
    Ok(Scope::Pids {
        pids,
        children: config.subprocesses,
    })
}

/// Takes in the processes that exist already.
pub(super) fn adopt(recording: &mut Recording, scope: &Scope) -> anyhow::Result<()> {
    match scope {
        Scope::All => {
            for pid in ancestry::pids(Path::new("/proc"))? {
                recording.adopt(pid);
            }
        }
        Scope::Pids { pids, .. } => pids.iter().for_each(|&pid| recording.adopt(pid)),
    }
    Ok(())
}

/// Bytes of the files that these processes have mapped as code.
fn code_bytes(pids: &[u32]) -> u64 {
    let maps = pids.iter().filter_map(|&pid| maps::read(pid).ok());
    let files: FxHashMap<FileKey, u64> = maps
        .flat_map(|maps| maps.entries)
        .filter(|entry| entry.executable)
        .filter_map(|entry| Some((FileKey::of(&entry)?, entry.end.saturating_sub(entry.start))))
        .collect();
    files.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
}
