//! Processes: which exist, what they have mapped, and which of them run a CPython.

pub mod ancestry;
pub mod cgroup;
pub mod comm;
pub mod command;
pub mod file;
pub mod files;
pub mod maps;
pub mod offspring;
pub mod perf_map;
pub mod pythons;
pub mod root;
pub mod sideband;
pub mod stat;
pub mod table;
pub mod threads;
pub mod who;
