//! Drives the walker of the library over the frames of the running thread.
//!
//! A global function with a small loop inside, called in a loop: the verifier checks it once, whatever the outer bound
//! (4 k instructions instead of 130 – 250 k for one loop), it loads from 5.10 to 6.18, and it is nearly as fast. Global
//! functions take scalars only (5.10 knows no other arguments), so it looks its state up.

use profiler_common::{
    config::FEATURE_NATIVE_STACK,
    limits::{MAX_HOST_STATES, MAX_PYTHON_FRAMES},
    record::{PYTHON_COMPLETE, PYTHON_NO_THREAD_STATE},
};
use profiler_ebpf::{
    python::{frames, thread},
    scratch::Scratch,
};

use crate::{
    context::Context,
    maps::scratch,
    task::{self, config},
    user_memory::UserMemory,
};

const FRAMES_PER_CALL: u32 = 8;
const STATES_PER_CALL: u32 = 8;

/// Reads the Python stack of the running thread into the record; `scratch.process` is filled in.
///
/// No reference to the working memory may be held across this: `walk_some` makes its own.
#[inline(always)]
pub fn capture(context: Context) {
    let Some(scratch) = scratch(context) else { return };
    frames::start(scratch);
    if !has_user_registers(scratch) {
        // A thread of the kernel's own in the process (io_uring's) runs no Python, whatever its fs base is left over
        // from.
        scratch.record.header.python = PYTHON_NO_THREAD_STATE;
        return;
    }
    frames_of_thread(context);
}

/// The same of a thread that is known to have been stopped in user space.
#[inline(always)]
pub fn capture_of_user(context: Context) {
    let Some(scratch) = scratch(context) else { return };
    frames::start(scratch);
    frames_of_thread(context);
}

#[inline(always)]
fn frames_of_thread(context: Context) {
    let Some(scratch) = scratch(context) else { return };
    let status = thread::find_frames(&UserMemory, task::fs_base(), scratch);
    if status != PYTHON_COMPLETE {
        scratch.record.header.python = status;
        return;
    }
    if scratch.host_state != 0 {
        let mut calls = 0;
        while calls < MAX_HOST_STATES / STATES_PER_CALL {
            if seek_some(context) != 0 {
                break;
            }
            calls += 1;
        }
    }
    visit(context);
}

/// Reads the chain that begins with this frame, of whatever thread; `scratch.process` is filled in.
#[inline(always)]
pub fn chain(context: Context, frame: u64) {
    let Some(scratch) = scratch(context) else { return };
    frames::start(scratch);
    scratch.frame = frame;
    visit(context);
}

#[inline(always)]
fn visit(context: Context) {
    // Entry frames are visited but not kept, at most one per kept frame.
    let mut calls = 0;
    while calls < 2 * MAX_PYTHON_FRAMES as u32 / FRAMES_PER_CALL + 1 {
        if walk_some(context) != 0 {
            break;
        }
        calls += 1;
    }
}

/// Sees to it that the registers with which the thread left user space are known; `false` if there are none.
#[inline(always)]
fn has_user_registers(scratch: &mut Scratch) -> bool {
    if config::has(FEATURE_NATIVE_STACK) {
        // The unwinder has read them, and recorded the leaf at least.
        scratch.record.native_len != 0
    } else {
        task::user_registers(&mut scratch.unwind.registers)
    }
}

/// Looks at a few thread states for that of the interpreter that called into a sub-interpreter; 0 if there are more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn seek_some(context: Context) -> u64 {
    let Some(scratch) = scratch(context) else { return 1 };
    let fs_base = task::fs_base();
    let mut i = 0;
    while i < STATES_PER_CALL {
        if !thread::seek_host(&UserMemory, fs_base, scratch) {
            return 1;
        }
        i += 1;
    }
    0
}

/// Walks a few frames; 0 if there are more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_some(context: Context) -> u64 {
    let Some(scratch) = scratch(context) else { return 1 };
    let mut i = 0;
    while i < FRAMES_PER_CALL {
        if !frames::step(&UserMemory, scratch) {
            return 1;
        }
        i += 1;
    }
    0
}
