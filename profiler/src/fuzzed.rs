//! What parses foreign bytes, to be tried with bytes that nobody has thought of: `cargo xtask fuzz`, by way of
//! `examples/fuzz.rs`.

use std::{fs, io::Write as _, os::fd::FromRawFd as _, path::Path};

use profiler_common::record::{
    RECORD_BEGAN, RECORD_BLOCK, RECORD_CALL, RECORD_CODE, RECORD_DEFINITION, RECORD_MEMORY, RECORD_SAMPLE, RECORD_STACK,
};

use crate::{
    decode,
    dump::{core, look, sampled, since},
    objects::made,
    process::{cgroup::Cgroup, command::Command, file::ElfHeaders, maps, peers::tables, perf_map::PerfMap, sideband},
    profile::Profile,
    python::{
        allocator::{self, coverage::Coverage},
        binary, calls,
        code::Code,
        layout::Layout,
        linetable::{self, LineTableFormat},
        secret, tasks,
        version::Version,
    },
    report::{pprof, why},
    shown, stored, unwind,
};

/// A parser, and bytes it understands.
pub struct Target {
    pub name: &'static str,
    /// Must come back, soon, and without a panic, whatever the bytes.
    pub parse: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 18] = [
    Target {
        name: "elf-headers",
        parse: |bytes| {
            if let Some(headers) = ElfHeaders::parse(bytes) {
                headers.virtual_address(bytes.len() as u64 / 2);
            }
        },
        seeds: small_elf,
    },
    Target {
        name: "unwind-table",
        parse: |bytes| {
            if let Ok(table) = unwind::table::build(bytes) {
                table.lookup(bytes.len() as u64);
            }
        },
        seeds: small_elf,
    },
    Target {
        name: "interpreter",
        parse: |bytes| {
            let _ = binary::inspect(bytes).map(|found| found.process(u64::MAX, 1));
        },
        seeds: interpreters,
    },
    Target {
        name: "allocators",
        parse: |bytes| {
            allocator::exported(bytes);
            if let Ok(found) = binary::inspect(bytes)
                && let Ok(allocators) = allocator::inspect(bytes, &found)
            {
                let _ = Coverage::measure(bytes, &allocators);
            }
        },
        seeds: interpreters,
    },
    Target {
        name: "calls",
        parse: |bytes| {
            if let Ok(found) = binary::inspect(bytes) {
                let _ = calls::inspect(bytes, &found);
            }
            tasks::section(bytes);
        },
        seeds: interpreters,
    },
    Target {
        name: "debug-offsets",
        parse: |bytes| {
            for version in versions().filter(|version| version.minor >= 13) {
                let _ = Layout::from_debug_offsets(version, bytes);
            }
        },
        seeds: debug_offsets,
    },
    Target {
        name: "ring",
        parse: |bytes| {
            let _ = decode::decode(bytes);
        },
        seeds: records,
    },
    Target {
        name: "code",
        parse: |bytes| {
            for layout in versions().filter_map(Layout::of_series) {
                if let Ok((address, code)) = Code::from_record(bytes, layout.format, None) {
                    for instruction in [0, 1, address, u64::MAX] {
                        code.line_at(address, instruction);
                        code.is_incomplete(address, instruction, true);
                    }
                }
            }
        },
        seeds: records,
    },
    Target {
        name: "line-table",
        parse: |bytes| {
            for format in [
                LineTableFormat::Lnotab,
                LineTableFormat::Ranges,
                LineTableFormat::Locations,
            ] {
                for offset in [-1, 0, 17, i64::MAX] {
                    linetable::line(format, bytes, i32::MAX, offset);
                }
            }
        },
        seeds: || vec![vec![0x80, 0, 1, 2, 0xf0, 0x81, 2, 1, 0xe8], vec![2, 1, 4, 255, 6, 128]],
    },
    Target {
        name: "side-band",
        parse: |bytes| {
            sideband::parse(bytes);
        },
        seeds: side_band,
    },
    Target {
        name: "proc",
        parse: |bytes| {
            let maps = maps::parse(bytes);
            maps.find(0x5555_5555_5000);
            Cgroup::parse(bytes);
            if let Some(command) = Command::parse(bytes) {
                command.with_name("python3");
            }
            let text = String::from_utf8_lossy(bytes);
            assert!(!shown::line(&text).contains(shown::acts));
            shown::csv_field(&text);
        },
        seeds: || {
            let own = ["maps", "cgroup", "cmdline"].map(|file| fs::read(Path::new("/proc/self").join(file)));
            let typed = b"/usr/bin/python3\0-X\0dev\0-m\0gunicorn\0--bind=0:80\0shop.wsgi:app\0".to_vec();
            own.into_iter().flatten().chain([typed]).collect()
        },
    },
    Target {
        name: "threads",
        parse: |bytes| {
            look::parse(bytes);
            since::parse(bytes);
            sampled::parse_records(bytes);
            let text = String::from_utf8_lossy(bytes);
            for line in text.lines() {
                tables::Internet::parse(line.as_bytes());
                tables::Unix::parse(line);
            }
            let masked = secret::without_passwords(&text);
            assert!(secret::without_passwords(&masked) == masked);
        },
        seeds: || {
            let own = ["stat", "schedstat", "syscall", "sched"].map(|file| {
                fs::read(
                    Path::new("/proc/self/task")
                        .join(std::process::id().to_string())
                        .join(file),
                )
            });
            let tables = ["tcp", "unix"].map(|file| fs::read(Path::new("/proc/self/net").join(file)));
            own.into_iter().chain(tables).flatten().collect()
        },
    },
    Target {
        name: "core",
        parse: core::parse,
        seeds: small_elf,
    },
    Target {
        name: "heap",
        parse: |bytes| {
            made::census(bytes);
        },
        seeds: || vec![made::memory()],
    },
    Target {
        name: "perf-map",
        parse: |bytes| {
            if let Some(file) = memory_file(bytes) {
                let mut map = PerfMap::new(file, 0);
                let _ = map.refresh();
                map.find(0x7f00_1000);
            }
        },
        seeds: || vec![b"7f001000 80 py::f:/srv/app.py\n7f001040 100 JS:*g /x.js:1:2\n7f000000 2000 h\n".to_vec()],
    },
    Target {
        name: "stored",
        parse: |bytes| {
            let _ = stored::parse(bytes, Path::new("x"));
        },
        seeds: || {
            vec![
                b"main (a.py:3);f (b.py:9);do_read_[k] 12\nprocess 7:\"python x\";g 3\n".to_vec(),
                br#"{"shared":{"frames":[{"name":"f","file":"a.py","line":3}]},"profiles":[{"type":"sampled","unit":"none","samples":[[0]],"weights":[1]},{"type":"evented","unit":"none","events":[{"type":"O","frame":0,"at":1},{"type":"C","frame":0,"at":2}]}]}"#.to_vec(),
            ]
        },
    },
    Target {
        name: "pprof",
        parse: |bytes| {
            let _ = pprof::read(bytes);
        },
        // Uncompressed: a string table, a type, a sample, and what is odd; a sample with a slice of time.
        seeds: || {
            vec![b"\x0a\x04\x08\x01\x10\x02\x12\x0b\x0a\x01\x01\x12\x01\x05\x82\x7d\x02\x00\x05\x22\x04\x08\x01\x18\x01\x2a\x04\x08\x01\x10\x03\x32\x00\x32\x05bytes\x32\x0cinuse_space_\x48\x01\x80\x7d\xe8\x07".to_vec(), b"\x0a\x04\x08\x01\x10\x02\x12\x08\x0a\x01\x01\x12\x03\x01\x02\x03\x22\x04\x08\x01\x18\x01\x2a\x04\x08\x01\x10\x03\x32\x00\x32\x05bytes\x32\x0cinuse_space_\x48\x01".to_vec()]
        },
    },
    Target {
        name: "findings",
        parse: |bytes| {
            let mut profile = Profile::new(Vec::new(), None);
            profile.findings = Some(String::from_utf8_lossy(bytes).into_owned());
            let _ = why::stored::Stored::of(&profile);
        },
        seeds: || {
            vec![
                br#"profiler.why {"schema":"profiler.why","version":1,"length_ns":9,"findings":[{"kind":"gil","severity":"high","share":0.5,"error":0.1,"function":"f","file":"/x.py","line":3,"pid":1,"command":"x","sentence":"s","gain":"g","evidence":{"waited_s":5.2,"holder":"f"},"next":"n"}],"not_seen":["disk"],"could_not_look":[],"processes":[]}"#
                    .to_vec(),
            ]
        },
    },
];

