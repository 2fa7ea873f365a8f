//! What comes from the kernel side while it runs.

use std::{mem, time::Instant};

use profiler_common::{
    group::Group,
    limits::COMM_BYTES,
    record::{PYTHON_COMPLETE, SampleHeader, StackKey},
    stats::Counter,
    wait::{WAIT_GATE, WAIT_GIL, WAIT_LOCK, WaitEvent},
};

use super::{
    LOOK_FOR_ENDED, MOST_ENDED, MOST_NUMBERS, Waits,
    closing::{comm_of, ended},
};
use crate::{
    cost,
    memory::event::SiteId,
    orders::Orders,
    python::memory::ProcessMemory,
    recording::{NO_SITE, Recording},
    waits::{
        account::{Drawn, apart},
        cause::Cause,
        held::Span,
        report::Ended,
        stuck, threads,
        waker::Who,
    },
};

impl Waits {
    pub(super) fn take_in(&mut self, recording: &mut Recording) {
        if self.shows_time {
            self.account.follow_time(recording.slices_from_ns());
        }
        if !self.windows.is_closing() {
            for (mut drawn, header) in mem::take(&mut self.later) {
                // Its number was the last window's.
                drawn.site = recording.site_of(&header);
                self.take(recording, drawn, &header);
            }
        }
        for (drawn, header) in recording.drain_waits() {
            if self.windows.is_of_next(drawn.tid, header.time_ns) {
                self.later.push((drawn, header));
            } else {
                self.take(recording, drawn, &header);
            }
        }
        self.take_loops(recording);
        if let Some(io) = &mut self.io {
            for (site, event) in recording.drain_io() {
                io.take(site, &event);
            }
        }
        for pid in mem::take(&mut self.without_gil) {
            self.know(recording, pid);
        }
        // Nobody knows whose threads the kernel side meets.
        if let Some(maps) = self.maps.as_mut().filter(|_| self.lazy) {
            maps.set_gil(&|pid, tid| self.own_gils.of((pid, tid)).or_else(|| self.gils.get(&pid).copied()));
        } else if let Some(maps) = self.maps.as_mut().filter(|_| self.moved) {
            maps.set_gil(&|pid, tid| self.own_gils.of((pid, tid)));
        }
        self.moved = false;
        // Accounts were read just now: who has ended since did so in the next window.
        let is_due = self
            .looked_for_ended
            .is_none_or(|then| then.elapsed() >= LOOK_FOR_ENDED);
        if is_due && !self.windows.is_closing() {
            self.take_ended(recording);
        }
    }

    pub(super) fn take_ended(&mut self, recording: &mut Recording) {
        self.looked_for_ended = Some(Instant::now());
        let slots = self.maps.as_mut().map(|maps| maps.take_ended()).unwrap_or_default();
        for mut slot in slots {
            self.own_gils.correct(&mut slot);
            self.own_gils.forget((slot.shown_pid, slot.shown_tid));
            let (part, _) = self.windows.part(&slot, None, false);
            let comm = comm_of(&slot);
            let ended = ended(recording, part, None, comm);
            self.totals.threads += 1;
            self.end(ended);
        }
    }

    pub(super) fn take(&mut self, recording: &mut Recording, mut drawn: Drawn, header: &SampleHeader) {
        if drawn.event.class == WAIT_GATE {
            return;
        }
        self.recognize(recording, &mut drawn);
        self.windows.clip(drawn.tid, header.time_ns, &mut drawn.event);
        drawn.holder = self.holder(recording, &drawn.event, header);
        drawn.waker = Who::of(recording, &drawn.event.waker, header);
        self.account.take(&drawn);
        self.note(&drawn);
    }

    /// A wait that the kernel side took for one for a lock may be for the GIL of a sub-interpreter.
    fn recognize(&mut self, recording: &Recording, drawn: &mut Drawn) {
        let (pid, tid, event) = (drawn.pid, drawn.tid, &mut drawn.event);
        if event.class == WAIT_LOCK
            && let Some(gil) = self.gil_waited_for(recording, pid, event.call, event.arguments[0])
        {
            event.class = WAIT_GIL;
            self.own_gils.counted((pid, tid), event);
            self.own_gils.set((pid, tid), gil);
            self.moved = true;
        }
        drawn.gil = self.gil_of(pid, tid).unwrap_or(0);
    }

