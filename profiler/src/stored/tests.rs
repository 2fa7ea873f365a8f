use std::{io::Write as _, path::Path};

use flate2::{Compression, write::GzEncoder};

use super::*;
use crate::{profile::FrameKind, report::label};

const PATH: &str = "x";

fn read_text(text: &str) -> Result<Profile, ReadError> {
    parse(text.as_bytes(), Path::new(PATH))
}

fn lines(profile: &Profile) -> Vec<String> {
    profile
        .samples()
        .map(|(key, values)| {
            let frames: Vec<_> = (profile.stack(key.stack).iter().rev())
                .map(|id| label::frame(profile, profile.frame(*id)))
                .collect();
            format!("{} {}", frames.join(";"), values[0])
        })
        .collect()
}

#[test]
fn folded_text_of_several_writers_is_read() {
    let text = "# a comment\n\
                python app.py (process 42);worker (thread 43);f (srv/shop/app.py:3);read (libc.so.6);do_read_[k] 3\n\
                process 7:\"python x.py\";thread (0x7F): io;<module> (x.py:1);g (x.py:9) 2\r\n\
                \n\
                main;encode;[truncated] 4.0\n";
    let profile = read_text(text).unwrap();
    let samples: Vec<_> = profile.samples().collect();
    let kinds: Vec<_> = (profile.stack(samples[0].0.stack).iter())
        .map(|id| profile.frame(*id).kind)
        .collect();
    assert_eq!(kinds, [FrameKind::Kernel, FrameKind::Native, FrameKind::Python]);
    let who = |at: usize| {
        let labels = &samples[at].0.labels;
        let string = |id| profile.string(id).to_owned();
        (labels.pid, labels.tid, string(labels.command), string(labels.thread))
    };
    assert_eq!(who(0), (42, 43, "python app.py".to_owned(), "worker".to_owned()));
    assert_eq!(who(1), (7, 0, "python x.py".to_owned(), "io".to_owned()));
    assert_eq!(
        lines(&profile),
        [
            "f (srv/shop/app.py:3);read (libc.so.6);do_read_[k] 3",
            "<module> (x.py:1);g (x.py:9) 2",
            "main ([unknown]);encode ([unknown]);[truncated] 4",
        ]
    );
}

#[test]
fn speedscope_is_read_in_both_of_its_forms() {
    let text = r#"{"shared":{"frames":[{"name":"main","file":"a.py","line":3},{"name":"f","file":"a.py"}]},"profiles":[
        {"type":"sampled","name":"t","unit":"seconds","startValue":0,"endValue":2,"samples":[[0,1],[0]],"weights":[0.5,1]},
        {"type":"evented","name":"u","unit":"seconds","events":[{"type":"O","frame":0,"at":1},{"type":"O","frame":1,"at":2},
        {"type":"C","frame":1,"at":5},{"type":"C","frame":0,"at":5}]}]}"#;
    let profile = read_text(text).unwrap();
    assert_eq!(
        lines(&profile),
        [
            "main (a.py:3);f (a.py) 500000000",
            "main (a.py:3) 1000000000",
            "main (a.py:3) 1000000000",
            "main (a.py:3);f (a.py) 3000000000",
        ]
    );
}

/// As `report::speedscope` writes them.
#[test]
fn a_place_that_speedscope_has_in_name_and_file_is_told_once() {
    let text = r#"{"exporter":"profiler","shared":{"frames":[
        {"name":"main (srv (old)/shop/app.py:3)","file":"/home/srv (old)/shop/app.py","line":3},
        {"name":"run (opt/bin/serve:8)","file":"/opt/bin/serve","line":8},
        {"name":"malloc (libc.so.6)","file":"/usr/lib/x86_64/libc.so.6"},
        {"name":"[libfoo.so+0x1234]","file":"/opt/libfoo.so"},
        {"name":"JS:*fib /x.js:1:13 ([JIT])","file":"[JIT]"},
        {"name":"jit 12 ([unknown])"},{"name":"g (<unknown>)"},{"name":"do_read_[k]"},{"name":"[truncated]"},
        {"name":"f (b.py:9)","file":"/a/b/c.py","line":4}]},
        "profiles":[{"type":"sampled","name":"t","unit":"none","samples":[[0,1,2,3,4,5,6,7,8,9]],"weights":[2]}]}"#;
    let frames = "main (srv (old)/shop/app.py:3);run (opt/bin/serve:8);malloc (libc.so.6);[libfoo.so+0x1234];\
                  JS:*fib /x.js:1:13 ([JIT]);jit 12 ([unknown]);g (<unknown>);do_read_[k];[truncated];\
                  f (b.py:9) (a/b/c.py:4) 2";
    assert_eq!(lines(&read_text(text).unwrap()), [frames]);
}

#[test]
fn what_is_no_recording_is_told_what_it_is_or_what_is_known() {
    let text = |bytes: &[u8]| parse(bytes, Path::new(PATH)).unwrap_err().to_string();
    for bytes in [&b"hello world"[..], b"\x89PNG\r\n\x1a\n\0\0", b"a;b;c", b"\0\0\0\0"] {
        assert!(text(bytes).contains("those are pprof"), "{}", text(bytes));
    }
    assert!(text(b"PERFILE2 ...").contains("perf script"));
    assert!(text(b"<?xml version").contains(".pb.gz"));
    assert!(text(b"").contains("empty"));
    assert!(text(b"{\"a\": 1}").contains("speedscope"));
    let line = read_text("a;b 1\nwhat is this\n").unwrap_err();
    let ReadError::Damaged { source, .. } = line else {
        panic!("{line}")
    };
    assert!(source.to_string().contains("line 2"), "{source}");
}

