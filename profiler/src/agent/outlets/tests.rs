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

/// Of each message, what each process has.
fn told(messages: &[Vec<u8>]) -> Vec<Vec<i64>> {
    let read = |message: &Vec<u8>| {
        let message = profiler_otlp::ProfilesData::decode(&**message).expect("a message");
        let profiles = message.resource_profiles.iter().flat_map(|of| &of.scope_profiles);
        let sums = profiles.flat_map(|scope| &scope.profiles).map(|profile| {
            let values = profile.samples.iter().flat_map(|sample| &sample.values);
            values.sum::<i64>()
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
    assert_eq!(told(&small)[0], [10, 20, 30]);

    let large = profile(5, 12_000);
    let causes = vec![Some(Cause::Gil); 60_000];
    let messages = outlets.messages(&large, &causes).expect("messages");
    assert!(messages.len() > 1);
    assert!(messages.iter().all(|message| message.len() <= MOST_MESSAGE_BYTES));
    let mut sums: Vec<i64> = told(&messages).into_iter().flatten().collect();
    sums.sort_unstable();
    assert_eq!(sums, [12_000, 24_000, 36_000, 48_000, 60_000]);
    // A process that is too much alone is sent as it is.
    assert_eq!(outlets.messages(&profile(1, 40_000), &[]).expect("messages").len(), 1);
}

#[test]
fn an_address_is_shown_without_its_password() {
    for (url, expected) in [
        ("http://user:secret@host:4318/path", "http://host:4318/path"),
        ("grpc://host:4317", "grpc://host:4317"),
        ("https://host/a@b", "https://host/a@b"),
    ] {
        assert_eq!(without_password(url), expected);
    }
}
