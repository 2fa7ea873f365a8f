//! Reports made by hand, and any.

use std::time::Duration;

use proptest::prelude::*;

use super::super::{
    Curve, Detail, MemoryKind, MemoryReport, ProcessMemory, Resident, Shown, Source,
    difference::{Difference, difference},
    group::By,
    heap_profile,
};
use crate::profile::{Frame, FrameId, FrameKind, Labels, Mapping, Profile, SampleKey};

pub(super) const MIB: u64 = 1 << 20;

/// Adds stacks to a profile.
pub(super) struct Sites<'a> {
    pub(super) profile: &'a mut Profile,
}

impl Sites<'_> {
    pub(super) fn frame(&mut self, kind: FrameKind, function: &str, file: &str, line: u32, mapping: &str) -> FrameId {
        let mapping = (!mapping.is_empty()).then(|| {
            let path = self.profile.intern_string(mapping);
            self.profile.intern_mapping(Mapping {
                path,
                build_id: Profile::EMPTY,
            })
        });
        let frame = Frame {
            kind,
            function: self.profile.intern_string(function),
            file: self.profile.intern_string(file),
            line,
            first_line: 0,
            mapping,
            address: 0,
            inlined: false,
        };
        self.profile.intern_frame(frame)
    }

    pub(super) fn python(&mut self, function: &str, file: &str, line: u32) -> FrameId {
        self.frame(FrameKind::Python, function, file, line, "")
    }

    pub(super) fn native(&mut self, function: &str, mapping: &str) -> FrameId {
        self.frame(FrameKind::Native, function, "", 0, mapping)
    }

    pub(super) fn marker(&mut self, name: &str) -> FrameId {
        self.frame(FrameKind::Marker, name, "", 0, "")
    }

    /// Adds pages that came and pages in use to a leaf-first stack.
    pub(super) fn add(&mut self, stack: &[FrameId], came: u64, inuse: u64, (pid, tid): (u32, u32)) {
        let stack = self.profile.intern_stack(stack);
        let labels = Labels {
            pid,
            tid,
            comm: self
                .profile
                .intern_string(if pid == 4242 || pid == 9 { "python3" } else { "server" }),
            command: self.profile.intern_string(if pid == 4242 || pid == 9 {
                "gunicorn shop.wsgi"
            } else {
                ""
            }),
            thread: self
                .profile
                .intern_string(if pid == tid { "python3" } else { "loader" }),
            cgroup: Profile::EMPTY,
            container: Profile::EMPTY,
            task: Profile::EMPTY,
        };
        let values = [came, came * 4096, inuse, inuse * 4096].map(|value| value as i64);
        self.profile.add(SampleKey { stack, labels }, &values);
    }
}

pub(super) const CACHE: &str = "/srv/shop/app/cache.py";
pub(super) const IMAGES: &str = "/srv/shop/venv/lib/python3.12/site-packages/images/load.py";
pub(super) const UMATH: &str =
    "/srv/shop/venv/lib/python3.12/site-packages/numpy/_core/_multiarray_umath.cpython-312-x86_64-linux-gnu.so";

