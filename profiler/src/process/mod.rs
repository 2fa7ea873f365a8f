//! Processes: which exist, what they have mapped, and which of them run a CPython.

pub mod ancestry;
pub mod cgroup;
pub mod comm;
pub mod command;
pub mod cpu_clock;
pub mod file;
pub mod files;
pub mod inspector;
pub mod maps;
pub mod offspring;
pub mod peers;
pub mod perf_map;
pub mod perf_ring;
pub mod pythons;
pub mod root;
pub mod sideband;
pub mod stat;
pub mod table;
pub mod threads;
pub mod who;

/// Whose rights a process has: its effective user, in our user namespace. `None` if it is gone.
pub fn user(pid: u32) -> Option<u32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    Some(perf_map::Status::parse(&status)?.user)
}
