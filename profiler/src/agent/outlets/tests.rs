//! What becomes of a window on its way to receivers.

use clap::Parser as _;
use prost::Message as _;

use super::*;
use crate::{
    cli::{Cli, Command},
    profile::{Frame, FrameKind, SampleKey, ValueType},
};

fn outlets(directory: &Path) -> Outlets {
    let text = |name: &str| directory.join(name).display().to_string();
    let words = [
        "profiler",
        "agent",
        "--pprof",
        &text("windows"),
        "--spool",
        &text("spool"),
    ];
    let Ok(Command::Agent(typed)) = Cli::try_parse_from(words).map(|cli| cli.command) else {
        panic!("no agent");
    };
    let options = Options::from_cli(&typed).expect("options");
    Outlets::open(&options, State::default(), tokio::sync::mpsc::channel(1).0).expect("outlets")
}

/// Processes with as many stacks each, all of one function whose name is long.
fn profile(pids: u32, stacks: u32) -> Profile {
    let samples = ValueType {
        kind: "samples",
        unit: "count",
    };
    let mut profile = Profile::new(vec![samples], None);
    for pid in 1..=pids {
        for stack in 0..stacks {
            let function = profile.intern_string(&format!("{pid}_{stack}_{}", "x".repeat(100)));
            let frame = profile.intern_frame(Frame {
                kind: FrameKind::Python,
                function,
                file: Profile::EMPTY,
                line: 1,
                first_line: 1,
                mapping: None,
                address: 0,
                inlined: false,
            });
            let key = SampleKey {
                stack: profile.intern_stack(&[frame]),
                labels: Labels {
                    pid,
                    tid: pid,
                    comm: Profile::EMPTY,
                    command: Profile::EMPTY,
                    thread: Profile::EMPTY,
                    cgroup: Profile::EMPTY,
                    container: Profile::EMPTY,
                    task: Profile::EMPTY,
                },
            };
            profile.add(key, &[i64::from(pid)]);
        }
    }
    profile
}

/// Of each message, what each process has, and what its samples waited for.
fn told(messages: &[Vec<u8>]) -> Vec<Vec<(i64, BTreeSet<String>)>> {
    let read = |message: &Vec<u8>| {
        let message = profiler_otlp::ProfilesData::decode(&**message).expect("a message");
        let tables = message.dictionary.as_ref().expect("a dictionary");
        let cause = |index: &i32| {
            let attribute = &tables.attribute_table[*index as usize];
            let is_cause = tables.string_table[attribute.key_strindex as usize] == "wait.cause";
            match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(profiler_otlp::Value::Text(text)) if is_cause => Some(text.clone()),
                _ => None,
            }
        };
        let profiles = message.resource_profiles.iter().flat_map(|of| &of.scope_profiles);
        let sums = profiles.flat_map(|scope| &scope.profiles).map(|profile| {
            let values = profile.samples.iter().flat_map(|sample| &sample.values);
            let causes = profile.samples.iter().flat_map(|sample| &sample.attribute_indices);
            (values.sum::<i64>(), causes.filter_map(cause).collect())
        });
        sums.collect()
    };
    messages.iter().map(read).collect()
}

#[test]
fn a_message_larger_than_receivers_take_becomes_several_and_each_process_is_in_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let outlets = outlets(directory.path());
    let small = outlets.messages(&profile(3, 10), &[]).expect("messages");
    assert_eq!(small.len(), 1);
    let sums: Vec<i64> = told(&small).concat().into_iter().map(|(sum, _)| sum).collect();
    assert_eq!(sums, [10, 20, 30]);

    let large = profile(5, 12_000);
    // Of each process its own.
    let own = [Cause::Gil, Cause::Lock, Cause::Sleep, Cause::Socket, Cause::Pipe];
    let causes: Vec<Option<Cause>> = own.iter().flat_map(|cause| vec![Some(*cause); 12_000]).collect();
    let messages = outlets.messages(&large, &causes).expect("messages");
    assert!(messages.len() > 1);
    assert!(messages.iter().all(|message| message.len() <= MOST_MESSAGE_BYTES));
    let mut told = told(&messages).concat();
    told.sort_unstable();
    let expected = own.iter().zip(1..).map(|(cause, pid)| {
        let name = cause.name().to_owned();
        (pid * 12_000, BTreeSet::from([name]))
    });
    assert_eq!(told, expected.collect::<Vec<_>>());
    // A process that is too much alone is sent as it is.
    assert_eq!(outlets.messages(&profile(1, 40_000), &[]).expect("messages").len(), 1);
}

#[test]
fn an_address_is_shown_without_what_may_be_a_password() {
    for (url, expected) in [
        ("http://user:secret@host:4318/path", "http://host:4318"),
        ("grpc://host:4317", "grpc://host:4317"),
        ("https://hooks.example/services/T/B/secret", "https://hooks.example"),
        ("https://host?token=a@b", "https://host"),
    ] {
        assert_eq!(place(url), expected);
    }
}
