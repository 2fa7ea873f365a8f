//! The stack of a thread whose wait has not ended when the recording does: read from outside, while the thread cannot
//! change it. Nothing else would tell where a process is stuck for good.
//!
//! The kernel side's own logic walks it, over `process_vm_readv` instead of `bpf_probe_read_user`. Without the thread's
//! registers only Python frames can be had, and of threads without Python the instruction they wait at.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    slice,
};

use profiler_common::{
    limits::MAX_PYTHON_FRAMES,
    record::{
        NATIVE_NONE, NATIVE_UNREADABLE, PYTHON_COMPLETE, PYTHON_NO_THREAD_STATE, PYTHON_NONE, PYTHON_TRUNCATED,
        PythonFrame, StackKey,
    },
    unwind::{REGISTER_PC, REGISTER_SP},
};
use profiler_ebpf::{
    python::{fingerprint::CodeObject, frames, thread},
    scratch::Scratch,
};

use crate::{
    decode::RawStack,
    process::pythons::PythonIn,
    python::memory::{ProcessMemory, ReadMemory},
};

/// Interpreters of a process and thread states of an interpreter that are looked at: lists in foreign memory can be
/// circles.
const MOST_INTERPRETERS: usize = 64;
const MOST_THREADS: usize = 16 * 1024;
/// `PyThreadState.next` (3.8 – 3.15).
const NEXT_THREAD: u64 = 8;
/// `PyThreadState.native_thread_id` follows `thread_id` (3.11 on).
const NATIVE_ID_AFTER_ID: u64 = 8;

struct Foreign(ProcessMemory);

impl profiler_ebpf::memory::ReadMemory for Foreign {
    unsafe fn read(&self, address: u64, into: *mut u8, len: u32) -> bool {
        // SAFETY: `into` is valid for writes of `len` bytes by contract, and holds integers.
        self.0
            .read(address, unsafe { slice::from_raw_parts_mut(into, len as usize) })
    }
}

/// A `PyThreadState`, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadState {
    pub address: u64,
    /// The interpreter's that it is of.
    pub interpreter: u64,
    /// The thread's number inside its process's pid namespace.
    pub tid: u32,
    /// Its `%fs`.
    pub thread_pointer: u64,
}

/// Those of a process.
pub fn thread_states(python: &PythonIn, memory: ProcessMemory) -> Vec<ThreadState> {
    let layout = &python.binary.layout;
    let runtime = python.binary.runtime.wrapping_add(python.bias);
    let word = |at: u64| memory.read_u64(at).filter(|&word| word != 0);
    let mut found = Vec::new();
    let mut interpreter = word(runtime.wrapping_add(layout.interpreter.head.into()));
    for _ in 0..MOST_INTERPRETERS {
        let Some(at) = interpreter else { break };
        let mut thread = word(at.wrapping_add(layout.interpreter.threads.into()));
        for _ in 0..MOST_THREADS {
            let Some(state) = thread else { break };
            if let (Some(tid), Some(thread_pointer)) = (
                tid_of(python, memory, state),
                word(state.wrapping_add(layout.process.thread_id.into())),
            ) {
                found.push(ThreadState {
                    address: state,
                    interpreter: at,
                    tid,
                    thread_pointer,
                });
            }
            thread = word(state.wrapping_add(NEXT_THREAD));
        }
        interpreter = word(at.wrapping_add(layout.interpreter.next.into()));
    }
    found
}

/// The number that a thread has inside, by its state. Not to be kept: a state is made by another thread, whose number it
/// has at first, and one that is gone makes room for another.
pub fn tid_of(python: &PythonIn, memory: ProcessMemory, state: u64) -> Option<u32> {
    let id = state.wrapping_add(python.binary.layout.process.thread_id.into());
    let tid = match python.binary.version.series() >= (3, 11) {
        true => memory.read_u64(id.wrapping_add(NATIVE_ID_AFTER_ID))?,
        false => memory.read_u64(memory.read_u64(id)?.wrapping_add(python.thread_number()))? & 0xffff_ffff,
    };
    u32::try_from(tid).ok().filter(|&tid| tid != 0)
}

/// The Python stack of a thread that waits, and how it was read (`PYTHON_…`).
pub fn stack(
    python: &PythonIn,
    memory: ProcessMemory,
    thread_pointer: u64,
    pc: u64,
    sp: u64,
) -> (Vec<PythonFrame>, u32) {
    // SAFETY: `Scratch` is made of integers, for which zero is a value.
    let mut scratch: Box<Scratch> = unsafe { Box::<Scratch>::new_zeroed().assume_init() };
    scratch.process = python.facts;
    scratch.unwind.registers[REGISTER_PC] = pc;
    scratch.unwind.registers[REGISTER_SP] = sp;
    let foreign = Foreign(memory);
    frames::start(&mut scratch);
    let status = thread::find_frames(&foreign, thread_pointer, &mut scratch);
    if status != PYTHON_COMPLETE {
        return (Vec::new(), status);
    }
    // Entry frames are visited but not kept, at most one per kept frame.
    let mut visited = 0;
    while frames::step(&foreign, &mut scratch) {
        visited += 1;
        if visited > 2 * MAX_PYTHON_FRAMES {
            scratch.record.header.python = PYTHON_TRUNCATED;
            break;
        }
    }
    let len = (scratch.record.python_len as usize).min(MAX_PYTHON_FRAMES);
    let frames = (0..len as u32).map(|index| {
        // SAFETY: the pointer is to a frame in the working memory, which was written.
        let mut frame = unsafe { scratch.python_frame(index).read() };
        let mut object = CodeObject::default();
        frame.fingerprint = match object.read(&foreign, &python.facts, frame.code) {
            true => object.fingerprint(&foreign, &python.facts),
            false => 0,
        };
        frame
    });
    let frames = frames.collect();
    (frames, scratch.record.header.python)
}

/// What tells a stack from all others that are read from outside: equal ones of a process are one.
pub fn number(pid: u32, stack: Option<&(Vec<PythonFrame>, u32)>, pc: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (pid, pc).hash(&mut hasher);
    if let Some((frames, status)) = stack {
        status.hash(&mut hasher);
        for frame in frames {
            (frame.code, frame.fingerprint, frame.instruction).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// As the kernel side would send it. `number` tells it from others of this recording.
pub fn raw(python: Option<(Vec<PythonFrame>, u32)>, pc: u64, number: u64) -> RawStack {
    let (frames, status) = match python {
        Some((frames, status)) => (frames, status),
        None => (Vec::new(), PYTHON_NONE),
    };
    let native: Box<[u64]> = match frames.is_empty() {
        true => Box::new([pc]),
        false => Box::default(),
    };
    RawStack {
        kernel: Box::default(),
        native_status: if native.is_empty() {
            NATIVE_NONE
        } else {
            NATIVE_UNREADABLE
        },
        native,
        python_status: if frames.is_empty() && status == PYTHON_COMPLETE {
            PYTHON_NO_THREAD_STATE
        } else {
            status
        },
        python: frames.into(),
        python_flags: 0,
        place: key(number),
    }
}

/// No stack that the kernel side sends has such a key, but by a chance of 2⁻⁶⁴.
pub fn key(number: u64) -> StackKey {
    StackKey {
        hash: [number, u64::from_le_bytes(*b"unended.")],
    }
}
