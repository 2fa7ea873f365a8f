//! Where things are in this repository.

use std::path::{Path, PathBuf};

/// The directory of the workspace's `Cargo.toml`.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    // `xtask` is a member directly below the root, so it has a parent; the root of a file system would be its own.
    xtask.parent().unwrap_or(xtask)
}

/// The eBPF build tools that `setup` made, and the record of its choice.
///
/// Below the workspace's own `target`, also when `CARGO_TARGET_DIR` points elsewhere: `profiler/build.rs` looks here.
pub fn ebpf_tools() -> PathBuf {
    root().join("target/ebpf-tools")
}

/// Roots of other distributions, with interpreters to test against.
pub fn pythons() -> PathBuf {
    root().join("target/pythons")
}
