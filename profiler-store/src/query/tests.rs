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
    let strings = ["", "cpu", "nanoseconds", "main", "work", "rest", "app.py", "team"];
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
            unit_strindex: at("nanoseconds"),
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
async fn functions(engine: &Engine, which: &Which) -> Vec<(String, i64, i64)> {
    let chosen = which.choose(engine).await.unwrap();
    let stacks = stacks::of(engine, which, &chosen).await.unwrap();
    let functions = top::functions(&stacks, false);
    functions
        .into_iter()
        .map(|function| (function.name, function.own, function.total))
        .collect()
}

fn row(name: &str, own: i64, total: i64) -> (String, i64, i64) {
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
            .sum::<i64>()
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
