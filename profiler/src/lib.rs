//! The profiler's user-space half.
//!
//! One way through, and one arrow back (ARCHITECTURE.md, "Life of a sample"):
//!
//! ```text
//! source ──▶ decode ──▶ recording ──▶ resolve ──▶ stitch ──▶ name ──▶ profile ──▶ report
//!    ▲                      │
//!    └────── facts ─────────┘   what the kernel side must know to walk a process's Python stacks
//! ```
//!
//! Heavy dependencies are named in one module each: aya in [`bpf`], clap in [`cli`] (and the list of formats in
//! [`report`]), tokio in [`session`], blazesym in [`symbolize`], inferno in [`report::flamegraph`], prost in
//! [`report::pprof`].

pub mod bpf;
pub mod calls;
pub mod cli;
pub mod closest;
pub mod config;
pub mod cost;
pub mod cpu_use;
pub mod decode;
pub mod engine;
pub mod exit;
pub mod flight;
pub mod foreign;
#[doc(hidden)]
pub mod fuzzed;
pub mod governor;
pub mod humanize;
pub mod instruments;
pub mod invoker;
pub mod launch;
pub mod memory;
pub mod name;
pub mod orders;
pub mod output;
pub mod preflight;
pub mod process;
pub mod profile;
pub mod progress;
pub mod python;
pub mod recording;
pub mod report;
pub mod resolve;
pub mod rights;
pub mod session;
pub mod shown;
pub mod source;
pub mod stitch;
pub mod summary;
pub mod symbolize;
pub mod tally;
pub mod truncated;
pub mod unwind;
pub mod waits;
pub mod window;
