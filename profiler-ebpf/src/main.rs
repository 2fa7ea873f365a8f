//! The profiler's kernel half: entry points only.
//!
//! | program | hook | does |
//! |---|---|---|
//! | `sample_cpu` | perf event (software CPU clock), one per CPU | sends who runs and its stacks |
//! | `sample_probe` | uprobe, for tests | the same, at an instruction |
//! | `user_fault`, `kernel_fault` | raw tracepoints of page faults | send who touches new memory |
//! | `after_call` | raw tracepoint at the end of system calls | sends what is mapped and unmapped |
//! | `thread_end` | raw tracepoint `sched_process_exit` | tells of processes that the kernel ends for want of memory (`memory`) |
//! | `pool_birth` | uprobe in pymalloc | sends who makes the heap of small objects grow |
//! | `alloc_entry`, `alloc_return`, `free_entry` | uprobes on allocators | send who allocates and frees what |
//! | `sampled_birth` | uprobe in a stub | sends who allocated a block that was sampled (`memory --sampled`) |
//! | `call_probe`, `call_return` | uprobes on the evaluation loop | count and time calls of Python functions |
//! | `mark_probe`, `mark_return` | uprobes on CPython | send exceptions, imports and garbage collections |
//! | `bytecode_read` | hardware breakpoints on bytecode | the same, of chosen functions (`--via breakpoints`) |
//! | `object_birth` | hardware watchpoints on the collector's lists | sends who makes objects, and sees them go (`memory --watchpoints`) |
//! | `nothing` | uprobe in the profiler itself | measures what a probe costs |
//! | `wait_switch` | BTF tracepoint `sched_switch` | accounts for threads' time (`waits`), and draws waits |
//! | `wait_fork` | raw tracepoint `sched_process_fork` | has new threads accounted for |
//! | `wait_exec` | raw tracepoint `sched_process_exec` | moves the account of a thread that execs to its new number |
//! | `wait_resume` | raw tracepoint `sched_exit_tp` (6.16) | sends drawn waits with their stacks, in the threads' own context |
//! | `wait_call` | raw tracepoint `sys_exit` | the same, where the kernel has no `sched_exit_tp` |
//! | `wait_waking` | BTF tracepoint `sched_waking` | notes who wakes a thread whose wait will be drawn (`--wakers`) |
//! | `wait_poll` | raw tracepoint `sys_enter` | sends how long event loops did not poll (`--stalls`) |
//! | `io_begin`, `io_end` | raw tracepoints `sys_enter`, `sys_exit` | count calls that move data, and send some (`--io`) |
//! | `track_exec` | raw tracepoint `sched_process_exec` | forgets what a process was before (`calls`) |
//! | `track_fork` | raw tracepoint `sched_process_fork` | makes children of targets targets (`--subprocesses`) |
//!
//! Every fault ends in a counter of `STATS`; nothing is logged per sample.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
// For `atomic`. Stable compilers allow it to crates that RUSTC_BOOTSTRAP names, as `profiler/build.rs` does.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod alloc;
#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod birth;
#[cfg(target_arch = "bpf")]
mod calls;
#[cfg(target_arch = "bpf")]
mod code;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod cpu;
#[cfg(target_arch = "bpf")]
mod fault;
#[cfg(target_arch = "bpf")]
mod ids;
#[cfg(target_arch = "bpf")]
mod mapped_file;
#[cfg(target_arch = "bpf")]
mod mapping;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod mark;
#[cfg(target_arch = "bpf")]
mod native;
#[cfg(target_arch = "bpf")]
mod output;
#[cfg(target_arch = "bpf")]
mod pool;
#[cfg(target_arch = "bpf")]
mod probe;
#[cfg(target_arch = "bpf")]
mod process;
#[cfg(target_arch = "bpf")]
mod registers;
#[cfg(target_arch = "bpf")]
mod sample;
#[cfg(target_arch = "bpf")]
mod stats;
#[cfg(target_arch = "bpf")]
mod task;
#[cfg(target_arch = "bpf")]
mod toll;
#[cfg(target_arch = "bpf")]
mod user_memory;
#[cfg(target_arch = "bpf")]
mod victim;
#[cfg(target_arch = "bpf")]
mod wait {
    pub mod config;
    pub mod descriptor;
    pub mod draw;
    pub mod held;
    pub mod holder;
    pub mod io;
    pub mod poll;
    pub mod quota;
    pub mod switch;
    pub mod threads;
    pub mod waker;
}
#[cfg(target_arch = "bpf")]
mod walk;
#[cfg(target_arch = "bpf")]
mod watch;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::{
        EbpfContext as _,
        macros::{btf_tracepoint, perf_event, raw_tracepoint, uprobe, uretprobe},
        programs::{BtfTracePointContext, PerfEventContext, ProbeContext, RawTracePointContext, RetProbeContext},
    };
    use profiler_common::stats::Counter;

    use crate::{
        alloc, birth, calls,
        context::{CALLS, Context, PAGE_FAULT, PERF_EVENT, PROBES, WAIT},
        cpu, fault, mapping, mark, pool, probe, process, stats, victim, wait, watch,
    };

    /// What is lost is counted for the group of programs that lost it.
    fn counted(context: Context, outcome: Result<(), Counter>) {
        if let Err(lost) = outcome {
            stats::count_in(context, lost);
        }
    }

    #[perf_event]
    pub fn sample_cpu(ctx: PerfEventContext) -> u32 {
        counted(PERF_EVENT, cpu::try_sample(&ctx));
        0
    }

    #[uprobe]
    pub fn sample_probe(ctx: ProbeContext) -> u32 {
        counted(PROBES, probe::try_sample(&ctx));
        0
    }

    #[raw_tracepoint(tracepoint = "page_fault_user")]
    pub fn user_fault(ctx: RawTracePointContext) -> i32 {
        counted(PAGE_FAULT, fault::try_fault(&ctx, false));
        0
    }

    #[raw_tracepoint(tracepoint = "page_fault_kernel")]
    pub fn kernel_fault(ctx: RawTracePointContext) -> i32 {
        counted(PAGE_FAULT, fault::try_fault(&ctx, true));
        0
    }

    #[raw_tracepoint(tracepoint = "sys_exit")]
    pub fn after_call(ctx: RawTracePointContext) -> i32 {
        counted(CALLS, mapping::try_call(&ctx));
        0
    }

    #[raw_tracepoint(tracepoint = "sched_process_exit")]
    pub fn thread_end(_ctx: RawTracePointContext) -> i32 {
        counted(CALLS, victim::try_end());
        0
    }

    #[uprobe]
    pub fn pool_birth(ctx: ProbeContext) -> u32 {
        counted(PROBES, pool::try_birth(&ctx));
        0
    }

    #[uprobe]
    pub fn no_memory(ctx: ProbeContext) -> u32 {
        counted(PROBES, victim::try_no_memory(&ctx));
        0
    }

    #[uprobe]
    pub fn memory_error(ctx: ProbeContext) -> u32 {
        counted(PROBES, victim::try_memory_error(&ctx));
        0
    }

    #[uprobe]
    pub fn alloc_entry(ctx: ProbeContext) -> u32 {
        counted(PROBES, alloc::try_entry(&ctx));
        0
    }

    #[uretprobe]
    pub fn alloc_return(ctx: RetProbeContext) -> u32 {
        counted(PROBES, alloc::try_return(&ProbeContext::new(ctx.as_ptr())));
        0
    }

    #[uprobe]
    pub fn free_entry(ctx: ProbeContext) -> u32 {
        counted(PROBES, alloc::try_free(&ctx));
        0
    }

    #[uprobe]
    pub fn sampled_birth(ctx: ProbeContext) -> u32 {
        counted(PROBES, alloc::try_sampled(&ctx));
        0
    }

    #[uprobe]
    pub fn call_probe(ctx: ProbeContext) -> u32 {
        counted(PROBES, calls::try_call(&ctx));
        0
    }

    #[uretprobe]
    pub fn call_return(ctx: RetProbeContext) -> u32 {
        counted(PROBES, calls::try_return(&ProbeContext::new(ctx.as_ptr())));
        0
    }

    #[uprobe]
    pub fn mark_probe(ctx: ProbeContext) -> u32 {
        counted(PROBES, mark::try_mark(&ctx));
        0
    }

    #[uretprobe]
    pub fn mark_return(ctx: RetProbeContext) -> u32 {
        counted(PROBES, mark::try_return(&ProbeContext::new(ctx.as_ptr())));
        0
    }

    #[perf_event]
    pub fn bytecode_read(ctx: PerfEventContext) -> u32 {
        counted(PERF_EVENT, watch::try_hit(&ctx));
        0
    }

    /// 1 lets the kernel count the hit against the register's limit: see `births` in user space.
    #[perf_event]
    pub fn object_birth(ctx: PerfEventContext) -> u32 {
        counted(PERF_EVENT, birth::try_hit(&ctx));
        1
    }

    /// What a probe costs that does nothing.
    #[uprobe]
    pub fn nothing(_ctx: ProbeContext) -> u32 {
        0
    }

    #[raw_tracepoint(tracepoint = "sched_process_fork")]
    pub fn track_fork(ctx: RawTracePointContext) -> i32 {
        counted(PERF_EVENT, process::try_track_fork(&ctx));
        0
    }

    #[btf_tracepoint(function = "sched_switch")]
    pub fn wait_switch(ctx: BtfTracePointContext) -> i32 {
        counted(WAIT, wait::switch::try_switch(&ctx));
        0
    }

    #[raw_tracepoint(tracepoint = "sched_process_fork")]
    pub fn wait_fork(ctx: RawTracePointContext) -> i32 {
        counted(WAIT, wait::threads::try_fork(&ctx));
        0
    }

    #[raw_tracepoint(tracepoint = "sched_process_exec")]
    pub fn wait_exec(ctx: RawTracePointContext) -> i32 {
        counted(WAIT, wait::threads::try_exec(&ctx));
        0
    }

    #[raw_tracepoint(tracepoint = "sched_exit_tp")]
    pub fn wait_resume(ctx: RawTracePointContext) -> i32 {
        if let Some(seen) = wait::draw::noted(&ctx) {
            counted(WAIT, wait::draw::try_resume(&ctx, seen, WAIT));
        }
        0
    }

    #[raw_tracepoint(tracepoint = "sys_exit")]
    pub fn wait_call(ctx: RawTracePointContext) -> i32 {
        counted(WAIT, wait::draw::try_call(&ctx));
        0
    }

    #[btf_tracepoint(function = "sched_waking")]
    pub fn wait_waking(ctx: BtfTracePointContext) -> i32 {
        counted(WAIT, wait::waker::try_waking(&ctx));
        0
    }

    #[raw_tracepoint(tracepoint = "sys_enter")]
    pub fn wait_poll(ctx: RawTracePointContext) -> i32 {
        counted(WAIT, wait::poll::try_poll(&ctx));
        0
    }

    #[raw_tracepoint(tracepoint = "sys_enter")]
    pub fn io_begin(ctx: RawTracePointContext) -> i32 {
        counted(CALLS, wait::io::try_begin(&ctx));
        0
    }

    #[raw_tracepoint(tracepoint = "sys_exit")]
    pub fn io_end(ctx: RawTracePointContext) -> i32 {
        counted(CALLS, wait::io::try_end(&ctx));
        0
    }

    #[raw_tracepoint(tracepoint = "sched_process_exec")]
    pub fn track_exec(_ctx: RawTracePointContext) -> i32 {
        process::track_exec();
        0
    }
}

/// The helpers this object calls are for GPL-compatible programs.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Unreachable: `cargo xtask lint` fails if the object holds any panicking path. If one slips in, an endless loop is
    // what the verifier rejects, at load time and not at run time.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    // Built for the host only by tools that look at the whole workspace.
    eprintln!("profiler-ebpf runs in the kernel; the program to start is `profiler`");
    std::process::exit(2);
}
