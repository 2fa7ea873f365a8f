//! The agent: what it sends is what it saw, also later and after it was killed; it answers on its own page, measures
//! nothing when it must not, and ends when it is told to.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    bpf::Objects,
    browser::{Browser, Screen},
    http,
    process::until,
    profiler::{Profiler, Recording},
    python::{self, Python},
    serial::serial,
    skip::skip,
    venv,
    workload::{Workload, sources},
};
use serde_json::Value;

use crate::flight::{until_there_are, windows};

const PATIENCE: Duration = Duration::from_secs(60);
const OFFICIAL: &[&str] = &[
    "opentelemetry-proto==1.45.2",
    "grpcio>=1.66,<2",
    "prometheus-client==0.25.0",
];
const SCRIPT: &str = "agent_service.py";

/// A port that nobody has, for a moment at least.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// An interpreter that has the official definitions; `None`, said aloud, if they cannot be had.
fn official() -> Result<Option<(Python, PathBuf)>> {
    let python = python::any()?;
    Ok(venv::with(&python, OFFICIAL)?.map(|interpreter| (python, interpreter)))
}

/// `pushed`: where profiles go that come as they do to Pyroscope.
fn receiver(interpreter: &Path, port: u16, pushed: &Path) -> Result<Workload> {
    let mut command = Command::new(interpreter);
    let script = sources().join("otlp_receiver.py");
    command.arg(script).arg(port.to_string()).arg(pushed);
    Workload::command(command, None)
}

/// An agent with windows of two seconds, which looks already.
fn agent(spool: &Path, arguments: &[&str]) -> Result<Recording> {
    let spool = spool.to_str().context("a path")?;
    let own = ["agent", "-w", "2s", "--spool", spool];
    Profiler::bare().args(own).args(arguments).start()
}

/// What a message says of the workload, of one kind of value.
fn sum(message: &Value, kind: &str) -> i64 {
    message["services"]["agent_service.py"][kind].as_i64().unwrap_or(0)
}

/// The same of the file of a window.
fn sum_in(file: &Path, kind: &str) -> Result<i64> {
    let profile = profiler::stored::read(file)?;
    let at = (profile.sample_types.iter().position(|value| value.kind == kind)).context("no such value")?;
    let of_workload = profile
        .samples()
        .filter(|(key, _)| profile.string(key.labels.command).contains(SCRIPT));
    Ok(of_workload.map(|(_, values)| values[at]).sum())
}

