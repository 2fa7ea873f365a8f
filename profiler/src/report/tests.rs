//! Golden files of every writer, and what must hold between them.
//!
//! One profile made by hand has everything that writers tell apart. `cargo xtask bless` rewrites the files after a
//! change that is meant; the diff is then the review.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::profile::{Frame, FrameId, FrameKind, Labels, Mapping, MappingId, Profile, SampleKey, ValueType};

const SAMPLES: ValueType = ValueType {
    kind: "samples",
    unit: "count",
};
const CPU: ValueType = ValueType {
    kind: "cpu",
    unit: "nanoseconds",
};

mod golden {
    use super::*;

    #[test]
    fn folded_text_starts_where_the_view_says() {
        for (name, view) in VIEWS {
            check(
                &format!("mixed/{name}.folded"),
                &written(Format::Folded, &mixed(), &view()),
            );
        }
    }

    #[test]
    fn a_flame_graph_shows_kinds_and_names() {
        for (name, view) in [VIEWS[0], VIEWS[3]] {
            check(
                &format!("mixed/{name}.svg"),
                &without_script(&written(Format::Svg, &mixed(), &view())),
            );
        }
    }

    #[test]
    fn speedscope_shows_one_profile_per_group() {
        for (name, view) in VIEWS {
            let view = View { value: 1, ..view() };
            let json: Value = serde_json::from_str(&written(Format::Speedscope, &mixed(), &view)).unwrap();
            let pretty = serde_json::to_string_pretty(&json).unwrap() + "\n";
            check(&format!("mixed/{name}.speedscope.json"), &pretty);
        }
    }

    #[test]
    fn pprof_holds_everything() {
        check(
            "mixed/pprof.txt",
            &pprof::dump(&bytes(Format::Pprof, &mixed(), &View::default())),
        );
    }

    #[test]
    fn an_empty_profile_gives_valid_files() {
        let empty = Profile::new(vec![SAMPLES, CPU], Some((CPU, 10_101_010)));
        let view = View {
            title: "CPU profile of sleep".to_owned(),
            ..View::default()
        };
        check("empty/flame.svg", &written(Format::Svg, &empty, &view));
        check("empty/stacks.folded", &written(Format::Folded, &empty, &view));
        check(
            "empty/stacks.speedscope.json",
            &written(Format::Speedscope, &empty, &view),
        );
        check("empty/pprof.txt", &pprof::dump(&bytes(Format::Pprof, &empty, &view)));
    }

    fn check(name: &str, now: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
        if std::env::var_os("BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, now).unwrap();
            return;
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        if golden == now {
            return;
        }
        let line = golden.lines().zip(now.lines()).take_while(|(a, b)| a == b).count();
        panic!(
            "{} differs from line {} on\n  golden: {}\n  now:    {}\nif this is meant, run cargo xtask bless",
            PathBuf::from(name).display(),
            line + 1,
            golden.lines().nth(line).unwrap_or("(nothing)"),
            now.lines().nth(line).unwrap_or("(nothing)"),
        );
    }

    /// inferno's JavaScript is not ours to keep a copy of.
    fn without_script(svg: &str) -> String {
        let start = svg.find("<script").unwrap();
        let end = svg.find("</script>").unwrap();
        assert!(svg[start..end].contains("function search("));
        assert!(svg[start..end].contains("function zoom("));
        // Ours has a file of its own.
        let ours = svg.rfind("<script").unwrap();
        assert!(ours > end && svg.ends_with("]]></script></svg>"));
        // One element per line, so that a difference can be read.
        format!("{}{}</svg>", &svg[..start], &svg[end + "</script>".len()..ours]).replace("><", ">\n<")
    }
}

#[test]
fn pprof_gives_back_what_was_written() {
    let mut before = mixed();
    before.sources.insert("/srv/app/main.py", "def f():\n\tpass\n");
    let after = pprof::read(&bytes(Format::Pprof, &before, &View::default())).unwrap();
    assert_eq!(before.sources, after.sources);
    for (_, view) in VIEWS {
        for value in 0..2 {
            let view = View { value, ..view() };
            for format in [Format::Folded, Format::Svg, Format::Speedscope] {
                assert_eq!(written(format, &before, &view), written(format, &after, &view));
            }
        }
    }
    assert_eq!(contents(&before), contents(&after));
    assert_eq!(
        bytes(Format::Pprof, &before, &View::default()),
        bytes(Format::Pprof, &after, &View::default())
    );
}

#[test]
fn a_plain_protobuf_is_read_as_well() {
    let compressed = bytes(Format::Pprof, &mixed(), &View::default());
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*compressed), &mut plain).unwrap();
    assert_eq!(contents(&pprof::read(&plain).unwrap()), contents(&mixed()));
}

