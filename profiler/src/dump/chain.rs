//! The Python frames of a thread, read from outside.
//!
//! The kernel side's own walker reads them, over `process_vm_readv` instead of `bpf_probe_read_user`. The thread may go on
//! meanwhile: what is read twice alike, with all of its code looked up in between, was there.

use profiler_common::{
    limits::MAX_PYTHON_FRAMES,
    python::LAYOUT_CFRAME,
    record::{INSTRUCTION_MASK, PYTHON_COMPLETE, PYTHON_NONE, PYTHON_TORN, PYTHON_TRUNCATED, PythonFrame},
    unwind::{REGISTER_PC, REGISTER_SP},
};
use profiler_ebpf::{
    python::{fingerprint::CodeObject, frames, thread},
    scratch::Scratch,
};

use super::{
    instant::{Pace, Recorded},
    states::State,
};
use crate::{
    process::pythons::PythonIn,
    python::memory::{Foreign, ReadMemory},
};

/// Thread states that are looked at for the one of the interpreter that called into a sub-interpreter.
const MOST_HOSTS: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Innermost first.
    pub links: Vec<Link>,
    /// `PYTHON_…`: how it ends.
    pub status: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where the frame is.
    pub address: u64,
    /// With the fingerprint of its code.
    pub frame: PythonFrame,
}

impl Chain {
    /// Whether the thread was at the same place both times: the innermost frame may have gone on.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let same = |(at, (one, other)): (usize, (&Link, &Link))| {
            one.address == other.address
                && one.frame.code == other.frame.code
                && one.frame.fingerprint == other.frame.fingerprint
                && (at == 0 || one.frame.instruction == other.frame.instruction)
        };
        self.status == other.status
            && self.links.len() == other.links.len()
            && self.links.iter().zip(&other.links).enumerate().all(same)
    }

    /// Keeps what both have, from the root on: what is above may be of another call.
    pub fn keep_common(&mut self, other: &Self) {
        let same = |(one, other): &(&Link, &Link)| {
            one.address == other.address
                && one.frame.code == other.frame.code
                && one.frame.fingerprint == other.frame.fingerprint
                && one.frame.fingerprint != 0
        };
        let pairs = self.links.iter().rev().zip(other.links.iter().rev());
        let (mut kept, mut has_moved) = (0, false);
        for pair in pairs.take_while(same) {
            // A caller that went on has called another.
            if has_moved {
                break;
            }
            kept += 1;
            has_moved = pair.0.instruction() != pair.1.instruction();
        }
        let is_whole = !self.is_cut() && !other.is_cut();
        self.links.drain(..self.links.len() - if is_whole { kept } else { 0 });
    }

    /// Whether frames are missing towards the root.
    pub fn is_cut(&self) -> bool {
        matches!(self.status, PYTHON_TORN | PYTHON_TRUNCATED)
    }
}

/// Reads chains, in working memory of its own.
pub struct Reader<'a> {
    python: &'a PythonIn,
    memory: &'a dyn ReadMemory,
    scratch: Box<Scratch>,
}

/// How often a thread that runs is tried to be met at one instant: 5 µs each.
const MOST_INSTANTS: usize = 300;

impl<'a> Reader<'a> {
    pub fn new(python: &'a PythonIn, memory: &'a dyn ReadMemory) -> Self {
        // SAFETY: `Scratch` is made of integers, for which zero is a value.
        let mut scratch: Box<Scratch> = unsafe { Box::<Scratch>::new_zeroed().assume_init() };
        scratch.process = python.facts;
        Self {
            python,
            memory,
            scratch,
        }
    }

    /// The chain of a thread that has these states (one in each interpreter that it is in). `pc` and `sp` are 0 while it
    /// runs.
    pub fn read(&mut self, states: &[State], pc: u64, sp: u64) -> Chain {
        let mut chain = self.walk(self.memory, states, pc, sp);
        for link in &mut chain.links {
            link.identify(self.python, self.memory);
        }
        chain
    }

    /// The chain of a thread that runs, of one instant; `None` if it moves too fast to be met at one.
    pub fn read_instant(&mut self, states: &[State]) -> Option<Chain> {
        let mut pace = Pace::default();
        for _ in 0..MOST_INSTANTS {
            let recorded = Recorded::new(self.memory);
            self.walk(&recorded, states, 0, 0);
            let Some(instant) = recorded.at_once(&self.beginnings(states), &mut pace) else {
                continue;
            };
            let mut chain = self.walk(&instant, states, 0, 0);
            if instant.is_left() || chain.status == PYTHON_TORN {
                continue;
            }
            for link in &mut chain.links {
                link.identify(self.python, self.memory);
            }
            // Code that is gone was that of a function that is gone.
            if chain.links.iter().all(|link| link.frame.fingerprint != 0) {
                return Some(chain);
            }
        }
        None
    }

