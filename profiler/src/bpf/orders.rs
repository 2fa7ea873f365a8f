//! How orders are carried out.

use std::{
    os::fd::AsFd as _,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::Context as _;
use aya::programs::{PerfEvent, RawTracePoint, UProbe, raw_trace_point::RawTracePointLink, uprobe::UProbeLink};
use profiler_common::{
    group::Group,
    mark::Unwinding,
    names,
    python::{
        CallCount, CallFacts, CodeKey, ExpectedPython, GilFacts, IS_CHOSEN, MemoryErrors, NOT_CHOSEN, PoolFacts, Watch,
        WatchKey,
    },
    stats::Counter,
};

use super::{HOOKS, Kernel, attach, program, waits, watch::WatchLink};
use crate::{
    orders::{AllocationProbe, Breakpoint, CallPlace, Held, MarkPlace, Orders, ThreadAccounts, Watchpoints},
    process::file::MappedFile,
    python::memory_error::MemoryErrorPlaces,
    source::online_cpus,
};

/// Dropped, it takes its probe away.
struct HeldProbe(#[expect(dead_code, reason = "held for its drop")] UProbeLink);

impl Held for HeldProbe {}

/// Dropped, it takes its probe away on a thread of its own: that waits until no CPU is inside the probe (120 ms on 6.18).
/// `Kernel::detach_all` waits for those threads: when the recording is told to be over, no probe is left.
struct HeldApart<L: Send + 'static = UProbeLink> {
    links: Vec<L>,
    threads: LeavingApart,
}

/// Threads that take probes away.
pub(super) type LeavingApart = Arc<Mutex<Vec<JoinHandle<()>>>>;

impl<L: Send> Held for HeldApart<L> {}

impl<L: Send> Drop for HeldApart<L> {
    fn drop(&mut self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        for link in self.links.drain(..) {
            // Where there are no more threads to be had, it is dropped here.
            threads.extend(thread::Builder::new().spawn(move || drop(link)).ok());
        }
    }
}

impl Kernel {
    /// These programs at their raw tracepoints, for as long as it is held.
    fn hold(&mut self, programs: &[(&str, &str)]) -> anyhow::Result<Box<dyn Held>> {
        let mut held = HeldApart::<RawTracePointLink> {
            links: Vec::with_capacity(programs.len()),
            threads: Arc::clone(&self.leaving_apart),
        };
        for (name, tracepoint) in programs {
            let program: &mut RawTracePoint = program(&mut self.ebpf, name)?;
            let link = program
                .attach(tracepoint)
                .with_context(|| format!("failed to attach `{name}` to the tracepoint {tracepoint}"))?;
            held.links.push(program.take_link(link)?);
        }
        Ok(Box::new(held))
    }
}

impl Orders for Kernel {
    fn counter(&self, counter: Counter) -> anyhow::Result<u64> {
        self.counted(0..self.contexts, counter)
    }

    fn counter_of(&self, group: Group, counter: Counter) -> anyhow::Result<u64> {
        self.counted(group.slots(), counter)
    }

    fn remove_target(&mut self, pid: u32, groups: &[Group]) {
        let Ok(before) = self.target_pids.get(&pid, 0) else {
            return; // Not there: that is what was wanted.
        };
        let left = groups.iter().fold(before, |left, group| left & !group.bit());
        // It may have gone meanwhile.
        let _ = match left {
            0 => self.target_pids.remove(&pid),
            left => self.target_pids.insert(pid, left, 0),
        };
    }

    fn set_gil(&mut self, pid: u32, facts: Option<&GilFacts>) -> anyhow::Result<()> {
        match facts {
            Some(facts) => self.gils.insert(pid, facts, 0).context("failed to write map GILS"),
            None => {
                // Not there: that is what was wanted.
                let _ = self.gils.remove(&pid);
                Ok(())
            }
        }
    }

    fn set_pool_facts(&mut self, pid: u32, facts: &PoolFacts) -> anyhow::Result<()> {
        self.pool_facts
            .insert(pid, facts, 0)
            .context("failed to write map POOL_FACTS")
    }

    fn attach_pools(&mut self, file: &MappedFile, offset: u64, pid: Option<u32>) -> anyhow::Result<Box<dyn Held>> {
        let program: &mut UProbe = program(&mut self.ebpf, names::PROGRAM_POOL)?;
        let link = attach::offset(program, file, offset, None, pid)?;
        Ok(Box::new(HeldApart {
            links: vec![link],
            threads: Arc::clone(&self.leaving_apart),
        }))
    }

    fn attach_memory_errors(
        &mut self,
        file: &MappedFile,
        places: &MemoryErrorPlaces,
        pid: Option<u32>,
    ) -> anyhow::Result<Box<dyn Held>> {
        let mut held = HeldApart {
            links: Vec::new(),
            threads: Arc::clone(&self.leaving_apart),
        };
        for (name, offset) in [
            (names::PROGRAM_NO_MEMORY, places.raised),
            (names::PROGRAM_MEMORY_ERROR, places.made),
        ] {
            let Some(offset) = offset else { continue };
            let program: &mut UProbe = program(&mut self.ebpf, name)?;
            held.links.push(attach::offset(program, file, offset, None, pid)?);
        }
        Ok(Box::new(held))
    }

    fn set_memory_error(&mut self, pid: u32, class: u64) -> anyhow::Result<()> {
        let errors = MemoryErrors { class, last_ns: 0 };
        self.memory_errors
            .insert(pid, errors, 0)
            .context("failed to write map MEMORY_ERRORS")
    }

    fn attach_marks(
        &mut self,
        file: &MappedFile,
        places: &[MarkPlace],
        pid: Option<u32>,
    ) -> anyhow::Result<Box<dyn Held>> {
        let mut held = HeldApart {
            links: Vec::with_capacity(places.len()),
            threads: Arc::clone(&self.leaving_apart),
        };
        for place in places {
            let name = match place.returns {
                true => names::PROGRAM_MARK_RETURN,
                false => names::PROGRAM_MARK,
            };
            let program: &mut UProbe = program(&mut self.ebpf, name)?;
            held.links
                .push(attach::offset(program, file, place.offset, Some(place.cookie), pid)?);
        }
        Ok(Box::new(held))
    }

    fn unwinding(&self) -> Vec<(u32, Unwinding)> {
        self.unwinding.iter().filter_map(Result::ok).collect()
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
        let mut apart = self.leaving_apart.lock().unwrap_or_else(PoisonError::into_inner);
        apart.retain(|leaving| !leaving.is_finished());
        self.leaving.is_empty() && apart.is_empty()
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

    fn attach_loops(&mut self) -> anyhow::Result<Box<dyn Held>> {
        self.hold(&[waits::POLL])
    }

    fn attach_io(&mut self) -> anyhow::Result<Box<dyn Held>> {
        self.hold(&waits::IO)
    }

    fn watchpoints(&mut self) -> Option<Box<dyn Watchpoints>> {
        Some(Box::new(self.births.take()?))
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