fn versions() -> impl Iterator<Item = Version> {
    (8..16).map(|minor| Version::from_hex(0x0300_02f0 | minor << 16))
}

fn small_elf() -> Vec<Vec<u8>> {
    ["/bin/true", "/bin/sleep"]
        .iter()
        .filter_map(|path| fs::read(path).ok())
        .collect()
}

/// The machine's own: there is none in the tree.
fn interpreters() -> Vec<Vec<u8>> {
    let found = (8..16).filter_map(|minor| fs::read(format!("/usr/bin/python3.{minor}")).ok());
    found.take(1).chain(small_elf()).collect()
}

fn debug_offsets() -> Vec<Vec<u8>> {
    let block = |version: Version| {
        let mut block = b"xdebugpy".to_vec();
        block.extend(u64::from(version.hex).to_le_bytes());
        block.extend(0_u64.to_le_bytes());
        let words = Layout::debug_offsets_bytes(version) as u64 / 8;
        block.extend((3..words).flat_map(|word| (8 * (word % 64)).to_le_bytes()));
        block
    };
    versions().filter(|version| version.minor >= 13).map(block).collect()
}

fn records() -> Vec<Vec<u8>> {
    let kinds = [
        RECORD_SAMPLE,
        RECORD_STACK,
        RECORD_CODE,
        RECORD_DEFINITION,
        RECORD_MEMORY,
        RECORD_BLOCK,
        RECORD_CALL,
        RECORD_BEGAN,
    ];
    let record = |kind: u32| {
        let mut record = kind.to_le_bytes().to_vec();
        record.resize(512, 3);
        record
    };
    kinds.map(record).into()
}

fn side_band() -> Vec<Vec<u8>> {
    // mmap2, comm, exit, fork.
    let record = |kind: u32, body: usize| {
        let size = 8 + body + 24;
        let mut record = kind.to_le_bytes().to_vec();
        record.extend([2, 0]);
        record.extend((size as u16).to_le_bytes());
        record.resize(size, 7);
        record
    };
    vec![[record(10, 80), record(3, 24), record(4, 24), record(7, 24)].concat()]
}

fn memory_file(bytes: &[u8]) -> Option<fs::File> {
    // SAFETY: the name ends with NUL.
    let descriptor = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: a new descriptor that nobody else owns, if it is one.
    let mut file = (descriptor >= 0).then(|| unsafe { fs::File::from_raw_fd(descriptor) })?;
    file.write_all(bytes).ok()?;
    Some(file)
}