/// Two stacks of two threads in slices of 100 ms; of the second it is not known when all of it was.
fn timed() -> Profile {
    let mixed = mixed();
    let mut profile = mixed.emptied();
    profile.default_type = 0;
    profile.begin_timeline(100_000_000);
    let ours = profile.translated(&mixed);
    let [first, second] = [0, 1].map(|place| ours.key(mixed.sample(place).unwrap().0));
    profile.add_in(first, &[10, 101_010_100], &[(0, 3_u32), (7, 1)]);
    profile.add_in(second.clone(), &[2, 20_202_020], &[(7, 1_u32)]);
    profile.add(second, &[1, 10_101_010]);
    profile
}

#[test]
fn pprof_says_when_samples_were_and_says_the_same_of_them_as_without() {
    let profile = timed();
    let file = bytes(Format::Pprof, &profile, &View::default());
    let read = pprof::read(&file).unwrap();
    assert_eq!(read.timeline(), profile.timeline());
    let parts: Vec<_> = read.timeline().unwrap().sorted();
    let parts: Vec<_> = parts.iter().map(|part| (part.sample, part.slice, part.value)).collect();
    assert_eq!(parts, [(0, 0, 8), (0, 7, 2), (1, 7, 2)]);

    let mut untimed = timed();
    untimed.drop_timeline();
    let without = bytes(Format::Pprof, &untimed, &View::default());
    let dumps = [&file, &without].map(|bytes| {
        let text = pprof::dump(bytes);
        let lines = text.lines().filter(|line| !line.starts_with("slices of"));
        lines
            .map(|line| line.split(" in [").next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    });
    assert_eq!(dumps[0], dumps[1]);
    assert!(pprof::read(&without).unwrap().timeline().is_none());
    for format in [Format::Svg, Format::Folded] {
        assert_eq!(
            bytes(format, &profile, &View::default()),
            bytes(format, &untimed, &View::default())
        );
    }
}

#[test]
fn filters_keep_the_times_of_what_they_keep() {
    let profile = timed();
    let (key, _) = profile.sample(1).unwrap();
    let filter = format!("tid={}", key.labels.tid).parse().unwrap();
    let kept = select::filtered(&profile, &[filter]).unwrap();
    let parts = kept.timeline().unwrap().sorted();
    let of: i64 = parts.iter().map(|part| part.value).sum();
    let tids = [0, 1].map(|place| profile.sample(place).unwrap().0.labels.tid);
    assert_eq!(of, if tids[0] == tids[1] { 12 } else { 2 });
    let folded = select::with_libraries_folded(&profile).timeline().unwrap().sorted();
    assert_eq!(folded.iter().map(|part| part.value).sum::<i64>(), 12);
}

#[test]
fn formats_with_an_axis_of_time_have_samples_in_its_order_where_it_is_known_of_all() {
    let mixed = mixed();
    let mut profile = mixed.emptied();
    profile.begin_timeline(100_000_000);
    let ours = profile.translated(&mixed);
    let [first, second] = [0, 2].map(|place| ours.key(mixed.sample(place).unwrap().0));
    // The first one is met again after the second.
    profile.add_in(first, &[10, 101_010_100], &[(0, 4_u32), (9, 6)]);
    profile.add_in(second, &[5, 50_505_050], &[(4, 5_u32)]);
    let json = |profile: &Profile| -> Value {
        let view = View::default();
        serde_json::from_str(&written(Format::Speedscope, profile, &view)).unwrap()
    };
    let weights = |json: &Value| -> Vec<i64> {
        let profiles = json["profiles"].as_array().unwrap().iter();
        let profiles = profiles.filter(|profile| profile["name"].as_str().unwrap().ends_with(" · samples"));
        let weights = profiles.flat_map(|profile| profile["weights"].as_array().unwrap());
        weights.map(|weight| weight.as_i64().unwrap()).collect()
    };
    let timed = json(&profile);
    assert_eq!(weights(&timed), [4, 5, 6]);
    assert!(
        timed["name"]
            .as_str()
            .unwrap()
            .ends_with("in order of time to 100.0 ms"),
        "{timed}"
    );
    // Where it is not known of a part, what is missing would look like idleness.
    let (key, values) = profile
        .sample(0)
        .map(|(key, values)| (key.clone(), values.to_vec()))
        .unwrap();
    profile.add(key, &values);
    assert_eq!(weights(&json(&profile)).len(), 2);

    let mut chrome = Vec::new();
    export::Format::Foreign(export::Foreign::Chrome)
        .writer()
        .write(&timed_whole(), &View::default(), &mut chrome)
        .unwrap();
    let chrome: Value = serde_json::from_slice(&chrome).unwrap();
    assert_eq!(chrome["otherData"]["axis"], "time, to 100.0 ms");
    let ends = chrome["traceEvents"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["ph"] == "X")
        .map(|event| event["ts"].as_f64().unwrap() + event["dur"].as_f64().unwrap());
    // In the eighth slice and no further.
    let end = ends.fold(0.0, f64::max);
    assert!((700_000.0..=800_000.0).contains(&end), "{end}");
}

fn timed_whole() -> Profile {
    let timed = timed();
    let mut profile = timed.emptied();
    let ours = profile.translated(&timed);
    let (key, _) = timed.sample(0).unwrap();
    profile.add_in(ours.key(key), &[10, 101_010_100], &[(0, 3_u32), (7, 1)]);
    profile
}

#[test]
fn a_pprof_file_cut_short_is_an_error() {
    let whole = bytes(Format::Pprof, &mixed(), &View::default());
    for length in 0..whole.len() {
        assert!(
            pprof::read(&whole[..length]).is_err(),
            "{length} of {} bytes",
            whole.len()
        );
    }
}

#[test]
fn an_orphan_inlined_frame_is_kept() {
    // Nothing follows, or something from elsewhere: the mark is wrong, but the frame is there.
    let mut profile = Profile::new(vec![SAMPLES], None);
    let python = Code::python("f", "a.py", 1, 1).intern(&mut profile);
    let inlined = Code {
        inlined: true,
        ..Code::native("g", 0x10)
    }
    .intern(&mut profile);
    add(&mut profile, &[inlined, python], &[1]);
    add(&mut profile, &[inlined], &[2]);
    let read = pprof::read(&bytes(Format::Pprof, &profile, &View::default())).unwrap();
    let view = View::default();
    assert_eq!(
        written(Format::Folded, &read, &view),
        written(Format::Folded, &profile, &view)
    );
    assert_eq!(read.samples().len(), 2);
}

#[test]
fn totals_agree_between_formats() {
    let profile = mixed();
    for (_, view) in VIEWS {
        for value in 0..2 {
            let view = View { value, ..view() };
            let folded = written(Format::Folded, &profile, &view);
            let folded: i64 = folded
                .lines()
                .map(|line| line.rsplit_once(' ').unwrap().1.parse::<i64>().unwrap())
                .sum();
            let speedscope: Value = serde_json::from_str(&written(Format::Speedscope, &profile, &view)).unwrap();
            let profiles = speedscope["profiles"].as_array().unwrap();
            // The one that is shown comes first.
            let counts = |profile: &Value, kind: &str| profile["name"].as_str().unwrap().ends_with(kind);
            let kind = format!(" · {}", profile.sample_types[value].kind);
            assert!(counts(&profiles[0], &kind), "{}", profiles[0]["name"]);
            let speedscope: i64 = profiles
                .iter()
                .filter(|profile| counts(profile, &kind))
                .map(|profile| profile["endValue"].as_i64().unwrap())
                .sum();
            let svg = written(Format::Svg, &profile, &view);
            assert!(svg.contains(&format!("total_samples=\"{folded}\"")));
            assert_eq!((folded, speedscope), (profile.total(value), profile.total(value)));
        }
    }
}

#[test]
fn speedscope_json_has_the_structure_of_its_schema() {
    for profile in [mixed(), Profile::new(vec![SAMPLES, CPU], None)] {
        for (_, view) in VIEWS {
            let json: Value = serde_json::from_str(&written(Format::Speedscope, &profile, &view())).unwrap();
            assert_eq!(json["$schema"], "https://www.speedscope.app/file-format-schema.json");
            let frames = json["shared"]["frames"].as_array().unwrap();
            for frame in frames {
                assert!(frame["name"].is_string());
                assert!(frame.get("file").is_none_or(Value::is_string));
                assert!(frame.get("line").is_none_or(Value::is_number));
            }
            let profiles = json["profiles"].as_array().unwrap();
            assert!(!profiles.is_empty());
            for profile in profiles {
                assert_eq!(profile["type"], "sampled");
                assert!(["none", "nanoseconds"].contains(&profile["unit"].as_str().unwrap()));
                assert!(profile["name"].is_string());
                let (samples, weights) = (
                    profile["samples"].as_array().unwrap(),
                    profile["weights"].as_array().unwrap(),
                );
                assert_eq!(samples.len(), weights.len());
                assert_eq!(
                    profile["endValue"].as_i64().unwrap(),
                    weights.iter().map(|weight| weight.as_i64().unwrap()).sum::<i64>()
                );
                for index in samples.iter().flat_map(|stack| stack.as_array().unwrap()) {
                    assert!((index.as_u64().unwrap() as usize) < frames.len());
                }
            }
        }
    }
}

#[test]
fn hostile_names_break_no_format() {
    let name = "a;b\n<script>]]>&\"'\u{1}\u{7f}\u{ffff} -- # 12";
    let mut profile = Profile::new(vec![SAMPLES], None);
    profile.comments.push(name.to_owned());
    let native = Code {
        mapping: None,
        ..Code::native(name, 1)
    }
    .intern(&mut profile);
    let python = Code::python(name, name, 12, 1).intern(&mut profile);
    add(&mut profile, &[native, python], &[3]);
    let view = View {
        process: true,
        title: name.to_owned(),
        subtitle: name.to_owned(),
        ..View::default()
    };

    let folded = written(Format::Folded, &profile, &view);
    assert_eq!(folded.lines().count(), 1);
    assert_eq!(folded.split(';').count(), 3);
    let svg = written(Format::Svg, &profile, &view);
    assert!(
        svg.contains("<g id=\"legend\"")
            && !svg.contains("<script>]]>")
            && !svg.contains(['\u{1}', '\u{7f}', '\u{ffff}'])
    );
    assert!(svg.contains("total_samples=\"3\""));
    serde_json::from_str::<Value>(&written(Format::Speedscope, &profile, &view)).unwrap();
    let read = pprof::read(&bytes(Format::Pprof, &profile, &view)).unwrap();
    assert_eq!(contents(&read), contents(&profile));
}

#[test]
fn equal_workers_are_one() {
    let mut profile = Profile::new(vec![SAMPLES], None);
    let function = Code::python("f", "a.py", 1, 1).intern(&mut profile);
    let stack = profile.intern_stack(&[function]);
    for (pid, comm, container) in [(7, "web", ""), (8, "web", ""), (9, "web", "other"), (10, "db", "")] {
        let labels = Labels {
            pid,
            tid: pid,
            comm: profile.intern_string(comm),
            command: Profile::EMPTY,
            thread: profile.intern_string("main"),
            cgroup: Profile::EMPTY,
            container: profile.intern_string(container),
            task: Profile::EMPTY,
        };
        profile.add(SampleKey { stack, labels }, &[1]);
    }
    let view = View {
        process: true,
        thread: true,
        merge_workers: true,
        ..View::default()
    };
    assert_eq!(
        written(Format::Folded, &profile, &view),
        concat!(
            "db (process 10);main (thread 10);f (a.py:1) 1\n",
            "web (2 processes);main (threads);f (a.py:1) 2\n",
            "web [other] (process 9);main (thread 9);f (a.py:1) 1\n",
        )
    );
    let speedscope: Value = serde_json::from_str(&written(Format::Speedscope, &profile, &view)).unwrap();
    assert_eq!(speedscope["profiles"].as_array().unwrap().len(), 3);
    assert_eq!(speedscope["profiles"][0]["endValue"], 2);
}

#[test]
fn a_value_that_is_not_there_is_an_error() {
    let view = View {
        value: 2,
        ..View::default()
    };
    for format in [Format::Svg, Format::Html, Format::Folded, Format::Speedscope] {
        let error = format.writer().write(&mixed(), &view, &mut Vec::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "this profile has 2 kinds of values, there is no number 2"
        );
    }
}

#[test]
fn an_ending_names_its_format() {
    let format = |path: &str| Format::from_path(Path::new(path));
    assert_eq!(format("flame.svg"), Some(Format::Svg));
    assert_eq!(format("/tmp/Flame.SVG"), Some(Format::Svg));
    assert_eq!(format("a.txt"), Some(Format::Folded));
    assert_eq!(format("a.collapsed"), Some(Format::Folded));
    assert_eq!(format("a.speedscope.json"), Some(Format::Speedscope));
    assert_eq!(format("a.json"), Some(Format::Speedscope));
    assert_eq!(format("a.pprof"), Some(Format::Pprof));
    assert_eq!((format("a"), format("a.gz"), format("svg")), (None, None, None));
    for each in [
        Format::Svg,
        Format::Html,
        Format::Folded,
        Format::Speedscope,
        Format::Pprof,
    ] {
        assert_eq!(format(&format!("a.{}", each.extension())), Some(each));
        assert_eq!(each.name().parse(), Ok(each));
    }
    assert_eq!("flamegraph".parse(), Ok(Format::Svg));
    assert_eq!("raw".parse(), Ok(Format::Folded));
    assert_eq!("collapsed".parse(), Ok(Format::Folded));
    assert!("png".parse::<Format>().is_err());
}

proptest! {
    #[test]
    fn bytes_that_are_no_profile_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = pprof::read(&bytes);
    }

    #[test]
    fn a_damaged_profile_never_panics(at in any::<prop::sample::Index>(), with in any::<[u8; 3]>(), keep in 0..3_usize) {
        let mut plain = Vec::new();
        let profile = if keep == 0 { timed() } else { mixed() };
        let compressed = bytes(Format::Pprof, &profile, &View::default());
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*compressed), &mut plain).unwrap();
        let at = at.index(plain.len());
        let end = (at + keep).min(plain.len());
        plain.splice(at..end, with);
        if let Ok(profile) = pprof::read(&plain) {
            for format in [Format::Svg, Format::Html, Format::Folded, Format::Speedscope, Format::Pprof] {
                let view = View { process: true, thread: true, ..View::default() };
                let _ = format.writer().write(&profile, &view, &mut Vec::new());
            }
        }
    }

    #[test]
    fn any_profile_survives_pprof(stacks in prop::collection::vec((any_stack(), 0..9_i64), 0..9)) {
        let mut profile = Profile::new(vec![SAMPLES], None);
        for (stack, value) in &stacks {
            let stack: Vec<_> = stack.iter().map(|code| code.clone().intern(&mut profile)).collect();
            add(&mut profile, &stack, &[*value]);
        }
        let read = pprof::read(&bytes(Format::Pprof, &profile, &View::default())).unwrap();
        let view = View { process: true, thread: true, ..View::default() };
        for format in [Format::Folded, Format::Svg, Format::Speedscope] {
            prop_assert_eq!(written(format, &read, &view), written(format, &profile, &view));
        }
    }
}

