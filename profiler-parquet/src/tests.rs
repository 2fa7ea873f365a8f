//! What is true of a store, seen by a reader that knows only the files.

use std::{collections::BTreeMap, fs, path::Path};

use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::{Field, Row},
};
use profiler_otlp as otlp;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

/// 2026-12-01, 13:05.
const START_NS: u64 = 1_796_130_300_000_000_000;
const HOUR_NS: u64 = 3_600_000_000_000;

fn text(value: &str) -> Option<otlp::AnyValue> {
    Some(otlp::AnyValue {
        value: Some(otlp::Value::Text(value.to_owned())),
    })
}

fn number(value: i64) -> Option<otlp::AnyValue> {
    Some(otlp::AnyValue {
        value: Some(otlp::Value::Number(value)),
    })
}

fn named(key: &str, value: Option<otlp::AnyValue>) -> otlp::KeyValue {
    otlp::KeyValue {
        key: key.to_owned(),
        value,
        key_strindex: 0,
    }
}

/// Two stacks that share `main`, one of them with an inlined function, and a sample that has none.
fn message() -> otlp::ProfilesData {
    let strings = [
        "",
        "cpu",
        "nanoseconds",
        "samples",
        "count",
        "main",
        "app.py",
        "work",
        "c_inner",
        "c_outer",
        "lib.c",
        "/usr/lib/lib.so",
        "thread.name",
        "profile.frame.type",
        "cpython",
        "native",
        "worker-1",
        "cause",
        "process.executable.build_id.gnu",
        "abcd",
    ];
    let at = |text: &str| i32::try_from(strings.iter().position(|string| *string == text).unwrap()).unwrap();
    let attribute = |key: &str, value: &str| otlp::Attribute {
        key_strindex: at(key),
        value: text(value),
    };
    let function = |name: &str, file: &str, start_line| otlp::Function {
        name_strindex: at(name),
        filename_strindex: at(file),
        start_line,
    };
    let location = |lines: &[(i32, i64)], kind, mapping_index, address| otlp::Location {
        mapping_index,
        address,
        lines: (lines.iter())
            .map(|(function_index, line)| otlp::Line {
                function_index: *function_index,
                line: *line,
            })
            .collect(),
        attribute_indices: vec![kind],
    };
    let dictionary = otlp::Dictionary {
        mapping_table: vec![
            otlp::Mapping::default(),
            otlp::Mapping {
                filename_strindex: at("/usr/lib/lib.so"),
                attribute_indices: vec![5],
                ..Default::default()
            },
        ],
        location_table: vec![
            otlp::Location::default(),
            location(&[(1, 10)], 1, 0, 0),
            location(&[(2, 20)], 1, 0, 0),
            location(&[(3, 7), (4, 9)], 2, 1, 0x1234),
        ],
        function_table: vec![
            otlp::Function::default(),
            function("main", "app.py", 1),
            function("work", "app.py", 15),
            function("c_inner", "lib.c", 5),
            function("c_outer", "lib.c", 8),
        ],
        link_table: vec![otlp::Link::default()],
        string_table: strings.map(str::to_owned).to_vec(),
        attribute_table: vec![
            otlp::Attribute::default(),
            attribute("profile.frame.type", "cpython"),
            attribute("profile.frame.type", "native"),
            attribute("thread.name", "worker-1"),
            attribute("cause", "lock"),
            attribute("process.executable.build_id.gnu", "abcd"),
        ],
        stack_table: vec![
            otlp::Stack::default(),
            otlp::Stack {
                location_indices: vec![2, 1],
            },
            otlp::Stack {
                location_indices: vec![3, 2, 1],
            },
        ],
    };
    let sample = |stack_index, attributes: &[i32], values: &[i64]| otlp::Sample {
        stack_index,
        attribute_indices: attributes.to_vec(),
        values: values.to_vec(),
        ..Default::default()
    };
    let value = |kind, unit| {
        Some(otlp::ValueType {
            type_strindex: at(kind),
            unit_strindex: at(unit),
        })
    };
    let profile = otlp::Profile {
        sample_type: value("cpu", "nanoseconds"),
        samples: vec![
            sample(1, &[3], &[100, 200]),
            sample(2, &[3, 4], &[1000]),
            sample(0, &[], &[5]),
        ],
        time_unix_nano: START_NS,
        duration_nano: 60_000_000_000,
        period_type: value("cpu", "nanoseconds"),
        period: 10,
        ..Default::default()
    };
    let counted = otlp::Profile {
        sample_type: value("samples", "count"),
        samples: vec![otlp::Sample {
            stack_index: 1,
            timestamps_unix_nano: vec![START_NS, START_NS + 1, START_NS + 2],
            ..Default::default()
        }],
        ..profile.clone()
    };
    otlp::ProfilesData {
        resource_profiles: vec![otlp::ResourceProfiles {
            resource: Some(otlp::Resource {
                attributes: vec![
                    named("service.name", text("shop")),
                    named("host.name", text("web-1")),
                    named("process.pid", number(42)),
                    named("process.executable.name", text("python3.12")),
                    named("k8s.pod.name", text("shop-7f")),
                ],
            }),
            scope_profiles: vec![otlp::ScopeProfiles {
                scope: None,
                profiles: vec![profile, counted],
            }],
        }],
        dictionary: Some(dictionary),
    }
}

