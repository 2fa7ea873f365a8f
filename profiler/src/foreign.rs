//! Parsers that meet a file they have a fault for.
//!
//! Every parser here checks what it reads, and none is meant to panic. Should one, on a file that somebody has made for
//! it, the file is one that cannot be read, which is counted: the recording is of others, too, and goes on.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

static FAILURES: AtomicU64 = AtomicU64::new(0);

/// What `parse` comes to; `None` if it panics. It must change nothing that outlives it.
pub fn parsed<T>(parse: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(parse)).ok();
    if result.is_none() {
        FAILURES.fetch_add(1, Ordering::Relaxed);
    }
    result
}

/// What to say of the files that could not be read for this.
pub fn warning() -> Option<String> {
    let failures = FAILURES.load(Ordering::Relaxed);
    let files = crate::summary::many(failures, "file");
    (failures > 0)
        .then(|| format!("{files} could not be read because of a fault of the profiler, which is worth a report"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_that_panics_is_a_file_that_cannot_be_read_and_is_counted() {
        assert_eq!(parsed(|| 7), Some(7));
        let before = FAILURES.load(Ordering::Relaxed);
        assert_eq!(parsed(|| -> u32 { panic!("a hostile file") }), None);
        assert!(FAILURES.load(Ordering::Relaxed) > before);
        assert!(warning().is_some_and(|line| line.contains("could not be read")));
    }
}
