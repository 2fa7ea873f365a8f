//! What the page's file is: its size, and what names can do in it. What it shows is tested in a browser
//! (`tests/e2e/page.rs`).

use std::io::Read as _;

use base64::Engine as _;
use flate2::read::ZlibDecoder;
use proptest::prelude::*;

use super::{super::Interpreter, *};
use crate::profile::{Frame, FrameId, FrameKind, Labels, SampleKey, ValueType};

const TYPES: [ValueType; 2] = [
    ValueType {
        kind: "samples",
        unit: "count",
    },
    ValueType {
        kind: "cpu",
        unit: "nanoseconds",
    },
];

fn frame(profile: &mut Profile, function: &str, file: &str, line: u32) -> FrameId {
    let frame = Frame {
        kind: FrameKind::Python,
        function: profile.intern_string(function),
        file: profile.intern_string(file),
        line,
        first_line: 1,
        mapping: None,
        address: 0,
        inlined: false,
    };
    profile.intern_frame(frame)
}

fn add(profile: &mut Profile, leaf_first: &[FrameId], tid: u32, thread: &str, count: i64) {
    let key = SampleKey {
        stack: profile.intern_stack(leaf_first),
        labels: Labels {
            pid: 1,
            tid,
            comm: Profile::EMPTY,
            command: profile.intern_string("app.py"),
            thread: profile.intern_string(thread),
            cgroup: Profile::EMPTY,
            container: Profile::EMPTY,
            task: Profile::EMPTY,
        },
    };
    profile.add(key, &[count, count * 10_101_010]);
}

