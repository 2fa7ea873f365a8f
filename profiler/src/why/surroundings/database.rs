//! Databases that are part of a process: which it has loaded, and what a file of SQLite's says of itself.

use std::{io::Read as _, path::Path};

use super::text;
use crate::{
    process::root::{LastLink, Root},
    why::evidence::Database,
};

/// Parts of the names of files that are mapped.
const LIBRARIES: [(&[u8], &str); 2] = [(b"sqlite", "SQLite"), (b"duckdb", "DuckDB")];

/// Which one has been loaded.
pub fn embedded(pid: u32) -> Option<&'static str> {
    let maps = text(&Path::new("/proc").join(pid.to_string()).join("maps"))?;
    let has = |part: &[u8]| maps.windows(part.len()).any(|bytes| bytes == part);
    LIBRARIES.into_iter().find(|(part, _)| has(part)).map(|(_, name)| name)
}

/// What lies at a path of the process's, if that is a file of SQLite's.
pub fn read(pid: u32, path: &str) -> Option<Database> {
    let file = Root::of(pid).ok()?.open(Path::new(path), LastLink::Follow).ok()?;
    let mut header = Vec::new();
    file.take(HEADER as u64).read_to_end(&mut header).ok()?;
    let (page_bytes, has_log) = parse(&header)?;
    Some(Database {
        path: path.to_owned(),
        page_bytes,
        has_log,
    })
}

/// As much of it as is looked at (sqlite.org/fileformat.html, 1.3).
const HEADER: usize = 20;

/// The size of a page, and whether a write-ahead log is kept.
fn parse(header: &[u8]) -> Option<(u32, bool)> {
    let header: &[u8; HEADER] = header.get(..HEADER)?.try_into().ok()?;
    let rest = header.strip_prefix(b"SQLite format 3\0")?;
    let page = match u16::from_be_bytes([*rest.first()?, *rest.get(1)?]) {
        1 => 65_536,
        bytes => u32::from(bytes),
    };
    // The version that reads it: 2 needs the log.
    let has_log = *rest.get(3)? >= 2;
    (page.is_power_of_two() && page >= 512).then_some((page, has_log))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_says_how_long_a_page_is_and_whether_there_is_a_log() {
        assert_eq!(parse(b"SQLite format 3\0\x10\x00\x01\x01"), Some((4096, false)));
        assert_eq!(parse(b"SQLite format 3\0\x00\x01\x02\x02"), Some((65_536, true)));
        assert_eq!(parse(b"SQLite format 3\0\x10\x01\x01\x01"), None);
        assert_eq!(parse(b"SQLite format 3\0\x10"), None);
        assert_eq!(parse(b"#!/usr/bin/python3\n\n"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            parse(&bytes);
        }
    }
}
