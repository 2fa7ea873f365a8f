//! The records that the kernel writes into a ring, as bytes: any bytes are read or refused.

use perf_event_open_sys::bindings as abi;

use super::{
    super::{
        comm,
        maps::{MapEntry, MapName},
    },
    SidebandEvent, SidebandKind,
};

/// What stands at the end of every record because of `sample_id_all`.
pub(super) const SAMPLE_TYPE: u64 = (abi::PERF_SAMPLE_TID | abi::PERF_SAMPLE_TIME | abi::PERF_SAMPLE_CPU) as u64;

/// pid, tid, time, cpu, reserved.
const TRAILER_BYTES: usize = 4 + 4 + 8 + 4 + 4;

/// type, misc, size.
const HEADER_BYTES: usize = 4 + 2 + 2;

/// Parses whole records and returns how many could not be read. A record of a kind nobody asked for counts too.
pub(super) fn parse_records(mut bytes: &[u8], events: &mut Vec<SidebandEvent>) -> u64 {
    let mut unreadable = 0;
    while !bytes.is_empty() {
        let mut fields = Fields(bytes);
        let header = (|| Some((fields.u32()?, fields.u16()?, usize::from(fields.u16()?))))();
        let Some((kind, misc, size)) = header else {
            return unreadable + 1;
        };
        // Without a sound size there is no next record.
        let Some((record, rest)) = bytes.split_at_checked(size).filter(|_| size >= HEADER_BYTES) else {
            return unreadable + 1;
        };
        match parse_record(kind, misc, &record[HEADER_BYTES..]) {
            Some(event) => events.push(event),
            None => unreadable += 1,
        }
        bytes = rest;
    }
    unreadable
}

fn parse_record(kind: u32, misc: u16, body: &[u8]) -> Option<SidebandEvent> {
    let (body, trailer) = body.split_at_checked(body.len().checked_sub(TRAILER_BYTES)?)?;
    let mut trailer = Fields(trailer);
    let _who = trailer.u64()?;
    let time_ns = trailer.u64()?;

    let misc = u32::from(misc);
    let mut fields = Fields(body);
    let kind = match kind {
        abi::PERF_RECORD_MMAP2 => parse_mmap2(misc, fields)?,
        abi::PERF_RECORD_COMM => {
            let (pid, tid) = (fields.u32()?, fields.u32()?);
            let comm = comm::shown(fields.text());
            if misc & abi::PERF_RECORD_MISC_COMM_EXEC != 0 {
                SidebandKind::Exec { pid, comm }
            } else {
                SidebandKind::Comm { pid, tid, comm }
            }
        }
        abi::PERF_RECORD_FORK => {
            let (pid, parent_pid, tid, parent_tid) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
            SidebandKind::Fork {
                parent_pid,
                parent_tid,
                pid,
                tid,
            }
        }
        abi::PERF_RECORD_EXIT => {
            let (pid, _parent_pid, tid) = (fields.u32()?, fields.u32()?, fields.u32()?);
            SidebandKind::Exit { pid, tid }
        }
        abi::PERF_RECORD_LOST => {
            let _event_id = fields.u64()?;
            SidebandKind::Lost { records: fields.u64()? }
        }
        _ => return None,
    };
    Some(SidebandEvent { time_ns, kind })
}

fn parse_mmap2(misc: u32, mut fields: Fields<'_>) -> Option<SidebandKind> {
    // Then a build id stands where device and inode should be; this was not asked for.
    if misc & abi::PERF_RECORD_MISC_MMAP_BUILD_ID != 0 {
        return None;
    }
    let (pid, tid) = (fields.u32()?, fields.u32()?);
    let (start, bytes, offset) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (major, minor) = (fields.u32()?, fields.u32()?);
    let (inode, _generation) = (fields.u64()?, fields.u64()?);
    let (protection, _flags) = (fields.u32()?, fields.u32()?);
    let end = start.checked_add(bytes).filter(|&end| end > start)?;
    let map = MapEntry {
        start,
        end,
        offset,
        executable: protection & libc::PROT_EXEC as u32 != 0,
        device: (major, minor),
        inode,
        // Unlike in /proc/PID/maps, a line feed in the name is not escaped.
        name: MapName::from_kernel(fields.text()),
    };
    Some(SidebandKind::Mmap { pid, tid, map })
}