type MakeView = fn() -> View;

const VIEWS: [(&str, MakeView); 4] = [
    ("plain", || heading(View::default())),
    ("work", || {
        heading(View {
            interpreter: Interpreter::Work,
            ..View::default()
        })
    }),
    ("process", || {
        heading(View {
            process: true,
            ..View::default()
        })
    }),
    ("thread", || {
        heading(View {
            process: true,
            thread: true,
            ..View::default()
        })
    }),
];

fn heading(view: View) -> View {
    View {
        title: "CPU profile of 2 processes".to_owned(),
        subtitle: "24 samples · 99 Hz · 10 s · 2026-01-02 03:04:05 UTC".to_owned(),
        ..view
    }
}

fn written(format: Format, profile: &Profile, view: &View) -> String {
    String::from_utf8(bytes(format, profile, view)).unwrap()
}

fn bytes(format: Format, profile: &Profile, view: &View) -> Vec<u8> {
    let mut out = Vec::new();
    format.writer().write(profile, view, &mut out).unwrap();
    out
}

/// Every sample in words, so that profiles can be compared whose ids differ.
fn contents(profile: &Profile) -> String {
    let mut text = format!(
        "{:?}\n{:?}\n{} {}\n{:?}\n",
        profile.sample_types, profile.period, profile.started_at_ns, profile.duration_ns, profile.comments
    );
    let mut samples = BTreeMap::new();
    for (key, values) in profile.samples() {
        let Labels {
            pid,
            tid,
            comm,
            command,
            thread,
            cgroup,
            container,
            task,
        } = key.labels;
        let words = [comm, command, thread, cgroup, container, task].map(|id| profile.string(id));
        let mut sample = format!("{pid} {tid} {words:?}\n");
        for id in profile.stack(key.stack) {
            let Frame {
                kind,
                function,
                file,
                line,
                first_line,
                mapping,
                address,
                inlined,
            } = *profile.frame(*id);
            let mapping = mapping.map(|mapping| {
                let Mapping { path, build_id } = profile.mapping(mapping);
                (profile.string(*path), profile.string(*build_id))
            });
            let (function, file) = (profile.string(function), profile.string(file));
            let _ = writeln!(
                sample,
                "  {kind:?} {function:?} {file:?} {line} {first_line} {mapping:?} {address:#x} {inlined}"
            );
        }
        assert!(samples.insert(sample, values.to_vec()).is_none());
    }
    let _ = write!(text, "{samples:#?}");
    text
}

