//! One recording from its first check to its last line: the program's plot.

pub mod live;
pub mod objects;
mod setup;
mod unsuited;
mod wait;
mod windows;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow};
use profiler_common::stats::Counter;
use rustc_hash::FxHashSet;
use serde::Serialize;
use tokio::{
    runtime,
    sync::mpsc::Receiver,
    time::{MissedTickBehavior, interval, sleep},
};

use self::{
    setup::{adopt, load_options, scope},
    wait::{Signals, asked, ended, finishing, until, wait, waits_for_reader, watch},
    windows::{Cutter, Ended},
};
use crate::{
    bpf::Kernel,
    config::{Config, OutputTarget, Target, Verbosity},
    cost,
    engine::{self, Engine},
    exit,
    flight::Sink,
    foreign, humanize,
    inject::{consent, journal::Journals, plan::Plan},
    instruments::{self, Needs, Tells, Told, Turn},
    invoker::Invoker,
    launch::{self, Running, Stopped, Surroundings},
    name::Namer,
    notify,
    output::{self, Output},
    preflight::{self, Findings, Roots},
    process::offspring::Offspring,
    progress::Progress,
    recording::{Recording, Sampled, Scope},
    report::View,
    rights, shown, source, sources,
    summary::{self, Children, Cost, Programs, Summary},
    truncated,
    window::Window,
};

/// Prints a line on standard error. Unlike `eprintln!` it does not panic when nobody reads (`2>&1 | head`): the profile
/// matters more. Whatever strangers have named, it only reads.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(io::stderr(), "{}", shown::lines(&format!($($text)*)));
    }};
}

/// How often the ring buffer is looked at. The kernel side wakes us earlier when much is waiting.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The same where a budget can be spent: a program that does nothing but call is ten times slower meanwhile.
const LOOK_AT_BUDGET_EVERY: Duration = Duration::from_millis(20);
/// After side-band events were read, how long to wait before more are: a compiler run starts thousands of processes a
/// second, and none needs us within microseconds.
const SIDEBAND_PAUSE: Duration = Duration::from_micros(500);
/// While tables are being made, how often to look whether one is ready.
const LOOK_FOR_TABLES: Duration = Duration::from_millis(2);
/// Records as `config` says; returns the program's exit status.
pub fn record(config: &Config) -> anyhow::Result<u8> {
    let process_started_ns = cost::monotonic_ns();
    let roots = Roots::default();
    let findings = preflight::check(config, &roots)?;
    if let Some(sampled) = config.memory.as_ref().and_then(|memory| memory.sampled) {
        agree(config, sampled.yes)?;
    }
    prepare()?;
    let invoker = Invoker::of_this_process()?;
    let stopped = match &config.target {
        Target::Command(command) => Some(launch::prepare(
            command,
            &Surroundings::of_this_process(invoker.clone()),
        )?),
        Target::All | Target::Pids(_) => None,
    };
    // The command has been forked, and has what it would have without us; of ours, there is one thread so far.
    rights::give_up().context("failed to give up capabilities")?;
    let command_pid = stopped.as_ref().map(Stopped::pid);
    let target = config.output_target(command_pid, &roots.proc, SystemTime::now());
    let invoker = invoker.as_ref();
    let curve = config.memory.as_ref().and_then(|memory| memory.curve.as_ref());
    let beside = |path: Option<&PathBuf>, option| {
        path.map(|path| Output::prepare(&OutputTarget::replacing(path), invoker, option))
            .transpose()
    };
    let windows = config.windows.as_ref();
    let windows = windows
        .map(|wanted| Cutter::start(config, wanted, invoker))
        .transpose()?;
    let outputs = Outputs {
        profile: match &config.windows {
            None => Some(Output::prepare(&target, invoker, "-o")?),
            Some(_) => None,
        },
        beside: beside(curve, "--curve")?,
        summary: beside(config.summary_json.as_ref(), "--summary-json")?,
    };

    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let mut recorded = runtime.block_on(run(
        config,
        &findings,
        Commissioned {
            stopped,
            pid: command_pid,
            control: None,
        },
        process_started_ns,
        windows,
    ))?;
    let child = recorded.child.take();
    let mut signals = recorded.signals.take();
    let found = finishing(&runtime, signals.as_mut(), child.as_ref(), || {
        finish(config, recorded, outputs, invoker)
    })?;
    match (child, &mut signals) {
        // A command that goes on after the recording (its time was up) is waited for, as a shell would.
        (Some(mut child), Some(signals)) => match runtime.block_on(wait(&mut child, signals))? {
            exit::SUCCESS => Ok(found),
            status => Ok(status),
        },
        _ => Ok(found),
    }
}

