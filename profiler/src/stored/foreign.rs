//! Files that people have beside profiles, and what to do with them instead.

/// What these bytes are, and the remedy, if they are something well known that is no profile.
pub(super) fn recognize(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let (_, what, remedy) = BEGINNINGS.iter().find(|(start, _, _)| bytes.starts_with(start))?;
    Some((what, remedy))
}

/// The first that fits counts.
const BEGINNINGS: [(&[u8], &str, &str); 14] = [
    (
        b"PERFILE2",
        "perf's own file",
        "make folded text of it: perf script | stackcollapse-perf.pl",
    ),
    (
        b"<?xml",
        "a picture",
        "use the .pb.gz of the recording (record -o NAME.pb.gz)",
    ),
    (
        b"<svg",
        "a picture",
        "use the .pb.gz of the recording (record -o NAME.pb.gz)",
    ),
    (
        b"<!DOCTYPE",
        "a page",
        "use the .pb.gz of the recording (record -o NAME.pb.gz)",
    ),
    (
        b"<html",
        "a page",
        "use the .pb.gz of the recording (record -o NAME.pb.gz)",
    ),
    // marshal's dictionary, whose first key is a tuple.
    (
        b"{(",
        "a file of cProfile (pstats)",
        "it has no stacks: open it with `python3 -m pstats`",
    ),
    (
        b"{\xa8",
        "a file of cProfile (pstats)",
        "it has no stacks: open it with `python3 -m pstats`",
    ),
    (
        b"{\xa9",
        "a file of cProfile (pstats)",
        "it has no stacks: open it with `python3 -m pstats`",
    ),
    (
        b"\x80",
        "a pickle",
        "pickles are programs and are not opened; record with `profiler memory -o NAME.pb.gz`",
    ),
    (b"\x7fELF", "a program", "name a recording"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it first: zstd -d"),
    (b"\xfd7zXZ", "compressed by xz", "unpack it first: xz -d"),
    (
        b"# callgrind format",
        "a file of callgrind",
        "it has calls and no stacks: open it with kcachegrind or gprof2dot",
    ),
];
