//! What of one process's address space is mapped, as far as it decides what a page fault means.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::event::{MapKind, Mapped};
use super::huge::{HugeAdvice, Thp};
use super::pages::{HUGE, PAGE};
use crate::process::maps::{self, MapName};

/// One mapping: part of `/proc/PID/maps` or `/proc/PID/smaps`, or a call of mmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    /// First address after it.
    pub end: u64,
    pub kind: MapKind,
    pub mapped: Mapped,
    pub advice: HugeAdvice,
    /// The heap that brk moves the end of.
    pub heap: bool,
}

/// Parses the text of `/proc/PID/maps`, or of `/proc/PID/smaps`, which has lines like those, and after each one what
/// makes it up: `VmFlags` has `hg` or `nh` if madvise has asked for huge pages or against them. Only this file says so
/// for mappings made before the recording, but the kernel walks the page tables to write it: some 9 ms for each GiB
/// that is resident, measured on Linux 6.18.
///
/// `in_memory`: the numbers of file systems that lie in memory ([`in_memory`]), which RSS counts as shared memory.
///
/// Lines that cannot be read are left out: faults there count as anonymous, as everywhere where nothing is known.
pub fn parse(bytes: &[u8], in_memory: &[(u32, u32)]) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            if let Some(mapping) = mappings.last_mut() {
                for flag in flags.split(|&byte| byte == b' ') {
                    match flag {
                        b"hg" => mapping.advice = HugeAdvice::Wanted,
                        b"nh" => mapping.advice = HugeAdvice::Refused,
                        _ => {}
                    }
                }
            }
            continue;
        }
        // `Size:   4 kB` and the like: no address begins with a capital letter.
        if line.first().is_none_or(u8::is_ascii_uppercase) {
            continue;
        }
        let [entry] = &maps::parse(line).entries[..] else {
            continue;
        };
        // Second field, fourth letter: `s` or `p`.
        let shared = line.split(|&byte| byte == b' ').nth(1).and_then(|field| field.get(3)) == Some(&b's');
        let shmem = shared && entry.inode == 0 || in_memory.contains(&entry.device) || is_kernels_own(entry);
        mappings.push(Mapping {
            start: entry.start,
            end: entry.end,
            mapped: match entry.inode {
                0 => Mapped {
                    in_memory: shmem,
                    ..Mapped::default()
                },
                inode => {
                    let (major, minor) = entry.device;
                    Mapped::new(major << 20 | minor, inode, entry.offset, entry.start, shmem)
                }
            },
            kind: match (&entry.name, shared) {
                (_, true) => MapKind::Shared,
                (MapName::File { .. }, false) => MapKind::PrivateFile,
                // `[vvar]` and `[vdso]` are the kernel's, but their pages never count as the process's.
                (MapName::Anonymous | MapName::Special(_), false) => MapKind::Anonymous,
            },
            advice: HugeAdvice::None,
            heap: matches!(&entry.name, MapName::Special(name) if **name == *"[heap]"),
        });
    }
    mappings
}

/// Files of the mount that only the kernel itself uses, which no table of mounts lists: `shmem_file_setup` names them.
fn is_kernels_own(entry: &maps::MapEntry) -> bool {
    let Some(path) = entry.path() else { return false };
    let path = path.as_os_str().as_encoded_bytes();
    path.starts_with(b"/memfd:") || path.starts_with(b"/SYSV") || path == b"/dev/zero"
}

/// File systems that lie in memory, by the numbers that `/proc/PID/maps` has of them, from the text of
/// `/proc/PID/mountinfo` (proc(5)): the third field is the number, and the type follows a lone `-`.
pub fn in_memory(mountinfo: &[u8]) -> Vec<(u32, u32)> {
    let number = |digits: &[u8]| str::from_utf8(digits).ok()?.parse::<u32>().ok();
    let device = |line: &[u8]| {
        let mut fields = line.split(|&byte| byte == b' ');
        let numbers = fields.nth(2)?;
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        let colon = numbers.iter().position(|&byte| byte == b':')?;
        (kind == b"tmpfs").then_some((number(&numbers[..colon])?, number(&numbers[colon + 1..])?))
    };
    mountinfo.split(|&byte| byte == b'\n').filter_map(device).collect()
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub end: u64,
    pub kind: MapKind,
    pub mapped: Mapped,
    pub advice: HugeAdvice,
    /// There was a fork since it was mapped: what is there may be the parent's and the child's. A write to a page that
    /// is there but not writable means a copy if it is, and otherwise that the page was a file's or the kernel's zeros.
    pub shared: bool,
}