/// A look at the machine that goes on until somebody ends it, window after window.
pub struct Watch<'a> {
    pub config: &'a Config,
    /// How long a window is.
    pub every: Duration,
    pub sink: Box<dyn Sink>,
    /// What is said of where windows go.
    pub place: String,
    /// Who else can end it, and how.
    pub control: Receiver<StoppedBy>,
}

/// Looks at the machine as `wanted` says; returns why that ended.
pub fn watch_windows(wanted: Watch<'_>) -> anyhow::Result<StoppedBy> {
    let Watch {
        config,
        every,
        sink,
        place,
        control,
    } = wanted;
    let process_started_ns = cost::monotonic_ns();
    let findings = preflight::check(config, &Roots::default())?;
    let windows = Cutter::into(config, every, sink, place, None)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let recorded = runtime.block_on(run(
        config,
        &findings,
        Commissioned {
            stopped: None,
            pid: None,
            control: Some(control),
        },
        process_started_ns,
        Some(windows),
    ))?;
    let stopped_by = recorded.stopped_by;
    let outputs = Outputs {
        profile: None,
        beside: None,
        summary: None,
    };
    finish(config, recorded, outputs, None)?;
    Ok(stopped_by)
}

/// Waits until it is time to look again, unless a signal says otherwise.
pub fn wait_until(is_time: impl Fn() -> bool, look_every: Duration) -> anyhow::Result<Option<StoppedBy>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut watchdog = notify::Watchdog::of_this_process();
        while !is_time() {
            if let Some(watchdog) = &mut watchdog {
                watchdog.turn(Instant::now());
            }
            tokio::select! {
                () = sleep(look_every) => {}
                received = signals.next() => match received {
                    libc::SIGHUP => return Ok(Some(StoppedBy::Reload)),
                    libc::SIGINT | libc::SIGTERM => return Ok(Some(StoppedBy::Signal)),
                    _ => {}
                }
            }
        }
        Ok(None)
    })
}