#[test]
fn what_an_agent_sends_is_right_by_the_official_definitions_and_equals_its_files() -> Result<()> {
    let _serial = serial();
    let Some((python, interpreter)) = official()? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let files = directory.path().join("windows");
    let pushed = directory.path().join("pushed");
    fs::create_dir(&pushed)?;
    let mut receiver = receiver(&interpreter, 0, &pushed)?;
    let port = receiver.truth[0]["port"].as_u64().context("a port")?;
    let _workload = Workload::python(&python, SCRIPT, &[])?;
    let config = directory.path().join("agent.toml");
    fs::write(
        &config,
        "[labels]\n\"deployment.environment\" = \"test\"\n[[service]]\nname = \"agent_service.py\"\ncommand = \
         \"*agent_service.py\"\n",
    )?;
    let url = format!("http://127.0.0.1:{port}");
    let by_grpc = format!("grpc://127.0.0.1:{}", receiver.truth[0]["grpc"]);
    let arguments = [
        "--config",
        config.to_str().context("a path")?,
        "--otlp",
        &url,
        "--otlp",
        &by_grpc,
        "--pyroscope",
        &url,
        "--pprof",
        files.to_str().context("a path")?,
    ];
    let agent = agent(&directory.path().join("spool"), &arguments)?;
    until_there_are(3, &files.join("memory"), false)?;
    agent.stop()?.success()?;
    let time = windows(&files.join("time"), false)?;
    let memory = windows(&files.join("memory"), false)?;
    let (mut of_time, mut of_memory) = (Vec::new(), Vec::new());
    let mut by_grpc = Vec::new();
    let mut series = Vec::new();
    for _ in 0..3 * (time.len() + memory.len()) {
        let message = receiver.value()?;
        match message["by"].as_str() {
            Some("http") | None => {}
            Some("pyroscope") => {
                series.extend(message["series"].as_array().into_iter().flatten().cloned());
                continue;
            }
            Some(_) => {
                by_grpc.push(message);
                continue;
            }
        }
        ensure!(message["wrong"] == serde_json::json!([]), "{}", message["wrong"]);
        ensure!(message["labels"]["deployment.environment"] == "test", "{message}");
        match message["services"].to_string().contains("inuse_space") {
            true => of_memory.push(message),
            false => of_time.push(message),
        }
    }
    ensure!(of_time.len() == time.len() && of_memory.len() == memory.len());
    for mut message in by_grpc {
        message["by"] = "http".into();
        ensure!(
            of_time.contains(&message) || of_memory.contains(&message),
            "other by gRPC: {message}"
        );
    }
    for (files, messages, kinds) in [
        (&time, &of_time, &["samples", "cpu", "wait", "wall"][..]),
        (&memory, &of_memory, &["inuse_space", "alloc_space"][..]),
    ] {
        for (file, message) in files.iter().zip(messages) {
            for kind in kinds {
                let (sent, written) = (sum(message, kind), sum_in(file, kind)?);
                ensure!(
                    sent == written,
                    "{}: {kind}: {sent} sent, {written} written",
                    file.display()
                );
            }
        }
    }
    for (name, kind, files) in [("process_cpu", "cpu", &time), ("memory", "alloc_space", &memory)] {
        let of_workload =
            (series.iter()).filter(|series| series["service_name"] == SCRIPT && series["__name__"] == name);
        let mut pushed = 0;
        for one in of_workload {
            ensure!(one["deployment_environment"] == "test", "{one}");
            pushed += sum_in(Path::new(one["file"].as_str().context("a file")?), kind)?;
        }
        let written = files.iter().map(|file| sum_in(file, kind)).sum::<Result<i64>>()?;
        ensure!(pushed == written, "{name}: {kind}: {pushed} pushed, {written} written");
    }
    let all = |messages: &[Value], kind: &str| messages.iter().map(|message| sum(message, kind)).sum::<i64>();
    for kind in ["cpu", "wait", "wall"] {
        ensure!(all(&of_time, kind) > 0, "no {kind}");
    }
    let sleeps = of_time
        .iter()
        .filter(|message| message["causes"]["sleep"].as_i64() > Some(0));
    ensure!(sleeps.count() > 0, "nobody slept");
    ensure!(all(&of_memory, "alloc_space") > 1 << 20, "it did not grow");
    let is_named = |function: &str| {
        of_time
            .iter()
            .any(|message| message["functions"].to_string().contains(function))
    };
    ensure!(is_named("compute") && is_named("nap"), "its functions are missing");
    Ok(())
}

#[test]
fn what_a_receiver_missed_reaches_it_later_also_when_the_agent_was_killed() -> Result<()> {
    let _serial = serial();
    let Some((python, interpreter)) = official()? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let spool = directory.path().join("spool");
    let port = free_port()?;
    let url = format!("http://127.0.0.1:{port}");
    let _workload = Workload::python(&python, SCRIPT, &[])?;
    let cpu_only = ["--otlp", &url, "--instruments", "cpu"];
    let killed = agent(&spool, &cpu_only)?;
    let waiting = || -> Vec<PathBuf> {
        let receivers = fs::read_dir(&spool).into_iter().flatten().flatten();
        receivers
            .flat_map(|receiver| fs::read_dir(receiver.path()).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "message"))
            .collect()
    };
    until(PATIENCE, "two messages wait", || waiting().len() >= 2)?;
    killed.signal(libc::SIGKILL)?;
    killed.finish()?;
    let missed = waiting().len();
    let mut receiver = receiver(&interpreter, port, directory.path())?;
    let next = agent(&spool, &cpu_only)?;
    let mut times = Vec::new();
    for _ in 0..=missed {
        let message = receiver.value()?;
        ensure!(sum(&message, "cpu") > 0, "{message}");
        times.push(message["times"][0].as_u64().context("a time")?);
    }
    ensure!(times.is_sorted(), "oldest first: {times:?}");
    until(PATIENCE, "nothing waits", || waiting().is_empty())?;
    next.stop()?.success()?;
    Ok(())
}

