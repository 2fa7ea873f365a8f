//! Exact mode: probes on the allocators of a process, and the budget they have.

use std::rc::Rc;

use profiler_common::{
    python::{ALLOCATION_CALLOC, ALLOCATION_MALLOC, ALLOCATION_REALLOC, allocation_cookie},
    stats::Counter,
};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    bpf::{AllocationProbe, Hook, Kernel},
    config,
    governor::{Governor, Hits, TrapCost, cpu_time_ns, is_stepped, stepped},
    humanize::percent,
    process::files::{File, FileId},
    python::{
        allocator::{
            self, Allocators,
            coverage::{Coverage, Verdict},
            functions::{AllocFunction, Arguments},
            table::{AllocatorInUse, Domain, Hook as AllocatorHook},
        },
        memory::ProcessMemory,
    },
    recording::Recording,
};

pub struct Exact {
    wanted: config::Exact,
    /// What is probed in a file; nothing where it cannot be.
    files: FxHashMap<FileId, Option<Rc<Found>>>,
    /// The same of C libraries.
    natives: FxHashMap<FileId, Rc<Vec<AllocationProbe>>>,
    probed: FxHashSet<(FileId, Option<u32>)>,
    by_process: bool,
    governor: Option<Governor>,
    /// Of the file that was looked at last.
    coverage: Option<Coverage>,
    /// Those that have probes.
    pids: Vec<u32>,
}

struct Found {
    allocators: Allocators,
    probes: Vec<AllocationProbe>,
}

impl Exact {
    pub fn new(wanted: config::Exact, by_process: bool) -> Self {
        Self {
            wanted,
            files: FxHashMap::default(),
            natives: FxHashMap::default(),
            probed: FxHashSet::default(),
            by_process,
            governor: None,
            coverage: None,
            pids: Vec::new(),
        }
    }

    /// Puts probes into the allocators of a process. What is worth telling goes into `warnings`.
    pub fn probe(
        &mut self,
        kernel: &mut Kernel,
        recording: &Recording,
        pid: u32,
        warnings: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let Some((python, file)) = recording.python(pid) else {
            return Ok(());
        };
        let Some(opened) = &file.opened else { return Ok(()) };
        let found = self.files.entry(python.file).or_insert_with(|| {
            let bytes = opened.map().ok()?;
            match allocator::inspect(&bytes, &python.binary) {
                Ok(allocators) => {
                    let coverage = Coverage::measure(&bytes, &allocators).ok().flatten();
                    warnings.extend(shortcoming(file, coverage.as_ref()));
                    self.coverage = coverage;
                    let probes = allocators.functions.iter().flat_map(probes).collect();
                    Some(Rc::new(Found { allocators, probes }))
                }
                Err(error) => {
                    warnings.push(format!(
                        "{}: {error}; its allocations are not seen",
                        file.path.display()
                    ));
                    None
                }
            }
        });
        let Some(found) = found.clone() else { return Ok(()) };
        let in_use = found
            .allocators
            .tables
            .in_use(&ProcessMemory { pid }, python.bias, Domain::Object);
        warnings.extend(in_use.and_then(|in_use| not_pymalloc(pid, in_use)));
        self.govern(kernel, pid, &found.probes)?;
        let scope = self.by_process.then_some(pid);
        if self.probed.insert((python.file, scope)) {
            for probe in &found.probes {
                kernel.attach_allocator(&opened.path_to_open(), probe, scope)?;
            }
        }
        Ok(())
    }

    /// Puts probes into the C library's allocator, or whatever a process has in its place (`--native`).
    pub fn probe_native(&mut self, kernel: &mut Kernel, recording: &Recording, pid: u32) -> anyhow::Result<()> {
        for (id, file) in recording.files_of(pid) {
            let Some(opened) = &file.opened else { continue };
            let probes = self.natives.entry(id).or_insert_with(|| {
                let functions = opened
                    .map()
                    .map(|bytes| allocator::exported(&bytes))
                    .unwrap_or_default();
                Rc::new(functions.iter().flat_map(probes).collect())
            });
            let probes = Rc::clone(probes);
            let scope = self.by_process.then_some(pid);
            if probes.is_empty() || !self.probed.insert((id, scope)) {
                continue;
            }
            self.govern(kernel, pid, &probes)?;
            for probe in &*probes {
                kernel.attach_allocator(&opened.path_to_open(), probe, scope)?;
            }
        }
        Ok(())
    }