/// A frame by its texts.
#[derive(Clone, Debug)]
struct Code {
    kind: FrameKind,
    function: String,
    file: String,
    line: u32,
    first_line: u32,
    mapping: Option<(&'static str, &'static str)>,
    address: u64,
    inlined: bool,
}

const LIBC: (&str, &str) = ("/usr/lib/x86_64-linux-gnu/libc.so.6", "93ad18c8bcf9");
const INTERPRETER: (&str, &str) = ("/usr/bin/python3.11", "0b5e1f00");
const EXTENSION: (&str, &str) = ("/srv/app/_fast.cpython-311-x86_64-linux-gnu.so", "");
const VMLINUX: (&str, &str) = ("[kernel.kallsyms]", "5f0c2a");
const MODULE: (&str, &str) = ("[ext4]", "");

impl Code {
    fn python(function: &str, file: &str, line: u32, first_line: u32) -> Self {
        Self {
            kind: FrameKind::Python,
            file: file.to_owned(),
            line,
            first_line,
            ..Self::of(function)
        }
    }

    fn native(function: &str, address: u64) -> Self {
        Self {
            mapping: Some(INTERPRETER),
            address,
            ..Self::of(function)
        }
    }

    fn kernel(function: &str, address: u64) -> Self {
        Self {
            kind: FrameKind::Kernel,
            mapping: Some(VMLINUX),
            address,
            ..Self::of(function)
        }
    }

