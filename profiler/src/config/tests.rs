//! What is typed, and what it means.

use std::{fs, time::UNIX_EPOCH};

use clap::Parser as _;
use proptest::prelude::*;

use super::{comm::shell_word, output::file_name_part, *};
use crate::{
    cli::{Cli, Command},
    exit,
};

fn config(line: &str) -> Result<Config, ConfigError> {
    let words = ["profiler", "record"].into_iter().chain(line.split_whitespace());
    match Cli::try_parse_from(words).unwrap().command {
        Command::Record(record) => Config::from_cli(record),
        _ => unreachable!("`record` was typed"),
    }
}

#[test]
fn nothing_typed_gets_every_default() {
    let expected = Config {
        target: Target::All,
        subprocesses: false,
        tids: vec![],
        comm: None,
        cgroup: None,
        rate_hz: 99,
        period_ns: 10_101_010,
        duration: None,
        kernel_stacks: true,
        native_stacks: true,
        native_frames: NativeFrames::default(),
        probe: None,
        output: OutputChoice::ByDefault { force: false },
        format: Format::Svg,
        windows: None,
        memory: None,
        calls: None,
        waits: None,
        exceptions: None,
        imports: None,
        gc: None,
        wall: false,
        why: None,
        agent: None,
        gil: false,
        threads: false,
        merge_workers: false,
        with_source: false,
        verbosity: Verbosity::Normal,
        summary_json: None,
    };
    assert_eq!(config("-a"), Ok(expected));
}

#[test]
fn windows_need_a_directory_and_what_does_not_go_with_them_is_refused_with_what_to_do() {
    let wanted = config("-a --every 60s -o windows").unwrap();
    let windows = wanted.windows.unwrap();
    assert_eq!((windows.every, windows.last), (Duration::from_secs(60), 60));
    assert_eq!(
        (windows.directory, wanted.format),
        (PathBuf::from("windows"), Format::Pprof)
    );
    let last = |line: &str| config(line).map(|config| config.windows.map(|windows| windows.last));
    assert_eq!(last("-p 1 --every 1s --keep 5 -f pprof -o d"), Ok(Some(5)));
    assert_eq!(last("-a"), Ok(None));
    for line in [
        "-a --every 60s",
        "-a --every 60s -o -",
        "-a --every 60s -f svg -o d",
        "-a --every 60s --force -o d",
        "-a --every 500ms -o d",
    ] {
        let error = config(line).unwrap_err();
        assert_eq!(error.exit_code(), exit::USAGE);
        let text = error.to_string();
        assert!(
            ["-o", "leave", "use"].iter().any(|remedy| text.contains(remedy)),
            "{line}: {text}"
        );
    }
    let typed = |line: &str| Cli::try_parse_from(["profiler", "record"].into_iter().chain(line.split_whitespace()));
    for line in ["-a --keep 5", "-a --trigger f", "-a --every 1s --keep 0 -o d"] {
        assert!(typed(line).is_err(), "{line}");
    }
}

#[test]
fn of_a_command_the_peak_is_shown_and_of_all_else_what_is_there() {
    let shown = |line: &str| {
        let words = ["profiler", "memory"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Memory(memory) => Config::from_memory_cli(memory).unwrap().memory.unwrap().shown,
            _ => unreachable!("`memory` was typed"),
        }
    };
    for line in ["-p 1", "-a", "--live -- true", "--source pools -- true"] {
        assert_eq!(shown(line), Wanted::Live, "{line}");
    }
    assert_eq!(shown("-- true"), Wanted::Peak);
    assert_eq!(shown("--allocated -- true"), Wanted::Allocated);
}

#[test]
fn pids_typed_in_any_way_are_one_list_without_repeats() {
    assert_eq!(config("-p 5,6 -p 5 7 6").unwrap().target, Target::Pids(vec![5, 6, 7]));
}

