//! `profiler top`: what it shows is so, on a terminal as it is, which is afterwards as it was.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    process::{cpu_seconds, status_field},
    profiler::{Profiler, binary},
    python,
    serial::serial,
    terminal::{Settings, Terminal},
    workload::Workload,
};
use serde_json::Value;

const SERVICE: &str = "top_service.py";

/// One refresh, with so many seconds to it.
fn once(arguments: &[&str]) -> Result<Value> {
    let outcome = Profiler::bare()
        .args(["top", "--once", "-j"])
        .args(arguments)
        .succeed()?;
    serde_json::from_slice(&outcome.stdout).context("not JSON")
}

fn row(refresh: &Value, pid: u32) -> Result<&Value> {
    let rows = refresh["processes"].as_array().context("no processes")?;
    let found = rows.iter().find(|row| row["pid"] == pid);
    found.with_context(|| format!("no process {pid} in {refresh:#}"))
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("no number: {value}"))
}

/// What a process's clock said, and when: in seconds.
struct Clock(Vec<(f64, f64)>);

impl Clock {
    /// The least and the most percent of a CPU that it used in any such time.
    fn shares(&self, seconds: f64) -> Option<(f64, f64)> {
        let shares = self.0.iter().enumerate().filter_map(|(at, (from, before))| {
            let (to, now) = self.0[at..].iter().find(|(to, _)| to - from >= seconds)?;
            Some(100.0 * (now - before) / (to - from))
        });
        shares.fold(None, |found, share| {
            let (least, most) = found.unwrap_or((share, share));
            Some((share.min(least), share.max(most)))
        })
    }
}

/// Reads the clocks of these processes over and over while something is done.
fn watched<T>(pids: &[u32], run: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Clock>)> {
    const EVERY: Duration = Duration::from_millis(20);
    let is_over = AtomicBool::new(false);
    let read = || -> Result<Vec<Clock>> {
        let began = Instant::now();
        let mut clocks: Vec<Clock> = pids.iter().map(|_| Clock(Vec::new())).collect();
        while !is_over.load(Ordering::Acquire) {
            for (clock, &pid) in clocks.iter_mut().zip(pids) {
                clock.0.push((began.elapsed().as_secs_f64(), cpu_seconds(pid)?));
            }
            thread::sleep(EVERY);
        }
        Ok(clocks)
    };
    thread::scope(|scope| {
        let reading = scope.spawn(read);
        let done = run();
        is_over.store(true, Ordering::Release);
        let clocks = reading.join().ok().context("the thread that reads clocks has died")?;
        Ok((done?, clocks?))
    })
}

fn top(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Terminal> {
    let mut command = Command::new(binary());
    command
        .arg("top")
        .args(arguments)
        .env("TERM", "xterm-256color")
        .env("LC_ALL", "C.UTF-8")
        .env_remove("NO_COLOR")
        .envs(environment.iter().copied());
    Terminal::run(command, 24, 80)
}

/// The end of a screen: what was typed is seen again, and the program's is gone.
fn ensure_given_back(terminal: &Terminal) -> Result<()> {
    let as_it_was = Settings {
        echoes: true,
        edits_lines: true,
    };
    ensure!(terminal.settings()? == as_it_was, "{:?}", terminal.settings()?);
    terminal.until("the terminal's own screen", |_| !terminal.is_taken())?;
    Ok(())
}

#[test]
fn one_refresh_agrees_with_proc_and_tells_services_apart() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let mail = Workload::python(python, SERVICE, &["mail", "0.3"])?;
        let shop = Workload::python(python, SERVICE, &["shop", "0.1"])?;
        let (refresh, clocks) = watched(&[mail.pid, shop.pid], || once(&["-d", "4s"]))?;
        let seconds = number(&refresh["seconds"])?;
        for ((workload, name), clock) in [(&mail, "mail"), (&shop, "shop")].into_iter().zip(&clocks) {
            let row = row(&refresh, workload.pid)?;
            ensure!(row["name"].as_str() == Some(&*format!("{SERVICE} {name}")), "{row:#}");
            let cpu = number(&row["cpu_percent"])?;
            // Whoever else is here may keep it from its share: what its clock says is so.
            let (least, most) = clock.shares(seconds).context("too short")?;
            ensure!(
                (least - 2.0..=most + 2.0).contains(&cpu),
                "{name}: {cpu} % of a CPU, not {least} to {most}"
            );
            ensure!(row["threads"] == workload.truth[0]["threads"], "{row:#}");
            let resident: f64 = status_field(workload.pid, "VmRSS")?.trim_end_matches(" kB").parse()?;
            let told = number(&row["rss_bytes"])? / 1024.0;
            ensure!(
                (told / resident - 1.0).abs() <= 0.02,
                "{name}: {told} KiB, not {resident}"
            );
            let descriptors = fs::read_dir(format!("/proc/{}/fd", workload.pid))?.count();
            ensure!(row["descriptors"] == descriptors, "{descriptors}: {row:#}");
            let line = row["line"]["text"].as_str().unwrap_or_default();
            ensure!(
                line.starts_with("work (") && row["line"]["waits_for"].is_null(),
                "{row:#}"
            );
            // Its threads' time adds up: it computes, and all else is waiting.
            let time = &row["time"];
            let waiting = time["waiting"].as_object().context("no waits")?;
            let waited: f64 = waiting.values().filter_map(Value::as_f64).sum();
            let all = number(&time["elapsed"])?;
            let known = number(&time["on_cpu"])? + waited;
            ensure!((known / all - 1.0).abs() <= 0.02, "{name}: {known} of {all} s");
            ensure!(
                number(&time["waiting"]["lock"])? / all > 0.7,
                "three of four wait for a lock: {row:#}"
            );
        }
        // Whoever computes in Python has the GIL meanwhile, and also while it waits for a CPU; nobody else wants it.
        let mail = row(&refresh, mail.pid)?;
        let held = number(&mail["gil_held"]["percent"])?;
        // Of 95 of a hundred; twice that is practically all.
        let error = 2.0 * number(&mail["gil_held"]["error"])?;
        let computes = number(&mail["cpu_percent"])?;
        let ready = mail["time"]["waiting"]["ready"].as_f64().unwrap_or_default();
        let most = computes + 100.0 * ready / seconds;
        ensure!(
            (computes - error..=most + error).contains(&held),
            "{held} ± {error} % of the time, not {computes} to {most}"
        );
        ensure!(number(&mail["gil_waited_percent"])? < 5.0, "{mail:#}");
        let python_part = number(&mail["python"]["percent"])?;
        ensure!(python_part > 15.0, "it computes in Python: {mail:#}");
        let cpus = number(&refresh["host"]["cpus"])?;
        ensure!((1.0..=4096.0).contains(&cpus), "{cpus}");
        Ok(())
    })
}