impl Area {
    /// One that is mapped just now.
    pub fn new(end: u64, kind: MapKind) -> Self {
        Self {
            end,
            kind,
            mapped: Mapped::default(),
            advice: HugeAdvice::None,
            shared: false,
        }
    }
}

/// Areas by their first address; they do not overlap, and equal neighbours are one, as in the kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Mappings {
    areas: BTreeMap<u64, Area>,
}

impl Mappings {
    pub fn len(&self) -> usize {
        self.areas.len()
    }

    pub fn clear(&mut self) {
        self.areas.clear();
    }

    /// The process forks.
    pub fn share(&mut self) {
        // What was new and what was not become equal neighbours.
        for (start, area) in std::mem::take(&mut self.areas) {
            self.put(start, Area { shared: true, ..area });
        }
    }

    pub fn find(&self, address: u64) -> Option<(u64, Area)> {
        let (&start, area) = self.areas.range(..=address).next_back()?;
        (address < area.end).then_some((start, *area))
    }

    /// The pages of the huge page that a fault at `page` could bring: one that lies inside one anonymous mapping that
    /// may have them.
    pub fn huge_page(&self, page: u64, thp: Thp) -> Option<Range<u64>> {
        let first = page / HUGE * HUGE;
        let (_, area) = self.find(first * PAGE)?;
        (area.kind == MapKind::Anonymous && thp.allows(area.advice) && area.end / PAGE >= first + HUGE)
            .then(|| first..first + HUGE)
    }

    /// Replaces what was there.
    pub fn put(&mut self, start: u64, area: Area) {
        if start >= area.end {
            return;
        }
        self.cut(start, area.end, |_, _| {});
        let (mut start, mut area) = (start, area);
        let same =
            |a: &Area, b: &Area| (a.kind, a.mapped, a.advice, a.shared) == (b.kind, b.mapped, b.advice, b.shared);
        if let Some(after) = self.areas.get(&area.end)
            && same(after, &area)
        {
            let end = after.end;
            self.areas.remove(&area.end);
            area.end = end;
        }
        if let Some((&at, before)) = self.areas.range(..start).next_back()
            && before.end == start
            && same(before, &area)
        {
            start = at;
        }
        self.areas.insert(start, area);
    }

    /// Takes out what is between `start` and `end`: calls `each` with each part of an area.
    pub fn cut(&mut self, start: u64, end: u64, mut each: impl FnMut(u64, Area)) {
        if start >= end {
            return;
        }
        self.split(start);
        self.split(end);
        for (start, area) in self.areas.extract_if(start..end, |_, _| true) {
            each(start, area);
        }
    }

    /// madvise about huge pages.
    pub fn advise(&mut self, start: u64, end: u64, advice: HugeAdvice) {
        let mut advised = Vec::new();
        self.cut(start, end, |at, area| advised.push((at, Area { advice, ..area })));
        for (at, area) in advised {
            self.put(at, area);
        }
    }

