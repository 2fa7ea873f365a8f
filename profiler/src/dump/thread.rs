//! Reading the threads of a process.
//!
//! Nothing is stopped for it. A thread that waits cannot change its frames: if it has not run in between (the kernel
//! counts how often a thread gets a CPU), what was read is of one moment. A thread that runs is read from the CPU that it
//! runs on, where it cannot run meanwhile ([`place`]), with the same proof. Idle CPUs take it away from there, so that is
//! tried several times. Where it may not be, or never is met, its frames are read at one [`instant`](super::instant): a
//! program that leaves a function and is back within some microseconds can be wrong there, so this is marked, and of what
//! moved what two readings have in common is shown.

use std::{
    io,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    chain::{Chain, Reader},
    descriptor::Descriptors,
    frame::{Codes, Frame},
    look::{self, Look},
    place::{self, Place},
    sampled::{Event, Sampler, UserStack},
    since::Clocks,
    state::{Around, Holder, State},
    states,
};
use crate::{
    process::pythons::PythonIn,
    python::{
        activity::Activity,
        memory::{Paged, ReadMemory},
    },
    waits::threads,
};

/// How often a thread is read that does not hold still.
const MOST_READS: usize = 25;

/// How long one thread is waited for until it has given up a CPU, to be sampled, and all of a process.
const SAMPLING: Duration = Duration::from_millis(60);
const ALL_SAMPLING: Duration = Duration::from_millis(400);

/// After so many, one that runs is read without proof. It was met at the first in 9 of 10 cases, on two CPUs.
const PROVEN_READS: usize = 20;

/// A thread, as it was at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Thread {
    pub tid: u32,
    /// What the program knows it by (`threading.get_ident`); 0 of a thread without Python.
    pub ident: u64,
    /// What the program calls it.
    pub name: Option<String>,
    /// What the kernel calls it.
    pub comm: String,
    pub state: State,
    /// How long it waits; `None` if it does not, or the kernel does not tell.
    pub since_ns: Option<u64>,
    pub owns_gil: bool,
    pub is_collecting: bool,
    /// The type of the exception that it is handling.
    pub handles: Option<String>,
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// Native frames, innermost first; none if they were not asked for, or cannot be had.
    pub native: Vec<Native>,
    /// Of a thread that runs: what its native frames are made of.
    pub sample: Sample,
    /// Frames are missing towards the root.
    pub is_cut: bool,
    /// Whether all of it is of one moment.
    pub held_still: bool,
    /// How often it had got a CPU.
    pub slices: u64,
    /// Of a core file: the signal that the process died of, which this thread got.
    pub died_of: Option<u32>,
    /// It has not run between the first look and this one (`--repeat`).
    pub has_not_run: bool,
}

/// What is known of the native frames of a thread that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sample {
    /// They were not asked for, or it waits.
    #[default]
    None,
    /// They are of the moment of the Python frames.
    Met(Stack),
    /// They are of another.
    Later(Stack),
    /// They cannot be had: why.
    Missing(String),
}

/// Until it has become frames.
pub type Stack = Option<Box<UserStack>>;

impl Sample {
    /// The stack, of which frames are made.
    pub fn take(&mut self) -> Stack {
        match self {
            Self::Met(stack) | Self::Later(stack) => stack.take(),
            Self::None | Self::Missing(_) => None,
        }
    }
}

/// A native frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Native {
    /// Empty if its file has no name for it.
    pub function: String,
    /// The mapped file.
    pub file: String,
    pub address: u64,
    /// It is the evaluation loop, which runs Python frames.
    pub is_loop: bool,
}

impl Thread {
    /// Forgets frames that are not in `chain`, as far as it moved meanwhile: `gone` links, and what was read of those
    /// that are left but for their place.
    fn forget(&mut self, gone: usize, chain: &Chain) {
        if gone > 0 {
            self.is_cut |= chain.links.is_empty();
            self.frames.retain(|frame| chain.links.contains(&frame.link));
        }
    }

