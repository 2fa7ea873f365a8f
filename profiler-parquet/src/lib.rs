//! The store: profiles of any number of hosts as Parquet files, which every usual engine reads without us.
//!
//! ```text
//! DIR/v1/day=2026-12-01/hour=13/SET.frames.parquet     what stacks are
//! DIR/v1/day=2026-12-01/hour=13/SET.samples.parquet    how much of them there was
//! ```
//!
//! A *set* is two files with one name. Its stacks are in it, so that it can be read, moved and deleted by itself. What the
//! columns mean is `schema`'s to say, and docs/store.md's. A message of OpenTelemetry's profiles becomes [`Rows`]
//! (`convert`), rows become sets (`write`), sets come into the store whole or not at all (`store`).
//!
//! The profiler's agent and `profiler-store ingest` write with this, so it has what writing needs and no engine: parquet
//! without arrow. To make few sets of many (`compact`) it reads what it wrote (`read`).

mod compact;
mod convert;
mod limits;
mod read;
mod rows;
pub mod schema;
mod store;
mod weigh;
mod when;
mod write;

#[cfg(test)]
mod tests;

pub use compact::Compacted;
pub use convert::{Refused, Taken};
pub use limits::Limits;
pub use rows::{Frame, Lost, Rows, Sample, StackId};
pub use store::{Appended, Files, Store, StoreError, is_set_name};
pub use when::Hour;