fn gzip(plain: &mut dyn Read) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    io::copy(plain, &mut gzip).unwrap();
    gzip.flush().unwrap();
    gzip.finish().unwrap()
}

#[test]
fn compressed_text_is_unpacked_and_a_torn_file_is_said_to_be_torn() {
    let packed = gzip(&mut &b"a;b 12\n"[..]);
    assert_eq!(parse(&packed, Path::new(PATH)).unwrap().total(0), 12);
    for length in 2..packed.len() {
        let error = parse(&packed[..length], Path::new(PATH)).unwrap_err();
        assert!(matches!(error, ReadError::Torn { .. }), "{error}");
    }
}

#[test]
fn a_bomb_is_stopped_at_the_bound() {
    let bomb = gzip(&mut io::repeat(b'a').take(MAX_BYTES + (1 << 20)));
    assert!(bomb.len() < 8 << 20);
    let error = parse(&bomb, Path::new(PATH)).unwrap_err();
    assert!(matches!(error, ReadError::TooLarge { unpacked: true, .. }), "{error}");
}

#[test]
fn a_file_of_a_gibibyte_is_refused_before_it_is_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 30).unwrap();
    let error = read(file.path()).unwrap_err();
    assert!(matches!(error, ReadError::TooLarge { unpacked: false, .. }), "{error}");
    assert!(matches!(read(Path::new("/")), Err(ReadError::Directory { .. })));
}

/// What Go's `runtime/pprof` writes: two values, a mapping by addresses, no labels, and inlined calls as lines of one
/// location (Go 1.27; fields in the order of their numbers, packed).
#[test]
fn a_profile_of_go_is_read() {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }
    let strings = [
        "",
        "samples",
        "count",
        "cpu",
        "nanoseconds",
        "main.work",
        "/src/main.go",
        "main.main",
        "/bin/app",
    ];
    let mut go = Vec::new();
    go.extend(field(1, &[0x08, 1, 0x10, 2]));
    go.extend(field(1, &[0x08, 3, 0x10, 4]));
    // sample { location_id: [1, 2] value: [3, 30] }
    go.extend(field(2, &[0x0a, 2, 1, 2, 0x12, 2, 3, 30]));
    // mapping { id: 1 memory_start: 64 memory_limit: 127 filename: 8 }
    go.extend(field(3, &[0x08, 1, 0x10, 64, 0x18, 127, 0x28, 8]));
    // location { id mapping_id: 1 address line { function_id line } }
    go.extend(field(4, &[0x08, 1, 0x10, 1, 0x18, 70, 0x22, 4, 0x08, 1, 0x10, 12]));
    go.extend(field(4, &[0x08, 2, 0x10, 1, 0x18, 80, 0x22, 4, 0x08, 2, 0x10, 20]));
    go.extend(field(5, &[0x08, 1, 0x10, 5, 0x18, 5, 0x20, 6]));
    go.extend(field(5, &[0x08, 2, 0x10, 7, 0x18, 7, 0x20, 6]));
    for string in strings {
        go.extend(field(6, string.as_bytes()));
    }
    go.extend(field(11, &[0x08, 3, 0x10, 4]));
    go.extend([12 << 3, 10]);
    let profile = parse(&gzip(&mut &go[..]), Path::new(PATH)).unwrap();
    assert_eq!((profile.total(0), profile.total(1)), (3, 30));
    assert_eq!(lines(&profile), ["main.main (app);main.work (app) 3"]);
    for length in 1..go.len() {
        // Torn where a field ends, it is a shorter file; anywhere else an error. Never a panic.
        let _ = parse(&go[..length], Path::new(PATH));
    }
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_folded_text_says_every_count_is_kept(
            stacks in prop::collection::vec(("[a-z;_()\\[\\]:. <>]{1,20}[a-z]", 0_i64..1000), 1..20)
        ) {
            let text: String = stacks.iter().map(|(stack, count)| format!("x{stack} {count}\n")).collect();
            let profile = read_text(&text).unwrap();
            prop_assert_eq!(profile.total(0), stacks.iter().map(|(_, count)| count).sum::<i64>());
        }

        #[test]
        fn no_text_makes_the_readers_panic(text in "(\\PC|[;\n {}\\[\\]\",:0-9])*") {
            let _ = read_text(&text);
            let _ = folded::read(text.as_bytes());
            let _ = speedscope::read(text.as_bytes());
        }

        #[test]
        fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, Path::new(PATH));
        }

        #[test]
        fn no_stack_of_speedscope_reaches_beyond_its_frames(
            stacks in prop::collection::vec(prop::collection::vec(0_u32..4, 0..4), 0..6),
            weights in prop::collection::vec(-1.0_f64..10.0, 0..6),
        ) {
            let file = serde_json::json!({
                "shared": {"frames": [{"name": "f"}, {"name": "g", "line": 1e300}]},
                "profiles": [{"type": "sampled", "unit": "none", "samples": stacks, "weights": weights}],
            });
            let fits = stacks.len() == weights.len()
                && !stacks.is_empty()
                && weights.iter().all(|weight| *weight >= 0.0)
                && stacks.iter().flatten().all(|frame| *frame < 2);
            prop_assert_eq!(speedscope::read(file.to_string().as_bytes()).is_ok(), fits);
        }
    }
}