    /// Where it is said which frame is the innermost one of these states.
    fn beginnings(&self, states: &[State]) -> Vec<u64> {
        let facts = &self.python.facts;
        let place = |state: &State| {
            let field = state.address.wrapping_add(facts.thread_frame.into());
            match facts.flags & LAYOUT_CFRAME {
                0 => vec![field],
                _ => {
                    let cframe = self.memory.read_u64(field).filter(|&cframe| cframe != 0);
                    let current = cframe.map(|cframe| cframe.wrapping_add(facts.cframe_current.into()));
                    std::iter::once(field).chain(current).collect()
                }
            }
        };
        states.iter().flat_map(place).collect()
    }

    /// Walks, in this memory. Code is not looked at.
    fn walk(&mut self, memory: &dyn ReadMemory, states: &[State], pc: u64, sp: u64) -> Chain {
        let Some(first) = states.first() else {
            return Chain::default();
        };
        let foreign = Foreign(memory);
        let scratch = &mut *self.scratch;
        scratch.unwind.registers[REGISTER_PC] = pc;
        scratch.unwind.registers[REGISTER_SP] = sp;
        frames::start(scratch);
        let status = thread::find_frames(&foreign, first.ident, scratch);
        let mut hosts = 0;
        while status == PYTHON_COMPLETE && scratch.host_state != 0 && hosts < MOST_HOSTS {
            if !thread::seek_host(&foreign, first.ident, scratch) {
                break;
            }
            hosts += 1;
        }
        // Its thread-local storage does not name a state, as between two calls into an embedded interpreter: what it is
        // the state of has frames all the same.
        if status != PYTHON_COMPLETE {
            scratch.host = 0;
            match self.first_of(memory, first) {
                Some(frame) => self.scratch.frame = frame,
                None => {
                    return Chain {
                        links: Vec::new(),
                        status: PYTHON_NONE,
                    };
                }
            }
        }
        self.follow(memory)
    }

    /// What a state calls its innermost frame.
    fn first_of(&self, memory: &dyn ReadMemory, state: &State) -> Option<u64> {
        let facts = &self.python.facts;
        let frame = memory.read_u64(state.address.wrapping_add(facts.thread_frame.into()))?;
        if facts.flags & LAYOUT_CFRAME == 0 || frame == 0 {
            return Some(frame);
        }
        memory.read_u64(frame.wrapping_add(facts.cframe_current.into()))
    }

    fn follow(&mut self, memory: &dyn ReadMemory) -> Chain {
        let foreign = Foreign(memory);
        let scratch = &mut *self.scratch;
        let mut links: Vec<Link> = Vec::new();
        let mut visited = 0;
        loop {
            let address = scratch.frame;
            let more = frames::step(&foreign, scratch);
            let len = scratch.record.python_len;
            if len as usize > links.len() {
                // SAFETY: the pointer is to a frame in the working memory, which was just written.
                let frame = unsafe { scratch.python_frame(len - 1).read() };
                links.push(Link { address, frame });
            }
            // Entry frames are visited but not kept, at most one per kept frame.
            visited += 1;
            if !more {
                break;
            }
            if visited > 2 * MAX_PYTHON_FRAMES {
                scratch.record.header.python = PYTHON_TRUNCATED;
                break;
            }
        }
        Chain {
            links,
            status: scratch.record.header.python,
        }
    }
}

impl Link {
    /// A frame that is in no thread's chain: a suspended coroutine's.
    pub fn beside(python: &PythonIn, memory: &dyn ReadMemory, address: u64, code: u64, instruction: u64) -> Self {
        let mut link = Self {
            address,
            frame: PythonFrame {
                code,
                instruction: instruction & INSTRUCTION_MASK,
                fingerprint: 0,
            },
        };
        link.identify(python, memory);
        link
    }

    /// Finds out what tells its code from others that come to lie there.
    fn identify(&mut self, python: &PythonIn, memory: &dyn ReadMemory) {
        let (foreign, facts) = (Foreign(memory), &python.facts);
        let mut object = CodeObject::default();
        self.frame.fingerprint = match object.read(&foreign, facts, self.frame.code) {
            true => object.fingerprint(&foreign, facts),
            false => 0,
        };
    }

    /// What its frame keeps about the instruction it is at.
    pub fn instruction(&self) -> u64 {
        self.frame.instruction & INSTRUCTION_MASK
    }
}
