//! Processes: which exist, what they have mapped, and which of them run a CPython.

pub mod ancestry;
pub mod file;
pub mod files;
pub mod maps;
pub mod sideband;
pub mod table;
