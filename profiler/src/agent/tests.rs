//! What an agent makes of what is typed, of its file and of windows.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use clap::Parser as _;

use super::{
    alerts::{Alert, Rule, Rules, State, To, Watch},
    budget::{Budget, Step, lowered, told},
    digest::{Digest, Limit, ProcessNow, ServiceSums, Switches},
    file::AgentFile,
    metrics,
    options::{Options, OptionsError, Outlet},
    state::{OutputNow, Seen},
};
use crate::{
    cli::{
        Cli, Command,
        agent::{Agent, Measures},
    },
    waits::cause::Cause,
};

fn typed(words: &[&str]) -> Agent {
    let words = ["profiler", "agent"].iter().chain(words);
    match Cli::try_parse_from(words).map(|cli| cli.command) {
        Ok(Command::Agent(agent)) => agent,
        other => panic!("{other:?}"),
    }
}

fn options(words: &[&str], file: &str) -> Result<Options, OptionsError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, file).expect("a file");
    let path = path.to_str().expect("a path");
    Options::from_cli(&typed(&[&["--config", path], words].concat()))
}

#[test]
fn what_is_typed_goes_before_the_file_and_outputs_of_both_are_had() {
    let file = r#"
        window = "30s"
        rate = 49
        instruments = ["waits", "cpu"]
        listen = "127.0.0.1:9464"
        [labels]
        environment = "test"
        [spool]
        directory = "/tmp/spool"
        bytes = "1MiB"
        [[service]]
        name = "shop"
        command = "gunicorn shop*"
        [[output]]
        kind = "otlp"
        url = "https://collector:4318"
        headers = { authorization = "Bearer x" }
        [[output]]
        kind = "pprof"
        directory = "/tmp/windows"
        [alerts]
        to = ["-", "http://hooks/alert"]
        off = ["gil"]
        above = { cpu = 50 }
    "#;
    let options = options(&["-w", "10s", "--pyroscope", "http://pyroscope:4040"], file).expect("options");
    assert_eq!((options.window, options.rate_hz), (Duration::from_secs(10), 49));
    assert_eq!(options.instruments, [Measures::Cpu, Measures::Waits]);
    assert_eq!(options.spool_bytes, 1 << 20);
    let kinds: Vec<&str> = (options.outputs.iter())
        .map(|outlet| match outlet {
            Outlet::Otlp { headers, .. } => headers.get("authorization").map_or("", String::as_str),
            Outlet::Pyroscope { url, .. } => url,
            Outlet::Store { .. } => "store",
            Outlet::Pprof { keep: 60, .. } => "pprof",
            Outlet::Pprof { .. } => "other pprof",
        })
        .collect();
    assert_eq!(kinds, ["http://pyroscope:4040", "Bearer x", "pprof"]);
    assert_eq!(
        options.alerts.to,
        [To::Stderr, To::Webhook("http://hooks/alert".to_owned())]
    );
    assert_eq!(options.alerts.limits.get(&Rule::Cpu), Some(&50.0));
    assert_eq!(options.alerts.limits.get(&Rule::Gil), None);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_line_or_the_remedy() {
    for (words, file, expected) in [
        (&[][..], "", "an agent needs somewhere to send to"),
        (
            &["--listen", "0.0.0.0:9464"],
            "",
            "could be reached from other machines",
        ),
        (&["--otlp", "collector:4318"], "", "it begins with http:// or https://"),
        (&["--otlp", "http:///x"], "", "is no address to send to"),
        (&["--otlp", "http://x", "-w", "500ms"], "", "at least 1 second"),
        (&["--otlp", "http://x", "--max-cpu", "1"], "", "is no share of a CPU"),
        (&["--otlp", "http://x"], "windw = \"60s\"", "line 1"),
        (&["--otlp", "http://x"], "window = 60", "line 1"),
        (
            &["--otlp", "http://x"],
            "[labels]\n\"host.name\" = \"x\"",
            "use host-name or --host-name",
        ),
        (
            &["--otlp", "http://x"],
            "[labels]\n\"service.name\" = \"x\"",
            "a [[service]] rule",
        ),
        (
            &["--otlp", "http://x"],
            "[labels]\n\"process.pid\" = \"1\"",
            "the label \"process.pid\" is what the agent itself says",
        ),
        (&["--otlp", "http://x"], "[labels]\n\"\" = \"1\"", "a label has no name"),
        (
            &["--otlp", "http://x"],
            "instruments = [\"gpu\"]",
            "there is no instrument \"gpu\"",
        ),
        (
            &["--otlp", "http://x"],
            "instruments = []",
            "there is nothing to measure",
        ),
        (
            &["--otlp", "http://x"],
            "[[service]]\nname = \"all\"",
            "fits every process",
        ),
        (
            &["--otlp", "http://x"],
            "[[service]]\ncommand = \"x\"",
            "a service rule has no name",
        ),
        (
            &["--otlp", "http://x"],
            "[alerts]\noff = [\"cpus\"]",
            "there is no alert \"cpus\"",
        ),
        (&["--otlp", "http://x"], "[[output]]\nkind = \"kafka\"", "line 2"),
        (
            &["--otlp", "http://x"],
            "[budget]\ncpu-pressure = 0.0",
            "percentage from 1 to 100",
        ),
        (&["--otlp", "http://x"], "rate = 0", "the rate is from"),
    ] {
        let error = options(words, file).map(|_| ()).expect_err(expected).to_string();
        assert!(error.contains(expected), "{words:?} {file:?}: {error}");
    }
    let missing = Options::from_cli(&typed(&["--config", "/there/is/none"])).map(|_| ());
    assert!(matches!(missing, Err(OptionsError::Unreadable { .. })), "{missing:?}");
    assert!(AgentFile::parse(&"x".repeat(1000)).is_err());
}

fn window(processes: Vec<ProcessNow>, services: BTreeMap<String, ServiceSums>) -> Digest {
    Digest {
        began: SystemTime::UNIX_EPOCH,
        length: Duration::from_secs(60),
        services,
        processes,
        not_told_apart: 0,
        own_cpu: Duration::from_millis(300),
        kernel_cpu: Duration::from_millis(100),
        lost: Vec::new(),
    }
}

fn process(cpu_s: u64) -> ProcessNow {
    ProcessNow {
        pid: 7,
        service: "shop".to_owned(),
        cpu_ns: cpu_s * 1_000_000_000,
        resident_bytes: 1 << 20,
        threads: 3,
        files: Some(10),
        switches: Switches::default(),
        limit: None,
        growth_bytes: 0,
    }
}

fn rules() -> Rules {
    Rules {
        limits: Rule::ALL.into_iter().map(|rule| (rule, 50.0)).collect(),
        to: Vec::new(),
    }
}

fn states(alerts: &[Alert]) -> Vec<(Rule, State)> {
    alerts.iter().map(|alert| (alert.rule, alert.state)).collect()
}

#[test]
fn a_rule_must_be_broken_twice_and_is_over_when_it_is_well_kept_twice() {
    let mut watch = Watch::default();
    let rules = rules();
    let mut look = |cpu_s| states(&watch.look(&window(vec![process(cpu_s)], BTreeMap::new()), &rules));
    let begins = vec![(Rule::Cpu, State::Begins)];
    // One window of much is nothing.
    assert_eq!(look(60), []);
    assert_eq!(look(10), []);
    assert_eq!(look(40), []);
    assert_eq!(look(40), begins);
    // It is said once.
    assert_eq!(look(60), []);
    // Below its limit of half a CPU, but not well below.
    for cpu_s in [29, 29, 29, 31, 10] {
        assert_eq!(look(cpu_s), [], "{cpu_s}");
    }
    assert_eq!(look(10), [(Rule::Cpu, State::Over)]);
    assert_eq!(look(40), []);
    assert_eq!(look(40), begins);
}

#[test]
fn what_is_not_measured_any_more_is_said_to_be_gone_and_what_the_kernel_ended_is_said_at_once() {
    let mut watch = Watch::default();
    let rules = rules();
    for _ in 0..2 {
        watch.look(&window(vec![process(60)], BTreeMap::new()), &rules);
    }
    let gone = watch.look(&window(Vec::new(), BTreeMap::new()), &rules);
    assert_eq!(states(&gone), [(Rule::Cpu, State::Gone)]);

    let mut limits = rules;
    limits.limits.insert(Rule::Oom, 0.0);
    let killed = ServiceSums {
        victims: vec!["python3 (7) was ended by the kernel".to_owned()],
        ..ServiceSums::default()
    };
    let services = BTreeMap::from([("shop".to_owned(), killed)]);
    let alerts = watch.look(&window(Vec::new(), services), &limits);
    assert_eq!(states(&alerts), [(Rule::Oom, State::Begins)]);
    assert_eq!(alerts[0].evidence, ["python3 (7) was ended by the kernel"]);
}

#[test]
fn growth_is_told_by_when_it_reaches_the_limit_and_noise_is_not() {
    let mut watch = Watch::default();
    let limits = Rules {
        limits: BTreeMap::from([(Rule::GrowsToLimit, 60.0)]),
        to: Vec::new(),
    };
    let growing = |growth_bytes| ProcessNow {
        limit: Some(Limit {
            cgroup: "/sys/fs/cgroup/shop".to_owned(),
            most: 100 << 20,
            has: 40 << 20,
        }),
        growth_bytes,
        ..process(0)
    };
    for growth in [1 << 18, -(2 << 20), 0] {
        for _ in 0..3 {
            assert_eq!(watch.look(&window(vec![growing(growth)], BTreeMap::new()), &limits), []);
        }
    }
    watch.look(&window(vec![growing(2 << 20)], BTreeMap::new()), &limits);
    let alerts = watch.look(&window(vec![growing(2 << 20)], BTreeMap::new()), &limits);
    // 60 MiB are left, and a minute takes 2.
    assert_eq!(states(&alerts), [(Rule::GrowsToLimit, State::Begins)]);
    assert!((alerts[0].value - 30.0).abs() < 0.01, "{alerts:?}");
}

#[test]
fn over_its_budget_an_agent_measures_less_step_by_step_and_more_again_much_later() {
    let mut options = options(&["--otlp", "http://x", "--max-cpu", "0.5%"], "").expect("options");
    let mut budget = Budget::default();
    // 400 ms in a minute: 0.67 %.
    let busy = window(Vec::new(), BTreeMap::new());
    let idle = Digest {
        own_cpu: Duration::from_millis(10),
        kernel_cpu: Duration::ZERO,
        ..busy.clone()
    };
    let mut look = |digest: &Digest, level| budget.look(digest, 1 << 20, &options, level);
    assert_eq!(look(&busy, 0), None);
    assert_eq!(look(&idle, 0), None);
    assert_eq!(look(&busy, 0), None);
    assert_eq!(look(&busy, 0), Some(Step::Less));
    assert_eq!(look(&busy, 3), None);
    assert_eq!(look(&busy, 3), None, "there is nothing left to leave out");
    let steps: Vec<_> = (0..30).map(|_| look(&idle, 1)).collect();
    assert_eq!(steps.iter().filter(|step| step.is_some()).count(), 1);
    assert_eq!(steps.last(), Some(&Some(Step::More)));
    assert_eq!(told(&options, 0), "everything is measured");
    assert_eq!(
        told(&options, 2),
        "measuring less: 9 samples a second instead of 19, no growth"
    );
    assert_eq!(lowered(&options, 3).instruments, [Measures::Cpu]);
    options.max_cpu = None;
    assert_eq!(Budget::default().look(&busy, 1 << 40, &options, 0), None);
    options.max_memory = Some(1 << 20);
    let mut budget = Budget::default();
    assert_eq!(budget.look(&idle, 2 << 20, &options, 0), None);
    assert_eq!(budget.look(&idle, 2 << 20, &options, 0), Some(Step::Less));
}

#[test]
fn metrics_are_sums_by_service_and_say_what_became_of_messages() {
    let mut sums = ServiceSums {
        pids: BTreeSet::from([7, 8]),
        cpu_ns: [1_500_000_000, 500_000_000, 0, 0],
        ..ServiceSums::default()
    };
    sums.waiting_ns[Cause::Gil.index()] = 250_000_000;
    let mut seen = Seen::default();
    for _ in 0..2 {
        let services = BTreeMap::from([("a \"b\"\n".to_owned(), sums.clone())]);
        seen.take(window(vec![process(6)], services));
    }
    seen.outputs.push(OutputNow {
        name: "http://x".to_owned(),
        sent: 3,
        lost: 1,
        ..OutputNow::default()
    });
    let text = metrics::text(&seen).expect("metrics");
    for line in [
        "profiler_cpu_seconds_total{service=\"a \\\"b\\\"\\n\",kind=\"python\"} 3.0",
        "profiler_wait_seconds_total{service=\"a \\\"b\\\"\\n\",cause=\"gil\"} 0.5",
        "profiler_process_cpu_ratio{service=\"shop\",pid=\"7\"} 0.1",
        "profiler_output_sent_total{output=\"http://x\"} 3",
        "profiler_output_lost_total{output=\"http://x\"} 1",
        "profiler_windows_total 2",
        "# EOF",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
    }
}