#[test]
fn its_page_and_metrics_say_what_runs_and_nobody_else_is_answered() -> Result<()> {
    let _serial = serial();
    let Some((python, interpreter)) = official()? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let port = free_port()?;
    let address = format!("127.0.0.1:{port}");
    let _workload = Workload::python(&python, SCRIPT, &[])?;
    let agent = agent(&directory.path().join("spool"), &["--listen", &address])?;
    until(PATIENCE, "metrics of a window", || {
        http::text(port, "metrics", &address).is_ok_and(|answer| answer.body.contains("profiler_windows_total 2"))
    })?;
    let metrics = http::text(port, "metrics", &address)?;
    ensure!(
        metrics.head.contains("application/openmetrics-text"),
        "{}",
        metrics.head
    );
    // By Prometheus' own reader.
    let parsed = "import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families
print(json.dumps([[s.name, s.labels, s.value] for f in families(sys.stdin.read()) for s in f.samples]))";
    let file = directory.path().join("metrics");
    fs::write(&file, &metrics.body)?;
    let read = Command::new(&interpreter)
        .args(["-c", parsed])
        .stdin(fs::File::open(&file)?)
        .output()?;
    ensure!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let samples: Value = serde_json::from_slice(&read.stdout)?;
    let value = |name: &str, label: &str| -> f64 {
        let samples = samples.as_array().into_iter().flatten();
        let wanted = samples.filter(|sample| {
            let is_his = sample[1]["service"].as_str().is_some_and(|name| name.ends_with(SCRIPT));
            sample[0] == name && is_his && sample[1].to_string().contains(label)
        });
        wanted.filter_map(|sample| sample[2].as_f64()).sum()
    };
    ensure!(value("profiler_cpu_seconds_total", "") > 0.1, "{}", metrics.body);
    ensure!(value("profiler_wait_seconds_total", "sleep") > 0.1, "{}", metrics.body);
    ensure!(value("profiler_process_resident_bytes", "") > 1e6, "{}", metrics.body);

    // A page elsewhere that leads a browser here asks under its own name.
    let stranger = http::text(port, "metrics", "evil.example")?;
    ensure!(stranger.head.starts_with("HTTP/1.1 403"), "{}", stranger.head);
    let report = http::text(port, "report?service=nobody", &address)?;
    ensure!(report.head.starts_with("HTTP/1.1 404"), "{}", report.head);
    let overview = http::text(port, "", &address)?;
    ensure!(overview.body.contains(SCRIPT), "{}", overview.body);

    match Browser::start()? {
        None => skip("no browser: the page was not looked at"),
        Some(mut browser) => {
            let screen = Screen {
                width: 1200,
                dark: false,
            };
            browser.open_address(&format!("http://{address}/"), screen)?;
            let title = browser.text("h1")?;
            ensure!(title == "profiler agent", "{title}");
            let link = format!("[...document.links].find((link) => link.textContent.includes('{SCRIPT}')).href");
            let href = browser.eval(&link)?;
            let href = href.as_str().context("a link to the service")?.to_owned();
            browser.open_address(&href, screen)?;
            until(PATIENCE, "the report is shown", || {
                browser
                    .eval("document.documentElement.dataset.ready !== undefined && document.body.textContent")
                    .is_ok_and(|text| text.as_str().is_some_and(|text| text.contains("compute")))
            })?;
            ensure!(browser.complaints().is_empty(), "{:?}", browser.complaints());
        }
    }
    agent.stop()?.success()?;
    Ok(())
}

