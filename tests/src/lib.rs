//! The end-to-end harness: real interpreters run workloads whose truth is known, the profiler's binary records them,
//! and what it wrote is compared.
//!
//! The profiler is treated as a stranger. It is run as a user would run it, and its output is read by code of our own;
//! only pprof is also read back with the `profiler` crate, because later commands will do that.

pub mod bpf;
pub mod calls;
pub mod cpus;
pub mod folded;
pub mod memory;
pub mod native;
pub mod pattern;
pub mod perf;
pub mod pprof;
pub mod process;
pub mod profiler;
pub mod python;
pub mod serial;
pub mod skip;
pub mod truth;
pub mod venv;
pub mod waits;
pub mod whole;
pub mod workload;
pub mod workshop;
