//! Questions to a store that was made for them: what two services of two hosts did in two windows.

use std::path::Path;

use profiler_otlp as otlp;
use profiler_parquet::Store;
use prost::Message as _;

use super::{Engine, diff, stacks, top};
use crate::cli::Which;

/// 2026-12-01, 13:05.
const START_NS: u64 = 1_796_130_300_000_000_000;
const HOUR_NS: u64 = 3_600_000_000_000;

/// One service of one host: `main` calls `work`, which calls itself, and `rest`; all in CPU time.
fn message(service: &str, host: &str, start_ns: u64, values: [i64; 2]) -> Vec<u8> {
    message_in("nanoseconds", service, host, start_ns, values)
}

fn message_in(unit: &str, service: &str, host: &str, start_ns: u64, values: [i64; 2]) -> Vec<u8> {
    let strings = ["", "cpu", unit, "main", "work", "rest", "app.py", "team"];
    let at = |text: &str| {
        strings
            .iter()
            .position(|string| *string == text)
            .map_or(0, |at| at as i32)
    };
    let function = |name: &str, start_line| otlp::Function {
        name_strindex: at(name),
        filename_strindex: at("app.py"),
        start_line,
    };
    let location = |function_index, line| otlp::Location {
        lines: vec![otlp::Line { function_index, line }],
        ..otlp::Location::default()
    };
    let named = |key: &str, value: &str| otlp::KeyValue {
        key: key.to_owned(),
        value: Some(otlp::AnyValue {
            value: Some(otlp::Value::Text(value.to_owned())),
        }),
        key_strindex: 0,
    };
    let sample = |stack_index, value| otlp::Sample {
        stack_index,
        values: vec![value],
        ..otlp::Sample::default()
    };
    let stack = |location_indices: &[i32]| otlp::Stack {
        location_indices: location_indices.to_vec(),
    };
    let profile = otlp::Profile {
        sample_type: Some(otlp::ValueType {
            type_strindex: at("cpu"),
            unit_strindex: at(unit),
        }),
        samples: vec![sample(1, values[0]), sample(2, values[1])],
        time_unix_nano: start_ns,
        duration_nano: 60_000_000_000,
        ..otlp::Profile::default()
    };
    let resource = otlp::Resource {
        attributes: vec![
            named("service.name", service),
            named("host.name", host),
            named("team", "one"),
        ],
    };
    let message = otlp::ProfilesData {
        resource_profiles: vec![otlp::ResourceProfiles {
            resource: Some(resource),
            scope_profiles: vec![otlp::ScopeProfiles {
                scope: None,
                profiles: vec![profile],
            }],
        }],
        dictionary: Some(otlp::Dictionary {
            mapping_table: vec![otlp::Mapping::default()],
            location_table: vec![
                otlp::Location::default(),
                location(1, 3),
                location(2, 12),
                location(3, 22),
            ],
            function_table: vec![
                otlp::Function::default(),
                function("main", 1),
                function("work", 10),
                function("rest", 20),
            ],
            link_table: vec![otlp::Link::default()],
            string_table: strings.map(str::to_owned).to_vec(),
            attribute_table: vec![otlp::Attribute::default()],
            stack_table: vec![otlp::Stack::default(), stack(&[2, 2, 1]), stack(&[3, 1])],
        }),
    };
    message.encode_to_vec()
}

fn made(directory: &Path) -> Store {
    let store = Store::open(directory).unwrap();
    for (service, host, start_ns, values) in [
        ("shop", "a", START_NS, [700, 300]),
        ("shop", "b", START_NS, [70, 30]),
        ("shop", "a", START_NS + HOUR_NS, [100, 900]),
        ("jobs", "a", START_NS, [5, 5]),
    ] {
        store.append(&message(service, host, start_ns, values)).unwrap();
    }
    store
}

/// Names, what they had by themselves and in all.
async fn functions(engine: &Engine, which: &Which) -> Vec<(String, i128, i128)> {
    let chosen = which.choose(engine).await.unwrap();
    let stacks = stacks::of(engine, which, &chosen).await.unwrap();
    let functions = top::functions(&stacks, false);
    functions
        .into_iter()
        .map(|function| (function.name, function.own, function.total))
        .collect()
}

fn row(name: &str, own: i128, total: i128) -> (String, i128, i128) {
    (name.to_owned(), own, total)
}

#[tokio::test]
async fn functions_have_what_their_stacks_had_each_once_before_and_after_an_hour_became_few() {
    let directory = tempfile::tempdir().unwrap();
    let store = made(directory.path());
    let shop = Which {
        service: Some("shop".to_owned()),
        ..Which::default()
    };
    let expected = [
        row("rest (app.py:20)", 1230, 1230),
        row("work (app.py:10)", 870, 870),
        row("main (app.py:1)", 0, 2100),
    ];
    for again in [false, true] {
        let engine = Engine::open(directory.path()).await.unwrap();
        assert_eq!(functions(&engine, &shop).await, expected, "{again}");
        let all = functions(&engine, &Which::default()).await;
        assert_eq!(all[2], row("main (app.py:1)", 0, 2110), "{again}");
        for hour in store.hours().unwrap() {
            store.compact(hour, false).unwrap();
        }
    }
}

