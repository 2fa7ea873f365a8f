//! Records of the kernel side: code objects, stacks, samples and events of memory, counted by key.

use std::mem;

use profiler_common::{
    python::CodeKey,
    record::{
        BlockRecord, MEMORY_SITE, MemoryEvent, PYTHON_BAD_THREAD_STATE, PYTHON_COMPLETE, PYTHON_NO_THREAD_STATE,
        PYTHON_NONE, PYTHON_NOT_INITIALIZED, PYTHON_TORN, PYTHON_TRUNCATED, SampleHeader,
    },
};

use super::{Forgotten, Kept, MOST_STACK_BYTES, Marked, NO_SITE, NO_STACK, Recording, SampleOf};
use crate::{
    decode::{RawCode, RawRecord, RawStack},
    memory::event::{self, Event, SiteId, What},
    process::table::{CodeAt, Process},
    python::{
        code::{Code, Live},
        codes::CodeId,
        memory::ProcessMemory,
    },
    waits::account::Drawn,
};

impl Recording {
    /// Takes in a record of the kernel side.
    pub fn take(&mut self, record: RawRecord<'_>) {
        match record {
            RawRecord::Code(code) => self.take_code(&code),
            RawRecord::Stack(header, stack) => {
                // First: the stack is kept for as long as the process is.
                self.know(header.pid);
                self.take_stack(&header, stack);
                self.take_sample(&header);
            }
            RawRecord::Sample(header) => self.take_sample(&header),
            RawRecord::Definition(header, stack) => self.take_stack(&header, stack),
            RawRecord::Memory(header, event) => self.take_memory(&header, &event),
            RawRecord::Block(block) => self.take_block(&block),
            RawRecord::Call(call) => self.calls.push(call),
            RawRecord::Wait(header, event) => {
                let site = self.site_of(&header);
                let drawn = Drawn {
                    pid: header.pid,
                    tid: header.tid,
                    ended_ns: header.time_ns,
                    site,
                    gil: 0,
                    holder: None,
                    waker: None,
                    event: *event,
                };
                self.waits.push((drawn, header));
            }
            RawRecord::Stall(stall) => self.stalls.push(stall),
            RawRecord::Mark(header, event) => {
                let site = match header.stack {
                    NO_STACK => NO_SITE,
                    _ => self.site_of(&header),
                };
                self.marks.push(Marked { header, site, event });
            }
            RawRecord::Io(header, event) => {
                let site = self.site_of(&header);
                self.io.push((site, *event));
            }
            RawRecord::Began(began) => {
                self.table.rename(began.pid, began.instance);
                self.tell_python(began.pid);
            }
        }
    }

    /// Stacks as the kernel side sends them are kept so that it need not send them again. In a recording of hours most
    /// are never met again, and they would fill the memory: from time to time all are forgotten, on both sides. Their
    /// samples are resolved before, and stay.
    ///
    /// The same goes for code objects: a program that makes and drops them in a loop has new ones in each sample.
    ///
    /// Call this after everything that waited was taken in. Returns what the kernel side must forget.
    pub fn forget_stacks(&mut self) -> Forgotten {
        match self.kept.take() {
            // Those that the kernel side has numbered are referred to for good; there are no more than it has numbers.
            None if self.raw.bytes > MOST_STACK_BYTES && self.numbered.is_empty() => {
                self.kept = Some(Kept::default());
                Forgotten {
                    stacks: self.raw.stacks.values().map(|stack| stack.place).collect(),
                    codes: self
                        .table
                        .iter()
                        .flat_map(Process::code_keys)
                        .map(|(_, key)| key)
                        .collect(),
                }
            }
            None => Forgotten::default(),
            // Samples that referred to them were on their way when the kernel side forgot them, and have arrived.
            Some(kept) => {
                for process in self.table.iter_mut() {
                    self.ledger.seal(process, &self.raw.stacks);
                }
                self.raw.retain(|key, _| kept.stacks.contains(key));
                let frames = self.raw.stacks.values().flat_map(|stack| &*stack.python);
                let mut codes = kept.codes;
                codes.extend(frames.map(CodeAt::from));
                for process in self.table.iter_mut() {
                    process.keep_codes(&codes);
                }
                self.raw.ended = Vec::new();
                for process in self.table.iter_mut() {
                    process.stacks.retain(|key| self.raw.stacks.contains_key(key));
                    process.stacks.shrink_to_fit();
                }
                Forgotten::default()
            }
        }
    }