/// The rest of a record, read from its front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    /// A name that fills the rest of the record: its bytes up to the padding.
    fn text(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        let (text, _padding) = std::mem::take(&mut self.0).split_at(end);
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record as the kernel writes it: header, body, trailer.
    fn record(kind: u32, misc: u32, time_ns: u64, body: &[&[u8]]) -> Vec<u8> {
        let mut body = body.concat();
        body.resize(body.len().next_multiple_of(8), 0);
        let size = HEADER_BYTES + body.len() + TRAILER_BYTES;
        let mut bytes = Vec::new();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((misc as u16).to_ne_bytes());
        bytes.extend((size as u16).to_ne_bytes());
        bytes.extend(body);
        bytes.extend([0; 8]);
        bytes.extend(time_ns.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn mmap2(name: &[u8]) -> Vec<u8> {
        let mut numbers = words(&[7, 8]);
        for number in [0x1000u64, 0x2000, 0x3000] {
            numbers.extend(number.to_ne_bytes());
        }
        numbers.extend(words(&[0xfe, 1]));
        numbers.extend(42u64.to_ne_bytes());
        numbers.extend(0u64.to_ne_bytes());
        numbers.extend(words(&[5, 2]));
        record(abi::PERF_RECORD_MMAP2, 2, 99, &[&numbers, name, b"\0"])
    }

    fn parsed(bytes: &[u8]) -> (Vec<SidebandKind>, u64) {
        let mut events = Vec::new();
        let unreadable = parse_records(bytes, &mut events);
        (events.into_iter().map(|event| event.kind).collect(), unreadable)
    }

    #[test]
    fn every_kind_of_record_is_read() {
        let mut bytes = mmap2(b"/usr/lib/a\nb.so (deleted)");
        bytes.extend(record(abi::PERF_RECORD_COMM, 0, 1, &[&words(&[7, 8]), b"worker\0"]));
        bytes.extend(record(
            abi::PERF_RECORD_COMM,
            abi::PERF_RECORD_MISC_COMM_EXEC,
            2,
            &[&words(&[7, 7]), b"python3\0"],
        ));
        bytes.extend(record(
            abi::PERF_RECORD_FORK,
            0,
            3,
            &[&words(&[9, 7, 10, 8]), &3u64.to_ne_bytes()],
        ));
        bytes.extend(record(
            abi::PERF_RECORD_EXIT,
            0,
            4,
            &[&words(&[9, 7, 10, 8]), &4u64.to_ne_bytes()],
        ));
        bytes.extend(record(
            abi::PERF_RECORD_LOST,
            0,
            5,
            &[&1u64.to_ne_bytes(), &77u64.to_ne_bytes()],
        ));
        let map = MapEntry {
            start: 0x1000,
            end: 0x3000,
            offset: 0x3000,
            executable: true,
            device: (0xfe, 1),
            inode: 42,
            name: MapName::File {
                path: "/usr/lib/a\nb.so".into(),
                deleted: true,
            },
        };
        let expected = vec![
            SidebandKind::Mmap { pid: 7, tid: 8, map },
            SidebandKind::Comm {
                pid: 7,
                tid: 8,
                comm: "worker".into(),
            },
            SidebandKind::Exec {
                pid: 7,
                comm: "python3".into(),
            },
            SidebandKind::Fork {
                parent_pid: 7,
                parent_tid: 8,
                pid: 9,
                tid: 10,
            },
            SidebandKind::Exit { pid: 9, tid: 10 },
            SidebandKind::Lost { records: 77 },
        ];
        assert_eq!(parsed(&bytes), (expected, 0));
    }

    #[test]
    fn an_unknown_record_is_counted_and_the_next_one_is_read() {
        let mut bytes = record(4242, 0, 1, &[b"whatever"]);
        bytes.extend(record(
            abi::PERF_RECORD_EXIT,
            0,
            4,
            &[&words(&[9, 7, 10, 8]), &4u64.to_ne_bytes()],
        ));
        assert_eq!(parsed(&bytes), (vec![SidebandKind::Exit { pid: 9, tid: 10 }], 1));
    }

    #[test]
    fn a_record_of_no_size_ends_the_reading() {
        assert_eq!(parsed(&[0; 64]), (vec![], 1));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parsed(&bytes);
        }

        #[test]
        fn arbitrary_bodies_never_panic(
            kind in prop_oneof![0u32..20, any::<u32>()],
            misc: u16,
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let (events, unreadable) = parsed(&record(kind, misc.into(), 0, &[&body]));
            prop_assert_eq!(events.len() as u64 + unreadable, 1);
        }

        #[test]
        fn a_cut_record_is_unreadable_and_never_panics(cut in 1usize..80) {
            let whole = mmap2(b"/usr/lib/x");
            let cut = cut.min(whole.len() - 1);
            prop_assert_eq!(parsed(&whole[..whole.len() - cut]), (vec![], 1));
        }
    }
}