fn written(profile: &Profile, view: &View) -> String {
    let mut bytes = Vec::new();
    Page.write(profile, view, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// The part between `<script … id="data">` and its end, unpacked.
fn unpacked(page: &str) -> Vec<u8> {
    let (_, data) = page.split_once(r#"id="data">"#).unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    let mut bytes = Vec::new();
    ZlibDecoder::new(&*STANDARD.decode(data).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

/// Stacks of a program of 4,000 functions that call 8 others each, from one of 6 lines: every stack goes on differently
/// from a place in one before.
fn many(stacks: usize) -> Profile {
    let mut profile = Profile::new(TYPES.to_vec(), None);
    let mut state = 1_u64;
    let mut random = move |below: u64| {
        // Knuth's MMIX generator.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let function = |profile: &mut Profile, number: u64, line: u64| {
        let file = format!(
            "/srv/app/lib/python3.12/site-packages/package{}/module{}.py",
            number % 40,
            number % 400
        );
        frame(
            profile,
            &format!("Class{}.method_{number}", number % 1000),
            &file,
            (number % 700 + line) as u32 + 2,
        )
    };
    let mut kept: Vec<Vec<(u64, u64)>> = vec![vec![(0, 0)]];
    while profile.samples().len() < stacks {
        let before = &kept[random(kept.len() as u64) as usize];
        let mut stack = before[..1 + random(before.len() as u64) as usize].to_vec();
        for _ in 0..1 + random(8) {
            let (caller, _) = stack[stack.len() - 1];
            stack.push(((caller * 8 + random(8) + 1) % 4000, random(6)));
        }
        stack.truncate(90);
        let frames: Vec<FrameId> = stack
            .iter()
            .rev()
            .map(|(number, line)| function(&mut profile, *number, *line))
            .collect();
        let tid = random(8) as u32;
        let count = 1 + random(9) as i64;
        add(&mut profile, &frames, tid, &format!("worker-{tid}"), count);
        if kept.len() < 20_000 {
            kept.push(stack);
        }
    }
    profile
}

/// The same, and each sample was at some moment.
fn at_random_moments(many: &Profile) -> Profile {
    let mut profile = many.emptied();
    profile.begin_timeline(320_000_000);
    profile.duration_ns = 60_000_000_000;
    let ours = profile.translated(many);
    let mut state = 1_u32;
    for (key, values) in many.samples() {
        let slices: Vec<(u32, u32)> = (0..values[0])
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 8) % 188, 1)
            })
            .collect();
        profile.add_in(ours.key(key), values, &slices);
    }
    profile
}

#[test]
fn a_page_of_a_hundred_thousand_stacks_is_below_two_megabytes() {
    let profile = at_random_moments(&many(100_000));
    let page = written(&profile, &View::default());
    assert!(page.len() <= 2_000_000, "{} bytes", page.len());
    // For who wants to look at it, or to measure a browser.
    if let Some(path) = std::env::var_os("PROFILER_LARGE_PAGE") {
        std::fs::write(path, page).unwrap();
    }
}

/// For who wants to measure: 100,000 stacks with half a million samples as pprof, with and without times.
#[test]
#[ignore = "it writes files and claims nothing; PROFILER_LARGE_RECORDINGS names a directory"]
fn large_recordings_are_written() {
    let directory = std::env::var_os("PROFILER_LARGE_RECORDINGS").expect("a directory");
    let directory = std::path::Path::new(&directory);
    let untimed = many(100_000);
    for (name, profile) in [("timed", &at_random_moments(&untimed)), ("untimed", &untimed)] {
        let mut bytes = Vec::new();
        super::super::Format::Pprof
            .writer()
            .write(profile, &View::default(), &mut bytes)
            .unwrap();
        std::fs::write(directory.join(format!("{name}.pb.gz")), bytes).unwrap();
    }
}

#[test]
fn a_name_is_in_no_markup_and_acts_nowhere() {
    let names = [
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a\u{2028}b\u{2029}c",
        "\u{202e}gpj.exe",
        "\u{1b}[2J\u{7}\0",
        "{script}{data}{style}{policy}",
        "-->]]>\"'&amp;",
        "__proto__",
    ];
    let plain = written(&Profile::new(TYPES.to_vec(), None), &View::default());
    let markup = |page: &str| {
        let (before, data) = page.split_once(r#"id="data">"#).unwrap();
        format!("{before}{}", data.split_once("</script>").unwrap().1)
    };
    for name in names {
        let mut profile = Profile::new(TYPES.to_vec(), None);
        let frame = frame(&mut profile, name, &format!("/srv/{name}.py"), 3);
        add(&mut profile, &[frame], 7, name, 5);
        profile.comments.push(name.to_owned());
        let view = View {
            title: name.to_owned(),
            subtitle: name.to_owned(),
            ..View::default()
        };
        let page = written(&profile, &view);
        assert_eq!(markup(&page), markup(&plain), "{name:?} is outside of the data");
        let data = unpacked(&page);
        // Numbers stand before and behind the text.
        let text = String::from_utf8_lossy(&data);
        let text = &text[text.find('{').unwrap()..text.rfind('}').unwrap()];
        for acting in ['\u{2028}', '\u{2029}', '\u{202e}', '\u{1b}', '\u{7}'] {
            assert!(!text.contains(acting), "{acting:?} of {name:?} is in the data");
        }
    }
}

#[test]
fn the_policy_allows_the_script_and_the_style_that_are_there_and_nothing_else() {
    let page = written(&Profile::new(TYPES.to_vec(), None), &View::default());
    let (_, policy) = page.split_once("Content-Security-Policy\" content=\"").unwrap();
    let (policy, _) = policy.split_once('"').unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    let (_, script) = page.rsplit_once("<script>").unwrap();
    let (script, _) = script.split_once("</script>").unwrap();
    assert!(
        policy.contains(&hash(script)),
        "the script is another than the policy's"
    );
    assert!(page.contains(&format!("<style>{STYLE}</style>")) && policy.contains(&hash(STYLE)));
    // What looks like an end of the element would be one.
    assert!(!script.contains("</script") && !script.contains("<!--") && !STYLE.contains("</"));
    // Nothing is loaded from anywhere.
    let marks = [
        "http:",
        "https:",
        "src=",
        "url(",
        "@import",
        "import(",
        "fetch(",
        "innerHTML",
    ];
    for mark in marks {
        assert!(!page.replace(&unpacked_text(&page), "").contains(mark), "{mark}");
    }
}

fn unpacked_text(page: &str) -> String {
    let (_, data) = page.split_once(r#"id="data">"#).unwrap();
    data.split_once("</script>").unwrap().0.to_owned()
}

/// The first number of what is left.
fn number(rest: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let (byte, after) = rest.split_first().unwrap();
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return value;
        }
        shift += 7;
    }
}

/// What a reader of the columns finds: stacks, root first, by text, with their values.
fn read_back(page: &str) -> Vec<(String, Vec<i64>)> {
    let bytes = unpacked(page);
    let mut rest = &bytes[..];
    let length = number(&mut rest) as usize;
    let (tables, mut rest) = rest.split_at(length);
    let tables: serde_json::Value = serde_json::from_slice(tables).unwrap();
    let many = |name: &str| tables[name].as_u64().unwrap() as usize;
    let mut column = |length: usize| (0..length).map(|_| number(&mut rest)).collect::<Vec<u64>>();
    let (frames, nodes, samples) = (many("frames"), many("nodes"), many("samples"));
    let (functions, lines) = (column(frames), column(frames));
    let (up, frame) = (column(nodes), column(nodes));
    let mut stacks = vec![String::new()];
    let mut path = vec![0];
    for node in 0..nodes {
        path.truncate(path.len() - up[node] as usize);
        let frame = frame[node] as usize;
        let name = tables["functions"]["name"][functions[frame] as usize].as_str().unwrap();
        stacks.push(format!("{};{name}:{}", stacks[*path.last().unwrap()], lines[frame]));
        path.push(stacks.len() - 1);
    }
    let mut node = 0;
    let nodes: Vec<usize> = column(samples)
        .into_iter()
        .map(|delta| {
            node += delta as usize;
            node
        })
        .collect();
    let threads = column(samples);
    assert!(
        threads
            .iter()
            .all(|thread| *thread < tables["threads"]["name"].as_array().unwrap().len() as u64)
    );
    let mut values: Vec<Vec<i64>> = Vec::new();
    for _ in tables["values"].as_array().unwrap() {
        let zigzag = |number: &u64| (number >> 1) as i64 ^ -((number & 1) as i64);
        let times = column(1)[0] as i64;
        values.push(match values.first() {
            Some(first) if times > 0 => first.iter().map(|value| value * times).collect(),
            _ => column(samples).iter().map(zigzag).collect(),
        });
    }
    let mut read: Vec<_> = (0..samples)
        .map(|sample| {
            let values = values.iter().map(|column| column[sample]);
            (stacks[nodes[sample]].clone(), values.collect())
        })
        .collect();
    read.sort();
    read
}

proptest! {
    #[test]
    fn every_stack_is_in_the_page_with_its_values(
        stacks in prop::collection::vec((prop::collection::vec((0..4_u32, 0..3_u32), 0..6), -3..9_i64), 0..20)
    ) {
        let mut profile = Profile::new(TYPES.to_vec(), None);
        let mut expected = std::collections::BTreeMap::<String, i64>::new();
        for (stack, count) in &stacks {
            let frames: Vec<FrameId> = stack.iter().map(|(function, line)| frame(&mut profile, &format!("f{function}"), "/srv/a.py", *line)).collect();
            add(&mut profile, &frames, 1, "main", *count);
            let text: String = stack.iter().rev().map(|(function, line)| format!(";f{function}:{line}")).collect();
            *expected.entry(text).or_default() += count;
        }
        let view = View { interpreter: Interpreter::Work, ..View::default() };
        let read = read_back(&written(&profile, &view));
        let expected: Vec<_> = expected.into_iter().map(|(text, count)| (text, vec![count, count * 10_101_010])).collect();
        prop_assert_eq!(read, expected);
    }
}