/// A minute of a process that leaks on two lines and churns on a third.
pub(super) fn growth() -> MemoryReport {
    let mut profile = heap_profile(Shown::Live, false, 4096);
    fill(&mut profile, 4242, 1);
    profile.duration_ns = 60_000_000_000;
    let seconds = |oldest, youngest| Detail {
        oldest: Some(Duration::from_secs(oldest)),
        youngest: Some(Duration::from_secs(youngest)),
        ..Detail::default()
    };
    let details = vec![
        Detail {
            variance_inuse: 2e12,
            variance_alloc: 3e12,
            uncertain_bytes: 300 * MIB,
            ..seconds(58, 0)
        },
        seconds(40, 12),
        seconds(57, 20),
        Detail::default(),
        Detail {
            estimated: true,
            kind: MemoryKind::File,
            ..seconds(59, 59)
        },
        Detail {
            kind: MemoryKind::Free,
            ..Detail::default()
        },
        seconds(30, 30),
    ];
    assert_eq!(details.len(), profile.samples().len());
    let times: Vec<_> = (0..=6).map(|index| Duration::from_secs(index * 10)).collect();
    let rising = |most: u64| (0..=6).map(|index| most * MIB * index / 6).collect::<Vec<_>>();
    MemoryReport {
        profile,
        details,
        shown: Shown::Live,
        exact: false,
        source: Source::Pages,
        shared_again: 0,
        perhaps_copied: 0,
        holders_told: false,
        kept: None,
        processes: vec![ProcessMemory {
            explained: 527 * MIB as i64,
            explained_variance: 2e12,
            ..process(4242, 543 * MIB + 300 * 1024)
        }],
        curve: Some(Curve {
            times,
            total: rising(530),
            rss: (0..=6)
                .map(|index| (index != 3).then_some((412 + 90 * index) * MIB))
                .collect(),
            sites: vec![
                (0, rising(300)),
                (1, rising(180)),
                (2, rising(20)),
                (3, vec![0, 90 * MIB, 0, 80 * MIB, 0, 70 * MIB, 0]),
            ],
        }),
        length: Duration::from_secs(60),
    }
}

pub(super) fn fill(profile: &mut Profile, pid: u32, times: u64) {
    let mut sites = Sites { profile };
    let main = sites.python("main", "/srv/shop/app/main.py", 7);
    let remember = sites.python("Cache.remember", CACHE, 31);
    let decode = sites.python("decode", IMAGES, 118);
    let decode_again = sites.python("decode", IMAGES, 121);
    let interpreter = sites.native("_PyEval_EvalFrameDefault", "/usr/bin/python3.12");
    let malloc = sites.native("PyObject_Malloc", "/usr/bin/python3.12");
    let memset = sites.native("__memset_avx2_unaligned_erms", "/usr/lib/libc.so.6");
    let zeros = sites.native("array_zeros", UMATH);
    let thread = sites.native("start_thread", "/usr/lib/libc.so.6");
    let blas = sites.native("blas_memory_alloc", "/usr/lib/libopenblas.so.0");
    let free = sites.marker("[free pymalloc pools]");

    sites.add(
        &[malloc, interpreter, remember, main],
        90_000 * times,
        76_800 * times,
        (pid, pid),
    );
    sites.add(&[memset, zeros, interpreter, decode, main], 46_080, 46_080, (pid, pid));
    sites.add(
        &[memset, zeros, interpreter, decode, main],
        5_120,
        5_120,
        (pid, pid + 1),
    );
    sites.add(&[malloc, decode_again, main], 61_440, 0, (pid, pid));
    sites.add(&[main], 3_328, 3_328, (pid, pid));
    sites.add(&[free], 1_024, 1_024, (pid, pid));
    sites.add(&[memset, blas, thread], 2_560, 2_560, (pid + 100, pid + 101));
}

pub(super) fn process(pid: u32, growth: u64) -> ProcessMemory {
    ProcessMemory {
        pid,
        comm: if pid == 4242 { "python3" } else { "worker" }.to_owned(),
        command: if pid == 4242 { "gunicorn shop.wsgi" } else { "worker" }.to_owned(),
        before: Resident {
            rss: 412 * MIB,
            anonymous: 400 * MIB,
            file: 12 * MIB,
            ..Resident::default()
        },
        after: Resident {
            rss: 412 * MIB + growth,
            anonymous: 400 * MIB + growth - growth / 40,
            file: 12 * MIB + growth / 40,
            ..Resident::default()
        },
        explained: (growth - growth / 16) as i64,
        explained_variance: 0.0,
        started: false,
        exited: false,
        victim: None,
    }
}

pub(super) fn between_recordings() -> Difference {
    between_recordings_by(By::Line)
}

/// The base watched for half the time another process of the same program, which leaked a third as much on one line.
pub(super) fn between_recordings_by(by: By) -> Difference {
    let mut base = heap_profile(Shown::Live, false, 4096);
    fill(&mut base, 9, 0);
    let mut sites = Sites { profile: &mut base };
    let remember = sites.python("Cache.remember", CACHE, 31);
    let gone = sites.python("old", CACHE, 90);
    sites.add(&[remember], 25_600, 25_600, (9, 9));
    sites.add(&[gone], 256, 256, (9, 9));
    base.duration_ns = 30_000_000_000;
    difference(&base, &growth(), by).unwrap()
}

