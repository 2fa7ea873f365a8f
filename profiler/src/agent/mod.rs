//! The agent: the machine watched for weeks, window after window, and what is seen sent to where it is kept.
//!
//! ```text
//! options ─▶ session::watch_windows ─▶ Outlets (a flight::Sink) ─▶ spool ─▶ courier ─▶ receiver
//!                                        │ digest ─▶ alerts, state ─▶ metrics, page
//!                                        └▶ shelves, store
//! ```
//!
//! A session ends when the configuration is to be read again or the switch is off, and another begins.

pub mod address;
mod alerts;
mod budget;
mod digest;
mod file;
mod metrics;
pub mod options;
mod outlets;
mod service;
mod split;
mod state;
mod switch;
#[cfg(test)]
mod tests;
mod web;

use std::{
    io::Write as _,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::sync::mpsc::channel;

use self::{
    budget::lowered,
    options::{Options, Outlet},
    outlets::{Outlets, place},
    state::State,
    switch::Switch,
};
use crate::{
    cli::agent::{Action, Agent, Measures},
    config::{AgentConfig, Config, MemoryConfig, Verbosity, WaitsConfig},
    exit, humanize, notify, rights,
    session::{self, StoppedBy, Watch},
    shown, why,
};

/// How often to look whether the switch is on again.
const LOOK_AT_SWITCH: Duration = Duration::from_millis(500);

/// Runs until a signal; returns the program's exit status.
pub fn run(typed: &Agent) -> anyhow::Result<u8> {
    let mut options = Options::from_cli(typed)?;
    if let Some(Action::Check) = typed.action {
        return check(&options);
    }
    session::prepare()?;
    rights::give_up().context("failed to give up capabilities")?;
    let signals = session::lasting_signals()?;
    let state = State::default();
    let began = Instant::now();
    let mut web: Option<web::Server> = None;
    // What was configured before it was read again, while it is not known whether that works.
    let mut before: Option<Options> = None;
    // What ended the session before.
    let mut ended_by = None;
    loop {
        match late(&signals, ended_by.take()) {
            Some(StoppedBy::Reload) => reload(typed, &mut options, &mut before),
            Some(_) => return Ok(exit::SUCCESS),
            None => {}
        }
        let left = options.duration.map(|length| length.saturating_sub(began.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(exit::SUCCESS);
        }
        let switch = Switch::of(&options);
        if let Some(why) = switch.off(false) {
            say(&options, &format!("nothing is looked at: {why}"));
            state.lock().paused = Some(why);
            if let Some(warning) = notify::ready() {
                shown::say(&warning);
            }
            let until = left.map(|left| Instant::now() + left);
            let is_over = || until.is_some_and(|until| Instant::now() >= until);
            match session::wait_until(|| switch.off(true).is_none() || is_over(), LOOK_AT_SWITCH)? {
                Some(StoppedBy::Reload) => {
                    ended_by = Some(StoppedBy::Reload);
                    reload(typed, &mut options, &mut before);
                    continue;
                }
                Some(_) => return Ok(exit::SUCCESS),
                None if is_over() => return Ok(exit::SUCCESS),
                None => {}
            }
            say(&options, "the switch is on again");
        }
        state.lock().paused = None;
        let level = state.lock().level;
        let measured = lowered(&options, level);
        let (ask, control) = channel(1);
        // The page of before ends first: it has the address.
        drop(web.take());
        let opened = Outlets::open(&measured, state.clone(), ask.clone()).and_then(|outlets| {
            let page = options.listen.as_ref().map(|address| {
                let windows = outlets.shown.clone();
                web::Server::start(address, state.clone(), windows, &options)
            });
            Ok((outlets, page.transpose()?))
        });
        let outlets = match (opened, before.take()) {
            (Ok((outlets, page)), _) => {
                web = page;
                outlets
            }
            (Err(error), Some(before)) => {
                shown::say(&format!("error: {error:#}; what was configured before goes on"));
                options = before;
                continue;
            }
            (Err(error), None) => return Err(error),
        };
        let place = outlets.place();
        let config = config(&measured, left);
        let watcher = switch.watch(ask)?;
        let ended = session::watch_windows(Watch {
            config: &config,
            every: options.window,
            sink: Box::new(outlets),
            place,
            control,
        });
        drop(watcher);
        let ended = ended?;
        ended_by = Some(ended);
        match ended {
            StoppedBy::Reload => reload(typed, &mut options, &mut before),
            StoppedBy::Switch => {}
            // Already asked for as another level.
            StoppedBy::OwnBudget => {
                let level = state.lock().level;
                say(&options, &format!("{} (budget)", budget::told(&options, level)));
            }
            StoppedBy::Duration
            | StoppedBy::Signal
            | StoppedBy::TargetsGone
            | StoppedBy::CommandEnded
            | StoppedBy::Budget => {
                return Ok(exit::SUCCESS);
            }
        }
    }
}

/// What was asked for by signals that no session has seen. `ended_by`: the one that has is among them.
fn late(signals: &mpsc::Receiver<StoppedBy>, ended_by: Option<StoppedBy>) -> Option<StoppedBy> {
    let mut asked: Vec<StoppedBy> = signals.try_iter().collect();
    if let Some(at) = asked.iter().position(|one| Some(*one) == ended_by) {
        asked.remove(at);
    }
    let is_asked = |what| asked.contains(&what).then_some(what);
    is_asked(StoppedBy::Signal).or(is_asked(StoppedBy::Reload))
}

/// Reads the configuration again. One that is wrong changes nothing: what runs is better than nothing.
fn reload(typed: &Agent, options: &mut Options, before: &mut Option<Options>) {
    match Options::from_cli(typed) {
        Ok(new) => {
            *before = Some(std::mem::replace(options, new));
            say(options, "the configuration was read again");
        }
        Err(error) => shown::say(&format!("error: {error}; what was configured before goes on")),
    }
}

/// What a session of it is.
fn config(options: &Options, duration: Option<Duration>) -> Config {
    let mut config = Config::of_the_machine(options.rate_hz);
    config.duration = duration;
    config.verbosity = options.verbosity;
    config.agent = Some(AgentConfig {
        cpu: options.measures(Measures::Cpu),
    });
    config.waits = options.measures(Measures::Waits).then(WaitsConfig::default);
    config.memory = options.measures(Measures::Memory).then(|| MemoryConfig {
        // Of windows, it says how long they are.
        every: None,
        ..why::options::memory(None)
    });
    config
}

fn say(options: &Options, text: &str) {
    if options.verbosity != Verbosity::Quiet {
        shown::say(text);
    }
}

/// Says what a configuration comes to.
fn check(options: &Options) -> anyhow::Result<u8> {
    let mut out = std::io::stdout().lock();
    let measures: Vec<&str> = (options.instruments.iter())
        .map(|one| match one {
            Measures::Cpu => "CPU time",
            Measures::Waits => "waits",
            Measures::Memory => "growth",
        })
        .collect();
    let mut lines = vec![format!(
        "every {}: {}, {} samples a second and CPU",
        humanize::duration(options.window),
        measures.join(", "),
        options.rate_hz
    )];
    for outlet in &options.outputs {
        lines.push(match outlet {
            Outlet::Otlp { url, headers } => {
                format!("to {} by OTLP{}", place(url), with_headers(headers.len()))
            }
            Outlet::Pyroscope { url, headers } => {
                format!("to {} for Pyroscope{}", place(url), with_headers(headers.len()))
            }
            Outlet::Store { directory, keep } => format!(
                "to {} as Parquet files, for {}",
                directory.display(),
                humanize::duration(*keep)
            ),
            Outlet::Pprof { directory, keep } => {
                format!("to {} as pprof files, the last {keep} windows", directory.display())
            }
        });
    }
    lines.extend(
        options
            .listen
            .as_ref()
            .map(|address| format!("page and metrics at {address}")),
    );
    lines.push(format!(
        "what waits is kept in {}, {} for each receiver",
        options.spool.display(),
        humanize::bytes(options.spool_bytes)
    ));
    for line in lines {
        let _ = writeln!(out, "{}", shown::line(&line));
    }
    Ok(exit::SUCCESS)
}

fn with_headers(number: usize) -> String {
    match number {
        0 => String::new(),
        1 => " with a header".to_owned(),
        number => format!(" with {number} headers"),
    }
}
