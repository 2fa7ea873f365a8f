//! What `/proc/PID/maps` says: which file lies where in a process.
//!
//! The text is written by the kernel, but the names in it are chosen by the process: they need not be UTF-8, may hold
//! spaces and line feeds, and may look like anything. So lines are parsed as bytes, and a line that cannot be read is
//! counted and left out rather than guessed at.
//!
//! The format is that of proc(5); what it leaves open was tried on Linux 6.18.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// One mapping of a process, from `/proc/PID/maps` or from a side-band record (`sideband`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEntry {
    pub start: u64,
    /// First address after the mapping.
    pub end: u64,
    /// Where in the file the mapping starts, in bytes.
    pub offset: u64,
    pub executable: bool,
    /// The kernel's number of the file system, major and minor; (0, 0) if there is no file.
    /// On btrfs and overlayfs `stat` reports another one for the same file.
    pub device: (u32, u32),
    /// 0 if there is no file.
    pub inode: u64,
    pub name: MapName,
}

impl MapEntry {
    pub fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Where in the mapped file the byte at `address` is.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        if !self.contains(address) {
            return None;
        }
        self.offset.checked_add(address - self.start)
    }

    /// The file's path as the process saw it when it mapped the file.
    pub fn path(&self) -> Option<&Path> {
        match &self.name {
            MapName::File { path, .. } => Some(path),
            MapName::Anonymous | MapName::Special(_) => None,
        }
    }
}

/// What is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapName {
    Anonymous,
    /// Named by the kernel, not by a path: `[vdso]`, `[heap]`, `[anon:…]`, `anon_inode:[…]`.
    Special(Box<OsStr>),
    /// A file, or something that behaves like one: a memfd is `/memfd:NAME`, deleted.
    File {
        path: PathBuf,
        /// The path no longer leads to this file. A file whose name really ends in ` (deleted)` looks the same, so this
        /// is a hint: `file` compares inodes.
        deleted: bool,
    },
}

impl MapName {
    /// Tells the three kinds apart by the name as the kernel prints it, line feeds already decoded.
    pub(super) fn from_kernel(name: &[u8]) -> Self {
        // Side-band records write `//anon` where /proc writes nothing (perf_event_mmap_event, kernel/events/core.c).
        if name.is_empty() || name == b"//anon" {
            return Self::Anonymous;
        }
        if !name.starts_with(b"/") {
            return Self::Special(OsStr::from_bytes(name).into());
        }
        let (path, deleted) = match name.strip_suffix(DELETED) {
            Some(path) => (path, true),
            None => (name, false),
        };
        Self::File {
            path: OsStr::from_bytes(path).into(),
            deleted,
        }
    }
}

/// A process's mappings in the order of their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maps {
    pub entries: Vec<MapEntry>,
    /// Lines that could not be read.
    pub unreadable: usize,
}

impl Maps {
    /// The mapping that holds `address`.
    pub fn find(&self, address: u64) -> Option<&MapEntry> {
        let after = self.entries.partition_point(|entry| entry.start <= address);
        self.entries[..after].last().filter(|entry| entry.contains(address))
    }
}

/// Reads and parses `/proc/PID/maps`.
///
/// # Errors
/// `NotFound`, or ESRCH while reading, if there is no such process. A kernel thread and a process that is about to
/// be gone have no mappings, which is not an error.
pub fn read(pid: u32) -> io::Result<Maps> {
    Ok(parse(&fs::read(format!("/proc/{pid}/maps"))?))
}

/// Parses the text of a maps file.
pub fn parse(bytes: &[u8]) -> Maps {
    let mut maps = Maps::default();
    for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        match parse_line(line) {
            Some(entry) => maps.entries.push(entry),
            None => maps.unreadable += 1,
        }
    }
    // The kernel writes them in order. `find` relies on it, so a text that came from elsewhere is put in order.
    if !maps.entries.is_sorted_by_key(|entry| entry.start) {
        maps.entries.sort_by_key(|entry| entry.start);
    }
    maps
}

/// What the kernel appends to the path of a file that was unlinked or replaced (`d_path`, fs/d_path.c).
const DELETED: &[u8] = b" (deleted)";