#[test]
fn it_looks_at_nothing_while_its_switch_is_off_reads_its_file_again_and_is_alone() -> Result<()> {
    let _serial = serial();
    let directory = tempfile::tempdir()?;
    let spool = directory.path().join("spool");
    let (stop, config) = (directory.path().join("stop"), directory.path().join("agent.toml"));
    let files = [directory.path().join("one"), directory.path().join("other")];
    let configure = |directory: &Path| -> Result<()> {
        let directory = directory.display();
        Ok(fs::write(
            &config,
            format!("[[output]]\nkind = \"pprof\"\ndirectory = \"{directory}\"\n"),
        )?)
    };
    configure(&files[0])?;
    let arguments = [
        "--config",
        config.to_str().context("a path")?,
        "--instruments",
        "cpu",
        "--stop-file",
        stop.to_str().context("a path")?,
    ];
    let socket = directory.path().join("agent.sock");
    let listen = format!("unix:{}", socket.display());
    let running = agent(&spool, &[&arguments[..], &["--listen", &listen]].concat())?;
    ensure!(
        fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o600,
        "others can ask"
    );
    let second = Profiler::bare()
        .args(["agent", "--spool", spool.to_str().context("a path")?])
        .args(arguments)
        .run()?;
    ensure!(second.code() == 1, "a second one: {}", second.code());
    second.line("another agent uses ")?;

    until_there_are(1, &files[0].join("time"), false)?;
    fs::write(&stop, "")?;
    let programs = || Objects::of(running.pid()).map(|objects| objects.programs.len());
    until(PATIENCE, "its programs are gone", || {
        programs().is_ok_and(|programs| programs == 0)
    })?;
    until(PATIENCE, "its page says so", || {
        http::from(&socket, "").is_ok_and(|answer| answer.body.contains("Nothing is looked at"))
    })?;
    fs::remove_file(&stop)?;
    until(PATIENCE, "its programs are there again", || {
        programs().is_ok_and(|programs| programs > 0)
    })?;

    fs::write(&config, "windw = 3")?;
    running.signal(libc::SIGHUP)?;
    let before = windows(&files[0].join("time"), false)?.len();
    until_there_are(before + 2, &files[0].join("time"), false)?;
    configure(&files[1])?;
    running.signal(libc::SIGHUP)?;
    until_there_are(1, &files[1].join("time"), false)?;
    let outcome = running.stop()?;
    ensure!(outcome.code() == 0, "{}", outcome.code());
    outcome.line("what was configured before goes on")?;
    outcome.line("the configuration was read again")?;
    Ok(())
}

#[test]
fn a_place_that_is_full_and_a_receiver_without_tls_are_said_and_the_others_have_every_window() -> Result<()> {
    let _serial = serial();
    let directory = tempfile::tempdir()?;
    let (full, files, spool) = (
        directory.path().join("full"),
        directory.path().join("windows"),
        directory.path().join("spool"),
    );
    fs::create_dir(&full)?;
    let _mounted = Mounted::small(&full)?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let url = format!("https://127.0.0.1:{}", listener.local_addr()?.port());
    // Whoever connects is told something that is no TLS.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let _workload = Workload::python(&python::any()?, SCRIPT, &[])?;
    let arguments = [
        "--store",
        full.to_str().context("a path")?,
        "--pprof",
        files.to_str().context("a path")?,
        "--otlp",
        &url,
    ];
    let agent = agent(&spool, &arguments)?;
    until_there_are(3, &files.join("time"), false)?;
    let outcome = agent.stop()?.success()?;
    outcome.line("is not everywhere: a window is not in the store")?;
    outcome.line("No space left on device")?;
    let failing: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains(&url)).collect();
    ensure!(
        failing.len() == 2,
        "once when it fails, and where all went: {failing:?}"
    );
    ensure!(failing[0].contains("messages wait"), "{failing:?}");
    let torn = fs::read_dir(full.join("v1"))?
        .flatten()
        .filter(|entry| entry.file_name() != ".lock");
    for entry in torn {
        ensure!(
            fs::read_dir(entry.path())?.count() == 0,
            "{} has something",
            entry.path().display()
        );
    }
    Ok(())
}

/// A file system that is soon full.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn small(at: &'a Path) -> Result<Self> {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16k", "none"])
            .arg(at)
            .status()?;
        ensure!(done.success(), "cannot mount: {done}");
        Ok(Self(at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn a_configuration_is_checked_without_looking_at_anything() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("agent.toml");
    let path = config.to_str().context("a path")?;
    fs::write(
        &config,
        "window = \"10s\"\n[[output]]\nkind = \"otlp\"\nurl = \"http://collector:4318\"\n",
    )?;
    let right = Profiler::bare().args(["agent", "--config", path, "check"]).run()?;
    ensure!(right.code() == 0);
    let said = String::from_utf8(right.stdout)?;
    ensure!(said.contains("to http://collector:4318 by OTLP"), "{said}");
    fs::write(&config, "window = \"10s\"\nwindow = \"20s\"\n")?;
    let wrong = Profiler::bare().args(["agent", "--config", path, "check"]).run()?;
    ensure!(wrong.code() == 2, "{}", wrong.code());
    wrong.line("line 2")?;
    Ok(())
}
