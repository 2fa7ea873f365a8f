//! The end-to-end harness: real interpreters run workloads whose truth is known, the profiler's binary records them,
//! and what it wrote is compared.
//!
//! The profiler is treated as a stranger. It is run as a user would run it, and its output is read by code of our own;
//! only pprof is also read back with the `profiler` crate, because later commands will do that.

pub mod bpf;
pub mod browser;
pub mod calls;
pub mod cgroup;
pub mod cpus;
pub mod dump;
pub mod folded;
pub mod http;
pub mod memory;
pub mod native;
pub mod npm;
pub mod pattern;
pub mod perf;
pub mod pprof;
pub mod process;
pub mod profiler;
pub mod pyspy;
pub mod python;
pub mod quota;
pub mod ready;
pub mod recorder;
pub mod reports;
pub mod serial;
pub mod skip;
pub mod terminal;
pub mod truth;
pub mod venv;
pub mod waits;
pub mod whole;
pub mod workload;
pub mod workshop;