#[test]
fn a_reader_of_text_gets_the_table_and_a_pid_restricts_it() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let workload = Workload::python(&python, SERVICE, &["mail", "0.2"])?;
    let other = Workload::python(&python, SERVICE, &["shop", "0.1"])?;
    let pid = workload.pid.to_string();
    let outcome = Profiler::bare().args(["top", "--once", "-p", &pid]).succeed()?;
    let text = String::from_utf8(outcome.stdout)?;
    ensure!(text.contains("top_service.py mail") && text.contains(" work"), "{text}");
    ensure!(!text.contains(&format!(" {} ", other.pid)), "{text}");
    ensure!(text.lines().all(|line| line.chars().count() <= 120), "{text}");

    let arguments = ["-p", &pid, "--no-waits", "-d", "2s"];
    let (without_waits, clocks) = watched(&[workload.pid], || once(&arguments))?;
    let row = row(&without_waits, workload.pid)?;
    ensure!(row["gil_waited_percent"].is_null() && row["time"].is_null(), "{row:#}");
    let shares = clocks[0].shares(number(&without_waits["seconds"])?);
    let (least, most) = shares.context("too short")?;
    // By a clock of ten milliseconds.
    let cpu = number(&row["cpu_percent"])?;
    ensure!(
        (least - 3.0..=most + 3.0).contains(&cpu),
        "{cpu}, not {least} to {most}: {row:#}"
    );
    Ok(())
}

#[test]
fn the_screen_sorts_filters_opens_and_closes_and_gives_the_terminal_back() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let mail = Workload::python(&python, SERVICE, &["mail", "0.5"])?;
    let shop = Workload::python(&python, SERVICE, &["shop", "0.1"])?;
    let pids = format!("{},{}", mail.pid, shop.pid);
    let mut terminal = top(&["-p", &pids], &[])?;
    let first = |terminal: &Terminal, pid: u32| {
        let lines = terminal.lines();
        let row = lines.get(4).map(|row| row.trim_start().to_owned()).unwrap_or_default();
        row.starts_with(&format!("{pid} "))
    };
    terminal.until_it_says(" work")?;
    ensure!(terminal.is_taken() && terminal.has_colours());
    let text = terminal.text();
    ensure!(
        text.starts_with("profiler top  ") && text.contains("2 Pythons: "),
        "{text}"
    );
    terminal.until("the busiest on top", |_| first(&terminal, mail.pid))?;

    let smaller = mail.pid.min(shop.pid);
    terminal.press("N")?;
    terminal.until("sorted by pid", |text| {
        text.contains("PIDv") && first(&terminal, smaller)
    })?;
    terminal.press("R")?;
    terminal.until("the other way round", |text| {
        text.contains("PID^") && !first(&terminal, smaller)
    })?;
    terminal.press("/shop\r")?;
    terminal.until("the one that fits", |text| {
        text.contains("filter: shop") && first(&terminal, shop.pid) && !text.contains("mail")
    })?;
    terminal.press("\x1b")?;
    terminal.until("both again", |text| text.contains("mail") && text.contains("shop"))?;

    terminal.press("P")?;
    terminal.until("the busiest on top", |text| {
        text.contains("CPU%v") && first(&terminal, mail.pid)
    })?;
    terminal.press("\r")?;
    terminal.until("its threads", |text| {
        text.contains("MOST OF IT") && text.contains("idle-2")
    })?;
    terminal.press("\r")?;
    terminal.until("its lines", |text| text.contains("OWN%v") && text.contains("work ("))?;
    terminal.press("l")?;
    terminal.until("a picture", |text| {
        text.contains("CPU time of the last") && text.contains("▏work (")
    })?;
    terminal.press("?")?;
    terminal.until_it_says("profiler top: keys")?;
    terminal.press("x")?;
    terminal.until_it_says("CPU time of the last")?;
    terminal.press("\x1b")?;
    terminal.until_it_says("SERVICE")?;

    terminal.press(" ")?;
    terminal.until_it_says("PAUSED")?;
    terminal.resize(30, 130)?;
    terminal.until("more columns", |text| text.contains("ker%") && text.contains("THR"))?;
    terminal.press("q")?;
    let status = terminal.finish()?;
    ensure!(status.success(), "{status}");
    ensure_given_back(&terminal)
}

