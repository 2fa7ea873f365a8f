//! Logic of the kernel half that needs no kernel: it reads foreign memory through [`memory::ReadMemory`], so the same
//! source runs in BPF (over `bpf_probe_read_user`) and in tests on the host (over an array).
//!
//! Form follows the verifier, and the comments say where: loop state lives in map memory and is re-read with volatile
//! loads next to its use, because LLVM deletes masks it can prove unneeded while verifiers up to 6.8 cannot follow
//! the proof.
#![cfg_attr(not(test), no_std)]

pub mod draw;
pub mod gate;
pub mod hash;
pub mod known;
pub mod memory;
pub mod python;
pub mod scratch;
pub mod share;
pub mod unwind;
/// Waits of threads: which class a wait is of, and the account of a thread.
pub mod wait {
    pub mod class;
    pub mod slot;
}
