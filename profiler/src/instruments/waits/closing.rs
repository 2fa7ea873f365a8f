//! The end of the recording or of a window: accounts are read, and what is under way counts up to there.

use std::{
    mem,
    path::Path,
    time::{Duration, Instant},
};

use profiler_common::{
    limits::COMM_BYTES,
    record::{SampleHeader, StackKey},
    wait::{
        EVENT_HOLDS_GIL, WAIT_DESCRIPTOR, WAIT_GATE, WAIT_GIL, WAIT_LOCK, WAIT_READY, WaitEvent, WaitSlot, WaitSum,
    },
};
use profiler_ebpf::wait::{class, slot};
use rustc_hash::FxHashMap;

use super::{Stuck, Waits, nanoseconds};
use crate::{
    cost,
    decode::RawRecord,
    process::{comm, who},
    python::memory::ProcessMemory,
    recording::{Recording, UNDER_WAY},
    waits::{account::Drawn, descriptor, held, report::Ended, stuck, threads},
};

impl Waits {
    /// The recording, or a window of it, is over. What is under way is counted up to now, and its stack read from outside.
    pub(super) fn read_accounts(&mut self, recording: &mut Recording) {
        self.take_ended(recording);
        let began_ns = cost::monotonic_ns();
        let live = self.maps.as_ref().map(|maps| maps.live()).unwrap_or_default();
        let end_ns = self.end_ns.unwrap_or_else(cost::monotonic_ns);
        self.windows.close(began_ns.min(end_ns), end_ns);
        let mut looked = Looked::default();
        let (mut stuck, mut comms) = (FxHashMap::default(), FxHashMap::default());
        for mut slot in live {
            self.own_gils.correct(&mut slot);
            if slot.out_ns != 0
                && slot.class == WAIT_LOCK
                && let Some(gil) = self.gil_waited_for(recording, slot.shown_pid, slot.call, slot.arguments[0])
            {
                self.own_gils.set((slot.shown_pid, slot.shown_tid), gil);
                slot.class = WAIT_GIL;
            }
            // In between. It is taken with those that have ended, and nothing is left of it then.
            if slot.ended_ns != 0 {
                let (part, _) = self.windows.part(&slot, None, true);
                let comm = comm_of(&slot);
                self.ended.push(ended(recording, part, None, comm));
                continue;
            }
            slot.ended_ns = end_ns;
            let stalled_ns = self.stalled_since(&slot);
            let mut under_way = None;
            if slot.in_ns != 0 {
                slot.on_cpu_ns += end_ns.saturating_sub(slot.in_ns);
                if let Some(seen) = threads::Seen::of(slot.shown_pid, slot.shown_tid) {
                    slot::split(&mut slot, seen.run_delay_ns, 0);
                }
            } else if slot.out_ns != 0 {
                let ns = end_ns.saturating_sub(slot.out_ns);
                // At a cut it is not known yet how long it will be.
                if self.end_ns.is_some() && ns < nanoseconds(self.wanted.min) {
                    slot::ignore(&mut slot, ns);
                } else {
                    under_way = Some((slot.class, ns));
                }
            }
            let (part, left) = self.windows.part(&slot, under_way, true);
            if let Some((_, ns)) = left {
                let found = self.take_unended(recording, &slot, ns, &mut looked);
                stuck.extend(found.map(|found| (slot.shown_tid, found)));
            }
            if let (Some(from_ns), Some(stalls)) = (stalled_ns, &mut self.stalls) {
                stalls.unended((slot.shown_pid, slot.shown_tid), from_ns, end_ns);
            }
            let known = self.comms.remove(&(slot.tid, slot.first_ns));
            let known = known.filter(|(_, read)| read.elapsed() < CALLED_FOR);
            let (comm, read) = known.unwrap_or_else(|| (comm_of(&slot), Instant::now()));
            comms.insert((slot.tid, slot.first_ns), (comm.clone(), read));
            let ended = ended(recording, part, left, comm);
            self.ended.push(ended);
        }
        (self.stuck, self.comms) = (stuck, comms);
        if let (Some(_), Some(maps)) = (&self.io, &self.maps) {
            self.io_totals = maps.io_totals();
        }
    }

    /// Since when the event loop of a thread has not polled, if that is too long.
    fn stalled_since(&self, slot: &WaitSlot) -> Option<u64> {
        let limit_ns = nanoseconds(self.wanted.stalls?);
        let is_polling = slot.out_ns != 0 && class::is_loop(slot.call);
        let back_ns = self.maps.as_ref()?.back_from_poll(slot.tid)?;
        (!is_polling && slot.ended_ns.saturating_sub(back_ns) >= limit_ns).then_some(back_ns)
    }

    /// Who has a GIL, by the number inside. A thread that waits neither takes it nor gives it up, so one look tells
    /// of all threads that wait, and of each for as long as it does.
    fn holder_inside(recording: &Recording, pid: u32, gil: u64) -> Option<u32> {
        let (python, _) = recording.python(pid)?;
        held::holder(python, ProcessMemory { pid }, gil)
    }

