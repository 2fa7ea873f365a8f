use clap::{CommandFactory as _, error::ErrorKind};
use proptest::prelude::*;

use super::*;

fn record(line: &str) -> Result<Record, clap::Error> {
    let words = ["profiler", "record"].into_iter().chain(line.split_whitespace());
    match Cli::try_parse_from(words)?.command {
        Command::Record(record) => Ok(record),
        _ => unreachable!("`record` was typed"),
    }
}

#[test]
fn clap_finds_nothing_wrong_with_the_definition() {
    Cli::command().debug_assert();
}

#[test]
fn pids_come_as_lists_repeated_positional_and_in_hex() {
    let pids = |pids: &[u32]| pids.iter().copied().map(ProcessWord::Pid).collect::<Vec<_>>();
    assert_eq!(
        record("-p 1,2 -p 0x10 --pid=3").unwrap().common.pids,
        pids(&[1, 2, 16, 3])
    );
    assert_eq!(record("7 8,9").unwrap().common.positional_pids, pids(&[7, 8, 9]));
}

#[test]
fn a_pid_that_is_none_is_answered_with_what_is_accepted() {
    for text in ["", "0", "-1", "+1", "0x", "0x-1", "4294967296", "1.5", "1a", "٣"] {
        let error = parse_pid(text).unwrap_err();
        assert!(error.contains("such as 4242 or 0x1092"), "{text:?}: {error}");
    }
    for name in ["python3", "./app", "_worker", "gunicorn: master"] {
        assert_eq!(parse_process(name), Ok(ProcessWord::Name(name.to_owned())));
    }
    assert_eq!(parse_process("-1"), parse_pid("-1").map(ProcessWord::Pid));
}

#[test]
fn everything_after_two_dashes_is_the_command() {
    let record = record("-d 5 -- python3 app.py -p 1 --all").unwrap();
    assert_eq!(record.common.command, ["python3", "app.py", "-p", "1", "--all"]);
    assert!(record.common.pids.is_empty() && record.common.positional_pids.is_empty() && !record.common.all);
}

#[test]
fn of_native_and_no_native_the_later_counts() {
    let said = |line| {
        record(line)
            .map(|record| (record.native, record.common.no_native))
            .unwrap()
    };
    assert_eq!(said(""), (NativeFrames::Work, false));
    assert_eq!(said("--native full"), (NativeFrames::Full, false));
    assert_eq!(said("--no-native --native full"), (NativeFrames::Full, false));
    assert_eq!(said("--native full --native work"), (NativeFrames::Work, false));
    assert!(said("--native full --no-native").1);
}

#[test]
fn a_number_after_two_dashes_is_a_command_and_not_a_pid() {
    let record = record("-- 4242").unwrap();
    assert_eq!(
        (record.common.command, record.common.positional_pids.len()),
        (vec!["4242".into()], 0)
    );
}

#[test]
fn rates_take_hertz_and_kilohertz() {
    for (text, hertz) in [
        ("99", 99),
        ("99hz", 99),
        ("99 Hz", 99),
        ("10khz", 10_000),
        ("10kHz", 10_000),
        ("1.5khz", 1_500),
        ("2k", 2_000),
    ] {
        assert_eq!(parse_rate(text), Ok(hertz), "{text}");
    }
    assert_eq!(record("-F 10khz").unwrap().rate, 10_000);
    assert_eq!(record("--freq 49").unwrap().rate, 49);
    assert_eq!(record("-r 49").unwrap().rate, 49);
    assert_eq!(record("").unwrap().rate, u64::from(DEFAULT_RATE_HZ));
}

#[test]
fn a_rate_out_of_range_is_still_a_number() {
    assert_eq!(parse_rate("0"), Ok(0));
    assert_eq!(parse_rate("99999999999999999999999"), Ok(u64::MAX));
}

#[test]
fn a_rate_that_is_none_is_answered_with_what_is_accepted() {
    for text in [
        "",
        "hz",
        "-1",
        "99.5",
        "99.05",
        "1.0005khz",
        "fast",
        "99mhz",
        "1..5",
        "1.",
        ".5",
        "1 2",
    ] {
        let error = parse_rate(text).unwrap_err();
        assert!(error.contains("99, 99hz or 10khz"), "{text:?}: {error}");
    }
}

#[test]
fn durations_take_units_from_large_to_small() {
    let after = |millis| Ok(Limit::After(Duration::from_millis(millis)));
    for (text, millis) in [
        ("30", 30_000),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h", 3_600_000),
        ("1m30s", 90_000),
        ("1h2m3s4ms", 3_723_004),
        ("500ms", 500),
        ("0.5", 500),
        ("1.5M", 90_000),
    ] {
        assert_eq!(parse_duration(text), after(millis), "{text}");
    }
    assert_eq!(parse_duration("unlimited"), Ok(Limit::Unlimited));
}

#[test]
fn a_duration_that_is_none_is_answered_with_what_is_accepted() {
    for text in [
        "", "0", "0s", "-1", "s", "30x", "1m30", "30s1m", "1s1s", "1..5", "inf", "nan", "1e400", "9e99h", "ever",
    ] {
        let error = parse_duration(text).unwrap_err();
        assert!(error.contains("30, 30s, 5m"), "{text:?}: {error}");
    }
    let long = "9".repeat(400);
    assert!(parse_duration(&long).is_err());
}

#[test]
fn a_probe_is_a_file_and_a_place_in_it() {
    let probe = |file: &str, place| {
        Ok(Probe {
            file: file.into(),
            place,
        })
    };
    assert_eq!(parse_probe("/a/b:c.so:0x1f"), probe("/a/b:c.so", Place::Offset(0x1f)));
    assert_eq!(parse_probe("a:malloc"), probe("a", Place::Symbol("malloc".to_owned())));
    for text in [
        "",
        "a",
        ":",
        "a:",
        ":b",
        "a:0x",
        "a:0x+1",
        "a:0xg",
        "a:0x10000000000000000",
    ] {
        assert!(parse_probe(text).is_err(), "{text:?}");
    }
}

#[test]
fn verbosity_is_counted_and_excludes_quiet() {
    assert_eq!(record("-vv").unwrap().common.verbose, 2);
    assert_eq!(record("-q -v").unwrap_err().kind(), ErrorKind::ArgumentConflict);
}

#[test]
fn every_format_has_a_name_that_leads_back_to_it() {
    for format in [
        Format::Svg,
        Format::Html,
        Format::Folded,
        Format::Speedscope,
        Format::Pprof,
    ] {
        assert_eq!(record(&format!("-f {}", format.name())).unwrap().format, Some(format));
    }
    assert_eq!(record("-f png").unwrap_err().kind(), ErrorKind::InvalidValue);
}

#[test]
fn a_subcommand_may_be_cut_short() {
    assert!(Cli::try_parse_from(["profiler", "rec", "-a"]).is_ok());
    assert!(Cli::try_parse_from(["profiler", "comp", "bash"]).is_ok());
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in ".*") {
        let _ = (parse_process(&text), parse_rate(&text), parse_duration(&text), parse_probe(&text));
    }

    #[test]
    fn no_number_with_units_makes_a_parser_panic(text in "[0-9.]{0,40}(k?hz|ms|[smh])?([0-9.]{0,9}(ms|[smh]))?") {
        let _ = (parse_pid(&text), parse_rate(&text), parse_duration(&text));
    }
}
