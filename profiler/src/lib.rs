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
//! [`report::pprof`] and `report::otlp`, fxprof-processed-profile in `report::gecko`, statrs in [`diff::statistics`],
//! crossterm in [`top::screen`], ratatui in [`top::view`] and there; of the agent's, axum in `agent::web`, tonic in `agent::outlets::grpc`, ureq in
//! `agent::outlets::http`, prometheus-client in `agent::metrics`, toml in `agent::file`.

// They panic when the terminal was hung up: `shown::say`, or a writer whose errors are looked at.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod agent;
pub mod births;
pub mod bpf;
pub mod calls;
pub mod cli;
pub mod closest;
pub mod collections;
pub mod config;
pub mod cost;
pub mod cpu_use;
pub mod decode;
pub mod diff;
pub mod dump;
pub mod engine;
pub mod exceptions;
pub mod exit;
pub mod flight;
pub mod foreign;
#[doc(hidden)]
pub mod fuzzed;
pub mod governor;
pub mod humanize;
pub mod imports;
pub mod inject;
pub mod instruments;
pub mod invoker;
pub mod launch;
pub mod memory;
pub mod name;
pub mod notify;
pub mod objects;
pub mod orders;
pub mod output;
pub mod preflight;
pub mod process;
pub mod profile;
pub mod progress;
pub mod prompt;
pub mod python;
pub mod query;
pub mod recording;
pub mod report;
pub mod reread;
pub mod resolve;
pub mod rights;
pub mod session;
pub mod shown;
pub mod slices;
pub mod source;
pub mod sources;
pub mod stitch;
pub mod stored;
pub mod summary;
pub mod symbolize;
pub mod tally;
pub mod task;
pub mod top;
pub mod truncated;
pub mod unwind;
pub mod waits;
pub mod wall;
pub mod why;
pub mod window;