    fn marker(text: &str) -> Self {
        Self {
            kind: FrameKind::Marker,
            ..Self::of(text)
        }
    }

    fn of(function: &str) -> Self {
        Self {
            kind: FrameKind::Native,
            function: function.to_owned(),
            file: String::new(),
            line: 0,
            first_line: 0,
            mapping: None,
            address: 0,
            inlined: false,
        }
    }

    fn intern(self, profile: &mut Profile) -> FrameId {
        let mapping: Option<MappingId> = self.mapping.map(|(path, build_id)| {
            let mapping = Mapping {
                path: profile.intern_string(path),
                build_id: profile.intern_string(build_id),
            };
            profile.intern_mapping(mapping)
        });
        let frame = Frame {
            kind: self.kind,
            function: profile.intern_string(&self.function),
            file: profile.intern_string(&self.file),
            line: self.line,
            first_line: self.first_line,
            mapping,
            address: self.address,
            inlined: self.inlined,
        };
        profile.intern_frame(frame)
    }
}

/// Leaf first. What is inlined is inlined into what follows at the same place: an orphan (`an_orphan_inlined_frame_is_kept`)
/// comes back as a frame of its own, and is another one then where the same frame is also there without the mark.
fn any_stack() -> impl Strategy<Value = Vec<Code>> {
    prop::collection::vec(any_code(), 1..6).prop_map(|mut stack| {
        for at in 0..stack.len() {
            let place = |code: &Code| (code.kind, code.mapping, code.address);
            let has_outer = stack.get(at + 1).is_some_and(|outer| place(outer) == place(&stack[at]));
            stack[at].inlined &= has_outer;
        }
        stack
    })
}

