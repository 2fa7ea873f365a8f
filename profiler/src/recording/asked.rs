//! What instruments and reports ask of it, and take out of it.

use std::{mem, path::PathBuf};

use profiler_common::{
    python::CodeKey,
    record::{CallRecord, PythonFrame, SampleHeader, StackKey},
    wait::{IoEvent, StallRecord},
};

use super::{Ended, Fact, Held, Marked, Recording, Scope};
use crate::{
    memory::event::{Event, SiteId},
    process,
    process::{files::FileId, pythons::PythonIn, table::Process},
    python::codes::CodeId,
    tally::Tally,
    waits::account::Drawn,
};

impl Recording {
    /// What the kernel side must be told since the last call.
    pub fn drain_facts(&mut self) -> Vec<Fact> {
        let mut facts = mem::take(&mut self.facts);
        for pid in self.remapped.drain().filter(|_| self.unwinds) {
            if let Some(process) = self.table.get(pid) {
                let mappings = process.unwind_mappings();
                facts.push(Fact::Mappings { pid, mappings });
            }
        }
        facts
    }

    /// The CPython of a process, and its file.
    pub fn python(&self, pid: u32) -> Option<(&PythonIn, &process::files::File)> {
        let python = self.table.get(pid)?.python.as_ref()?;
        Some((python, self.files.get(python.file)))
    }

    /// When a process was forked or exec'ed (CLOCK_MONOTONIC), if that was in the recording.
    pub fn began_ns(&self, pid: u32) -> Option<u64> {
        self.table.get(pid)?.began_ns
    }

    /// Processes that were CPython and are no more, since the last time, for those who follow calls.
    pub fn drain_ended(&mut self) -> Vec<Ended> {
        mem::take(&mut self.ended)
    }

    /// The files that a process has mapped as code.
    pub fn files_of(&self, pid: u32) -> impl Iterator<Item = (FileId, &process::files::File)> {
        let process = self.table.get(pid);
        process
            .into_iter()
            .flat_map(Process::files)
            .map(|id| (id, self.files.get(id)))
    }

    /// The processes that are known now.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.table.iter().map(|process| process.pid)
    }

    /// Code objects of a process that are known, and where they are.
    pub fn codes_of(&self, pid: u32) -> impl Iterator<Item = (u64, CodeId)> {
        self.table.get(pid).into_iter().flat_map(Process::codes)
    }

    /// The process that is this instance now.
    pub fn pid_of(&self, instance: u64) -> Option<u32> {
        let instance = u32::try_from(instance).ok()?;
        let own = self.table.iter().find(|process| process.instance == instance);
        let process = own.or_else(|| self.table.iter().find(|process| process.is_instance(instance)))?;
        Some(process.pid)
    }

    /// What a process runs; empty if it is gone.
    pub fn command(&mut self, pid: u32) -> String {
        let process = self.table.get_mut(pid);
        process.map_or_else(String::new, |process| process.command())
    }

    /// A process's name; empty if it is gone.
    pub fn comm(&self, pid: u32) -> &str {
        self.table.get(pid).map_or("", |process| &process.comm)
    }

    /// Whether every process named by the user is gone.
    pub fn has_no_targets(&self) -> bool {
        matches!(&self.scope, Scope::Pids { pids, .. } if pids.is_empty())
    }

    /// Processes that samples were taken of.
    pub fn sampled_processes(&self) -> usize {
        self.sampled_pids.len()
    }

    /// Files that could not be opened.
    pub fn unopened(&self) -> Vec<PathBuf> {
        self.files.unopened().map(|file| file.path.clone()).collect()
    }

    /// Why the interpreter of a process is refused, if it is.
    pub fn refusal_of(&self, pid: u32) -> Option<&str> {
        let mut refused = self.refused.iter();
        refused.find_map(|(reason, pids)| pids.contains(&pid).then_some(&**reason))
    }

    /// What is held on to from one window to the next.
    pub fn held(&self) -> Held {
        Held {
            processes: self.table.iter().count(),
            files: self.files.iter().count(),
            file_ids: self.files.ids(),
            codes: self.ledger.codes.len(),
            stacks: self.raw.stacks.len(),
            stack_bytes: self.raw.bytes,
        }
    }

    /// Processes that samples were taken of, in all windows.
    pub fn sampled_in_all(&self) -> usize {
        self.sampled
    }

    /// Samples that were taken, in all windows.
    pub fn samples(&self) -> u64 {
        self.before.samples + self.ledger.tally.samples
    }

    /// What was counted, in all windows.
    pub fn tally(&self) -> Tally {
        let mut tally = self.before.clone();
        tally.add(&self.ledger.tally);
        tally
    }

    /// Calls that have ended since the last time, and code objects that became known.
    pub fn drain_calls(&mut self) -> (Vec<CallRecord>, Vec<(CodeKey, CodeId)>) {
        (mem::take(&mut self.calls), mem::take(&mut self.new_codes))
    }

    /// Whether a stack of this key has come, and was not forgotten since.
    pub fn knows(&self, stack: &StackKey) -> bool {
        self.raw.stacks.contains_key(stack)
    }

    /// Whether anything is known of a process.
    pub fn knows_process(&self, pid: u32) -> bool {
        self.table.get(pid).is_some()
    }

    /// Waits that were drawn since the last call, and the headers of their records.
    pub fn drain_waits(&mut self) -> Vec<(Drawn, SampleHeader)> {
        mem::take(&mut self.waits)
    }

    /// Samples since the last call, and where each was, if they are told one by one.
    pub fn drain_timed(&mut self) -> Vec<(SampleHeader, SiteId)> {
        mem::take(&mut self.timed)
    }

    /// What probes have told since the last call that is of these kinds (`MARK_…`), in order of time. Others are for who asks
    /// for them.
    pub fn drain_marks(&mut self, kinds: &[u32]) -> Vec<Marked> {
        let marks = mem::take(&mut self.marks).into_iter();
        let (asked, others) = marks.partition(|marked| kinds.contains(&marked.event.what));
        self.marks = others;
        asked
    }

    /// The Python frames of a stack, the innermost first, if it is known (still).
    pub fn frames(&self, stack: &StackKey) -> Option<&[PythonFrame]> {
        Some(&self.raw.stacks.get(stack)?.python)
    }

    /// Stalls of event loops since the last call. What happened in them was drained before, or is to be now.
    pub fn drain_stalls(&mut self) -> Vec<StallRecord> {
        mem::take(&mut self.stalls)
    }

    /// Calls that move data, and were drawn since the last call.
    pub fn drain_io(&mut self) -> Vec<(SiteId, IoEvent)> {
        mem::take(&mut self.io)
    }

    /// What happened to memory since the last call, in order of time, process events included.
    pub fn drain_memory_events(&mut self) -> Vec<Event> {
        mem::take(&mut self.memory_events)
    }
}
