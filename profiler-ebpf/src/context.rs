//! Which working memory a program may write to while others run on the same CPU.
//!
//! A CPU sample interrupts programs that hang on other events, and a task that runs one can be preempted by a task that
//! runs the same one. Measured with one slot for all: 5,342 of 18,346 uprobe hits had their memory overwritten by CPU
//! samples, and 1,307 of 10,119 by another task's hit (Linux 6.8, `preempt=full`). So there are several slots:
//!
//! | slot | of | because |
//! |---|---|---|
//! | 0 | perf events: the CPU clock | the kernel runs one at a time on a CPU (`bpf_prog_active`), without preemption |
//! | 1 | page faults | their tracepoints lie before the point where the kernel lets interrupts in again |
//! | 2, 3 | ends of system calls | they can be preempted (faultable tracepoints, Linux 6.13) |
//! | 4 – 7 | uprobes | from Linux 6.0 on (sleepable uprobes) with preemption, though not with migration to another CPU |
//! | 8 | ends of waits | the scheduler has not let preemption in again where they are looked at |
//! | 9 | whoever wakes a thread | the scheduler has locked that thread, without interrupts |
//!
//! Slots 0, 1, 8 and 9 are simply used: nothing comes twice. The others are claimed first, so that whatever nests in whatever
//! way costs a sample, which is counted, and never mixes two.

use aya_ebpf::{
    macros::map,
    maps::{PerCpuArray, ProgramArray},
    programs::ProbeContext,
};
use profiler_common::{group::Group, limits::CONTEXTS, stats::Counter};

use crate::atomic;

/// Index of a program's working memory. A plain integer, because global functions (`walk::walk_some`, `code::copy`)
/// take no other arguments.
pub type Context = u32;

pub const PERF_EVENT: Context = Group::Clock.slots().start;
pub const PAGE_FAULT: Context = Group::Faults.slots().start;
const FIRST_CALL: Context = Group::Calls.slots().start;
const LAST_CALL: Context = Group::Calls.slots().end - 1;
const FIRST_UPROBE: Context = Group::Probes.slots().start;
const LAST_UPROBE: Context = Group::Probes.slots().end - 1;
pub const WAIT: Context = Group::Waits.slots().start;
pub const WAKER: Context = WAIT + 1;
const _: () = assert!(WAKER + 1 == CONTEXTS);

/// Rows of counters of programs that have not claimed a slot.
pub const CALLS: Context = FIRST_CALL;
pub const PROBES: Context = FIRST_UPROBE;

/// Kernel only: how many programs hold, or are just trying to get, each slot.
#[map]
static CLAIMS: PerCpuArray<u64> = PerCpuArray::with_max_entries(CONTEXTS, 0);

/// Empty: see [`in_uprobe`].
#[map]
static NO_PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Runs `program` with a slot that is the caller's alone. Every program on a uprobe goes through this.
#[inline(always)]
pub fn in_uprobe(event: &ProbeContext, program: impl FnOnce(Context) -> Result<(), Counter>) -> Result<(), Counter> {
    let context = claim_one(FIRST_UPROBE, LAST_UPROBE).ok_or(Counter::LostNoContext)?;
    let outcome = program(context);
    release(context);
    // A tail call that leads nowhere, for what it does to the program when it is loaded. From Linux 6.13 on programs of
    // this type get a stack (BPF's own 512 bytes) per CPU instead of the thread's, although a uprobe's can be preempted:
    // the next one on the CPU then overwrites it, spilled pointers included. On 7.2 with `preempt=full` that lost all
    // four slots within some 30 hits; elsewhere it took whole machines down (opentelemetry-ebpf-instrumentation#3056).
    // A program with a tail call in it keeps the thread's stack (`check_max_stack_depth` in the kernel's verifier).
    // SAFETY: there is no program to call, and nothing is left to be done here if there were.
    unsafe { NO_PROGRAMS.tail_call(event, 0) };
    outcome
}

/// Runs `program` with a slot that is the caller's alone. For programs on system calls.
#[inline(always)]
pub fn in_call(program: impl FnOnce(Context) -> Result<(), Counter>) -> Result<(), Counter> {
    let context = claim_call().ok_or(Counter::LostNoContext)?;
    let outcome = program(context);
    release(context);
    outcome
}

/// The same in two steps ([`release`] is the other), for who has no stack to spare: LLVM makes a function of its own of a
/// large closure, and has what it captures on the stack twice.
#[inline(always)]
pub fn claim_call() -> Option<Context> {
    claim_one(FIRST_CALL, LAST_CALL)
}

#[inline(always)]
fn claim_one(first: Context, last: Context) -> Option<Context> {
    let mut context = first;
    while context <= last {
        if claim(context) {
            return Some(context);
        }
        context += 1;
    }
    None
}

/// Whoever adds itself and then finds itself alone has the slot: as long as it stays added, nobody else can find that.
/// Two that add themselves at the same moment may both go without; there are other slots.
///
/// Test-and-set would be plainer, but atomic operations that return something need Linux 5.12, and adding has been there
/// from the first. That all contenders run on one CPU, and so in some order, is what makes the separate load right.
#[inline(always)]
fn claim(context: Context) -> bool {
    let Some(holders) = CLAIMS.get_ptr_mut(context) else {
        return false;
    };
    // SAFETY: the pointer is to a map value, which is never freed. Volatile: others change it.
    unsafe {
        atomic::add(holders, 1);
        if holders.read_volatile() == 1 {
            return true;
        }
        atomic::add(holders, MINUS_ONE);
    }
    false
}

#[inline(always)]
pub fn release(context: Context) {
    if let Some(holders) = CLAIMS.get_ptr_mut(context) {
        // SAFETY: as in `claim`.
        unsafe { atomic::add(holders, MINUS_ONE) };
    }
}

const MINUS_ONE: u64 = u64::MAX;