    fn split(&mut self, at: u64) {
        if let Some((_, area)) = self.areas.range_mut(..at).next_back()
            && area.end > at
        {
            let tail = *area;
            area.end = at;
            self.areas.insert(at, tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"\
55d0c2a00000-55d0c2a21000 r-xp 00001000 fe:00 325843      /usr/bin/python3.11
Size:                132 kB
VmFlags: rd ex mr mw me
55d0c3000000-55d0c3400000 rw-p 00000000 00:00 0           [heap]
VmFlags: rd wr mr mw me ac
7f0000000000-7f0000800000 rw-p 00000000 00:00 0
VmFlags: rd wr mr mw me ac hg
7f0000800000-7f0001000000 rw-p 00000000 00:00 0
VmFlags: rd wr mr mw me ac nh sd
nonsense
7f0002000000-7f0002001000 rw-s 00000000 00:01 9           /dev/shm/x y
7f0003000000-7f0003001000 rw-s 00000000 00:01 9           /dev/zero (deleted)
";

    #[test]
    fn kinds_and_advice_are_read() {
        let read: Vec<_> = parse(TEXT, &[])
            .into_iter()
            .map(|mapping| (mapping.kind, mapping.advice, mapping.heap))
            .collect();
        assert_eq!(
            read,
            [
                (MapKind::PrivateFile, HugeAdvice::None, false),
                (MapKind::Anonymous, HugeAdvice::None, true),
                (MapKind::Anonymous, HugeAdvice::Wanted, false),
                (MapKind::Anonymous, HugeAdvice::Refused, false),
                (MapKind::Shared, HugeAdvice::None, false),
                (MapKind::Shared, HugeAdvice::None, false),
            ]
        );
    }

    #[test]
    fn what_lies_in_memory_is_told_from_files_by_its_mount_or_name() {
        let mounts = b"\
24 1 0:21 / /dev/shm rw,nosuid - tmpfs tmpfs rw
25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
26 1 0:x / /run rw - tmpfs
";
        assert_eq!(in_memory(mounts), [(0, 21)]);
        let text = b"\
7f0000000000-7f0000001000 rw-s 00002000 00:15 7           /dev/shm/block
7f0001000000-7f0001001000 r--p 00000000 fe:00 8           /usr/lib/libz.so
7f0002000000-7f0002001000 rw-s 00000000 00:01 9           /memfd:x (deleted)
7f0003000000-7f0003001000 rw-p 00000000 00:00 0
";
        let read = parse(text, &[(0, 21)]);
        let shared: Vec<_> = read.iter().map(|mapping| mapping.mapped.in_memory).collect();
        assert_eq!(shared, [true, false, true, false]);
        assert_ne!(read[0].mapped.object, read[2].mapped.object);
        assert_eq!(read[0].start.wrapping_add(read[0].mapped.base), 0x2000);
    }

    #[test]
    fn this_processs_maps_and_smaps_agree() {
        let read = |name| parse(&std::fs::read(format!("/proc/self/{name}")).expect("own mappings"), &[]);
        let (maps, smaps) = (read("maps"), read("smaps"));
        assert!(maps.iter().any(|mapping| mapping.heap), "no heap");
        // Reading allocates, and other tests run: what both have is the same.
        let both = smaps.iter().filter(|mapping| {
            maps.iter()
                .any(|other| (other.start, other.end, other.kind) == (mapping.start, mapping.end, mapping.kind))
        });
        assert!(both.count() * 2 > smaps.len());
    }

    #[test]
    fn equal_neighbours_are_one_mapping() {
        let area = |end| Area::new(end, MapKind::Anonymous);
        let mut mappings = Mappings::default();
        mappings.put(0x1000, area(0x2000));
        mappings.put(0x3000, area(0x4000));
        mappings.put(0x2000, area(0x3000));
        assert_eq!(mappings.find(0x2abc), Some((0x1000, area(0x4000))));
        mappings.advise(0x2000, 0x3000, HugeAdvice::Wanted);
        assert_eq!(mappings.len(), 3);
        mappings.advise(0x1000, 0x4000, HugeAdvice::Wanted);
        assert_eq!(mappings.len(), 1);
    }

    #[test]
    fn only_a_huge_page_that_lies_inside_one_mapping_is_possible() {
        let mut mappings = Mappings::default();
        let two_mib = HUGE * PAGE;
        let area = Area {
            advice: HugeAdvice::Wanted,
            ..Area::new(2 * two_mib + PAGE, MapKind::Anonymous)
        };
        mappings.put(two_mib - PAGE, area);
        assert_eq!(mappings.huge_page(HUGE - 1, Thp::Madvise), None);
        assert_eq!(mappings.huge_page(HUGE + 7, Thp::Madvise), Some(HUGE..2 * HUGE));
        assert_eq!(mappings.huge_page(2 * HUGE, Thp::Madvise), None);
        assert_eq!(mappings.huge_page(HUGE, Thp::Never), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            parse(&bytes, &[]);
            in_memory(&bytes);
        }

        #[test]
        fn almost_smaps_never_panic(
            text in "(([0-9a-f]{1,4}-[0-9a-f]{1,4} [-rwxps]{0,4} 0 0:0 0|VmFlags:)[ hgna-f]{0,6}\n){0,6}",
        ) {
            parse(text.as_bytes(), &[(0, 0)]);
        }
    }
}
