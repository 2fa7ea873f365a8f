//! Names of processes and threads: bytes that their owners chose, at most 15 of them (`TASK_COMM_LEN` less its NUL).
//!
//! Whoever names a thread may choose any bytes but NUL, and where the kernel cuts a long name it may leave half a
//! character. So a name is bytes until it is shown.

use std::{fs, path::Path};

pub use crate::shown::line as clean;

/// A name as it is shown: up to the first NUL, with U+FFFD in place of what is no character, or one that would do
/// something to a terminal or to the lines of a file.
pub fn shown(name: &[u8]) -> String {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    clean(&String::from_utf8_lossy(&name[..end]))
}

/// The name of a process's main thread; empty if it is gone. `proc` is /proc.
pub fn of(proc: &Path, pid: u32) -> String {
    let name = fs::read(proc.join(pid.to_string()).join("comm")).unwrap_or_default();
    // The kernel adds a line feed, whether the name ends in one or not.
    shown(name.strip_suffix(b"\n").unwrap_or(&name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_ends_at_its_nul_and_odd_bytes_are_replaced() {
        assert_eq!(shown(b"python3\0\0\0\0\0\0\0\0\0"), "python3");
        assert_eq!(shown("обработчик".as_bytes().split_at(15).0), "обработ\u{fffd}");
        assert_eq!(shown(b"\xff"), "\u{fffd}");
        assert_eq!(shown(b"a\nb\x1b[2J"), "a\u{fffd}b\u{fffd}[2J");
        assert_eq!(shown(b"x; ../y) R 1 ("), "x; ../y) R 1 (");
        assert_eq!(shown(b""), "");
    }

    #[test]
    fn a_name_that_ends_in_a_line_feed_keeps_it() {
        let proc = tempfile::tempdir().expect("a folder");
        fs::create_dir(proc.path().join("7")).expect("a folder");
        fs::write(proc.path().join("7/comm"), b"a\xd1\n\n").expect("a file");
        assert_eq!(of(proc.path(), 7), "a\u{fffd}\u{fffd}");
        assert_eq!(of(proc.path(), 8), "");
    }

    proptest! {
        #[test]
        fn whatever_a_thread_is_called_is_one_line(name in prop::collection::vec(any::<u8>(), 0..16)) {
            let text = shown(&name);
            prop_assert!(!text.contains(|c: char| c.is_control()));
        }
    }
}