    /// A wait that is under way, of which the window has had `ns`. Returns what was found out of it.
    fn take_unended(
        &mut self,
        recording: &mut Recording,
        slot: &WaitSlot,
        ns: u64,
        looked: &mut Looked,
    ) -> Option<Stuck> {
        let (pid, tid) = (slot.shown_pid, slot.shown_tid);
        let known = self.stuck.get(&tid).copied();
        let known = known.filter(|known| known.out_ns == slot.out_ns && recording.knows(&known.header.stack));
        let age_ns = slot.ended_ns.saturating_sub(slot.out_ns);
        let is_young = known.is_none() && self.end_ns.is_none() && age_ns < nanoseconds(self.wanted.least_under_way);
        let mut event = match known {
            Some(known) => known.event,
            None => event_of(slot, if is_young { Depth::Kind } else { Depth::Target }),
        };
        (event.length_ns, event.weight_ns) = (ns, ns);
        let gil = self.gil_of(pid, tid);
        if let Some(gil) = gil
            && known.is_none()
            && !is_young
            && held::can_hold(slot.class)
        {
            let holder = looked.holders.entry((pid, gil));
            let holder = holder.or_insert_with(|| Self::holder_inside(recording, pid, gil));
            let has_gil = holder.is_some_and(|holder| threads::number_inside(pid, tid) == holder);
            event.flags |= if has_gil { EVENT_HOLDS_GIL } else { 0 };
        }
        let header = match known {
            Some(known) => Some(known.header),
            None if is_young || slot.class == WAIT_READY => None,
            None => self.read_stack(recording, slot, looked),
        };
        let site = match header {
            Some(header) => recording.site_of(&header),
            // Not looked at, or it went on while it was. Nothing that was sent is lost.
            None => UNDER_WAY,
        };
        let drawn = Drawn {
            pid,
            tid,
            ended_ns: slot.ended_ns,
            site,
            gil: gil.unwrap_or(0),
            holder: None,
            waker: None,
            event,
        };
        self.note(&drawn);
        self.account.take_unended(&drawn, &mut self.unended);
        let out_ns = slot.out_ns;
        header.map(|header| Stuck { out_ns, header, event })
    }

    /// Reads the stack of a thread that waits. While it is read, the thread must still be where it was.
    fn read_stack(&self, recording: &mut Recording, slot: &WaitSlot, looked: &mut Looked) -> Option<SampleHeader> {
        let (pid, tid) = (slot.shown_pid, slot.shown_tid);
        let memory = ProcessMemory { pid };
        let waits = |seen: threads::Seen| seen.task_state != 0 && (seen.pc, seen.sp) == (slot.pc, slot.sp);
        let still = || threads::Seen::of(pid, tid).is_some_and(waits);
        if !still() {
            return None;
        }
        let python = recording.python(pid).map(|(python, _)| python.clone());
        let stack = python.as_ref().and_then(|python| {
            let states = looked.states.entry(pid);
            let states = states.or_insert_with(|| stuck::thread_states(python, memory));
            let inside = threads::number_inside(pid, tid);
            let state = states.iter().find(|state| state.tid == inside)?;
            Some(stuck::stack(python, memory, state.thread_pointer, slot.pc, slot.sp))
        });
        let instance = python.as_ref().map_or(0, |python| python.facts.instance);
        let number = stuck::number(pid, stack.as_ref(), slot.pc);
        let raw = stuck::raw(stack, slot.pc, number);
        if !still() {
            return None;
        }
        let read = header(slot, instance, &raw, stuck::key(number));
        recording.take(RawRecord::Definition(read, raw));
        Some(read)
    }
}

/// How long the kernel's name of a thread is believed.
const CALLED_FOR: Duration = Duration::from_secs(10);

/// What the kernel calls a thread.
pub(super) fn comm_of(slot: &WaitSlot) -> String {
    comm::shown(&threads::comm(slot.shown_pid, slot.shown_tid))
}

/// What was found out of processes at this cut.
#[derive(Default)]
struct Looked {
    states: FxHashMap<u32, Vec<stuck::ThreadState>>,
    /// Who has each GIL of a process, by the number inside.
    holders: FxHashMap<(u32, u64), Option<u32>>,
}

/// How much is asked of what a thread waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// What kind of thing it is.
    Kind,
    /// Which, and whose.
    Target,
}

/// A wait that is under way.
fn event_of(slot: &WaitSlot, depth: Depth) -> WaitEvent {
    let pid = slot.shown_pid;
    let mut event = WaitEvent {
        class: slot.class,
        task_state: slot.task_state,
        call: slot.call,
        arguments: slot.arguments,
        ..WaitEvent::default()
    };
    match depth {
        Depth::Kind if slot.class == WAIT_DESCRIPTOR => {
            descriptor::look_at(pid, &ProcessMemory { pid }, &mut event);
        }
        Depth::Target if slot.class == WAIT_DESCRIPTOR || descriptor::has_one(slot.call) => {
            descriptor::look_up(pid, &ProcessMemory { pid }, &mut event);
        }
        Depth::Kind | Depth::Target => {}
    }
    event
}

/// `comm`: what the kernel calls the thread.
pub(super) fn ended(
    recording: &mut Recording,
    mut slot: WaitSlot,
    unended_ns: Option<(u32, u64)>,
    comm: String,
) -> Ended {
    // A command's time begins when it does.
    let gate: WaitSum = mem::take(&mut slot.sums[WAIT_GATE as usize]);
    slot.first_ns += gate.ns;
    let pid = slot.shown_pid;
    let command = match recording.command(pid) {
        command if command.is_empty() => who::process(Path::new("/proc"), pid),
        command => command,
    };
    Ended {
        comm,
        command,
        unended_ns,
        slot,
    }
}

fn header(slot: &WaitSlot, instance: u32, raw: &crate::decode::RawStack, stack: StackKey) -> SampleHeader {
    let name = threads::comm(slot.shown_pid, slot.shown_tid);
    let mut comm = [0; COMM_BYTES];
    for (to, from) in comm.iter_mut().take(COMM_BYTES - 1).zip(name) {
        *to = from;
    }
    SampleHeader {
        kind: 0,
        cpu: 0,
        pid: slot.shown_pid,
        tid: slot.shown_tid,
        time_ns: slot.ended_ns,
        stack,
        comm,
        instance,
        python: raw.python_status,
    }
}
