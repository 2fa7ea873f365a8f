//! A sampled heap: stubs in CPython's table of allocators tell of one block in so many bytes ([`crate::inject`]), and
//! probes on them give it a stack. What a block stands for, `memory::blocks` knows.

use std::{io, path::Path, time::Duration};

use anyhow::Context as _;
use profiler_common::{
    group::Group,
    python::{ALLOCATION_MALLOC, allocation_cookie},
    stats::{COUNTERS, Counter},
};

use super::account::Account;
use crate::{
    config::{Config, DEFAULT_LIVE_BLOCKS, MemoryConfig, Sampled, Target},
    inject::{
        journal::Journals,
        layout,
        placed::{Counts, Placed, Removed},
        plan::Plan,
    },
    instruments::{Change, Instrument, Needs, Picture, Tells, Told, Turn, content::Content},
    name::Namer,
    orders::{AllocationProbe, Hook, Orders},
    recording::Recording,
    report::View,
    summary::{SampledSummary, Summary},
    window::Window,
};

/// `rdi` and `rsi` in `struct pt_regs`, counted in words.
const FIRST: u32 = 14;
const SECOND: u32 = 13;

pub struct Heap {
    account: Account,
    wanted: Sampled,
    pid: Option<u32>,
    placed: Option<Placed>,
    counts: Counts,
    stops: Vec<Duration>,
    slots_left: usize,
    children_left: usize,
}

impl Heap {
    pub fn new(
        config: &Config,
        memory: &MemoryConfig,
        wanted: Sampled,
        command_pid: Option<u32>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            account: Account::new(config, memory, command_pid)?,
            wanted,
            pid: match &config.target {
                Target::Pids(pids) => pids.first().copied(),
                Target::All | Target::Command(_) => None,
            },
            placed: None,
            counts: Counts::default(),
            stops: Vec::new(),
            slots_left: 0,
            children_left: 0,
        })
    }

    fn summary(&self, counters: &[u64; COUNTERS]) -> SampledSummary {
        let counter = |counter: Counter| counters[counter as usize];
        let Counts {
            allocations,
            bytes,
            frees,
            samples,
            unremembered,
            asleep,
        } = self.counts;
        SampledSummary {
            allocations,
            allocated_bytes: bytes,
            frees,
            samples,
            bytes_per_sample: self.wanted.bytes_per_sample,
            stops_s: self.stops.iter().map(Duration::as_secs_f64).collect(),
            lost_samples: unremembered + counter(Counter::LostBlocks) + counter(Counter::LostMemoryEvents),
            without_stack: counter(Counter::LostSites),
            slots_left: self.slots_left,
            children_left: self.children_left,
            asleep,
        }
    }

    /// Takes the stubs away.
    fn remove(&mut self) {
        let Some(mut placed) = self.placed.take() else { return };
        match placed.remove() {
            Ok(Removed::All | Removed::Gone) => {}
            Ok(Removed::Except { slots }) => self.slots_left = slots,
            Err(error) => {
                let pid = self.pid.unwrap_or_default();
                let remedy = format!("the stubs stay in process {pid}, asleep: profiler undo -p {pid} removes them");
                self.account.warn(format!("{error}; {remedy}"));
            }
        }
        self.children_left = placed.children_left;
        self.counts = placed.last();
        self.stops = std::mem::take(&mut placed.stops.0);
    }
}

impl Instrument for Heap {
    fn needs(&self) -> Needs {
        Needs {
            blocks: Some(DEFAULT_LIVE_BLOCKS.min(layout::BUCKETS as u32 * 4)),
            ..Needs::default()
        }
    }

    fn start(&mut self, host: &mut Recording, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        self.account.start(host);
        let pid = self.pid.context("--sampled needs a process")?;
        // Looked at again: the user has had time to think.
        let plan = Plan::of(pid, &Journals::default())?;
        let mut placed = Placed::prepare(&plan, self.wanted.bytes_per_sample, Journals::default())
            .with_context(|| format!("nothing of what process {pid} does was changed"))?;
        let (file, born, died) = placed.probes().context("the memfd in the process cannot be opened")?;
        // Where blocks end first: one that begins between the two would never end.
        for (offset, hook, cookie) in [
            (died, Hook::Free, allocation_cookie(0, FIRST, 0)),
            (born, Hook::Sampled, allocation_cookie(ALLOCATION_MALLOC, FIRST, SECOND)),
        ] {
            let probe = AllocationProbe { offset, hook, cookie };
            kernel.attach_allocator(&file, &probe, Some(pid))?;
        }
        placed.install()?;
        self.placed = Some(placed);
        Ok(())
    }

    fn follow(&mut self, _change: Change, _host: &Recording, _kernel: &mut dyn Orders) {}

    fn turn(&mut self, host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<Turn> {
        if let Some(placed) = &mut self.placed {
            placed.allow();
        }
        self.account.take_in(host);
        Ok(Turn::Goes)
    }

    fn stop(&mut self, host: &mut Recording, kernel: &mut dyn Orders, _recorded: Duration) -> anyhow::Result<()> {
        self.account.stop();
        self.remove();
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
        self.account.tell(summary, content, told, None);
        if let Some(memory) = &mut summary.memory {
            memory.sampled = Some(self.summary(told.counters));
        }
    }
}

impl Tells for Heap {
    fn opening(&self, what: &str) -> String {
        format!(
            "sampling what {what} allocates, one block in {} on average",
            crate::humanize::bytes(self.wanted.bytes_per_sample)
        )
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