type End = dyn Fn(&mut Terminal) -> Result<()>;

#[test]
fn however_it_ends_the_terminal_is_as_it_was() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let workload = Workload::python(&python, SERVICE, &["mail", "0.1"])?;
    let pid = workload.pid.to_string();
    let ends: [(&str, &End); 3] = [
        ("SIGTERM", &|terminal| terminal.signal(libc::SIGTERM)),
        ("SIGINT", &|terminal| terminal.signal(libc::SIGINT)),
        ("Ctrl-C", &|terminal| terminal.press("\x03")),
    ];
    for (how, end) in ends {
        let mut terminal = top(&["-p", &pid], &[])?;
        terminal.until_it_says("top_service.py mail")?;
        ensure!(!terminal.settings()?.echoes, "{how}: it is raw meanwhile");
        end(&mut terminal)?;
        let status = terminal.finish()?;
        ensure!(status.success(), "{how}: {status}");
        ensure_given_back(&terminal).context(how)?;
    }
    // Its window is closed. Keys are not waited for any more, and nothing is said to nobody.
    let mut terminal = top(&["-p", &pid], &[])?;
    terminal.until_it_says("top_service.py mail")?;
    terminal.hang_up()?;
    let status = terminal.finish()?;
    ensure!(status.success(), "hung up: {status}");
    // Nothing is taken any more (Ctrl-S).
    let mut terminal = top(&["-p", &pid], &[])?;
    terminal.until_it_says("top_service.py mail")?;
    terminal.stop_output()?;
    terminal.signal(libc::SIGTERM)?;
    let status = terminal.finish()?;
    ensure!(status.success(), "stopped: {status}");
    // The last target goes: so does the screen.
    let mut terminal = top(&["-p", &pid], &[])?;
    terminal.until_it_says("top_service.py mail")?;
    drop(workload);
    let status = terminal.finish()?;
    ensure!(status.success(), "{status}");
    ensure_given_back(&terminal)
}

#[test]
fn without_colours_and_without_utf_8_there_are_neither() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let workload = Workload::python(&python, SERVICE, &["mail", "0.4"])?;
    let pid = workload.pid.to_string();
    let mut terminal = top(&["-p", &pid], &[("NO_COLOR", "1"), ("LC_ALL", "C")])?;
    terminal.until_it_says(" work")?;
    ensure!(!terminal.has_colours());
    terminal.press("l")?;
    let text = terminal.until("a picture", |text| text.contains("|work ("))?;
    ensure!(text.is_ascii(), "{text}");
    terminal.press("q")?;
    ensure!(terminal.finish()?.success());
    Ok(())
}

#[test]
fn a_python_that_begins_meanwhile_is_seen_and_one_that_ends_goes() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let terminal = top(&[], &[])?;
    terminal.until_it_says("profiler top  ")?;
    let workload = Workload::python(&python, SERVICE, &["latecomer", "0.6"])?;
    terminal.until("its row, with its line", |text| {
        text.lines()
            .any(|line| line.contains("latecomer") || line.contains(&format!(" {} ", workload.pid)))
            && text.contains(" work")
    })?;
    let row = format!(" {} ", workload.pid);
    drop(workload);
    terminal.until("no row of it", |text| !text.lines().any(|line| line.starts_with(&row)))?;
    terminal.signal(libc::SIGTERM)
}

#[test]
fn what_cannot_be_shown_is_said_with_the_remedy() -> Result<()> {
    let _serial = serial();
    let outcome = Profiler::bare().arg("top").run()?;
    ensure!(
        outcome.code() == 1 && outcome.stderr.contains("use --once"),
        "{outcome:?}"
    );
    let own = std::process::id().to_string();
    let outcome = Profiler::bare().args(["top", "--once", "-p", &own]).run()?;
    ensure!(
        outcome.code() == 1 && outcome.stderr.contains("runs no CPython"),
        "{outcome:?}"
    );
    let outcome = Profiler::bare().args(["top", "-d", "10ms"]).run()?;
    ensure!(
        outcome.code() == 2 && outcome.stderr.contains("-d 200ms"),
        "{outcome:?}"
    );
    let outcome = Profiler::bare().args(["top", "-j"]).run()?;
    ensure!(outcome.code() == 2, "{outcome:?}");
    Ok(())
}