    /// Whether it has run Python.
    pub fn is_python(&self) -> bool {
        self.ident != 0
    }
}

/// What is used to read the threads of one process. `pid` is 0 of one that does not live: /proc has nothing of it.
pub struct Process<'a> {
    pub pid: u32,
    pub memory: &'a dyn ReadMemory,
    pub python: Option<&'a PythonIn>,
    pub tids: &'a [u32],
    pub states: &'a [states::State],
    /// Threads that were not read by then are left out.
    pub until: Instant,
    /// Whether those that run are sampled, for their native frames.
    pub samples: bool,
    /// Adds what was asked for beyond names and lines, while the thread is believed to stand still.
    pub detail: &'a dyn Fn(&mut [Frame]),
}

/// All threads of a process that lives, by their numbers.
pub fn all(process: &Process<'_>, codes: &mut Codes, clocks: &mut Clocks) -> Vec<Thread> {
    let by_tid = by_tid(process.states);
    let names = names(process);
    let mut look = Looker::new(process, codes, clocks, &names);
    let mut read = Vec::with_capacity(process.tids.len());
    // Who has the GIL gives it away within milliseconds, and all others are told beside whom it is that has it.
    let held = holder_first(&mut look, &by_tid, &mut read);
    for &tid in process.tids {
        if Instant::now() >= process.until {
            break;
        }
        if held.is_some_and(|(holder, _)| holder == tid) {
            continue;
        }
        let own = by_tid.get(&tid).map_or(&[][..], Vec::as_slice);
        if let Some(mut thread) = look.thread(tid, own) {
            // It has got it since. Of one dump, one thread has it; interpreters can have one each (3.12 on).
            thread.owns_gil &= held.is_none_or(|(_, gil)| own.iter().all(|state| state.gil != gil));
            read.push(thread);
        }
    }
    // It goes from one to the other while they are read: who was read last has it now.
    let mut owned: FxHashSet<u64> = FxHashSet::default();
    for thread in read.iter_mut().rev().filter(|thread| thread.owns_gil) {
        let states = by_tid.get(&thread.tid).into_iter().flatten();
        let gils: Vec<u64> = states.map(|state| state.gil).collect();
        thread.owns_gil = gils
            .into_iter()
            .fold(false, |is_first, gil| owned.insert(gil) | is_first);
    }
    read.sort_by_key(|thread| thread.tid);
    read
}

/// The threads of one that does not: each as it was.
pub fn frozen(process: &Process<'_>, codes: &mut Codes, looks: &[(u32, Look)]) -> Vec<Thread> {
    let by_tid = by_tid(process.states);
    let names = names(process);
    let mut clocks = Clocks::default();
    let mut looker = Looker::new(process, codes, &mut clocks, &names);
    let read = looks.iter().map(|(tid, look)| {
        let own = by_tid.get(tid).map_or(&[][..], Vec::as_slice);
        let chain = match &mut looker.reader {
            Some(reader) if !own.is_empty() => Some(reader.read(own, look.pc, look.sp)),
            _ => None,
        };
        let mut thread = looker.read(*tid, own, look, chain.as_ref());
        thread.held_still = true;
        thread
    });
    read.collect()
}

fn by_tid(states: &[states::State]) -> FxHashMap<u32, Vec<states::State>> {
    let mut by_tid: FxHashMap<u32, Vec<states::State>> = FxHashMap::default();
    for state in states {
        by_tid.entry(state.tid).or_default().push(*state);
    }
    by_tid
}

/// Reads the thread that has a GIL until it has it before and after, and returns which one it is, and which GIL.
fn holder_first(
    look: &mut Looker<'_>,
    by_tid: &FxHashMap<u32, Vec<states::State>>,
    read: &mut Vec<Thread>,
) -> Option<(u32, u64)> {
    const ATTEMPTS: usize = 5;
    for _ in 0..ATTEMPTS {
        let state = *look.states.iter().find(|state| look.holds_gil(state))?;
        let thread = look.thread(state.tid, by_tid.get(&state.tid)?);
        if let Some(thread) = thread.filter(|thread| thread.owns_gil && look.holds_gil(&state)) {
            read.push(thread);
            return Some((state.tid, state.gil));
        }
    }
    None
}

