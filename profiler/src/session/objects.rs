//! `profiler objects` from its first check to its last line.

use std::{
    io::{self, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};

use crate::{
    closest,
    config::{ObjectsConfig, ObjectsFormat},
    exit,
    invoker::Invoker,
    objects::{account::Account, census, growth::Growth, questions, target::Target},
    output::{self, Output},
    preflight::{self, Roots},
    process::command,
    report::objects::{ObjectsReport, export, graph, table},
    rights, shown, truncated,
};

/// Looks as `config` says; returns the program's exit status.
pub fn look(config: &ObjectsConfig) -> anyhow::Result<u8> {
    preflight::check_process(config.pid, &Roots::default())?;
    truncated::survive().context("failed to prepare for files that shrink while they are read")?;
    output::survive_limit();
    let invoker = Invoker::of_this_process()?;
    rights::give_up().context("failed to give up capabilities")?;
    let output = Output::prepare(&config.output, invoker.as_ref(), "-o")?;
    let target = Target::find(config.pid)?;
    let report = report(config, &target)?;
    let output = output.connect(|_| {})?;
    let written = output.write(|out| match config.format {
        ObjectsFormat::Text => Ok(out.write_all(table::text(&report, table::WIDTH).as_bytes())?),
        ObjectsFormat::Json => export::write_json(&report, out),
        ObjectsFormat::Folded => export::write_folded(&report, out),
        ObjectsFormat::Dot => graph::write_dot(&report, out),
        ObjectsFormat::Svg => graph::write_svg(&report, out),
    })?;
    if let Some(path) = &written.path {
        say(config, &format!("wrote {}", path.display()));
    }
    Ok(exit::SUCCESS)
}

fn report(config: &ObjectsConfig, target: &Target) -> anyhow::Result<ObjectsReport> {
    let command = command::of(config.pid).map_or_else(|| "?".to_owned(), |command| command.with_name(""));
    let mut report = ObjectsReport {
        pid: config.pid,
        command,
        version: target.binary.version.to_string(),
        account: Account::default(),
        growth: None,
        referrers: None,
        largest: None,
        by: config.by,
        top: config.top,
    };
    let limits = &config.limits;
    if let Some(length) = config.growth {
        let before = census::account(target, limits)?;
        let began = Instant::now();
        say(
            config,
            &format!("looking again in {}", crate::humanize::duration(length)),
        );
        wait(config.pid, length)?;
        let (account, growth) = census::look(target, limits, |walk, notes| {
            let account = Account::new(walk, notes);
            let growth = Growth::between(&before, &account).map(|growth| growth.with_added(walk));
            (account, growth)
        })?;
        report.account = account;
        let growth = growth.with_context(|| {
            format!(
                "what became more of the objects of process {} is not known; --max-time gives it more",
                config.pid
            )
        })?;
        report.growth = Some((growth, began.elapsed()));
        return Ok(report);
    }
    let (account, referrers, largest) = census::look(target, limits, |walk, notes| {
        let account = Account::new(walk, notes);
        let referrers = config
            .referrers
            .as_ref()
            .map(|name| questions::referrers(walk, name, config.top));
        let largest = config.largest.then(|| questions::largest(walk, config.top));
        (account, referrers, largest)
    })?;
    report.account = account;
    report.largest = largest;
    report.referrers = match referrers {
        None => None,
        Some(Ok(referrers)) => Some(referrers),
        Some(Err(none)) => {
            let wanted = config.referrers.as_deref().unwrap_or_default();
            let (names, _) = closest::closest(wanted, none.names, 3);
            return Err(anyhow!(
                "process {} has no instance of a class {wanted}; closest: {}",
                config.pid,
                names.join(", ")
            ));
        }
    };
    Ok(report)
}

/// Ends early with the process.
fn wait(pid: u32, length: Duration) -> anyhow::Result<()> {
    const LOOK_EVERY: Duration = Duration::from_millis(100);
    let began = Instant::now();
    while let Some(left) = length.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        thread::sleep(left.min(LOOK_EVERY));
        preflight::check_process(pid, &Roots::default())?;
    }
    Ok(())
}

fn say(config: &ObjectsConfig, line: &str) {
    if !config.quiet {
        let _ = writeln!(io::stderr(), "{}", shown::lines(line));
    }
}
