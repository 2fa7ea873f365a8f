//! Exact mode: every block, by probes on the allocators of a process, and the budget they have.

use std::{io, path::Path, rc::Rc, time::Duration};

use profiler_common::{
    group::Group,
    python::{ALLOCATION_CALLOC, ALLOCATION_MALLOC, ALLOCATION_REALLOC, allocation_cookie},
    stats::{COUNTERS, Counter},
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{account::Account, not_pymalloc};
use crate::{
    config::{self, Config, MemoryConfig, Target},
    foreign,
    governor::{Governor, Hits, TrapCost, cpu_time_ns, is_stepped, stepped},
    humanize::percent,
    instruments::{Change, Instrument, Needs, Picture, Tells, Told, Turn, content::Content},
    name::Namer,
    orders::{AllocationProbe, Hook, Orders},
    process::files::{File, FileId},
    python::{
        allocator::{
            self, Allocators, NoAllocator,
            coverage::{Coverage, Verdict},
            functions::{AllocFunction, Arguments},
            table::Domain,
        },
        memory::ProcessMemory,
    },
    recording::Recording,
    report::View,
    summary::{ExactSummary, Summary},
    window::Window,
};

pub struct Blocks {
    account: Account,
    wanted: config::Exact,
    /// The C library's allocator as well.
    native: bool,
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

impl Blocks {
    pub fn new(
        config: &Config,
        memory: &MemoryConfig,
        wanted: config::Exact,
        command_pid: Option<u32>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            account: Account::new(config, memory, command_pid)?,
            wanted,
            native: config.native_stacks,
            files: FxHashMap::default(),
            natives: FxHashMap::default(),
            probed: FxHashSet::default(),
            by_process: matches!(config.target, Target::Pids(_)) && !config.subprocesses,
            governor: None,
            coverage: None,
            pids: Vec::new(),
        })
    }

    /// Puts probes into the allocators of a process.
    fn probe(&mut self, host: &Recording, kernel: &mut dyn Orders, pid: u32) -> anyhow::Result<()> {
        let Some((python, file)) = host.python(pid) else {
            return Ok(());
        };
        let Some(opened) = &file.opened else { return Ok(()) };
        let account = &mut self.account;
        let found = self.files.entry(python.file).or_insert_with(|| {
            let bytes = opened.map().ok()?;
            let found = foreign::parsed(|| allocator::inspect(&bytes, &python.binary));
            match found.unwrap_or(Err(NoAllocator::Unreadable)) {
                Ok(allocators) => {
                    let coverage = foreign::parsed(|| Coverage::measure(&bytes, &allocators).ok()?).flatten();
                    if let Some(line) = shortcoming(file, coverage.as_ref()) {
                        account.warn(line);
                    }
                    self.coverage = coverage;
                    let probes = allocators.functions.iter().flat_map(probes).collect();
                    Some(Rc::new(Found { allocators, probes }))
                }
                Err(error) => {
                    account.warn(format!(
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
        if let Some(line) = in_use.and_then(|in_use| not_pymalloc(pid, in_use)) {
            self.account.warn(line);
        }
        self.govern(kernel, pid, &found.probes)?;
        let scope = self.by_process.then_some(pid);
        if self.probed.insert((python.file, scope)) {
            for probe in &found.probes {
                kernel.attach_allocator(opened, probe, scope)?;
            }
        }
        Ok(())
    }

    /// Puts probes into the C library's allocator, or whatever a process has in its place (`--native`).
    fn probe_native(&mut self, host: &Recording, kernel: &mut dyn Orders, pid: u32) -> anyhow::Result<()> {
        for (id, file) in host.files_of(pid) {
            let Some(opened) = &file.opened else { continue };
            let probes = self.natives.entry(id).or_insert_with(|| {
                let functions = opened
                    .map()
                    .ok()
                    .and_then(|bytes| foreign::parsed(|| allocator::exported(&bytes)))
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
                kernel.attach_allocator(opened, probe, scope)?;
            }
        }
        Ok(())
    }

    /// What a process spends in probes counts against the budget from now on.
    fn govern(&mut self, kernel: &mut dyn Orders, pid: u32, probes: &[AllocationProbe]) -> anyhow::Result<()> {
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
    fn is_spent(&mut self, kernel: &dyn Orders) -> anyhow::Result<bool> {
        let Some(governor) = &mut self.governor else {
            return Ok(false);
        };
        // What other programs of the session take is not paid from this budget.
        let spent = |counter: Counter| kernel.counter_of(Group::Probes, counter);
        let hits = Hits {
            entries: spent(Counter::EntryHits)?,
            stepped: spent(Counter::SteppedHits)?,
            returns: spent(Counter::ReturnHits)?,
            program_ns: spent(Counter::RunTimeNs)?,
            ..Hits::default()
        };
        let cpu_ns = self.pids.iter().map(|&pid| cpu_time_ns(pid)).sum();
        Ok(governor.look(hits, cpu_ns))
    }

    fn summary(&self, counters: &[u64; COUNTERS]) -> Option<ExactSummary> {
        let governor = self.governor.as_ref()?;
        let counter = |counter: Counter| counters[counter as usize];
        let blocks = self.account.watch.blocks.as_ref();
        Some(ExactSummary {
            allocations: counter(Counter::Allocations),
            frees: counter(Counter::Frees),
            entry_hits: counter(Counter::EntryHits),
            return_hits: counter(Counter::ReturnHits),
            trap_ns: governor.trap_ns(),
            slow_down: governor.slow_down(),
            // The part of the places that allocate which no probe sees, if it can be told.
            hidden_share: self.coverage.as_ref().map(Coverage::inlined_share),
            lost_blocks: counter(Counter::LostBlocks),
            without_stack: counter(Counter::LostSites),
            sizes: blocks.map(|blocks| blocks.sizes.to_vec()).unwrap_or_default(),
        })
    }
}

impl Instrument for Blocks {
    fn needs(&self) -> Needs {
        Needs {
            blocks: Some(self.wanted.max_live),
            ..Needs::default()
        }
    }

    fn start(&mut self, host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<()> {
        self.account.start(host);
        Ok(())
    }

    fn follow(&mut self, change: Change, host: &Recording, kernel: &mut dyn Orders) {
        let (pid, put_in, what) = match change {
            Change::Python { pid } => (pid, self.probe(host, kernel, pid), "its allocations are not seen"),
            Change::Mapped { pid } if self.native => {
                let what = "what its C library allocates is not seen";
                (pid, self.probe_native(host, kernel, pid), what)
            }
            Change::Mapped { .. } | Change::NotPython { .. } | Change::Joined { .. } => return,
        };
        if let Err(error) = put_in {
            self.account.warn(format!("process {pid}: {error:#}; {what}"));
        }
    }

    fn turn(&mut self, host: &mut Recording, kernel: &mut dyn Orders) -> anyhow::Result<Turn> {
        self.account.take_in(host);
        Ok(match self.is_spent(kernel)? {
            true => Turn::Spent,
            false => Turn::Goes,
        })
    }

    fn stop(&mut self, host: &mut Recording, kernel: &mut dyn Orders, _recorded: Duration) -> anyhow::Result<()> {
        self.account.stop();
        host.pids().for_each(|pid| kernel.remove_target(pid, &[Group::Probes]));
        Ok(())
    }

    fn finish(&mut self, _host: &mut Recording, _kernel: &dyn Orders) {
        self.account.finish();
    }

    fn content(&mut self, _namer: &mut Namer, window: &Window, length: Duration) -> (Content, Vec<String>) {
        self.account.content(window, length)
    }

    fn tell(&self, summary: &mut Summary, content: &Content, told: &Told<'_>) {
        self.account.tell(summary, content, told, self.summary(told.counters));
    }
}

impl Tells for Blocks {
    fn opening(&self, what: &str) -> String {
        Account::opening(what)
    }

    fn picture(&self) -> Picture {
        self.account.picture()
    }

    fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        self.account.write(content, view, out)
    }

    fn write_beside(&self, content: &Content, path: &Path, out: &mut dyn io::Write) -> anyhow::Result<()> {
        self.account.write_beside(content, path, out)
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