/// Parses `55d0c2a00000-55d0c2a21000 r-xp 00001000 fe:00 325843      /usr/bin/python3.11`.
fn parse_line(line: &[u8]) -> Option<MapEntry> {
    let (range, rest) = field(line)?;
    let (permissions, rest) = field(rest)?;
    let (offset, rest) = field(rest)?;
    let (device, rest) = field(rest)?;
    // The inode is the last field of a line without a name.
    let (inode, rest) = field(rest).unwrap_or((rest, b""));

    let (start, end) = split_at(range, b'-')?;
    let (start, end) = (number(start, 16)?, number(end, 16)?);
    if start >= end {
        return None;
    }
    let executable = match *permissions {
        [_, _, b'x', _] => true,
        [_, _, b'-', _] => false,
        _ => return None,
    };
    let (major, minor) = split_at(device, b':')?;
    Some(MapEntry {
        start,
        end,
        offset: number(offset, 16)?,
        executable,
        device: (
            u32::try_from(number(major, 16)?).ok()?,
            u32::try_from(number(minor, 16)?).ok()?,
        ),
        inode: number(inode, 10)?,
        // Names are padded to a column with spaces, and none starts with one.
        name: MapName::from_kernel(&decode_line_feeds(rest.trim_ascii_start())),
    })
}

/// Splits at the first space: the fields before the name are each followed by exactly one.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    split_at(line, b' ')
}

fn split_at(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    // `from_str_radix` accepts a sign, the kernel never writes one.
    if !digits.first()?.is_ascii_hexdigit() {
        return None;
    }
    u64::from_str_radix(str::from_utf8(digits).ok()?, radix).ok()
}