    /// What a process spends in probes counts against the budget from now on.
    fn govern(&mut self, kernel: &mut Kernel, pid: u32, probes: &[AllocationProbe]) -> anyhow::Result<()> {
        if self.governor.is_none() {
            let trap = TrapCost::measure(kernel)?;
            self.governor = Some(Governor::new(trap, self.wanted.max_overhead, 0));
        }
        if let (true, Some(governor)) = (probes.iter().any(|probe| is_stepped(probe.cookie)), &mut self.governor) {
            governor.expect_stepped(kernel)?;
        }
        if !self.pids.contains(&pid) {
            self.pids.push(pid);
            if let Some(governor) = &mut self.governor {
                governor.leave_out(cpu_time_ns(pid));
            }
        }
        Ok(())
    }

    /// Whether the budget is spent.
    pub fn is_spent(&mut self, kernel: &Kernel) -> anyhow::Result<bool> {
        let Some(governor) = &mut self.governor else {
            return Ok(false);
        };
        let hits = Hits {
            entries: kernel.counter(Counter::EntryHits)?,
            stepped: kernel.counter(Counter::SteppedHits)?,
            returns: kernel.counter(Counter::ReturnHits)?,
            program_ns: kernel.counter(Counter::RunTimeNs)?,
            ..Hits::default()
        };
        let cpu_ns = self.pids.iter().map(|&pid| cpu_time_ns(pid)).sum();
        Ok(governor.look(hits, cpu_ns))
    }

    /// The part of the places that allocate which no probe sees, if it can be told.
    pub fn hidden_share(&self) -> Option<f64> {
        self.coverage.as_ref().map(Coverage::inlined_share)
    }

    pub fn governor(&self) -> Option<&Governor> {
        self.governor.as_ref()
    }
}

/// The probes of a function: one where it is entered, and one where it returns if it has a result.
fn probes(function: &AllocFunction) -> impl Iterator<Item = AllocationProbe> {
    let stepped = stepped(&function.entry);
    let (hook, cookie) = match function.arguments {
        Arguments::Malloc { size } => (
            Hook::Entry,
            allocation_cookie(ALLOCATION_MALLOC | stepped, size.0.into(), 0),
        ),
        Arguments::Calloc { count, size } => (
            Hook::Entry,
            allocation_cookie(ALLOCATION_CALLOC | stepped, count.0.into(), size.0.into()),
        ),
        Arguments::Realloc { block, size } => (
            Hook::Entry,
            allocation_cookie(ALLOCATION_REALLOC | stepped, block.0.into(), size.0.into()),
        ),
        Arguments::Free { block } => (Hook::Free, allocation_cookie(stepped, block.0.into(), 0)),
    };
    let entry = AllocationProbe {
        offset: function.entry.file_offset,
        hook,
        cookie,
    };
    let result = function.result.map(|place| AllocationProbe {
        offset: place.file_offset,
        hook: Hook::Return,
        cookie: 0,
    });
    // On return first: a call that is entered between the two would otherwise never come to an end.
    result.into_iter().chain([entry])
}

/// What the probes cannot see in this build.
fn shortcoming(file: &File, coverage: Option<&Coverage>) -> Option<String> {
    let path = file.path.display();
    let Some(coverage) = coverage else {
        return Some(format!(
            "{path}: whether this build has its allocator inlined cannot be told; what is, no probe sees"
        ));
    };
    (coverage.verdict() == Verdict::Misleading).then(|| {
        format!(
            "{path}: this build has its allocator inlined at {} places ({} of those that allocate) and {} that free, \
             which no probe sees: counts and what lives would mislead. Growth mode (without --exact) sees them",
            coverage.inlined,
            percent(coverage.inlined_share()),
            coverage.inlined_frees,
        )
    })
}

/// What to say of a process that does not use pymalloc as it comes.
pub fn not_pymalloc(pid: u32, in_use: AllocatorInUse) -> Option<String> {
    match in_use {
        AllocatorInUse::Pymalloc => None,
        AllocatorInUse::Malloc => Some(format!(
            "process {pid} has the C library's allocator in place of pymalloc (PYTHONMALLOC=malloc): its blocks have no pools"
        )),
        AllocatorInUse::Hooked { hook, .. } => Some(format!(
            "process {pid} has {} around its allocator: sizes include what they add",
            match hook {
                AllocatorHook::Debug => "debug hooks (PYTHONMALLOC=debug, -X dev)",
                AllocatorHook::Trace => "tracemalloc's hooks",
            }
        )),
        AllocatorInUse::Mimalloc { .. } => Some(format!(
            "process {pid} has the allocator mimalloc in place of pymalloc (PYTHONMALLOC=mimalloc): its blocks have no pools, \
             and exact mode sees those of the raw domain only"
        )),
        AllocatorInUse::Other { .. } => Some(format!(
            "process {pid} has another allocator in place (another profiler's?): what it hands on is seen, and no more"
        )),
    }
}