/// The names that the program has given its threads, by their numbers inside.
fn names(process: &Process<'_>) -> FxHashMap<u32, Box<str>> {
    let names = process.python.and_then(|python| Some((python, python.thread_names()?)));
    let Some((python, names)) = names else {
        return FxHashMap::default();
    };
    let wanted: FxHashSet<u32> = process.states.iter().map(|state| state.inside).collect();
    names.read(&Paged::new(process.memory), &python.facts, &|number| {
        wanted.contains(&number)
    })
}

struct Looker<'a> {
    process: &'a Process<'a>,
    codes: &'a mut Codes,
    clocks: &'a mut Clocks,
    runtime: u64,
    activity: Option<Activity>,
    descriptors: Descriptors,
    reader: Option<Reader<'a>>,
    states: &'a [states::State],
    names: &'a FxHashMap<u32, Box<str>>,
    /// How much patience is left.
    sampling: Duration,
}

impl<'a> Looker<'a> {
    fn new(
        process: &'a Process<'a>,
        codes: &'a mut Codes,
        clocks: &'a mut Clocks,
        names: &'a FxHashMap<u32, Box<str>>,
    ) -> Self {
        let &Process {
            pid, memory, python, ..
        } = process;
        let runtime = python.map_or(0, |python| python.binary.runtime.wrapping_add(python.bias));
        Self {
            process,
            codes,
            clocks,
            runtime,
            activity: python.and_then(|python| Activity::of(python.binary.version, memory, runtime)),
            descriptors: Descriptors::of(pid),
            reader: python.map(|python| Reader::new(python, memory)),
            states: process.states,
            names,
            sampling: ALL_SAMPLING,
        }
    }

    /// `None` if it is gone.
    fn thread(&mut self, tid: u32, states: &[states::State]) -> Option<Thread> {
        if !self.process.samples {
            return self.met(tid, states, &mut Sampling::Unwanted);
        }
        let began = Instant::now();
        let mut sampling = Sampling::Wanted(self.sampling.min(SAMPLING));
        let mut thread = self.met(tid, states, &mut sampling)?;
        if matches!(thread.state, State::Running { .. }) && thread.sample == Sample::None {
            thread.sample = sampling.later(tid);
        }
        if !matches!(sampling, Sampling::Wanted(_)) {
            self.sampling = self.sampling.saturating_sub(began.elapsed());
        }
        Some(thread)
    }