#[tokio::test]
async fn a_host_a_label_and_a_time_leave_out_what_is_not_theirs() {
    let directory = tempfile::tempdir().unwrap();
    made(directory.path());
    let engine = Engine::open(directory.path()).await.unwrap();
    let second = i64::try_from((START_NS + HOUR_NS) / 1000).unwrap();
    let total = async |which: &Which| {
        functions(&engine, which)
            .await
            .into_iter()
            .map(|(_, own, _)| own)
            .sum::<i128>()
    };
    for (which, expected) in [
        (
            Which {
                host: Some("b".to_owned()),
                ..Which::default()
            },
            100,
        ),
        (
            Which {
                from: Some(second),
                ..Which::default()
            },
            1000,
        ),
        (
            Which {
                to: Some(second),
                ..Which::default()
            },
            1110,
        ),
        (
            Which {
                label: vec![("team".to_owned(), "one".to_owned())],
                ..Which::default()
            },
            2110,
        ),
    ] {
        assert_eq!(total(&which).await, expected, "{which:?}");
    }
    let nobody = Which {
        service: Some("' OR true --".to_owned()),
        ..Which::default()
    };
    let error = nobody
        .choose(&engine)
        .await
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(error.starts_with("no samples: "), "{error}");
}

#[tokio::test]
async fn nothing_is_changed_by_a_question() {
    let directory = tempfile::tempdir().unwrap();
    made(directory.path());
    let engine = Engine::open(directory.path()).await.unwrap();
    for sql in [
        "DROP TABLE samples",
        "INSERT INTO samples SELECT * FROM samples",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "COPY samples TO '/tmp/never.parquet'",
    ] {
        assert!(engine.frame(sql).await.is_err(), "{sql}");
    }
    assert!(
        diff::base(&Which::default(), None, None, None).is_err(),
        "what is it compared with?"
    );
}

#[tokio::test]
async fn values_of_two_units_are_not_one_answer() {
    let directory = tempfile::tempdir().unwrap();
    let store = made(directory.path());
    let counted = message_in("count", "shop", "c", START_NS, [1, 2]);
    store.append(&counted).unwrap();
    let counted = message_in("count", "other", "c", START_NS, [1, 2]);
    store.append(&counted).unwrap();
    let engine = Engine::open(directory.path()).await.unwrap();
    let refused = async |which: &Which| which.choose(&engine).await.err().map(|error| error.to_string());
    let shop = Which {
        service: Some("shop".to_owned()),
        ..Which::default()
    };
    assert_eq!(
        refused(&shop).await.unwrap(),
        "cpu of shop is there in several units, which cannot be added: say which with --unit: count, nanoseconds"
    );
    for (unit, expected) in [("count", 3), ("nanoseconds", 2100)] {
        let which = Which {
            unit: Some(unit.to_owned()),
            ..shop.clone()
        };
        let sum: i128 = functions(&engine, &which).await.iter().map(|(_, own, _)| own).sum();
        assert_eq!(sum, expected, "{unit}");
    }
    // A difference is one of the same unit.
    let jobs = Which {
        service: Some("jobs".to_owned()),
        ..Which::default()
    };
    let base = diff::base(&jobs, None, None, Some("other")).unwrap();
    let error = diff::run(&engine, &jobs, &base, 5).await.unwrap_err().to_string();
    assert_eq!(error, "cpu of other is not there in nanoseconds, only in: count");
    let base = diff::base(&jobs, None, None, Some("shop")).unwrap();
    diff::run(&engine, &jobs, &base, 5).await.unwrap();
}

#[tokio::test]
async fn a_sum_of_values_is_never_another_number() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for host in ["a", "b", "c"] {
        store
            .append(&message("shop", host, START_NS, [i64::MAX, i64::MIN]))
            .unwrap();
    }
    let engine = Engine::open(directory.path()).await.unwrap();
    let most = 3 * i128::from(i64::MAX);
    let least = 3 * i128::from(i64::MIN);
    let expected = [
        row("work (app.py:10)", most, most),
        row("main (app.py:1)", 0, -3),
        row("rest (app.py:20)", least, least),
    ];
    assert_eq!(functions(&engine, &Which::default()).await, expected);
    super::list::run(&engine, &Which::default()).await.unwrap();
    for sql in [
        "SELECT sum(value) FROM samples WHERE value > 0",
        "SELECT s FROM (SELECT service, sum(value) AS s FROM samples WHERE value > 0 GROUP BY service) ORDER BY s",
        "SELECT max(s) FROM (SELECT sum(value) OVER (PARTITION BY service) AS s FROM samples WHERE value > 0)",
        "SELECT sum(value) FROM samples WHERE value > 0 HAVING sum(value) > 5",
    ] {
        let batches = engine.rows(sql).await.unwrap();
        let batch = batches.iter().find(|batch| batch.num_rows() > 0).unwrap();
        assert_eq!(super::columns::sums(batch, 0).unwrap().value(0), most, "{sql}");
    }
    let chosen = Which::default().choose(&engine).await.unwrap();
    let stacks = stacks::of(&engine, &Which::default(), &chosen).await.unwrap();
    let error = super::pprof::write(&stacks, "cpu", "nanoseconds", Vec::new()).unwrap_err();
    assert!(error.to_string().contains("ask for .folded"), "{error}");
}

#[tokio::test]
async fn what_a_crash_left_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = made(directory.path());
    let hour = store.hours().unwrap()[0];
    // As an hour that was being put together, at the depth of hours and below.
    for left in ["left.tmp", "left.tmp/hour"] {
        let left = store.root().join(".tmp").join(left);
        std::fs::create_dir_all(&left).unwrap();
        for file in std::fs::read_dir(store.hour(hour)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), left.join(file.file_name())).unwrap();
        }
    }
    let engine = Engine::open(directory.path()).await.unwrap();
    let all = functions(&engine, &Which::default()).await;
    assert_eq!(all[2], row("main (app.py:1)", 0, 2110));
    let batches = engine.rows("SELECT count(*) FROM frames").await.unwrap();
    let expected: usize = 4 * 5;
    assert_eq!(
        super::columns::numbers(&batches[0], 0).unwrap().value(0),
        expected as i64
    );
}
