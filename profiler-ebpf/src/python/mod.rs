//! Reading CPython's stacks from outside.

pub mod fingerprint;
pub mod frames;
pub mod gil;
pub mod thread;
