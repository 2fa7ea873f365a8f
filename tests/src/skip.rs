//! Tests that cannot run here say why, and fail where that is not accepted (`cargo xtask test --strict`).

use std::fmt::Display;

/// Says that something is not tested. Fails the test if `PROFILER_STRICT` is 1.
///
/// # Panics
/// If skips are failures.
pub fn skip(reason: impl Display) {
    println!("skipping: {reason}");
    assert!(!is_strict(), "this run is strict, and a test cannot run: {reason}");
}

/// Like [`skip`], for interpreters that `cargo xtask pythons` would have made: a strict run may go without them, too.
///
/// # Panics
/// If such skips are failures.
pub fn skip_pythons(reason: impl Display) {
    println!("skipping: {reason}");
    let accepted = std::env::var_os("PROFILER_WITHOUT_PYTHONS").is_some();
    assert!(
        !is_strict() || accepted,
        "this run is strict, and interpreters are missing: {reason}"
    );
}

fn is_strict() -> bool {
    std::env::var_os("PROFILER_STRICT").is_some_and(|value| value == "1")
}