/// Stacks of a few frames in any order, with names from elsewhere.
pub(super) fn any_report() -> impl Strategy<Value = MemoryReport> {
    let name = "[a-c]{1,2}|\\PC{0,80}|[;\n\",#/ ]{0,3}|[\u{0}-\u{1f}\u{202e}=-]{1,4}|/lib/python3.9/[a-z/]{0,9}\\.py|libc.so.6|malloc";
    let frame = (0..4_u8, name, name, 0..3_u32);
    let sample = (
        proptest::collection::vec(0..6_usize, 0..5),
        [0_u64..1 << 30, 0..1 << 30],
        (0..3_u32, 0..3_u32),
        (any::<f64>(), any::<bool>(), any::<Option<u32>>()),
    );
    let shown = prop_oneof![
        Just(Shown::Live),
        Just(Shown::Peak),
        Just(Shown::Temporary),
        Just(Shown::Allocated),
        Just(Shown::Leaks {
            older_than: Duration::from_secs(1)
        }),
    ];
    (
        proptest::collection::vec(frame, 6),
        proptest::collection::vec(sample, 0..12),
        proptest::collection::vec((any::<u32>(), any::<u64>(), any::<i64>(), any::<f64>()), 0..4),
        proptest::collection::vec((any::<u16>(), any::<u64>(), any::<Option<u64>>()), 0..4),
        (shown, any::<bool>(), any::<u32>()),
    )
        .prop_map(|(frames, samples, processes, points, (shown, exact, length))| {
            let mut profile = heap_profile(shown, exact, 4096);
            let mut sites = Sites { profile: &mut profile };
            let frames: Vec<_> = frames
                .iter()
                .map(|(kind, function, file, line)| match kind {
                    0 => sites.python(function, file, *line),
                    1 => sites.native(function, file),
                    2 => sites.marker(function),
                    _ => sites.frame(FrameKind::Kernel, function, "", 0, ""),
                })
                .collect();
            for (stack, [came, inuse], ids, _) in &samples {
                let stack: Vec<_> = stack.iter().map(|index| frames[*index]).collect();
                sites.add(&stack, *came, *inuse, *ids);
            }
            let details = samples
                .iter()
                .map(|(_, _, _, (variance, estimated, age))| Detail {
                    oldest: age.map(|age| Duration::from_millis(age.into())),
                    youngest: age.map(|age| Duration::from_millis(u64::from(age) / 2)),
                    variance_inuse: *variance,
                    variance_alloc: -variance,
                    uncertain_bytes: u64::from(age.unwrap_or(0)) << 8,
                    estimated: *estimated,
                    kind: MemoryKind::default(),
                })
                .collect();
            let processes = processes
                .into_iter()
                .map(|(pid, size, explained, explained_variance)| ProcessMemory {
                    after: Resident {
                        rss: size,
                        anonymous: size / 2,
                        file: size / 3,
                        ..Resident::default()
                    },
                    explained,
                    explained_variance,
                    ..process(pid, 0)
                })
                .collect();
            let curve = Curve {
                times: points
                    .iter()
                    .map(|(time, ..)| Duration::from_secs((*time).into()))
                    .collect(),
                total: points.iter().map(|(_, total, _)| *total).collect(),
                rss: points.iter().skip(1).map(|(.., rss)| *rss).collect(),
                sites: points
                    .iter()
                    .map(|(index, total, _)| (usize::from(*index) % 8, vec![*total; 9]))
                    .collect(),
            };
            MemoryReport {
                source: Source::Pages,
                shared_again: 0,
                perhaps_copied: 0,
                holders_told: false,
                kept: None,
                profile,
                details,
                shown,
                exact,
                processes,
                curve: Some(curve),
                length: Duration::from_millis(length.into()),
            }
        })
}