/// A line feed in a name is written as `\012` so that it does not end the line. Nothing else is escaped, not even the
/// backslash, so a name that really holds `\012` is misread: it is then not found by path, and `file` says so.
fn decode_line_feeds(name: &[u8]) -> Vec<u8> {
    const ESCAPED: &[u8] = br"\012";
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        match rest.strip_prefix(ESCAPED) {
            Some(tail) => {
                decoded.push(b'\n');
                rest = tail;
            }
            None => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn only(line: &[u8]) -> MapEntry {
        let maps = parse(line);
        assert_eq!(
            (maps.entries.len(), maps.unreadable),
            (1, 0),
            "{}",
            String::from_utf8_lossy(line)
        );
        maps.entries[0].clone()
    }

    fn file(path: &str, deleted: bool) -> MapName {
        MapName::File {
            path: path.into(),
            deleted,
        }
    }

    #[test]
    fn a_line_is_read_whole() {
        let line = b"7f3b1c428000-7f3b1c57d000 r-xp 00028000 fe:00 325846                     /usr/lib/libc.so.6\n";
        let expected = MapEntry {
            start: 0x7f3b_1c42_8000,
            end: 0x7f3b_1c57_d000,
            offset: 0x28000,
            executable: true,
            device: (0xfe, 0),
            inode: 325_846,
            name: file("/usr/lib/libc.so.6", false),
        };
        assert_eq!(only(line), expected);
        assert_eq!(expected.file_offset(0x7f3b_1c42_8010), Some(0x28010));
        assert_eq!(expected.file_offset(expected.end), None);
    }

    #[test]
    fn names_keep_their_spaces_line_feeds_and_foreign_bytes() {
        let line = b"1000-2000 r--p 00000000 fe:00 7    /tmp/a b\\012c\xff\\01";
        let expected = OsStr::from_bytes(b"/tmp/a b\nc\xff\\01");
        assert_eq!(only(line).path(), Some(Path::new(expected)));
    }

    #[test]
    fn kinds_of_names_are_told_apart() {
        for (text, expected) in [
            ("", MapName::Anonymous),
            ("                     ", MapName::Anonymous),
            ("   [vdso]", MapName::Special(OsStr::new("[vdso]").into())),
            (
                "   anon_inode:[perf_event]",
                MapName::Special(OsStr::new("anon_inode:[perf_event]").into()),
            ),
            ("   /memfd:jit (deleted)", file("/memfd:jit", true)),
            ("   /usr/bin/python3.11 (deleted)", file("/usr/bin/python3.11", true)),
            ("   /a (deleted)/b", file("/a (deleted)/b", false)),
        ] {
            let line = format!("1000-2000 rw-p 00000000 00:00 0 {text}");
            assert_eq!(only(line.as_bytes()).name, expected, "{text:?}");
        }
        assert_eq!(only(b"1000-2000 rw-p 00000000 00:00 0").name, MapName::Anonymous);
    }

    #[test]
    fn an_unreadable_line_is_counted_and_the_others_are_kept() {
        let text =
            b"1000-2000 r-xp 0 0:0 0\nnonsense\n2000-1000 r-xp 0 0:0 0\n+1-2 r-xp 0 0:0 0\n3000-4000 r-xp 0 0:0 0\n";
        let maps = parse(text);
        assert_eq!(maps.unreadable, 3);
        assert_eq!(
            maps.entries.iter().map(|entry| entry.start).collect::<Vec<_>>(),
            [0x1000, 0x3000]
        );
    }

    #[test]
    fn an_address_is_found_in_the_mapping_that_holds_it() {
        let maps = parse(b"1000-2000 r-xp 0 0:0 0\n3000-4000 r-xp 0 0:0 0\n");
        assert_eq!(maps.find(0x1fff).map(|entry| entry.start), Some(0x1000));
        assert_eq!(maps.find(0x2000), None);
        assert_eq!(maps.find(0xfff), None);
        assert_eq!(maps.find(0x3000).map(|entry| entry.start), Some(0x3000));
    }

    #[test]
    fn this_process_has_readable_maps() {
        let maps = read(std::process::id()).expect("own maps");
        assert_eq!(maps.unreadable, 0);
        let here = this_process_has_readable_maps as fn() as usize as u64;
        let entry = maps.find(here).expect("a mapping for this function");
        assert!(entry.executable);
        let executable = std::env::current_exe().expect("own path");
        assert_eq!(entry.path(), Some(&*executable));
    }

    #[test]
    fn no_such_process_is_not_found() {
        assert_eq!(read(u32::MAX).expect_err("no such pid").kind(), io::ErrorKind::NotFound);
    }

    /// Writes an entry as the kernel does.
    fn print(entry: &MapEntry) -> Vec<u8> {
        let MapEntry {
            start,
            end,
            offset,
            executable,
            device: (major, minor),
            inode,
            name,
        } = entry;
        let x = if *executable { 'x' } else { '-' };
        let mut line =
            format!("{start:08x}-{end:08x} r-{x}p {offset:08x} {major:02x}:{minor:02x} {inode} ").into_bytes();
        let (name, suffix) = match name {
            MapName::Anonymous => (&b""[..], &b""[..]),
            MapName::Special(name) => (name.as_bytes(), &b""[..]),
            MapName::File { path, deleted } => (path.as_os_str().as_bytes(), if *deleted { DELETED } else { b"" }),
        };
        if !name.is_empty() {
            line.resize(line.len().max(73), b' ');
        }
        for &byte in name {
            match byte {
                b'\n' => line.extend(br"\012"),
                byte => line.push(byte),
            }
        }
        line.extend(suffix);
        line.push(b'\n');
        line
    }

    /// Names that have only one reading: see `deleted` and `decode_line_feeds` for those that have two.
    fn names() -> impl Strategy<Value = MapName> {
        let bytes = prop::collection::vec(1u8.., 0..40);
        let path = (bytes, any::<bool>()).prop_filter_map("ambiguous name", |(bytes, deleted)| {
            let path = [&b"/"[..], &bytes].concat();
            let ambiguous = path.ends_with(DELETED) || path.windows(4).any(|window| window == br"\012");
            let path = PathBuf::from(OsStr::from_bytes(&path));
            (!ambiguous && path.as_os_str() != "//anon").then_some(MapName::File { path, deleted })
        });
        prop_oneof![
            Just(MapName::Anonymous),
            Just(MapName::Special(OsStr::new("[heap]").into())),
            Just(MapName::Special(OsStr::new("[anon: a b]").into())),
            path
        ]
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let maps = parse(&bytes);
            maps.find(0x1000);
        }

        #[test]
        fn almost_lines_never_panic(text in "([0-9a-f]{1,18}[- :]){0,6}[-+r x:/\\\\012\\n]{0,20}") {
            parse(text.as_bytes());
        }

        #[test]
        fn what_was_printed_is_read_back(
            start in 0..u64::MAX,
            length in 1u64..,
            offset: u64,
            executable: bool,
            device: (u32, u32),
            inode: u64,
            name in names(),
        ) {
            let end = start.saturating_add(length);
            let entry = MapEntry { start, end, offset, executable, device, inode, name };
            prop_assert_eq!(only(&print(&entry)), entry);
        }
    }
}
