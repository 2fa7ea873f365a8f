//! The profiler's kernel half: entry points only.
//!
//! | program | hook | does |
//! |---|---|---|
//! | `sample_cpu` | perf event (software CPU clock), one per CPU | sends who runs and its stacks |
//! | `sample_probe` | uprobe, for tests | the same, at an instruction |
//! | `track_fork` | raw tracepoint `sched_process_fork` | makes children of targets targets (`--subprocesses`) |
//!
//! Every fault ends in a counter of `STATS`; nothing is logged per sample.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
// For `atomic`. Stable compilers allow it to crates that RUSTC_BOOTSTRAP names, as `profiler/build.rs` does.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod code;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod cpu;
#[cfg(target_arch = "bpf")]
mod ids;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod native;
#[cfg(target_arch = "bpf")]
mod output;
#[cfg(target_arch = "bpf")]
mod probe;
#[cfg(target_arch = "bpf")]
mod process;
#[cfg(target_arch = "bpf")]
mod sample;
#[cfg(target_arch = "bpf")]
mod stats;
#[cfg(target_arch = "bpf")]
mod task;
#[cfg(target_arch = "bpf")]
mod user_memory;
#[cfg(target_arch = "bpf")]
mod walk;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::{
        macros::{perf_event, raw_tracepoint, uprobe},
        programs::{PerfEventContext, ProbeContext, RawTracePointContext},
    };

    use crate::{cpu, probe, process, stats};

    #[perf_event]
    pub fn sample_cpu(ctx: PerfEventContext) -> u32 {
        if let Err(lost) = cpu::try_sample(&ctx) {
            stats::count(lost);
        }
        0
    }

    #[uprobe]
    pub fn sample_probe(ctx: ProbeContext) -> u32 {
        if let Err(lost) = probe::try_sample(&ctx) {
            stats::count(lost);
        }
        0
    }

    #[raw_tracepoint(tracepoint = "sched_process_fork")]
    pub fn track_fork(ctx: RawTracePointContext) -> i32 {
        if let Err(lost) = process::try_track_fork(&ctx) {
            stats::count(lost);
        }
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