/// Signals that end a session, or have it begin anew, for as long as this process lives: those that come between two of
/// them as well. Those that come in one end it, and are told here, too.
pub fn lasting_signals() -> anyhow::Result<mpsc::Receiver<StoppedBy>> {
    let (tell, told) = mpsc::channel();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let work = move || {
        runtime.block_on(async {
            loop {
                let asked = match signals.next().await {
                    libc::SIGHUP => StoppedBy::Reload,
                    libc::SIGINT | libc::SIGTERM => StoppedBy::Signal,
                    _ => continue,
                };
                if tell.send(asked).is_err() {
                    return;
                }
            }
        });
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(work)
        .context("failed to start the thread that waits for signals")?;
    Ok(told)
}

/// What this process needs before it looks at anything, once.
pub fn prepare() -> anyhow::Result<()> {
    raise_file_limit();
    truncated::survive().context("failed to prepare for files that shrink while they are read")?;
    output::survive_limit();
    Ok(())
}

/// Who has a recording begin and end.
struct Commissioned {
    stopped: Option<Stopped>,
    pid: Option<u32>,
    control: Option<Receiver<StoppedBy>>,
}

/// Finds out what would be written to the process, and asks.
fn agree(config: &Config, yes: bool) -> anyhow::Result<()> {
    if let Target::Pids(pids) = &config.target {
        for &pid in pids {
            consent::obtain(&Plan::of(pid, &Journals::default())?, yes)?;
        }
    }
    Ok(())
}

/// Where everything goes.
struct Outputs {
    /// Unless the recording is cut into windows.
    profile: Option<Output>,
    /// A second file of the instrument's.
    beside: Option<Output>,
    summary: Option<Output>,
}

/// Everything the recording has produced.
struct Recorded {
    engine: Engine,
    /// If it is cut into windows.
    windows: Option<Cutter>,
    child: Option<Running>,
    /// Still handled while the command goes on.
    signals: Option<Signals>,
    started_at: SystemTime,
    length: Duration,
    /// What is known by the end of the recording.
    cost: Cost,
    children: Option<Children>,
    /// What there was to say of `--comm` when it began.
    unmatched_name: Option<unsuited::UnmatchedName>,
    stopped_by: StoppedBy,
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoppedBy {
    Duration,
    Signal,
    /// Every target is gone.
    TargetsGone,
    CommandEnded,
    /// Probes have cost the program what they may.
    Budget,
    /// The agent is to begin anew with what its configuration says now.
    Reload,
    /// The agent is to measure less, or more, to keep its own budget.
    OwnBudget,
    /// The agent is to look at nothing for now (`--stop-file`).
    Switch,
}

async fn run(
    config: &Config,
    findings: &Findings,
    commissioned: Commissioned,
    process_started_ns: u64,
    mut windows: Option<Cutter>,
) -> anyhow::Result<Recorded> {
    let Commissioned {
        stopped,
        pid: command_pid,
        mut control,
    } = commissioned;
    // Signals first: from here on Ctrl-C means "stop and write", not "die".
    let mut signals = Signals::new()?;
    let plan = instruments::wanted(config, command_pid, findings.pid_namespace.is_some())?;
    let needs = plan
        .instruments
        .iter()
        .fold(Needs::default(), |needs, instrument| needs.and(instrument.needs()));
    let mut kernel = Kernel::load(&load_options(config, findings, needs, source::online_cpus()?.len()))?;
    if config.verbosity >= Verbosity::Verbose {
        for (program, instructions) in kernel.verified_instructions() {
            let instructions = instructions.map_or("?".to_owned(), |count| humanize::count(count.into()));
            say!("loaded {program}: {instructions} instructions verified");
        }
    }

    let scope = scope(config, command_pid, &mut kernel)?;
    let host = Recording::new(scope.clone(), config.native_stacks).following(&needs);
    let mut engine = Engine::new(kernel, host, plan)?;
    adopt(&mut engine.host, &scope)?;
    // Looked at now, it is known at once when the command runs it: its first samples and faults have Python stacks.
    let expected = stopped.as_ref().and_then(|stopped| engine.host.expect(stopped.code()));
    unsuited::check(config, &mut engine.host, stopped.as_ref())?;
    let unmatched_name = unsuited::unmatched_name(config, &engine.host);
    let crowd = matches!(config.target, Target::All);
    let patience = if crowd {
        engine::TABLES_WAIT
    } else {
        engine::NAMED_TABLES_WAIT
    };
    engine.start(expected, patience, crowd)?;
    if let Some(probe) = &config.probe {
        let pids = probed(config, command_pid);
        engine.source.kernel.attach_probe(probe, &pids)?;
    }
    if let (Scope::Pids { pids, children: false }, true) = (&scope, config.tids.is_empty()) {
        engine.host.offspring = Some(Offspring::of(Path::new("/proc"), pids.iter().copied()));
    }
    let started_at = SystemTime::now();
    let started = Instant::now();
    engine.host.begin();
    let start_up_cpu = cost::cpu_time();
    let mut child = stopped.map(Stopped::release).transpose()?;

    if config.verbosity != Verbosity::Quiet {
        if let Some(teller) = instruments::teller(&engine.instruments, engine.joint.as_deref()) {
            say!("{}", opening(config, command_pid, teller));
        }
        if let Some(unmatched) = &unmatched_name {
            say!("{}", unmatched.at_the_beginning());
        }
        if let Some(line) = windows.as_ref().and_then(|windows| windows.opening(config)) {
            say!("{line}");
        }
    }
    if let Some(warning) = notify::ready() {
        say!("{warning}");
    }
    if let Some(windows) = &mut windows {
        windows.begin();
    }
    let mut progress = Progress::on_stderr(config.verbosity, &config.target);
    let deadline = config
        .duration
        .and_then(|duration| tokio::time::Instant::now().checked_add(duration));
    let ring = watch(engine.ring_fd(), "the ring buffer")?;
    let sideband = watch(engine.source.sideband_fd(), "the side band")?;
    let child_fd = child
        .as_ref()
        .map(|child| watch(child.pidfd(), "the command"))
        .transpose()?;
    let mut look = interval(if needs.has_budget() {
        LOOK_AT_BUDGET_EVERY
    } else {
        LOOK_EVERY
    });
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let stopped_by = loop {
        let soon = engine.look_soon();
        tokio::select! {
            ready = ring.readable() => ready.context("failed to watch the ring buffer")?.clear_ready(),
            ready = sideband.readable() => {
                ready.context("failed to watch the side band")?.clear_ready();
                // What comes of it is looked at below.
                engine.turn()?;
                sleep(SIDEBAND_PAUSE).await;
            }
            _ = look.tick() => {}
            () = sleep(soon.unwrap_or_default()), if soon.is_some() => {}
            () = sleep(LOOK_FOR_TABLES), if engine.waits_for_files() => {}
            () = until(windows.as_ref().map(Cutter::due)) => {}
            () = until(deadline) => break StoppedBy::Duration,
            asked = asked(control.as_mut()) => break asked,
            ended = ended(child_fd.as_ref()) => { ended?; break StoppedBy::CommandEnded }
            received = signals.next() => {
                if let Some(child) = &child
                    && launch::must_forward(received)
                {
                    child.signal(received).context("failed to forward a signal to the command")?;
                }
                if let (Some(windows), None, libc::SIGUSR1) = (&mut windows, &child, received) {
                    windows.keep();
                }
                // With a command, a signal is its affair: when it ends, so does the recording. Ctrl-C reaches it by the
                // terminal.
                if control.is_some() && received == libc::SIGHUP {
                    break StoppedBy::Reload;
                }
                if child.is_none() && matches!(received, libc::SIGINT | libc::SIGTERM | libc::SIGHUP) {
                    break StoppedBy::Signal;
                }
            }
        }
        let turn = engine.turn()?;
        engine.follow_machine()?;
        if let Some(windows) = &mut windows {
            windows.turn(&mut engine)?;
            for line in windows.messages() {
                progress.erase();
                say!("{line}");
            }
        }
        if turn == Turn::Spent {
            break StoppedBy::Budget;
        }
        progress.update(
            started.elapsed(),
            engine.host.samples(),
            engine.host.sampled_processes(),
        );
        if engine.host.has_no_targets() {
            break if child.is_some() {
                StoppedBy::CommandEnded
            } else {
                StoppedBy::TargetsGone
            };
        }
    };
    progress.erase();
    let length = started.elapsed();
    // Before a command is waited for: what it knew of its children goes with it.
    let offspring = engine.host.offspring.as_ref();
    let children =
        offspring.map(|offspring| Children::new(&offspring.used(), offspring.targets(), config.memory.is_some()));
    let detached_in = engine.stop(length)?;
    if stopped_by == StoppedBy::CommandEnded
        && let Some(child) = &mut child
    {
        child.wait().context("failed to wait for the command")?;
    }
    let first_sample_ns = engine.host.tally().first_sample_ns;
    let unwinder = engine.unwinder();
    let cost = Cost {
        detach_s: detached_in.as_secs_f64(),
        start_up_cpu_s: start_up_cpu.as_secs_f64(),
        first_sample_after_s: first_sample_ns.map(|first_ns| first_ns.saturating_sub(process_started_ns) as f64 / 1e9),
        recording_cpu_s: cost::cpu_time().saturating_sub(start_up_cpu).as_secs_f64(),
        resident_bytes: cost::resident_bytes().1,
        map_bytes: engine.source.kernel.map_bytes() + engine.source.sideband_bytes(),
        unwind_tables: unwinder.tally().tables,
        unwind_cpu_s: unwinder.cost().cpu.as_secs_f64(),
        unwind_longest_s: unwinder.cost().longest.as_secs_f64(),
        unwind_bytes: unwinder.cost().bytes,
        ..Cost::default()
    };
    Ok(Recorded {
        engine,
        windows,
        child,
        signals: Some(signals),
        started_at,
        length,
        cost,
        children,
        unmatched_name,
        stopped_by,
    })
}

/// Names what was recorded, writes it, and says what it was and what it cost. Returns the status for what was found.
fn finish(config: &Config, recorded: Recorded, outputs: Outputs, invoker: Option<&Invoker>) -> anyhow::Result<u8> {
    let Recorded {
        engine,
        windows,
        child: _,
        signals: _,
        started_at,
        length,
        mut cost,
        children,
        unmatched_name,
        stopped_by,
    } = recorded;
    let Engine {
        source,
        host: mut recording,
        mut instruments,
        joint,
        ..
    } = engine;
    let window = recording.finish();
    let counters = source.kernel.counters()?;
    let programs = Programs::of(&source.kernel.counters_by_group()?, length);
    if config.verbosity >= Verbosity::Verbose {
        for counter in Counter::ALL {
            say!("{}: {}", counter.label(), humanize::count(counters[*counter as usize]));
        }
        let looks = &recording.files.looks;
        say!(
            "looked at {}: half of them in {} at most, the longest took {}, all {}",
            summary::many(looks.count, "file"),
            humanize::duration(looks.median()),
            humanize::duration(looks.longest),
            humanize::duration(looks.all)
        );
    }
    let unreadable_events = source.unreadable_events();
    // The programs and their maps are not needed any more; naming wants the memory.
    drop(source);
    if let Some(windows) = windows {
        let measured = instruments::cut(&mut instruments, joint.as_deref(), &window)?;
        let ended = Ended {
            recording: &recording,
            instruments: &instruments,
            window,
            measured,
            kernel: counters,
            unreadable: unreadable_events,
            children,
            unmatched_name,
            cost,
            length,
            stopped_by,
        };
        windows.finish(config, ended, outputs.summary)?;
        return Ok(exit::SUCCESS);
    }

    let naming = Instant::now();
    // Several meet the same stacks.
    let mut namer = match joint {
        Some(_) => Namer::keeping(),
        None => Namer::default(),
    };
    let mut contents = Vec::with_capacity(instruments.len());
    let mut warnings = Vec::new();
    for instrument in &mut instruments {
        let (content, warned) = instrument.content(&mut namer, &window, length);
        contents.push(content);
        warnings.extend(
            warned
                .into_iter()
                .filter(|line| !warnings.contains(line))
                .collect::<Vec<_>>(),
        );
    }
    drop(namer);
    cost.naming_s = naming.elapsed().as_secs_f64();
    cost.peak_bytes = cost::resident_bytes().1;
    let mut summary = Summary::new(&window, &counters, cost, length, stopped_by, unreadable_events);
    if joint.is_some() {
        // Stacks of the others are told by who took them.
        summary.samples = window.ledger.tally.ticks;
    }
    if programs.len() > 1 {
        summary.programs = programs;
    }
    summary.warnings = warnings;
    summary.children = children;
    if let Some(refusal) = instruments.iter().find_map(|instrument| instrument.refusal(&window)) {
        let hint = summary.children_line().map(|line| format!("; {line}"));
        return Err(anyhow!("{refusal}{}", hint.unwrap_or_default()));
    }
    if summary.samples == 0 {
        summary
            .warnings
            .extend(unmatched_name.map(|unmatched| unmatched.at_the_end()));
    }
    summary.warnings.extend(unopened(&window.unopened));
    let not_seen = match &config.memory {
        Some(memory) if memory.exact.is_some() => "its allocations are not seen",
        Some(_) => "its frames are not shown, and its small objects are followed by page only",
        None if config.sees_marks().is_some() => "nothing of it is seen",
        None if config.calls.is_some() => "its calls are not counted, and its frames are not shown",
        None => "its frames are not shown",
    };
    summary.warnings.extend(window.other_pythons(not_seen));
    summary.warnings.extend(compiled(&window, config.calls.is_some()));
    summary.warnings.extend(window.refused_maps.iter().cloned());
    summary.warnings.extend(shrunk());
    summary.warnings.extend(recording.files.let_go_warning());
    summary.warnings.extend(foreign::warning());
    let told = Told {
        window: &window,
        counters: &counters,
        length,
    };
    for (instrument, content) in instruments.iter().zip(&contents) {
        instrument.tell(&mut summary, content, &told);
    }
    let content = match &joint {
        Some(joint) => joint.join(contents),
        None => contents.pop(),
    };
    let mut content = content.context("there is nothing to measure with")?;
    let teller = instruments::teller(&instruments, joint.as_deref()).context("there is nobody to tell it")?;
    let lines = summary.lines();
    if let Some(profile) = content.profile_mut() {
        profile.started_at_ns = started_at
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as i64);
        profile.duration_ns = length.as_nanos() as i64;
        profile.comments = std::iter::once(command_line()).chain(lines.iter().cloned()).collect();
    }

    let view = view(config, &window, &summary, &lines, teller);
    if let Some(profile) = content.profile_mut().filter(|_| config.with_source) {
        profile.sources = sources::read(profile, view.value, invoker);
    }
    let connect = |output: Output| waits_for_reader(|| output.connect(|path| waiting(config, path)));
    let writing = Instant::now();
    let profile = outputs.profile.context("there is nowhere to write to")?;
    let written = connect(profile).and_then(|output| output.write(|out| teller.write(&content, &view, out)));
    summary.cost.write_s = writing.elapsed().as_secs_f64();
    // What the recording came to is said even if it could not be written.
    for line in teller.screen(&summary, &content) {
        say!("{line}");
    }
    let written = written?;
    if let Some(output) = outputs.beside {
        let output = connect(output)?;
        let path = output.path().map(Path::to_owned).unwrap_or_default();
        output.write(|out| teller.write_beside(&content, &path, out))?;
    }
    if let Some(path) = &written.path {
        say!("wrote {} ({})", path.display(), humanize::bytes(written.bytes));
    }
    if let Some(output) = outputs.summary {
        summary.cost.peak_bytes = cost::resident_bytes().1;
        connect(output)?.write(|out| {
            serde_json::to_writer_pretty(&mut *out, &summary).context("failed to write the summary as JSON")?;
            Ok(writeln!(out)?)
        })?;
    }
    Ok(teller.status(&content))
}

/// A pipe without a reader is no reason to wait in silence.
fn waiting(config: &Config, path: &Path) {
    if config.verbosity != Verbosity::Quiet {
        say!("{} is a pipe that nobody reads yet; Ctrl-C gives it up", path.display());
    }
}

/// Names may be missing, or wrong, of files that were cut short while they were read.
fn shrunk() -> Option<String> {
    let pages = truncated::pages();
    (pages > 0).then(|| format!("files shrank while they were read ({})", summary::many(pages, "page")))
}

/// The processes to probe; none for any. Which samples are wanted is the kernel side's affair.
fn probed(config: &Config, command_pid: Option<u32>) -> Vec<u32> {
    match &config.target {
        // Children have to be probed as well.
        _ if config.subprocesses => Vec::new(),
        Target::All => Vec::new(),
        Target::Pids(pids) => pids.clone(),
        Target::Command(_) => command_pid.into_iter().collect(),
    }
}

/// What is about to happen, in one line.
fn opening(config: &Config, command_pid: Option<u32>, teller: &dyn Tells) -> String {
    let what = match (&config.target, command_pid) {
        (Target::All, _) => "the whole machine".to_owned(),
        (Target::Pids(pids), _) if pids.len() == 1 => format!("process {}", pids[0]),
        (Target::Pids(pids), _) => format!("{} processes", pids.len()),
        (Target::Command(_), pid) => format!("process {}", pid.unwrap_or(0)),
    };
    let until = match (config.duration, &config.target) {
        (Some(duration), _) => format!("for {}; press Ctrl-C to stop earlier", humanize::duration(duration)),
        (None, Target::Command(_)) => "until it ends".to_owned(),
        (None, _) => "; press Ctrl-C to stop".to_owned(),
    };
    let until = if until.starts_with(';') {
        until
    } else {
        format!(" {until}")
    };
    format!("{}{until}", teller.opening(&what))
}

/// What to say of Python functions that no evaluation loop runs.
fn compiled(window: &Window, counts_calls: bool) -> Option<String> {
    let samples = window.ledger.tally.compiled;
    (samples > 0).then(|| {
        format!(
            "{} of Python functions that were compiled (by Nuitka, for one): they have the line where they begin, and of the \
             native stack its innermost function is shown{}",
            summary::many(samples, "sample"),
            if counts_calls { "; calls of them are not counted" } else { "" },
        )
    })
}

/// What to say of files that could not be opened.
fn unopened(paths: &[PathBuf]) -> Option<String> {
    let count = paths.len();
    let first = paths.first()?;
    let others = if count > 1 {
        format!(" and {} others", humanize::count(count as u64 - 1))
    } else {
        String::new()
    };
    Some(format!(
        "could not open {}{others}: code there has no names, and a CPython there is not seen",
        first.display()
    ))
}

fn view(config: &Config, window: &Window, summary: &Summary, lines: &[String], teller: &dyn Tells) -> View {
    let picture = teller.picture();
    let sites = window.ledger.sites.iter().flatten();
    let sampled: Vec<&Sampled> = window.ledger.samples.keys().chain(sites).collect();
    let pids: FxHashSet<u32> = sampled.iter().map(|sampled| sampled.pid).collect();
    let one_target = match &config.target {
        Target::All => false,
        Target::Pids(pids) => pids.len() == 1,
        Target::Command(_) => true,
    };
    let one = one_target && pids.len() <= 1;
    let subject = match sampled.first() {
        Some(sampled) if one => format!("{} ({})", window.ledger.name(sampled.command), sampled.pid),
        _ => summary::many(pids.len() as u64, "process"),
    };
    View {
        process: !one,
        thread: config.threads,
        merge_workers: config.merge_workers,
        title: format!("{} of {subject}", picture.headline),
        // Of CPU time, how many samples there are, and what was used.
        subtitle: match (&summary.cpu, lines) {
            (Some(cpu), [_, samples, ..]) if summary.waits.is_none() => format!("{samples} · {}", cpu.short()),
            (_, lines) => lines.first().cloned().unwrap_or_default(),
        },
        value: picture.value,
        interpreter: picture.interpreter,
    }
}

fn command_line() -> String {
    let words: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    words.join(" ")
}

/// Every file that is sampled stays open until it is named, and 1,024 is soon used up on a large host.
fn raise_file_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is live, and the calls only read and write it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            // Not granted: files opened beyond the limit stay without names, which the summary counts.
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