    pub(super) fn take_code(&mut self, raw: &RawCode<'_>) {
        let Some(process) = self.table.get_mut(raw.pid) else {
            return;
        };
        let Some(python) = process.python.clone() else { return };
        if !process.is_instance(raw.instance) {
            return; // Of the program that this process was before its exec.
        }
        let memory = ProcessMemory { pid: raw.pid };
        let live = Live {
            memory: &memory,
            process: &python.facts,
            fingerprint: raw.fingerprint,
        };
        let decoded = Code::from_record(raw.bytes, python.binary.format(), Some(live));
        let Ok((address, code)) = decoded else {
            self.ledger.tally.malformed += 1;
            return;
        };
        let code = self.ledger.codes.intern(code);
        let at = CodeAt {
            address,
            fingerprint: raw.fingerprint,
        };
        process.set_code(at, code);
        self.raw.insert_code(raw.pid, at);
        if let Some(kept) = &mut self.kept {
            kept.codes.insert(at);
        }
        if let (true, Some(identity)) = (self.follows_calls, raw.identity) {
            let key = CodeKey::identified(address, raw.instance, identity.get());
            self.new_codes.push((key, code));
        }
    }

    /// Reads a code object that the kernel side could not send, from the process that is this instance, if it lives.
    pub fn read_code(&mut self, key: CodeKey) -> Option<CodeId> {
        let pid = self.pid_of(key.anyone().instance)?;
        let process = self.table.get(pid)?;
        let python = process.python.as_ref()?;
        let memory = ProcessMemory { pid: process.pid };
        let code = Code::from_memory(&memory, key.address, &python.facts, python.binary.format()).ok()?;
        Some(self.ledger.codes.intern(code))
    }

    pub(super) fn take_stack(&mut self, header: &SampleHeader, stack: RawStack) {
        self.read_missing_codes(header, &stack);
        if let Some(kept) = &mut self.kept {
            kept.stacks.insert(header.stack);
        }
        let is_new = !self.raw.stacks.contains_key(&header.stack);
        if is_new {
            match self.table.get_mut(header.pid) {
                Some(process) => {
                    if let Some(error) = process.look_for_perf_map(&stack.native) {
                        self.refused_maps.insert(error.to_string());
                    }
                    process.stacks.push(header.stack);
                }
                None => self.raw.ended.push(header.stack),
            }
        }
        let before = self.raw.insert(header.stack, stack);
        if before.is_some_and(|before| self.raw.stacks.get(&header.stack) != Some(&before)) {
            self.ledger.tally.collisions += 1;
        }
    }

    /// The kernel side copies a few code objects per sample. While the process lives we can read the others ourselves, as
    /// long as they are still the ones that were sampled.
    pub(super) fn read_missing_codes(&mut self, header: &SampleHeader, stack: &RawStack) {
        let Some(process) = self.table.get_mut(header.pid) else {
            return;
        };
        let Some(python) = process.python.clone() else { return };
        let memory = ProcessMemory { pid: header.pid };
        for frame in &stack.python {
            let at = CodeAt::from(frame);
            if at.fingerprint == 0 || process.code(at).is_some() || process.unreadable_codes.contains(&at) {
                continue;
            }
            let live = Live {
                memory: &memory,
                process: &python.facts,
                fingerprint: at.fingerprint,
            };
            match live.code(at.address, python.binary.format()) {
                Ok(code) => process.set_code(at, self.ledger.codes.intern(code)),
                Err(_) => {
                    process.unreadable_codes.insert(at);
                }
            }
        }
    }

    pub(super) fn count(&mut self, header: &SampleHeader) {
        if self.counted_ns.contains(&header.time_ns) {
            let key = self.admit(header);
            self.count_as(header, key);
        }
    }

    pub(super) fn count_as(&mut self, header: &SampleHeader, key: Option<SampleOf>) {
        self.ledger.tally.ticks += 1;
        if let Some(key) = key
            && let Some(process) = self.table.get_mut(header.pid)
        {
            let counted = process.counts.entry(key).or_default();
            counted.count += 1;
            if let Some(clock) = &mut self.clock {
                clock.count(&mut counted.slices, header.time_ns);
                if clock.is_full() {
                    let waiting = self.table.iter_mut().flat_map(|process| process.counts.values_mut());
                    let lists = waiting.map(|counted| &mut counted.slices);
                    clock.shorten(lists.chain(self.ledger.times.iter_mut()));
                }
            }
        }
    }