    /// As it is met, with a sample of it perhaps.
    fn met(&mut self, tid: u32, states: &[states::State], sampling: &mut Sampling) -> Option<Thread> {
        let pid = self.process.pid;
        let mut last = None;
        let mut can_be_beside = true;
        for read in 0..MOST_READS {
            let Some(look) = Look::of(pid, tid) else { break };
            if !look.is_away() && can_be_beside {
                match self.beside(tid, states, look.cpu, sampling.of(tid)) {
                    Ok(Some(thread)) => return Some(thread),
                    // It went elsewhere, or waits by now.
                    Ok(None) if read < PROVEN_READS => continue,
                    Ok(None) => {}
                    // As in a container that has some of the CPUs.
                    Err(_) => can_be_beside = false,
                }
            }
            let chain = match &mut self.reader {
                Some(reader) if !states.is_empty() && !look.is_away() => match reader.read_instant(states) {
                    Some(chain) => Some((chain, true)),
                    None => Some((reader.read(states, 0, 0), false)),
                },
                Some(reader) if !states.is_empty() => Some((reader.read(states, look.pc, look.sp), false)),
                _ => None,
            };
            let (mut chain, is_of_an_instant) = chain.unzip();
            // What is said of the frames is read now; the thread must not have gone on since.
            let mut thread = self.read(tid, states, &look, chain.as_ref());
            let again = match &mut self.reader {
                Some(reader) if chain.is_some() => Some(reader.read(states, look.pc, look.sp)),
                _ => None,
            };
            if look.is_away() {
                thread.held_still = look::slices(pid, tid).is_none_or(|slices| slices == look.slices);
                thread.held_still &= match (&chain, &again) {
                    (Some(chain), Some(again)) => chain.agrees_with(again),
                    _ => true,
                };
                if thread.held_still {
                    thread.since_ns = self.clocks.waits_ns(pid, tid, look.cpu);
                    return Some(thread);
                }
            } else {
                // A thread without Python has nothing that could be torn.
                thread.held_still = chain.is_none();
                let has_locals = thread.frames.iter().any(|frame| frame.locals.is_some());
                let is_met = is_of_an_instant.unwrap_or(true);
                if is_met && !has_locals {
                    return Some(thread);
                }
                let mut gone = 0;
                if let (Some(chain), Some(again)) = (&mut chain, &again) {
                    let whole = chain.links.len();
                    chain.keep_common(again);
                    gone = whole - chain.links.len();
                    thread.forget(gone, chain);
                }
                if is_met && gone == 0 {
                    return Some(thread);
                }
            }
            last = Some(thread);
        }
        // It never held still: what both readings have is what is shown.
        last
    }

    /// A thread that runs, read from the CPU that it is on: meanwhile it cannot run there. `None` if it did, or does
    /// elsewhere, or waits by now.
    ///
    /// # Errors
    /// If this process may not run there.
    fn beside(
        &mut self,
        tid: u32,
        states: &[states::State],
        cpu: u32,
        mut sampler: Option<&mut Sampler>,
    ) -> io::Result<Option<Thread>> {
        const ATTEMPTS: usize = 5;
        let pid = self.process.pid;
        let _place = Place::on(cpu)?;
        let look_here = || Look::of(pid, tid).filter(|look| look.slices > 0 && Some(look.cpu) == place::here());
        let mut attempts = 0;
        let mut met = None;
        while attempts < ATTEMPTS {
            attempts += 1;
            let Some(look) = look_here().filter(|look| !look.is_away()) else {
                break;
            };
            let chain = match &mut self.reader {
                Some(reader) if !states.is_empty() => Some(reader.read(states, 0, 0)),
                _ => None,
            };
            let mut thread = self.read(tid, states, &look, chain.as_ref());
            let stack = sampler.as_mut().and_then(|sampler| sampler.last());
            if look_here().is_some_and(|now| now.slices == look.slices) {
                thread.held_still = true;
                if let Some(stack) = stack {
                    // It is not on any CPU since: what it left the last with is what it has.
                    thread.sample = Sample::Met(Some(Box::new(stack.clone())));
                    return Ok(Some(thread));
                }
                met = Some(thread);
                match &sampler {
                    // It had no CPU since that was opened. It gets one while this thread sleeps.
                    Some(sampler) if sampler.wait() => attempts -= 1,
                    _ => break,
                }
            }
        }
        Ok(met)
    }