#[test]
fn one_target_is_needed_and_two_are_too_many() {
    assert_eq!(config(""), Err(ConfigError::NoTarget));
    assert_eq!(config("-a -p 1"), Err(ConfigError::ManyTargets("a pid", "-a")));
    assert_eq!(
        config("-p 1 -- true"),
        Err(ConfigError::ManyTargets("a pid", "a command"))
    );
    assert_eq!(config("-a -- true"), Err(ConfigError::ManyTargets("-a", "a command")));
    assert_eq!(config("").unwrap_err().exit_code(), exit::USAGE);
}

#[test]
fn a_restriction_alone_means_the_whole_machine() {
    for line in ["--tid 5", "--comm python3", "--cgroup /sys/fs/cgroup/system.slice"] {
        assert_eq!(config(line).unwrap().target, Target::All, "{line}");
    }
    assert_eq!(config("--comm python3 -p 1").unwrap().target, Target::Pids(vec![1]));
    assert_eq!(config("--tid 5 -- true"), Err(ConfigError::TidOfCommand));
}

#[test]
fn a_rate_of_zero_or_an_absurd_one_is_refused_with_the_range() {
    for line in ["-a -r 0", "-a -r 20001", "-a -r 21khz", "-a -r 99999999999999999999"] {
        let error = config(line).unwrap_err();
        assert!(error.to_string().ends_with("use -r with 1 to 20000 Hz"), "{error}");
        assert_eq!(error.exit_code(), exit::USAGE);
    }
    assert_eq!(config("-a -r 1").unwrap().period_ns, 1_000_000_000);
    assert_eq!(config("-a -r 20khz").unwrap().period_ns, 50_000);
    assert_eq!(config("-a -r 999").unwrap().period_ns, 1_001_001);
}

#[test]
fn the_ending_chooses_the_format_and_f_overrides_it() {
    assert_eq!(config("-a -o x.pb.gz").unwrap().format, Format::Pprof);
    assert_eq!(config("-a -o x.speedscope.json").unwrap().format, Format::Speedscope);
    assert_eq!(config("-a -o x.svg -f folded").unwrap().format, Format::Folded);
    assert_eq!(config("-a -o -").unwrap().format, Format::Svg);
    assert_eq!(config("-a -o /dev/null").unwrap().format, Format::Svg);
    assert_eq!(config("-a -o x.png -f svg").unwrap().format, Format::Svg);
}