    /// Counts a sample by how it went, and says under which key it is kept; none if it cannot be.
    pub(super) fn admit(&mut self, header: &SampleHeader) -> Option<SampleOf> {
        self.know(header.pid);
        self.ledger.tally.samples += 1;
        self.ledger.tally.first_sample_ns.get_or_insert(header.time_ns);
        self.sampled_pids.insert(header.pid);
        let Some(stack) = self.raw.stacks.get_index_of(&header.stack) else {
            self.ledger.tally.lost_stacks += 1;
            return None;
        };
        self.raw.meet(stack);
        let process = self.table.get_mut(header.pid)?;
        self.sampled += usize::from(!mem::replace(&mut process.is_sampled, true));
        let ledger = &mut self.ledger;
        let raw = &self.raw.stacks[stack];
        let thread = process
            .threads
            .meet(header.tid, header.comm, |name| ledger.meet_thread(&header.comm, name));
        let tally = &mut ledger.tally;
        // Walked by what it was before its exec. Without Python frames that does no harm.
        if header.instance != 0 && !process.is_instance(header.instance) && !raw.python.is_empty() {
            tally.stale += 1;
            return None;
        }
        match tally.native.get_mut(raw.native_status as usize) {
            Some(samples) => *samples += 1,
            None => tally.malformed += 1,
        }
        match header.python {
            PYTHON_NONE if process.python.is_some() => tally.python_unrecognized += 1,
            PYTHON_NONE => {}
            PYTHON_COMPLETE if raw.python.is_empty() => tally.python_no_frames += 1,
            PYTHON_COMPLETE => tally.python_complete += 1,
            PYTHON_TRUNCATED => tally.python_truncated += 1,
            PYTHON_TORN => tally.python_torn += 1,
            PYTHON_BAD_THREAD_STATE => tally.python_bad_state += 1,
            PYTHON_NOT_INITIALIZED => tally.python_not_initialized += 1,
            PYTHON_NO_THREAD_STATE => tally.python_no_frames += 1,
            _ => tally.malformed += 1,
        }
        process.cgroup();
        process.look_at_command(false);
        Some((stack as u32, header.tid, thread))
    }

    pub(super) fn take_memory(&mut self, header: &SampleHeader, event: &MemoryEvent) {
        if event.what == MEMORY_SITE {
            if let Some(key) = self.admit(header) {
                self.numbered.insert(event.weight, (header.pid, key));
            }
            return;
        }
        let site = if header.stack == NO_STACK {
            self.know(header.pid);
            NO_SITE
        } else {
            match self.admit(header) {
                Some(key) => self.site(header.pid, key),
                None => NO_SITE,
            }
        };
        if let Some(what) = event::what(event, site) {
            self.memory_events.push(Event {
                pid: header.pid,
                time_ns: header.time_ns,
                what,
            });
        } else {
            self.ledger.tally.malformed += 1;
        }
    }

    pub(super) fn take_block(&mut self, block: &BlockRecord) {
        // Its stack was lost, or there was no number for it.
        let numbered = self.numbered.get(&block.site).copied();
        let (pid, site) = match numbered {
            Some((pid, key)) => (pid, self.site(pid, key)),
            None => (0, NO_SITE),
        };
        let &BlockRecord {
            time_ns,
            born_ns,
            bytes,
            distance,
            ..
        } = block;
        let what = match born_ns {
            0 => What::Allocated { bytes, site },
            _ => What::Freed {
                bytes,
                site,
                born_ns,
                distance,
            },
        };
        self.memory_events.push(Event { pid, time_ns, what });
    }

    /// The number under which a stack of a thread is known until its process's facts change.
    pub(super) fn site(&mut self, pid: u32, key: SampleOf) -> SiteId {
        let Some(process) = self.table.get_mut(pid) else {
            return NO_SITE;
        };
        let sites = &mut self.ledger.sites;
        *process.sites.entry(key).or_insert_with(|| {
            sites.push(None);
            // Each takes up memory: there are never four billion.
            sites.len() as SiteId - 1
        })
    }

    /// The site of a record that refers to a stack; [`NO_SITE`] if that was lost.
    pub fn site_of(&mut self, header: &SampleHeader) -> SiteId {
        match self.admit(header) {
            Some(key) => self.site(header.pid, key),
            None => NO_SITE,
        }
    }

    pub(super) fn take_sample(&mut self, header: &SampleHeader) {
        if !self.keeps_times {
            return self.count(header);
        }
        // Admitted once, whoever wants it.
        let key = self.admit(header);
        let site = key.map_or(NO_SITE, |key| self.site(header.pid, key));
        self.timed.push((*header, site));
        if self.counts_ticks && self.counted_ns.contains(&header.time_ns) {
            self.count_as(header, key);
        }
    }
}