fn any_code() -> impl Strategy<Value = Code> {
    prop_oneof![
        ("[a-c]{0,2}", 0..3_u32).prop_map(|(name, line)| Code::python(&name, "a.py", line, 1)),
        ("[a-c]{0,2}", 1..4_u64, any::<bool>(), any::<bool>()).prop_map(|(name, address, mapped, inlined)| Code {
            mapping: mapped.then_some(LIBC),
            inlined,
            ..Code::native(&name, address)
        }),
        (
            "[a-c]{0,2}",
            1..4_u64,
            prop::sample::select(vec![None, Some(VMLINUX), Some(MODULE)])
        )
            .prop_map(|(name, address, mapping)| Code {
                mapping,
                ..Code::kernel(&name, KERNEL_TEXT + address)
            }),
        "[a-c]{1,2}".prop_map(|name| Code::marker(&format!("[{name}]"))),
    ]
}

const KERNEL_TEXT: u64 = 0xffff_ffff_8100_0000;

fn add(profile: &mut Profile, leaf_first: &[FrameId], values: &[i64]) {
    let stack = profile.intern_stack(leaf_first);
    let labels = Labels {
        pid: 1,
        tid: 1,
        comm: Profile::EMPTY,
        command: Profile::EMPTY,
        thread: Profile::EMPTY,
        cgroup: Profile::EMPTY,
        container: Profile::EMPTY,
        task: Profile::EMPTY,
    };
    profile.add(SampleKey { stack, labels }, values);
}

