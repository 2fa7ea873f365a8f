//! The records that cross the border between kernel and user space, and the limits both sides agree on.
//!
//! Only plain `#[repr(C)]` integers live here: both halves are built by different compilers, and a type with
//! invalid bit patterns (`bool`, `enum`, `Option`) would be undefined behaviour on the side that receives it.
//! There is no logic here beyond constructors of constants: the kernel side's logic is in `profiler-ebpf`
//! (whose library also compiles for the host), the user side's in `profiler`.
//!
//! Vocabulary: `pid` is what user space calls a process (the kernel's tgid), `tid` is one thread.
#![no_std]

pub mod birth;
pub mod config;
pub mod group;
pub mod limits;
pub mod mark;
pub mod names;
pub mod python;
pub mod record;
pub mod stats;
pub mod unwind;
pub mod wait;