    /// The GIL that a futex is in.
    pub(super) fn gil_waited_for(&mut self, recording: &Recording, pid: u32, call: u32, futex: u64) -> Option<u64> {
        let (python, _) = recording.python(pid)?;
        self.own_gils.waited_for(pid, python, call, futex)
    }

    /// Where the thread was that had the GIL.
    fn holder(&mut self, recording: &mut Recording, event: &WaitEvent, header: &SampleHeader) -> Option<SiteId> {
        if event.holder_state == 0 {
            return None;
        }
        let pid = header.pid;
        let (python, _) = recording.python(pid)?;
        let inside = stuck::tid_of(python, ProcessMemory { pid }, event.holder_state)?;
        // It was the last one to let go of it, too: who had it meanwhile is not known.
        if inside == threads::number_inside(pid, header.tid) {
            return None;
        }
        if self.numbers.len() > MOST_NUMBERS {
            self.numbers.clear();
        }
        let number = self.numbers.entry((pid, inside));
        let tid = (*number.or_insert_with(|| threads::number_outside(pid, inside)))?;
        let mut name = [0; COMM_BYTES];
        for (to, from) in name.iter_mut().take(COMM_BYTES - 1).zip(threads::comm(pid, tid)) {
            *to = from;
        }
        let holder = SampleHeader {
            tid,
            stack: StackKey {
                hash: event.holder_stack,
            },
            comm: name,
            python: PYTHON_COMPLETE,
            ..*header
        };
        Some(recording.site_of(&holder)).filter(|&site| site != NO_SITE)
    }

    /// Of a wait that may be part of a stall.
    pub(super) fn note(&mut self, drawn: &Drawn) {
        let Some(stalls) = &mut self.stalls else { return };
        let (id, cause) = ((drawn.pid, drawn.tid), Cause::of(&drawn.event));
        let (ready_ns, throttled_ns) = apart(&drawn.event);
        let itself_ns = drawn.event.length_ns.saturating_sub(ready_ns + throttled_ns);
        // It waits for a CPU when what it waited for is over.
        let mut ended_ns = drawn.ended_ns;
        for (cause, ns) in [
            (Cause::Ready, ready_ns),
            (Cause::Throttled, throttled_ns),
            (cause, itself_ns),
        ] {
            if ns > 0 {
                stalls.waited(id, Span::ending(ended_ns, ns), cause, drawn.site);
            }
            ended_ns = ended_ns.saturating_sub(ns);
        }
    }

    fn take_loops(&mut self, recording: &mut Recording) {
        let Some(stalls) = &mut self.stalls else { return };
        for (header, site) in recording.drain_timed() {
            stalls.ran((header.pid, header.tid), header.time_ns, site);
        }
        for stall in recording.drain_stalls() {
            stalls.ended(&stall);
        }
    }

    /// Keeps the account of a thread that has ended.
    pub(super) fn end(&mut self, ended: Ended) {
        if self.ended.len() < MOST_ENDED {
            self.ended.push(ended);
            return;
        }
        // 0 is no thread's number.
        let pid = ended.slot.shown_pid;
        let together =
            (self.ended.iter_mut().rev()).find(|other| (other.slot.shown_pid, other.slot.shown_tid) == (pid, 0));
        match together {
            Some(others) => others.add(&ended),
            None => {
                let mut others = ended;
                others.slot.shown_tid = 0;
                others.comm = "other threads".to_owned();
                self.ended.push(others);
            }
        }
    }

    /// Draws fewer when there are many stacks, and more when there are few.
    pub(super) fn choose_target(&mut self, kernel: &dyn Orders) -> anyhow::Result<()> {
        let now_ns = cost::monotonic_ns();
        if !self.budget.is_due(now_ns) && !self.io_budget.is_due(now_ns) {
            return Ok(());
        }
        // Who asks for calls pays for them: small ones are told by line only if they are drawn.
        let spent_ns = kernel.counter_of(Group::Waits, Counter::RunTimeNs)?;
        let waits = !self.wanted.every_wait && self.budget.choose(self.account.received, spent_ns, now_ns);
        let io = (self.io.as_ref()).is_some_and(|io| self.io_budget.choose(io.received, 0, now_ns));
        if waits {
            self.numbers.clear();
        }
        let control = self.control();
        if let Some(maps) = self.maps.as_mut().filter(|_| waits || io) {
            maps.set_control(control);
        }
        Ok(())
    }
}
