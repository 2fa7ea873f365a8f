//! The profiler's kernel half: entry points only.
//!
//! | program | hook | does |
//! |---|---|---|
//! | `sample_cpu` | perf event (software CPU clock), one per CPU | sends who runs and its stacks |
//! | `sample_probe` | uprobe, for tests | the same, at an instruction |
//! | `user_fault`, `kernel_fault` | raw tracepoints of page faults | send who touches new memory |
//! | `after_call` | raw tracepoint at the end of system calls | sends what is mapped and unmapped |
//! | `pool_birth` | uprobe in pymalloc | sends who makes the heap of small objects grow |
//! | `alloc_entry`, `alloc_return`, `free_entry` | uprobes on allocators | send who allocates and frees what |
//! | `call_probe`, `call_return` | uprobes on the evaluation loop | count and time calls of Python functions |
//! | `bytecode_read` | hardware breakpoints on bytecode | the same, of chosen functions (`--via breakpoints`) |
//! | `nothing` | uprobe in the profiler itself | measures what a probe costs |
//! | `wait_switch` | BTF tracepoint `sched_switch` | accounts for threads' time (`waits`), and draws waits |
//! | `wait_fork` | raw tracepoint `sched_process_fork` | has new threads accounted for |
//! | `wait_resume` | raw tracepoint `sched_exit_tp` (6.16) | sends drawn waits with their stacks, in the threads' own context |
//! | `wait_call` | raw tracepoint `sys_exit` | the same, where the kernel has no `sched_exit_tp` |
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
mod wait {
    pub mod config;
    pub mod descriptor;
    pub mod draw;
    pub mod holder;
    pub mod switch;
    pub mod threads;
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

    use crate::{alloc, calls, context, cpu, fault, mapping, pool, probe, process, stats, wait, watch};

    fn counted(outcome: Result<(), Counter>) {
        if let Err(lost) = outcome {
            stats::count(lost);
        }
    }

    #[perf_event]
    pub fn sample_cpu(ctx: PerfEventContext) -> u32 {
        counted(cpu::try_sample(&ctx));
        0
    }

    #[uprobe]
    pub fn sample_probe(ctx: ProbeContext) -> u32 {
        counted(probe::try_sample(&ctx));
        0
    }

    #[raw_tracepoint(tracepoint = "page_fault_user")]
    pub fn user_fault(ctx: RawTracePointContext) -> i32 {
        counted(fault::try_fault(&ctx, false));
        0
    }

    #[raw_tracepoint(tracepoint = "page_fault_kernel")]
    pub fn kernel_fault(ctx: RawTracePointContext) -> i32 {
        counted(fault::try_fault(&ctx, true));
        0
    }

    #[raw_tracepoint(tracepoint = "sys_exit")]
    pub fn after_call(ctx: RawTracePointContext) -> i32 {
        counted(mapping::try_call(&ctx));
        0
    }

    #[uprobe]
    pub fn pool_birth(ctx: ProbeContext) -> u32 {
        counted(pool::try_birth(&ctx));
        0
    }

    #[uprobe]
    pub fn alloc_entry(ctx: ProbeContext) -> u32 {
        counted(alloc::try_entry(&ctx));
        0
    }

    #[uretprobe]
    pub fn alloc_return(ctx: RetProbeContext) -> u32 {
        counted(alloc::try_return(&ProbeContext::new(ctx.as_ptr())));
        0
    }

    #[uprobe]
    pub fn free_entry(ctx: ProbeContext) -> u32 {
        counted(alloc::try_free(&ctx));
        0
    }

    #[uprobe]
    pub fn call_probe(ctx: ProbeContext) -> u32 {
        counted(calls::try_call(&ctx));
        0
    }

    #[uretprobe]
    pub fn call_return(ctx: RetProbeContext) -> u32 {
        counted(calls::try_return(&ProbeContext::new(ctx.as_ptr())));
        0
    }

    #[perf_event]
    pub fn bytecode_read(ctx: PerfEventContext) -> u32 {
        counted(watch::try_hit(&ctx));
        0
    }

    /// What a probe costs that does nothing.
    #[uprobe]
    pub fn nothing(_ctx: ProbeContext) -> u32 {
        0
    }

    #[raw_tracepoint(tracepoint = "sched_process_fork")]
    pub fn track_fork(ctx: RawTracePointContext) -> i32 {
        counted(process::try_track_fork(&ctx));
        0
    }

    #[btf_tracepoint(function = "sched_switch")]
    pub fn wait_switch(ctx: BtfTracePointContext) -> i32 {
        counted(wait::switch::try_switch(&ctx));
        0
    }

    #[raw_tracepoint(tracepoint = "sched_process_fork")]
    pub fn wait_fork(ctx: RawTracePointContext) -> i32 {
        counted(wait::threads::try_fork(&ctx));
        0
    }

    #[raw_tracepoint(tracepoint = "sched_exit_tp")]
    pub fn wait_resume(ctx: RawTracePointContext) -> i32 {
        counted(wait::draw::try_resume(&ctx, context::WAIT));
        0
    }

    #[raw_tracepoint(tracepoint = "sys_exit")]
    pub fn wait_call(ctx: RawTracePointContext) -> i32 {
        counted(wait::draw::try_call(&ctx));
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
