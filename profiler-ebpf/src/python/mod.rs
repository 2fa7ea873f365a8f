//! Reading CPython's stacks from outside.

pub mod frames;
pub mod thread;