    /// All that is said of a thread with this chain of frames.
    fn read(&mut self, tid: u32, states: &[states::State], look: &Look, chain: Option<&Chain>) -> Thread {
        let &Process {
            pid,
            memory,
            python,
            detail,
            ..
        } = self.process;
        let gil = states.first().map_or(0, |state| state.gil);
        let around = Around {
            memory,
            descriptors: &self.descriptors,
            gil,
            is_on_musl: python.is_some_and(PythonIn::is_on_musl),
        };
        let mut state = State::of(look, &around);
        if let State::Waiting(wait) = &mut state
            && wait.cause == crate::waits::cause::Cause::Gil
        {
            wait.holder = self.holder(gil).filter(|holder| holder.tid != tid);
        }
        let owner = states.iter().find(|state| self.holds_gil(state));
        let activity = self.activity.as_ref();
        let mut thread = Thread {
            tid,
            ident: states.first().map_or(0, |state| state.ident),
            name: self.name_of(states),
            comm: String::from_utf8_lossy(&threads::comm(pid, tid)).into_owned(),
            state,
            since_ns: None,
            owns_gil: owner.is_some(),
            is_collecting: owner
                .zip(activity)
                .is_some_and(|(state, activity)| activity.is_collecting(memory, self.runtime, state.interpreter)),
            handles: None,
            frames: Vec::new(),
            native: Vec::new(),
            sample: Sample::None,
            is_cut: false,
            held_still: false,
            slices: look.slices,
            died_of: None,
            has_not_run: false,
        };
        let (Some(python), Some(chain)) = (python, chain) else {
            return thread;
        };
        let handled = |state: &states::State| activity?.handled(memory, &python.facts, state.address);
        thread.handles = states.iter().find_map(handled);
        thread.frames = self.codes.frames(python, memory, chain);
        detail(&mut thread.frames);
        thread.is_cut = chain.is_cut();
        thread
    }

    fn name_of(&self, states: &[states::State]) -> Option<String> {
        let name = self.names.get(&states.first()?.inside)?;
        Some(name.to_string())
    }

    /// Whether a GIL is held by who has this state, now.
    fn holds_gil(&self, state: &states::State) -> bool {
        holder_state(self.process.memory, state.gil) == Some(state.address)
    }

    fn holder(&self, gil: u64) -> Option<Holder> {
        let address = holder_state(self.process.memory, gil)?;
        let state = self.states.iter().find(|state| state.address == address)?;
        Some(Holder {
            tid: state.tid,
            name: self.name_of(std::slice::from_ref(state)),
        })
    }
}

/// The sampling of one thread, which begins when it is met running.
enum Sampling {
    Unwanted,
    /// With so much patience.
    Wanted(Duration),
    Begun(Box<Sampler>, Duration),
    Refused(Duration),
}

impl Sampling {
    fn of(&mut self, tid: u32) -> Option<&mut Sampler> {
        if let Self::Wanted(patience) = *self {
            *self = match Sampler::open(tid, Event::Leaves, patience) {
                Ok(sampler) => Self::Begun(Box::new(sampler), patience),
                Err(_) => Self::Refused(patience),
            };
        }
        match self {
            Self::Begun(sampler, _) => Some(sampler),
            _ => None,
        }
    }

    /// One that could not be met when it left its CPU: by its clock.
    fn later(&mut self, tid: u32) -> Sample {
        let patience = match self {
            Self::Wanted(patience) | Self::Begun(_, patience) | Self::Refused(patience) => *patience,
            Self::Unwanted => return Sample::None,
        };
        let mut sampler = match Sampler::open(tid, Event::Clock, patience) {
            Ok(sampler) => sampler,
            Err(why) => return Sample::Missing(why),
        };
        *self = Self::Refused(patience);
        loop {
            if let Some(stack) = sampler.last() {
                return Sample::Later(Some(Box::new(stack.clone())));
            }
            if !sampler.wait() {
                return Sample::Missing("it had no CPU, or was in the kernel, as long as it was waited for".to_owned());
            }
        }
    }
}

/// The state that holds a GIL. `struct _gil_runtime_state` has `last_holder` at 8 and `locked` at 16 (3.8 – 3.15); without
/// `locked`, the last holder is the one before.
fn holder_state(memory: &dyn ReadMemory, gil: u64) -> Option<u64> {
    const LAST_HOLDER: u64 = 8;
    let bytes = memory.read_vec(gil.checked_add(LAST_HOLDER).filter(|_| gil != 0)?, 12)?;
    let (holder, locked) = bytes.split_first_chunk::<8>()?;
    let locked = i32::from_le_bytes(*locked.first_chunk()?);
    Some(u64::from_le_bytes(*holder)).filter(|&holder| holder != 0 && locked == 1)
}
