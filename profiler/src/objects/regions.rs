//! What a process has mapped, as far as objects can lie there: which of it is written to, and which file it belongs to.

use std::ops::Range;

/// A mapping that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pub range: Range<u64>,
    pub writable: bool,
    /// Device and inode of the file.
    pub file: Option<(u64, u64)>,
    /// The same, also of its zeroed memory (`.bss`), which the kernel shows without a name right behind it. What was
    /// allocated there may be in the same mapping.
    pub image: Option<(u64, u64)>,
    /// What the kernel calls it, as bytes that somebody chose.
    pub path: Option<Box<str>>,
}

/// All of them, by address.
#[derive(Clone, Debug, Default)]
pub struct Regions {
    list: Vec<Region>,
}

impl Regions {
    /// Parses `/proc/PID/maps`; lines that cannot be read are left out.
    pub fn parse(text: &[u8]) -> Self {
        let mut list: Vec<Region> = Vec::new();
        for line in text.split(|&byte| byte == b'\n') {
            let Some(mut region) = parse_line(line) else { continue };
            // The zeroed memory behind a library's data: it may have been cut in pieces by mprotect.
            if region.image.is_none()
                && region.path.is_none()
                && let Some(before) = list.last()
                && before.range.end == region.range.start
                && before.image.is_some()
                && before.writable
            {
                region.image = before.image;
                region.path.clone_from(&before.path);
            }
            list.push(region);
        }
        list.sort_by_key(|region| region.range.start);
        Self { list }
    }

    pub fn find(&self, address: u64) -> Option<&Region> {
        let after = self.list.partition_point(|region| region.range.start <= address);
        self.list[..after]
            .last()
            .filter(|region| region.range.contains(&address))
    }

    /// Whether so many bytes from an address on are one mapping's.
    pub fn holds(&self, address: u64, bytes: u64) -> bool {
        self.find(address)
            .is_some_and(|region| region.range.end - address >= bytes)
    }

    /// Memory that somebody allocated: no file's.
    pub fn is_allocated(&self, address: u64) -> bool {
        self.find(address)
            .is_some_and(|region| region.writable && region.file.is_none())
    }

    /// The data of files: what C code has variables in.
    pub fn data(&self) -> impl Iterator<Item = &Region> {
        self.list
            .iter()
            .filter(|region| region.writable && region.image.is_some())
    }
}

fn parse_line(line: &[u8]) -> Option<Region> {
    let mut rest = line;
    let mut field = || {
        let at = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        let (word, after) = rest.split_at(at);
        rest = after.get(1..).unwrap_or_default();
        str::from_utf8(word).ok()
    };
    let (start, end) = field()?.split_once('-')?;
    let permissions = field()?.as_bytes();
    let (_offset, device, inode) = (field()?, field()?, field()?);
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let range = hex(start)?..hex(end)?;
    if permissions.first() != Some(&b'r') || range.is_empty() {
        return None;
    }
    let (major, minor) = device.split_once(':')?;
    let inode: u64 = inode.parse().ok()?;
    let name = rest.trim_ascii();
    let file = (inode != 0).then_some((hex(major)? << 32 | hex(minor)?, inode));
    Some(Region {
        range,
        writable: permissions.get(1) == Some(&b'w'),
        file,
        image: file,
        path: (!name.is_empty()).then(|| String::from_utf8_lossy(name).into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &[u8] = b"\
5600-5700 rw-p 00000000 fe:00 77 /usr/lib/libpython3.11.so.1.0
5700-5800 rw-p 00000000 00:00 0 \n\
5800-5900 rw-p 00000000 00:00 0 \n\
6000-7000 rw-p 00000000 00:00 0                          [heap]
8000-9000 ---p 00000000 00:00 0 \n\
nonsense
a000-b000 r-xp 00001000 fe:00 77 /usr/lib/libpython3.11.so.1.0
";

    #[test]
    fn zeroed_memory_behind_a_file_is_the_files_and_may_have_been_allocated() {
        let regions = Regions::parse(MAPS);
        assert_eq!(regions.data().count(), 3);
        assert!(!regions.is_allocated(0x5650) && regions.is_allocated(0x5850) && regions.is_allocated(0x6010));
        assert!(regions.find(0x8010).is_none() && regions.find(0x7000).is_none());
        assert!(regions.holds(0x6ff8, 8) && !regions.holds(0x6ff9, 8));
        assert!(!regions.find(0xa000).unwrap().writable);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let _ = Regions::parse(&text).is_allocated(7);
        }
    }
}