#[test]
fn an_unknown_ending_is_answered_with_the_known_ones() {
    let error = config("-a -o flame.png").unwrap_err();
    assert_eq!(error.exit_code(), exit::USAGE);
    let text = error.to_string();
    for part in ["flame.png", ".svg", ".folded", ".speedscope.json", ".pb.gz", "-f"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_dash_and_dev_stdout_are_standard_output() {
    assert_eq!(config("-a -o -").unwrap().output, OutputChoice::Stdout);
    assert_eq!(config("-a -o /dev/stdout").unwrap().output, OutputChoice::Stdout);
}

#[test]
fn source_is_put_into_pages_and_recordings_and_refused_elsewhere() {
    for command in ["record", "memory", "waits", "calls"] {
        let with = |file: &str| {
            let words = ["profiler", command, "-p", "1", "--with-source", "-o", file];
            let config = match Cli::try_parse_from(words).unwrap().command {
                Command::Record(record) => Config::from_cli(record),
                Command::Memory(memory) => Config::from_memory_cli(memory),
                Command::Waits(waits) => Config::from_waits_cli(waits),
                Command::Calls(calls) => Config::from_calls_cli(calls),
                _ => unreachable!("none was typed"),
            };
            config.map(|config| config.with_source)
        };
        assert_eq!(with("x.html"), Ok(true), "{command}");
        let other = if command == "calls" { "x.csv" } else { "x.svg" };
        assert_eq!(with(other), Err(ConfigError::SourceWithoutPage), "{command}");
        if command != "calls" {
            assert_eq!(with("x.pb.gz"), Ok(true), "{command}");
        }
    }
}

#[test]
fn memory_and_waits_are_cut_into_windows_and_what_they_cannot_show_of_one_is_refused() {
    let kind = |kind: &str, line: &str| {
        let words = ["profiler", kind, "-a"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Memory(memory) => Config::from_memory_cli(memory),
            Command::Waits(waits) => Config::from_waits_cli(waits),
            _ => unreachable!("neither was typed"),
        }
    };
    let windows = |config: Result<Config, ConfigError>| {
        let windows = config.unwrap().windows?;
        Some((windows.every.as_secs(), windows.last))
    };
    assert_eq!(windows(kind("waits", "--every 5s -o new")), Some((5, 60)));
    assert_eq!(windows(kind("waits", "-o x.svg")), None);
    // Of memory, where a directory is meant.
    assert_eq!(windows(kind("memory", "--every 5s -o /")), Some((5, 60)));
    assert_eq!(windows(kind("memory", "--every 5s --keep 9 -o new")), Some((5, 9)));
    assert_eq!(windows(kind("memory", "--every 5s -o x.csv --curve y.csv")), None);
    let config = kind("memory", "--every 5s --older-than 30s -o /").unwrap();
    assert_eq!(config.format, Format::Pprof);
    assert_eq!(config.memory.unwrap().every, None, "there is no curve");
    for (command, line) in [
        ("waits", "--every 5s"),
        ("waits", "--every 5s -f json -o new"),
        ("waits", "--every 5s --with-source -o new"),
        ("memory", "--every 5s --keep 9"),
        ("memory", "--every 5s --peak -o /"),
        ("memory", "--every 5s --watchpoints -o /"),
        ("memory", "--every 5s --source pools -o /"),
        ("memory", "--every 5s -f svg -o /"),
        ("memory", "--every 5s --base x.pb.gz -o /"),
    ] {
        let error = kind(command, line).unwrap_err();
        assert_eq!(error.exit_code(), exit::USAGE, "{line}");
        assert!(
            error.to_string().contains("-o") || error.to_string().contains("leave"),
            "{error}"
        );
    }
}

#[test]
fn two_things_never_go_to_one_place() {
    let memory = |line: &str| {
        let words = ["profiler", "memory", "-a"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Memory(memory) => Config::from_memory_cli(memory),
            _ => unreachable!("`memory` was typed"),
        }
    };
    for error in [
        config("-a -o - --summary-json -").unwrap_err(),
        config("-a -o /dev/stdout --summary-json -").unwrap_err(),
        // The table goes there by itself.
        memory("--summary-json -").unwrap_err(),
        config("-a -o x.svg --summary-json x.svg").unwrap_err(),
        memory("--every 1s --curve x.json --summary-json x.json").unwrap_err(),
        memory("-o x.csv --every 1s --curve x.csv").unwrap_err(),
        memory("--every 1s --curve x.png").unwrap_err(),
    ] {
        assert_eq!(error.exit_code(), exit::USAGE, "{error}");
    }
    config("-a --summary-json -").unwrap();
    config("-a -o x.svg --summary-json x.json").unwrap();
    config("-a -f svg -o /dev/null --summary-json /dev/null").unwrap();
    memory("-o x.csv --every 1s --curve y.csv --summary-json -").unwrap();
}

#[test]
fn a_name_the_kernel_would_cut_is_refused_with_what_it_keeps() {
    let error = config("--comm gunicorn-worker-7").unwrap_err().to_string();
    assert!(error.contains("--comm 'gunicorn-worker'"), "{error}");
    // 14 bytes and a letter of two, of which the kernel keeps one byte.
    assert_eq!(
        config("--comm 12345678901234äb"),
        Err(ConfigError::LongComm {
            kept: r"$'12345678901234\xc3'".into()
        })
    );
    let kept = config(r"--comm обработчик").unwrap_err().to_string();
    assert!(kept.ends_with(r"--comm $'обработ\xd1'"), "{kept}");
    assert_eq!(shell_word(b"it's\n"), r"$'it\'s\x0a'");
    assert!(config("--comm 123456789012345").is_ok());
}

#[test]
fn the_default_name_has_the_process_the_pid_and_the_time() {
    let proc = tempfile::tempdir().unwrap();
    fs::create_dir(proc.path().join("4242")).unwrap();
    fs::write(proc.path().join("4242/comm"), "my worker/1\n").unwrap();
    let name = |line: &str, command_pid| {
        let OutputTarget::File { path, force: false } = config(line).unwrap().output_target(
            command_pid,
            proc.path(),
            UNIX_EPOCH + Duration::from_secs(86_400 * 365),
        ) else {
            panic!("a default name is a file's, and overwrites nothing");
        };
        path.into_os_string().into_string().unwrap()
    };
    // The time zone is the machine's: digits are all that can be asked for.
    let shape = |name: &str| name.replace(|c: char| c.is_ascii_digit(), "9");
    assert!(
        name("-p 4242,1", None).starts_with("my_worker_1-4242-19"),
        "{}",
        name("-p 4242,1", None)
    );
    assert_eq!(shape(&name("-p 4242", None)), "my_worker_9-9999-99999999-999999.svg");
    assert_eq!(shape(&name("-a -f pprof", None)), "system-99999999-999999.pb.gz");
    assert_eq!(
        shape(&name("-- /usr/bin/python3 app.py", Some(77))),
        "python9-99-99999999-999999.svg"
    );
    assert_eq!(shape(&name("-p 999", None)), "process-999-99999999-999999.svg");
}

#[test]
fn verbosity_follows_q_and_v() {
    assert_eq!(config("-a -q").unwrap().verbosity, Verbosity::Quiet);
    assert_eq!(config("-a -v").unwrap().verbosity, Verbosity::Verbose);
    assert_eq!(config("-a -vvv").unwrap().verbosity, Verbosity::Debug);
}

#[test]
fn what_a_recording_is_too_short_for_is_refused_before_it() {
    let leaks = |duration, older_than: &str| {
        let line = ["profiler", "memory", "-a", "-d", duration, "--older-than", older_than];
        let Command::Memory(typed) = Cli::try_parse_from(line).unwrap().command else {
            panic!("memory was asked for");
        };
        Config::from_memory_cli(typed)
    };
    let error = leaks("1s", "5s").unwrap_err();
    assert_eq!(error.exit_code(), exit::USAGE);
    assert!(
        error
            .to_string()
            .starts_with("--older-than 5.0 s in a recording of 1.0 s: "),
        "{error}"
    );
    assert!(leaks("5s", "5s").is_err());
    assert!(leaks("6s", "5s").is_ok());
    assert!(leaks("unlimited", "5s").is_ok());
}

#[test]
fn durations_pass_through_and_unlimited_is_none() {
    assert_eq!(config("-a -d 1m30s").unwrap().duration, Some(Duration::from_secs(90)));
    assert_eq!(config("-a -d unlimited").unwrap().duration, None);
}

proptest! {
    #[test]
    fn any_name_makes_a_file_name_that_stays_in_its_directory(comm in ".*") {
        let part = file_name_part(&comm);
        prop_assert!(!part.is_empty() && part.chars().count() <= 32);
        prop_assert!(!part.contains(|c: char| c == '/' || c.is_control() || c.is_whitespace()));
        prop_assert!(!part.starts_with(['-', '.']));
    }

    #[test]
    fn any_rate_in_range_has_a_period_that_gives_it_back(rate_hz in RATES_HZ) {
        prop_assert_eq!((1_000_000_000 + period_ns(rate_hz) / 2) / period_ns(rate_hz), u64::from(rate_hz));
    }
}