fn rows(path: &Path) -> Vec<BTreeMap<String, Field>> {
    let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
    let columns = |row: Row| {
        row.get_column_iter()
            .map(|(name, field)| (name.clone(), field.clone()))
            .collect()
    };
    reader
        .get_row_iter(None)
        .unwrap()
        .map(|row| columns(row.unwrap()))
        .collect()
}

/// What the store says, joined as the documentation tells: type, service, value, frames and labels.
fn told(store: &Store) -> Vec<String> {
    let mut told = Vec::new();
    for hour in store.hours().unwrap() {
        for set in store.sets(hour).unwrap() {
            let files = store.files(hour, &set);
            let frames = rows(&files.frames);
            for sample in rows(&files.samples) {
                let of =
                    |row: &&BTreeMap<String, Field>| (row["set"].clone(), row["service"].clone(), row["stack"].clone());
                let stack = frames.iter().filter(|frame| of(frame) == of(&&sample));
                let stack: Vec<String> = stack
                    .map(|frame| format!("{}:{}", frame["function"], frame["line"]).replace('"', ""))
                    .collect();
                told.push(format!(
                    "{} {} {} {} {} | {}",
                    sample["service"],
                    sample["type"],
                    sample["value"],
                    sample["thread"],
                    sample["labels"],
                    stack.join(" < ")
                ));
            }
        }
    }
    told.sort_unstable();
    told
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

const TOLD: [&str; 4] = [
    r#""shop" "cpu" 1000 "worker-1" {"k8s.pod.name" -> "shop-7f", "cause" -> "lock"} | c_inner:7 < c_outer:9 < work:20 < main:10"#,
    r#""shop" "cpu" 300 "worker-1" {"k8s.pod.name" -> "shop-7f"} | work:20 < main:10"#,
    r#""shop" "cpu" 5 "" {"k8s.pod.name" -> "shop-7f"} | [no stack]:0"#,
    r#""shop" "samples" 3 "" {"k8s.pod.name" -> "shop-7f"} | work:20 < main:10"#,
];

#[test]
fn a_message_reads_back_as_it_was() {
    let (_directory, store) = store();
    let appended = store.append(&message().encode_to_vec()).unwrap();
    assert_eq!(appended.samples, 4);
    assert!(appended.lost.is_nothing());
    assert_eq!(told(&store), TOLD);
    let files = &appended.files[0];
    assert!(files.samples.ends_with(format!(
        "v1/day=2026-12-01/hour=13/{}.samples.parquet",
        store.sets(store.hours().unwrap()[0]).unwrap()[0]
    )));
    let frame = &rows(&files.frames)
        .into_iter()
        .find(|row| row["function"].to_string() == "\"c_inner\"")
        .unwrap();
    assert_eq!(frame["binary"].to_string(), "\"/usr/lib/lib.so\"");
    assert_eq!(frame["build_id"].to_string(), "\"abcd\"");
    assert_eq!(frame["kind"].to_string(), "\"native\"");
    assert_eq!(frame["address"], Field::Long(0x1234));
    assert_eq!(frame["inlined"], Field::Bool(true));
    let sample = &rows(&files.samples)[0];
    assert_eq!(sample["time"], Field::TimestampMicros(1_796_130_300_000_000));
    assert_eq!(sample["end_time"], Field::TimestampMicros(1_796_130_360_000_000));
    assert_eq!(
        (&sample["pid"], &sample["period"]),
        (&Field::Long(42), &Field::Long(10))
    );
}

#[test]
fn the_same_message_again_changes_nothing() {
    let (_directory, store) = store();
    let message = message().encode_to_vec();
    store.append(&message).unwrap();
    let again = store.append(&message).unwrap();
    assert!(again.files[0].known);
    assert_eq!((again.samples, again.bytes), (0, 0));
    assert_eq!(told(&store).len(), 4);
}

#[test]
fn a_stack_has_the_same_name_in_every_set() {
    let (_directory, store) = store();
    let mut message = message();
    let first = store.append(&message.encode_to_vec()).unwrap();
    message.resource_profiles[0].scope_profiles[0].profiles[0].time_unix_nano += 60_000_000_000;
    // Other numbers for the same frames.
    let dictionary = message.dictionary.as_mut().unwrap();
    dictionary.location_table.insert(1, otlp::Location::default());
    for stack in &mut dictionary.stack_table {
        stack.location_indices.iter_mut().for_each(|index| *index += 1);
    }
    let second = store.append(&message.encode_to_vec()).unwrap();
    let stacks = |appended: &Appended| -> Vec<String> {
        let rows = rows(&appended.files[0].frames);
        rows.iter()
            .map(|row| format!("{} {}", row["stack"], row["function"]))
            .collect()
    };
    assert_eq!(stacks(&first), stacks(&second));
}

#[test]
fn hours_are_sets_of_their_own_and_go_one_by_one() {
    let (_directory, store) = store();
    let mut message = message();
    message.resource_profiles[0].scope_profiles[0].profiles[1].time_unix_nano += HOUR_NS;
    let appended = store.append(&message.encode_to_vec()).unwrap();
    assert_eq!(appended.files.len(), 2);
    assert_eq!(told(&store), TOLD);
    let hours = store.hours().unwrap();
    assert_eq!(hours[0].next(), hours[1]);
    assert_eq!(store.forget_before(hours[1]).unwrap(), 1);
    assert_eq!(store.hours().unwrap(), hours[1..]);
    assert_eq!(told(&store), TOLD[3..]);
    assert_eq!(store.forget_before(hours[1].next()).unwrap(), 1);
    assert!(!store.root().join("day=2026-12-01").exists());
}

#[test]
fn a_set_that_cannot_be_finished_is_not_there() {
    let (_directory, store) = store();
    // In the place of the day's directory.
    fs::write(store.root().join("day=2026-12-01"), "").unwrap();
    let error = store.append(&message().encode_to_vec()).unwrap_err();
    assert!(error.to_string().starts_with("cannot make "), "{error}");
    assert_eq!(fs::read_dir(store.root().join(".tmp")).unwrap().count(), 0);
    fs::remove_file(store.root().join("day=2026-12-01")).unwrap();
    assert_eq!(told(&store), [""; 0]);
    store.append(&message().encode_to_vec()).unwrap();
    assert_eq!(told(&store), TOLD);
}

#[test]
fn an_hour_is_replaced_and_keeps_what_came_meanwhile() {
    let (_directory, store) = store();
    let mut message = message();
    store.append(&message.encode_to_vec()).unwrap();
    let hour = store.hours().unwrap()[0];
    let known = store.sets(hour).unwrap();
    let with = store.aside().unwrap();
    message.resource_profiles[0].scope_profiles[0].profiles[0].time_unix_nano += 1000;
    store.append(&message.encode_to_vec()).unwrap();
    let all = store.sets(hour).unwrap();
    store.replace_hour(hour, with, &known).unwrap();
    let new: Vec<String> = all.into_iter().filter(|set| !known.contains(set)).collect();
    assert_eq!(store.sets(hour).unwrap(), new);
    assert_eq!(told(&store), TOLD);
    assert_eq!(fs::read_dir(store.root().join(".tmp")).unwrap().count(), 0);
}

#[test]
fn many_sets_become_one_that_says_the_same() {
    let (_directory, store) = store();
    let mut message = message();
    let mut expected = Vec::new();
    for _ in 0..3 {
        store.append(&message.encode_to_vec()).unwrap();
        expected.extend(TOLD);
        let profiles = &mut message.resource_profiles[0].scope_profiles[0].profiles;
        profiles
            .iter_mut()
            .for_each(|profile| profile.time_unix_nano += 60_000_000_000);
    }
    expected.sort_unstable();
    let hour = store.hours().unwrap()[0];
    assert_eq!(store.sets(hour).unwrap().len(), 3);
    let done = store.compact(hour, false).unwrap();
    assert_eq!((done.sets, done.into, done.samples), (3, 1, 12));
    assert!(done.bytes < done.bytes_before);
    assert_eq!(store.sets(hour).unwrap().len(), 1);
    assert_eq!(told(&store), expected);
    assert_eq!(store.compact(hour, false).unwrap().samples, 0);

    let done = store.compact(hour, true).unwrap();
    assert_eq!(done.samples, 4);
    assert_eq!(store.compact(hour, true).unwrap().samples, 0);
    let sums: Vec<String> = told(&store);
    assert!(sums[0].contains(r#""cpu" 15 "" "#), "{sums:?}");
    assert!(sums[1].contains(r#""cpu" 3000 "" "#), "{sums:?}");
}

#[test]
fn stacks_that_share_locations_cannot_be_more_than_is_allowed() {
    let mut message = message();
    let dictionary = message.dictionary.as_mut().unwrap();
    dictionary.stack_table = (0..100)
        .map(|length| otlp::Stack {
            location_indices: vec![1; 1000 + length],
        })
        .collect();
    let profile = &mut message.resource_profiles[0].scope_profiles[0].profiles[0];
    profile.samples = (0..100)
        .map(|stack_index| otlp::Sample {
            stack_index,
            values: vec![1],
            ..Default::default()
        })
        .collect();
    let message = message.encode_to_vec();
    let mut rows = Rows::default();
    let few = Limits {
        frames: 50_000,
        ..Limits::default()
    };
    let refused = rows.add(&message, &few).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the message has more than 50000 frames in its stacks, over all services and hours"
    );
    assert!(rows.is_empty());
    let shallow = Limits {
        depth: 64,
        ..Limits::default()
    };
    let taken = rows.add(&message, &shallow).unwrap();
    assert_eq!(taken.samples, 101);
    assert_eq!(taken.lost.frames, (1000 - 64) * 100 + 99 * 100 / 2);
}

#[test]
fn labels_are_bounded_and_what_is_cut_is_counted() {
    let mut message = message();
    let attributes = &mut message.resource_profiles[0].resource.as_mut().unwrap().attributes;
    attributes.extend((0..40).map(|at| named(&format!("label.{at}"), text("x"))));
    attributes.push(named("service.name", text(&"s".repeat(300))));
    let mut rows = Rows::default();
    let taken = rows.add(&message.encode_to_vec(), &Limits::default()).unwrap();
    // k8s.pod.name is the first of 32; a sample's own `cause` has no room either.
    assert_eq!((taken.lost.labels, taken.lost.texts), (9 + 1, 1));

    let mut rows = Rows::default();
    let limits = Limits {
        values_per_label: 2,
        ..Limits::default()
    };
    let mut lost = 0;
    for pod in ["a", "b", "c", "a"] {
        let attributes = &mut message.resource_profiles[0].resource.as_mut().unwrap().attributes;
        *attributes = vec![named("k8s.pod.name", text(pod))];
        lost += rows.add(&message.encode_to_vec(), &limits).unwrap().lost.label_values;
    }
    assert_eq!(lost, 1);
}

#[test]
fn what_refers_to_nothing_is_left_out_and_counted() {
    let mut message = message();
    let profiles = &mut message.resource_profiles[0].scope_profiles[0].profiles;
    profiles[0].samples[0].stack_index = 99;
    profiles[0].samples[1].stack_index = -1;
    profiles[1].time_unix_nano = 7;
    let mut rows = Rows::default();
    let taken = rows.add(&message.encode_to_vec(), &Limits::default()).unwrap();
    assert_eq!((taken.profiles, taken.samples), (1, 1));
    assert_eq!((taken.lost.profiles, taken.lost.samples), (1, 3));
}

/// A message for each of so many minutes, in the store.
fn minutes(store: &Store, count: u64) -> Vec<String> {
    let mut expected = Vec::new();
    for minute in 0..count {
        let mut message = message();
        let profiles = &mut message.resource_profiles[0].scope_profiles[0].profiles;
        profiles
            .iter_mut()
            .for_each(|profile| profile.time_unix_nano += minute * 60_000_000_000);
        store.append(&message.encode_to_vec()).unwrap();
        expected.extend(TOLD.map(str::to_owned));
    }
    expected.sort_unstable();
    expected
}

/// What the footers of all sets say was lost.
fn told_lost(store: &Store) -> Vec<(String, u64)> {
    let mut sums = BTreeMap::<String, u64>::new();
    for hour in store.hours().unwrap() {
        for set in store.sets(hour).unwrap() {
            let file = fs::File::open(store.files(hour, &set).samples).unwrap();
            let reader = SerializedFileReader::new(file).unwrap();
            for pair in reader.metadata().file_metadata().key_value_metadata().unwrap() {
                if let Some(what) = pair.key.strip_prefix("profiler.lost.") {
                    *sums.entry(what.to_owned()).or_default() += pair.value.as_ref().unwrap().parse::<u64>().unwrap();
                }
            }
        }
    }
    sums.into_iter().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn what_was_lost_is_told_once_and_after_compaction_as_before() {
    let (_directory, store) = store();
    let mut message = message();
    let profiles = &mut message.resource_profiles[0].scope_profiles[0].profiles;
    profiles[0].samples[0].stack_index = 99;
    profiles[1].time_unix_nano += HOUR_NS;
    let expected = [("samples".to_owned(), 1)];
    assert_eq!(store.append(&message.encode_to_vec()).unwrap().files.len(), 2);
    assert_eq!(told_lost(&store), expected, "of two hours");
    minutes(&store, 2);
    for rolled_up in [false, true] {
        for hour in store.hours().unwrap() {
            store.compact(hour, rolled_up).unwrap();
        }
        assert_eq!(told_lost(&store), expected, "{rolled_up}");
    }
}

#[test]
fn a_set_that_is_large_is_made_once_and_then_left_alone() {
    let (_directory, mut store) = store();
    store.limits.set_bytes = 1;
    let expected = minutes(&store, 3);
    let hour = store.hours().unwrap()[0];
    let done = store.compact(hour, false).unwrap();
    assert_eq!((done.sets, done.into, done.samples), (3, 3, 12));
    assert_eq!(told(&store), expected);
    let sets = store.sets(hour).unwrap();
    assert_eq!(store.compact(hour, false).unwrap().samples, 0);
    assert_eq!(store.sets(hour).unwrap(), sets);

    // A window that comes late is beside them.
    let late = [expected, minutes(&store, 1)].concat();
    assert_eq!(store.compact(hour, false).unwrap().samples, 0, "one set is one set");
    assert_eq!(told(&store).len(), late.len());

    // To roll up, all of them are read, and once.
    store.compact(hour, true).unwrap();
    assert_eq!(store.compact(hour, true).unwrap().samples, 0);
    assert_eq!(store.compact(hour, false).unwrap().samples, 0);
    let sum = |told: &[String]| -> i64 {
        let value = |line: &String| line.split(' ').nth(2).unwrap().parse::<i64>().unwrap();
        told.iter().map(value).sum()
    };
    assert_eq!(sum(&told(&store)), sum(&late));
}

#[test]
fn sums_without_room_stay_apart() {
    let (_directory, store) = store();
    let mut message = message();
    let profiles = &mut message.resource_profiles[0].scope_profiles[0].profiles;
    profiles.truncate(1);
    profiles[0].samples = [i64::MAX - 1, i64::MAX - 2]
        .map(|value| otlp::Sample {
            stack_index: 1,
            values: vec![value],
            ..Default::default()
        })
        .to_vec();
    store.append(&message.encode_to_vec()).unwrap();
    let hour = store.hours().unwrap()[0];
    assert_eq!(store.compact(hour, true).unwrap().samples, 2);
    let told = told(&store);
    for value in [i64::MAX - 1, i64::MAX - 2] {
        assert!(told.iter().any(|line| line.contains(&value.to_string())), "{told:?}");
    }

    message.resource_profiles[0].scope_profiles[0].profiles[0].samples[0].values = vec![i64::MAX, 1];
    let mut rows = Rows::default();
    let taken = rows.add(&message.encode_to_vec(), &Limits::default()).unwrap();
    assert_eq!((taken.samples, taken.lost.samples), (1, 1));
}

#[test]
fn a_clock_that_jumps_ahead_takes_nothing_away() {
    let (_directory, store) = store();
    let first = Hour::of(1_796_130_000_000_000).unwrap();
    let hours = |count, from: Hour| -> Vec<Hour> {
        std::iter::successors(Some(from), |hour| Some(hour.next()))
            .take(count)
            .collect()
    };
    let real = hours(100, first);
    for hour in &real {
        fs::create_dir_all(store.hour(*hour)).unwrap();
    }
    let keep = std::time::Duration::from_secs(48 * 3600);
    let years_on = first.start_us() + 3 * 365 * 24 * 3_600_000_000;
    assert_eq!(
        store.forget_older(keep, years_on).unwrap(),
        100 - 48,
        "by the store's own time"
    );
    // A writer with that clock has put windows there as well.
    let future = hours(23, Hour::of(years_on).unwrap());
    for hour in &future {
        fs::create_dir_all(store.hour(*hour)).unwrap();
    }
    assert_eq!(store.forget_older(keep, years_on + 23 * 3_600_000_000).unwrap(), 0);
    assert_eq!(store.hours().unwrap()[..48], real[52..]);
    // The right clock, an hour later.
    let now = real[99].next().start_us() + 3_600_000_000;
    assert_eq!(
        store.forget_older(keep, now).unwrap(),
        0,
        "the newest are of the future"
    );
    // A clock that is behind keeps more.
    assert_eq!(store.forget_older(keep, first.start_us()).unwrap(), 0);
    assert_eq!(store.forget_older(std::time::Duration::MAX, years_on).unwrap(), 0);
}

#[test]
fn a_store_of_few_hours_keeps_them_until_there_are_newer_ones() {
    let (_directory, store) = store();
    let first = Hour::of(1_796_130_000_000_000).unwrap();
    let at = |week: i64| Hour::of(first.start_us() + week * 8 * 24 * 3_600_000_000).unwrap();
    for week in 0..40 {
        fs::create_dir_all(store.hour(at(week))).unwrap();
    }
    let keep = std::time::Duration::from_secs(14 * 24 * 3600);
    // Two weeks before the 24th newest.
    assert_eq!(store.forget_older(keep, at(40).start_us()).unwrap(), 40 - 24 - 1);
}

#[test]
fn hours_go_when_store_and_clock_agree() {
    let (_directory, store) = store();
    let mut hour = Hour::of(1_796_130_000_000_000).unwrap();
    for _ in 0..100 {
        fs::create_dir_all(store.hour(hour)).unwrap();
        hour = hour.next();
    }
    let keep = |hours: u64| std::time::Duration::from_secs(hours * 3600);
    assert_eq!(store.forget_older(keep(72), hour.start_us()).unwrap(), 28);
    // Shorter than the hours that are asked for the time.
    assert_eq!(store.forget_older(keep(2), hour.start_us()).unwrap(), 70);
    assert_eq!(store.hours().unwrap().len(), 2);
}

#[test]
fn what_a_crash_left_is_swept_and_what_is_written_is_not() {
    let (_directory, store) = store();
    let temporary = store.root().join(".tmp");
    let old = std::time::SystemTime::now() - 2 * std::time::Duration::from_secs(3600);
    let make = |name: &str, is_old: bool| {
        let path = temporary.join(name);
        let file = fs::File::create(&path).unwrap();
        if is_old {
            file.set_modified(old).unwrap();
        }
        file
    };
    make("left.tmp", true);
    make("young.tmp", false);
    make("notes", true);
    let locked = make("locked.tmp", true);
    locked.lock_shared().unwrap();
    fs::create_dir_all(temporary.join("directory.tmp/hour")).unwrap();
    let set_old = |path: &Path| fs::File::open(path).unwrap().set_modified(old).unwrap();
    set_old(&temporary.join("directory.tmp"));
    let aside = store.aside().unwrap();
    let entries = || -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&temporary)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    };
    for name in entries()
        .iter()
        .filter(|name| name.ends_with(".tmp"))
        .filter(|name| *name != "young.tmp")
    {
        set_old(&temporary.join(name));
    }
    assert_eq!(store.sweep().unwrap(), 2);
    let left = entries();
    assert_eq!(left.len(), 4, "{left:?}");
    drop(locked);
    drop(aside);
    assert_eq!(store.sweep().unwrap(), 1);
    assert_eq!(entries(), ["notes", "young.tmp"]);
}

#[test]
fn what_is_being_put_together_is_deeper_than_what_is_read() {
    let (_directory, store) = store();
    let mut rows = Rows::default();
    rows.add(&message().encode_to_vec(), &Limits::default()).unwrap();
    let aside = store.aside().unwrap();
    store.write_aside(&rows, &aside, "set").unwrap();
    let mut at = 0;
    let mut level = vec![store.root().to_owned()];
    // `v1/*/*/*`.
    while at < 3 {
        level = level
            .iter()
            .filter(|path| path.is_dir())
            .flat_map(|path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()))
            .collect();
        at += 1;
    }
    assert!(level.iter().all(|path| path.is_dir()), "{level:?}");
    drop(aside);
    assert_eq!(fs::read_dir(store.root().join(".tmp")).unwrap().count(), 0);
}

#[test]
fn a_message_of_two_hours_is_there_for_both_or_for_none() {
    let (_directory, store) = store();
    let mut message = message();
    // The next day.
    message.resource_profiles[0].scope_profiles[0].profiles[1].time_unix_nano += 24 * HOUR_NS;
    let day = store.root().join("day=2026-12-02");
    fs::write(&day, "").unwrap();
    store.append(&message.encode_to_vec()).unwrap_err();
    fs::remove_file(&day).unwrap();
    assert_eq!(told(&store), [""; 0]);
    store.append(&message.encode_to_vec()).unwrap();
    assert_eq!(told(&store), TOLD);
}

#[test]
fn a_stack_of_many_services_is_counted_for_each() {
    let mut message = message();
    let dictionary = message.dictionary.as_mut().unwrap();
    dictionary.stack_table[1].location_indices = vec![1; 4000];
    let service = i32::try_from(dictionary.string_table.len()).unwrap();
    dictionary.string_table.push("service.name".to_owned());
    let first = i32::try_from(dictionary.attribute_table.len()).unwrap();
    dictionary.attribute_table.extend((0..1000).map(|at| otlp::Attribute {
        key_strindex: service,
        value: number(at),
    }));
    let mut with = |services: i32| {
        let samples = (0..services).map(|at| otlp::Sample {
            stack_index: 1,
            attribute_indices: vec![first + at],
            values: vec![1],
            ..Default::default()
        });
        message.resource_profiles[0].scope_profiles[0].profiles[0].samples = samples.collect();
        let mut rows = Rows::default();
        rows.add(&message.encode_to_vec(), &Limits::default()).map(|_| ())
    };
    // Some 30 KB would be four million rows.
    let refused = with(1000).unwrap_err().to_string();
    assert!(
        refused.ends_with("frames in its stacks, over all services and hours"),
        "{refused}"
    );
    with(4).unwrap();
}

#[test]
fn rows_weigh_what_they_hold() {
    let mut rows = Rows::default();
    let before = rows.bytes();
    rows.text(&"x".repeat(1000));
    assert!(rows.bytes() >= before + 1000);
    let before = rows.bytes();
    rows.stack(&[0; 4096]);
    assert!(rows.bytes() >= before + 4 * 4096);
    let before = rows.bytes();
    rows.stack(&[0; 4096]);
    assert_eq!(rows.bytes(), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn damaged_messages_are_refused_or_become_sets_that_read(
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = message().encode_to_vec();
        for (at, byte) in damages {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut.index(4) == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        let (_directory, store) = store();
        if let Ok(appended) = store.append(&bytes) {
            prop_assert_eq!(told(&store).len() as u64, appended.samples);
        }
    }
}