/// Two processes, one of them with two threads, and every kind of frame.
pub(in crate::report) fn mixed() -> Profile {
    let mut profile = Profile::new(vec![SAMPLES, CPU], Some((CPU, 10_101_010)));
    profile.started_at_ns = 1_767_323_045_000_000_000;
    profile.duration_ns = 10_000_000_000;
    profile.comments = vec![
        "profiler record -p 4242,4300 -d 10 -- <x> & y".to_owned(),
        "lost: 0 samples".to_owned(),
    ];

    let start = Code::native("_start", 0x1f0);
    let main = Code {
        file: "Programs/python.c".to_owned(),
        line: 15,
        first_line: 12,
        ..Code::native("main", 0x2c4)
    };
    let module = Code::python("<module>", "/srv/app/main.py", 40, 1);
    let serve = Code::python("Server.serve", "/srv/app/server/__init__.py", 88, 80);
    let handle = |line| Code::python("Server.handle", "/srv/app/server/__init__.py", line, 95);
    let umlaut = Code::python("Größe.__init__.<locals>.<lambda>", "/srv/app/größe;n.py", 7, 7);
    let import = Code::python("_find_and_load", "<frozen importlib._bootstrap>", 1176, 1165);
    let no_line = Code::python("fast", "/srv/app/fast.pyx", 0, 0);
    let call = Code::native("_PyEval_EvalFrameDefault", 0x5_1234);
    let inner = Code {
        file: "src/fast.rs".to_owned(),
        line: 9,
        inlined: true,
        mapping: Some(EXTENSION),
        ..Code::native("core::iter::Iterator::sum::<u64>", 0x7777)
    };
    let middle = Code {
        line: 31,
        inlined: true,
        function: "fast::hash".to_owned(),
        ..inner.clone()
    };
    let outer = Code {
        line: 52,
        inlined: false,
        function: "fast::digest".to_owned(),
        ..inner.clone()
    };
    let unresolved = Code {
        mapping: Some(EXTENSION),
        ..Code::native("", 0x9abc)
    };
    let nowhere = Code {
        mapping: None,
        ..Code::native("", 0x7f00_dead_b000)
    };
    let jit = Code {
        mapping: None,
        ..Code::native("jit_block 12", 0x7f00_0000_1000)
    };
    let vdso = Code {
        mapping: Some(("[vdso]", "77aa")),
        ..Code::native("__vdso_clock_gettime", 0x8a0)
    };
    let read = Code {
        mapping: Some(LIBC),
        ..Code::native("read", 0xf_0010)
    };
    let syscall = Code::kernel("do_syscall_64", KERNEL_TEXT + 0x10);
    let ksys_read = Code::kernel("ksys_read", KERNEL_TEXT + 0x20);
    let ext4 = Code {
        mapping: Some(MODULE),
        ..Code::kernel("ext4_file_read_iter", 0xffff_ffff_c000_1000)
    };
    let hidden = Code::kernel("", KERNEL_TEXT + 0x999);

    let main_thread = (4242, 4242, "gunicorn", "gunicorn");
    let worker = (4242, 4243, "gunicorn", "worker-größe");
    let other = (4300, 4300, "postgres", "postgres");
    let moved = Code {
        address: 0x1f8,
        ..start.clone()
    };
    let truncated = Code::marker("[truncated]");
    let unknown = Code::marker("[unknown Python frame]");
    let [looked_up, computed, stored] = [handle(101), handle(103), handle(104)];
    let (app, moved_app) = (
        vec![&start, &main, &module, &serve],
        vec![&moved, &main, &module, &serve],
    );
    let stacks = [
        (main_thread, [&app[..], &[&looked_up]].concat(), 5),
        // The same names from another address: one line of folded text, two samples of pprof.
        (main_thread, [&moved_app[..], &[&looked_up]].concat(), 1),
        (
            main_thread,
            [&app[..], &[&computed, &umlaut, &call, &outer, &middle, &inner]].concat(),
            4,
        ),
        (
            main_thread,
            [&app[..], &[&stored, &read, &syscall, &ksys_read, &ext4]].concat(),
            3,
        ),
        (
            main_thread,
            [&app[..], &[&stored, &read, &syscall, &hidden]].concat(),
            1,
        ),
        (main_thread, vec![&module, &import, &vdso], 1),
        (worker, vec![&truncated, &looked_up], 2),
        (worker, vec![&unknown, &no_line, &unresolved], 2),
        (worker, vec![&nowhere, &jit], 1),
        (other, vec![&start, &main, &read, &syscall, &ksys_read], 3),
        (other, vec![&start, &main], 1),
    ];
    for ((pid, tid, comm, thread), root_first, count) in stacks {
        let mut frames: Vec<_> = root_first
            .into_iter()
            .map(|code| code.clone().intern(&mut profile))
            .collect();
        frames.reverse();
        let stack = profile.intern_stack(&frames);
        let labels = Labels {
            pid,
            tid,
            comm: profile.intern_string(comm),
            command: profile.intern_string(if comm == "python3" {
                "shop/manage.py runserver"
            } else {
                ""
            }),
            thread: profile.intern_string(thread),
            cgroup: Profile::EMPTY,
            container: Profile::EMPTY,
            task: Profile::EMPTY,
        };
        profile.add(SampleKey { stack, labels }, &[count, count * 10_101_010]);
    }
    profile
}
