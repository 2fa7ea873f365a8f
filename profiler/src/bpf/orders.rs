//! How orders are carried out.

use std::{os::fd::AsFd as _, thread};

use anyhow::Context as _;
use aya::programs::{PerfEvent, UProbe, uprobe::UProbeLink};
use profiler_common::{
    names,
    python::{CallCount, CallFacts, CodeKey, ExpectedPython, IS_CHOSEN, NOT_CHOSEN, PoolFacts, Watch, WatchKey},
    stats::Counter,
};

use super::{HOOKS, Kernel, attach, program, watch::WatchLink};
use crate::{
    orders::{AllocationProbe, Breakpoint, CallPlace, Held, Orders, ThreadAccounts},
    process::file::MappedFile,
    source::online_cpus,
};

/// Dropped, it takes its probe away.
struct HeldProbe(#[expect(dead_code, reason = "held for its drop")] UProbeLink);

impl Held for HeldProbe {}

impl Orders for Kernel {
    fn counter(&self, counter: Counter) -> anyhow::Result<u64> {
        let values = self
            .stats
            .get(&(counter as u32), 0)
            .context("failed to read map STATS")?;
        Ok(values.iter().sum())
    }

    fn remove_target(&mut self, pid: u32) {
        // Not there: that is what was wanted.
        let _ = self.target_pids.remove(&pid);
    }

    fn set_pool_facts(&mut self, pid: u32, facts: &PoolFacts) -> anyhow::Result<()> {
        self.pool_facts
            .insert(pid, facts, 0)
            .context("failed to write map POOL_FACTS")
    }

    fn attach_pools(&mut self, file: &MappedFile, offset: u64, pid: Option<u32>) -> anyhow::Result<()> {
        let program: &mut UProbe = program(&mut self.ebpf, names::PROGRAM_POOL)?;
        self.probes.push(attach::offset(program, file, offset, None, pid)?);
        Ok(())
    }

    fn attach_allocator(&mut self, file: &MappedFile, probe: &AllocationProbe, pid: Option<u32>) -> anyhow::Result<()> {
        let program: &mut UProbe = program(&mut self.ebpf, HOOKS[probe.hook as usize])?;
        let link = attach::offset(program, file, probe.offset, Some(probe.cookie), pid)?;
        self.probes.push(link);
        Ok(())
    }

    fn attach_calls(&mut self, file: &MappedFile, places: &[CallPlace], pid: Option<u32>) -> anyhow::Result<()> {
        let Some([probe, on_return]) = &self.multi else {
            return places.iter().try_for_each(|place| self.attach_call(file, place, pid));
        };
        for (program, returns) in [(on_return, true), (probe, false)] {
            let these = places.iter().filter(|place| place.returns == returns);
            let these: Vec<_> = these.map(|place| (place.offset, place.cookie)).collect();
            if !these.is_empty() {
                self.together.push(program.attach(file, &these, pid)?);
            }
        }
        Ok(())
    }

    fn set_call_facts(&mut self, pid: u32, facts: &CallFacts) -> anyhow::Result<()> {
        self.call_facts
            .insert(pid, facts, 0)
            .context("failed to write map CALL_FACTS")
    }

    fn expect_calls(&mut self, file: u8, expected: &ExpectedPython) -> anyhow::Result<()> {
        self.expected
            .insert(u32::from(file), expected, 0)
            .context("failed to write map EXPECTED")
    }

    fn remove_all_call_facts(&mut self) {
        // The other way around, a probe that is hit in between would put back what is taken away.
        for file in self.expected.keys().filter_map(Result::ok).collect::<Vec<_>>() {
            let _ = self.expected.remove(&file);
        }
        for pid in self.call_facts.keys().filter_map(Result::ok).collect::<Vec<_>>() {
            let _ = self.call_facts.remove(&pid);
        }
    }

    fn choose(&mut self, code: CodeKey, is_chosen: bool) -> anyhow::Result<()> {
        let value = if is_chosen { IS_CHOSEN } else { NOT_CHOSEN };
        self.chosen.insert(code, value, 0).context("failed to write map CHOSEN")
    }

    fn calls(&self) -> Vec<(CodeKey, CallCount)> {
        self.calls.iter().filter_map(Result::ok).collect()
    }

    fn calls_under_way(&self) -> Vec<u64> {
        // As many as there can be: the kernel begins anew where one is removed that it has just handed out.
        const MOST: usize = 64 * 1024;
        let starts = self.starts.iter().take(MOST).filter_map(Result::ok);
        starts
            .filter(|(_, start)| start.watched == 0)
            .map(|(_, start)| start.code)
            .collect()
    }

    /// Takes away what stops processes at instructions. They stop no more when this returns, or soon after. Each then waits
    /// until no CPU is inside its probe (120 ms on Linux 6.18, one after the other), which nobody else has to.
    fn detach_probes(&mut self) {
        for link in self.together.drain(..) {
            self.leaving
                .extend(thread::Builder::new().spawn(move || drop(link)).ok());
        }
        for probe in self.probes.drain(..) {
            // Where there are no more threads to be had, it is dropped here.
            self.leaving
                .extend(thread::Builder::new().spawn(move || drop(probe)).ok());
        }
    }

    fn probes_are_gone(&mut self) -> bool {
        self.leaving.retain(|leaving| !leaving.is_finished());
        self.leaving.is_empty()
    }

    fn attach_nothing(&mut self, file: &MappedFile, offset: u64, pid: u32) -> anyhow::Result<Box<dyn Held>> {
        let program: &mut UProbe = program(&mut self.ebpf, names::PROGRAM_NOTHING)?;
        let link = attach::offset(program, file, offset, None, Some(pid))?;
        Ok(Box::new(HeldProbe(link)))
    }

    fn attach_watch(&mut self, address: u64) -> anyhow::Result<Box<dyn Breakpoint>> {
        let program: &mut PerfEvent = program(&mut self.ebpf, names::PROGRAM_WATCH)?;
        let program = program.fd()?.as_fd();
        let events = online_cpus()?
            .into_iter()
            .map(|cpu| attach::watch(program, cpu, address));
        Ok(Box::new(WatchLink {
            events: events.collect::<anyhow::Result<_>>()?,
        }))
    }

    fn set_watch(&mut self, key: WatchKey, watch: &Watch) -> anyhow::Result<()> {
        self.watches
            .insert(key, watch, 0)
            .context("failed to write map WATCHES")
    }

    fn remove_watch(&mut self, key: WatchKey) {
        // Not there: that is what was wanted.
        let _ = self.watches.remove(&key);
    }

    fn thread_accounts(&mut self) -> Option<Box<dyn ThreadAccounts>> {
        Some(Box::new(self.waits.take()?))
    }
}

impl Kernel {
    fn attach_call(&mut self, file: &MappedFile, place: &CallPlace, pid: Option<u32>) -> anyhow::Result<()> {
        let name = if place.returns {
            names::PROGRAM_CALL_RETURN
        } else {
            names::PROGRAM_CALL_PROBE
        };
        let program: &mut UProbe = program(&mut self.ebpf, name)?;
        let link = attach::offset(program, file, place.offset, Some(place.cookie), pid)?;
        self.probes.push(link);
        Ok(())
    }
}
