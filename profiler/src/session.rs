//! One recording from its first check to its last line: the program's plot.

mod calls;
mod content;
mod exact;
mod memory;
mod unsuited;
mod wait;
mod waits;

use std::{
    ffi::OsStr,
    io::{self, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow};
use profiler_common::{
    config::{
        Config as KernelConfig, FEATURE_FILTER_CGROUP, FEATURE_FILTER_COMM, FEATURE_FILTER_PID, FEATURE_FILTER_TID,
        FEATURE_KERNEL_STACK, FEATURE_NATIVE_STACK, FEATURE_PID_NAMESPACE, FEATURE_TASK_POINTERS, FEATURE_TIME_CALLS,
        FEATURE_WATCH_CALLS,
    },
    limits::{COMM_BYTES, GATE_STRETCH_NS},
    stats::Counter,
};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;
use tokio::{
    runtime,
    time::{MissedTickBehavior, interval, sleep},
};

use self::{
    calls::Calls,
    content::Content,
    memory::Memory,
    wait::{Signals, ended, finishing, until, wait, waits_for_reader, watch},
    waits::Waits,
};
use crate::{
    bpf::{self, Kernel, LoadOptions, Tables},
    config::{Config, MemoryConfig, NativeFrames, OutputChoice, OutputTarget, Target, Verbosity, Via},
    cost,
    cpu_use::{self, Clock, CpuUse, Whose},
    exit, humanize,
    invoker::Invoker,
    launch::{self, Running, Stopped, Surroundings},
    name,
    output::{self, Output},
    preflight::{self, Findings, Roots},
    process::{ancestry, comm, file::FileKey, maps, offspring::Offspring},
    profile::Profile,
    progress::{self, Progress},
    recording::{Fact, Recording, Sampled, Scope},
    report::{Format, Interpreter, View, hottest, label},
    source::{self, Event, Source},
    summary::{self, Children, Cost, Summary},
    truncated,
    unwind::{
        Unwinder,
        store::{Sizes, StoreTally},
    },
};

/// Prints a line on standard error. Unlike `eprintln!` it does not panic when nobody reads (`2>&1 | head`): the profile
/// matters more.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(io::stderr(), $($text)*);
    }};
}

/// How often the ring buffer is looked at. The kernel side wakes us earlier when much is waiting.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The same where a budget can be spent: a program that does nothing but call is ten times slower meanwhile.
const LOOK_AT_BUDGET_EVERY: Duration = Duration::from_millis(20);
/// After side-band events were read, how long to wait before more are: a compiler run starts thousands of processes a
/// second, and none needs us within microseconds.
const SIDEBAND_PAUSE: Duration = Duration::from_micros(500);
/// How long to wait for unwind tables before sampling starts: what is missing then leaves stacks incomplete until it is
/// there. Those of a Python process take some 50 ms.
const TABLES_WAIT: Duration = Duration::from_secs(2);
/// While tables are being made, how often to look whether one is ready.
const LOOK_FOR_TABLES: Duration = Duration::from_millis(2);
/// How often to look for CPUs that came or went.
const FOLLOW_CPUS_EVERY: Duration = Duration::from_secs(1);

/// Records as `config` says; returns the program's exit status.
pub fn record(config: &Config) -> anyhow::Result<u8> {
    let process_started_ns = cost::monotonic_ns();
    let roots = Roots::default();
    let findings = preflight::check(config, &roots)?;
    raise_file_limit();
    truncated::survive().context("failed to prepare for files that shrink while they are read")?;
    output::survive_limit();
    let invoker = Invoker::of_this_process()?;
    let stopped = match &config.target {
        Target::Command(command) => Some(launch::prepare(
            command,
            &Surroundings::of_this_process(invoker.clone()),
        )?),
        Target::All | Target::Pids(_) => None,
    };
    let command_pid = stopped.as_ref().map(Stopped::pid);
    let target = config.output_target(command_pid, &roots.proc, SystemTime::now());
    let invoker = invoker.as_ref();
    let curve = config.memory.as_ref().and_then(|memory| memory.curve.as_ref());
    let beside = |path: Option<&PathBuf>, option| {
        path.map(|path| Output::prepare(&OutputTarget::replacing(path), invoker, option))
            .transpose()
    };
    let outputs = Outputs {
        profile: Output::prepare(&target, invoker, "-o")?,
        curve: beside(curve, "--curve")?,
        summary: beside(config.summary_json.as_ref(), "--summary-json")?,
    };

    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let mut recorded = runtime.block_on(run(config, &findings, stopped, command_pid, process_started_ns))?;
    let child = recorded.child.take();
    let mut signals = recorded.signals.take();
    finishing(&runtime, signals.as_mut(), child.as_ref(), || {
        finish(config, recorded, outputs)
    })?;
    match (child, &mut signals) {
        // A command that goes on after the recording (its time was up) is waited for, as a shell would.
        (Some(mut child), Some(signals)) => runtime.block_on(wait(&mut child, signals)),
        _ => Ok(exit::SUCCESS),
    }
}

/// Where everything goes.
struct Outputs {
    profile: Output,
    curve: Option<Output>,
    summary: Option<Output>,
}

/// Everything the recording has produced.
struct Recorded {
    source: Source,
    recording: Recording,
    /// What became of memory, if it was looked at.
    memory: Option<Memory>,
    /// Counts of calls, if they were asked for.
    calls: Option<Calls>,
    /// Where threads waited, likewise.
    waits: Option<Waits>,
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
    /// What the kernel's clock said of the only target before and after.
    clocks: Option<(Clock, Clock)>,
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
}

async fn run(
    config: &Config,
    findings: &Findings,
    stopped: Option<Stopped>,
    command_pid: Option<u32>,
    process_started_ns: u64,
) -> anyhow::Result<Recorded> {
    // Signals first: from here on Ctrl-C means "stop and write", not "die".
    let mut signals = Signals::new()?;
    let mut kernel = Kernel::load(&load_options(config, findings, source::online_cpus()?.len()))?;
    if config.verbosity >= Verbosity::Verbose {
        for (program, instructions) in kernel.verified_instructions() {
            let instructions = instructions.map_or("?".to_owned(), |count| humanize::count(count.into()));
            say!("loaded {program}: {instructions} instructions verified");
        }
    }

    let scope = scope(config, command_pid, &mut kernel)?;
    let mut source = Source::open(kernel)?;
    let tables = source
        .kernel
        .take_tables()
        .context("the kernel half has no unwind tables")?;
    let mut unwinder = Unwinder::new(tables).context("failed to start the thread that makes unwind tables")?;
    let mut recording = Recording::new(scope.clone(), config.native_stacks);
    recording.follows_memory = config.memory.is_some();
    recording.follows_calls = config.calls.is_some();
    let mut memory = match &config.memory {
        Some(wanted) => Some(Memory::new(config, wanted, command_pid)?),
        None => None,
    };
    let mut calls = config.calls.as_ref().map(|wanted| Calls::new(config, wanted));
    let mut waits = match &config.waits {
        Some(_) => Some(Waits::new(
            config,
            &mut source.kernel,
            findings.pid_namespace.is_some(),
        )?),
        None => None,
    };
    adopt(&mut recording, &scope)?;
    // Looked at now, it is known at once when the command runs it: its first samples and faults have Python stacks.
    let expected = stopped.as_ref().and_then(|stopped| recording.expect(stopped.code()));
    unsuited::check(config, &mut recording, stopped.as_ref())?;
    let unmatched_name = unsuited::unmatched_name(config, &recording);
    tell(
        &mut source.kernel,
        &mut unwinder,
        &mut recording,
        memory.as_mut(),
        calls.as_mut(),
        waits.as_mut(),
    )?;
    unwinder.install(Some(Instant::now() + TABLES_WAIT));
    source.start()?;
    if let Some(memory) = &mut memory {
        memory.start(&recording);
    }
    if let Some(waits) = &mut waits {
        waits.start(&recording);
    }
    if let Some(calls) = &mut calls {
        calls.start(&mut source.kernel)?;
        if let Some(file) = expected {
            calls.expect(&mut source.kernel, &recording, file);
        }
    }
    if let Some(probe) = &config.probe {
        let pids = probed(config, command_pid);
        source.kernel.attach_probe(probe, &pids)?;
    }
    let clocked = clocked(config);
    let clock = clocked.and_then(|pid| Clock::read(Path::new("/proc"), pid));
    if let (Scope::Pids { pids, children: false }, true) = (&scope, config.tids.is_empty()) {
        recording.offspring = Some(Offspring::of(Path::new("/proc"), pids.iter().copied()));
    }
    let started_at = SystemTime::now();
    let started = Instant::now();
    let started_ns = cost::monotonic_ns();
    if calls.is_some() {
        // Until now the CPU clock ran while probes were put in.
        recording.counted_ns.start = started_ns;
    }
    let start_up_cpu = cost::cpu_time();
    let mut child = stopped.map(Stopped::release).transpose()?;

    if config.verbosity != Verbosity::Quiet {
        say!("{}", opening(config, command_pid));
        if let Some(unmatched) = &unmatched_name {
            say!("{}", unmatched.at_the_beginning());
        }
    }
    let mut progress = Progress::on_stderr(config.verbosity, &config.target);
    let deadline = config
        .duration
        .and_then(|duration| tokio::time::Instant::now().checked_add(duration));
    let ring = watch(source.kernel.ring_fd(), "the ring buffer")?;
    let sideband = watch(source.sideband_fd(), "the side band")?;
    let child_fd = child
        .as_ref()
        .map(|child| watch(child.pidfd(), "the command"))
        .transpose()?;
    let budgeted = config.calls.is_some() || config.memory.as_ref().is_some_and(|memory| memory.exact.is_some());
    let mut look = interval(if budgeted { LOOK_AT_BUDGET_EVERY } else { LOOK_EVERY });
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut cpus_followed = Instant::now();

    let stopped_by = loop {
        let soon = calls.as_ref().and_then(Calls::look_soon);
        tokio::select! {
            ready = ring.readable() => ready.context("failed to watch the ring buffer")?.clear_ready(),
            ready = sideband.readable() => {
                ready.context("failed to watch the side band")?.clear_ready();
                take_in(&mut source, &mut unwinder, &mut recording, memory.as_mut(), calls.as_mut(), waits.as_mut())?;
                sleep(SIDEBAND_PAUSE).await;
            }
            _ = look.tick() => {}
            () = sleep(soon.unwrap_or_default()), if soon.is_some() => {}
            () = sleep(LOOK_FOR_TABLES), if unwinder.waiting() > 0 => {}
            () = until(deadline) => break StoppedBy::Duration,
            ended = ended(child_fd.as_ref()) => { ended?; break StoppedBy::CommandEnded }
            received = signals.next() => {
                if let Some(child) = &child
                    && launch::must_forward(received)
                {
                    child.signal(received).context("failed to forward a signal to the command")?;
                }
                // With a command, a signal is its affair: when it ends, so does the recording. Ctrl-C reaches it by the
                // terminal.
                if child.is_none() && matches!(received, libc::SIGINT | libc::SIGTERM | libc::SIGHUP) {
                    break StoppedBy::Signal;
                }
            }
        }
        take_in(
            &mut source,
            &mut unwinder,
            &mut recording,
            memory.as_mut(),
            calls.as_mut(),
            waits.as_mut(),
        )?;
        recording.name_threads(false);
        if let Some(memory) = &mut memory
            && memory.is_spent(&source.kernel)?
        {
            break StoppedBy::Budget;
        }
        progress.update(
            started.elapsed(),
            recording.ledger.tally.samples,
            recording.sampled_processes(),
        );
        if recording.has_no_targets() {
            break if child.is_some() {
                StoppedBy::CommandEnded
            } else {
                StoppedBy::TargetsGone
            };
        }
        if cpus_followed.elapsed() >= FOLLOW_CPUS_EVERY {
            source.follow_cpus()?;
            cpus_followed = Instant::now();
        }
    };
    progress.erase();
    if let Some(memory) = &mut memory {
        memory.stop(&mut source.kernel, &recording);
    }
    let length = started.elapsed();
    let clocks = clock.zip(clocked.and_then(|pid| Clock::read(Path::new("/proc"), pid)));
    // Before a command is waited for: what it knew of its children goes with it.
    let children = recording
        .offspring
        .as_ref()
        .map(|offspring| Children::new(&offspring.used(), offspring.targets(), config.memory.is_some()));
    if calls.is_some() {
        recording.counted_ns.end = started_ns + length.as_nanos() as u64;
    }
    if let Some(waits) = &mut waits {
        waits.stop();
    }
    let detaching = Instant::now();
    if let Some(calls) = &mut calls {
        calls.stop(&mut source.kernel, &recording, length)?;
    }
    source.kernel.detach_all();
    let detached_in = detaching.elapsed();
    take_in(
        &mut source,
        &mut unwinder,
        &mut recording,
        memory.as_mut(),
        calls.as_mut(),
        waits.as_mut(),
    )?;
    recording.name_threads(true);
    if let Some(memory) = &mut memory {
        memory.finish();
    }
    if let Some(calls) = &mut calls {
        calls.finish(&source.kernel, &mut recording);
    }
    if let Some(waits) = &mut waits {
        waits.finish(&mut recording);
    }
    if stopped_by == StoppedBy::CommandEnded
        && let Some(child) = &mut child
    {
        child.wait().context("failed to wait for the command")?;
    }
    let StoreTally {
        not_unwound,
        no_room,
        rules_refused,
        ..
    } = unwinder.tally();
    recording.ledger.tally.not_unwound = not_unwound;
    recording.ledger.tally.tables_without_room = no_room;
    recording.ledger.tally.rules_refused = rules_refused;
    let first_sample_ns = recording.ledger.tally.first_sample_ns;
    let cost = Cost {
        detach_s: detached_in.as_secs_f64(),
        start_up_cpu_s: start_up_cpu.as_secs_f64(),
        first_sample_after_s: first_sample_ns.map(|first_ns| first_ns.saturating_sub(process_started_ns) as f64 / 1e9),
        recording_cpu_s: cost::cpu_time().saturating_sub(start_up_cpu).as_secs_f64(),
        resident_bytes: cost::resident_bytes().1,
        map_bytes: source.kernel.map_bytes() + source.sideband_bytes(),
        unwind_tables: unwinder.tally().tables,
        unwind_cpu_s: unwinder.cost().cpu.as_secs_f64(),
        unwind_longest_s: unwinder.cost().longest.as_secs_f64(),
        unwind_bytes: unwinder.cost().bytes,
        ..Cost::default()
    };
    Ok(Recorded {
        source,
        recording,
        memory,
        calls,
        waits,
        child,
        signals: Some(signals),
        started_at,
        length,
        cost,
        children,
        unmatched_name,
        stopped_by,
        clocks,
    })
}

/// Names what was recorded, writes it, and says what it was and what it cost.
fn finish(config: &Config, recorded: Recorded, outputs: Outputs) -> anyhow::Result<()> {
    let Recorded {
        source,
        mut recording,
        mut memory,
        calls,
        waits,
        child: _,
        signals: _,
        started_at,
        length,
        mut cost,
        children,
        unmatched_name,
        stopped_by,
        clocks,
    } = recorded;
    recording.finish();
    let counters = source.kernel.counters()?;
    if config.verbosity >= Verbosity::Verbose {
        for counter in Counter::ALL {
            say!("{}: {}", counter.label(), humanize::count(counters[*counter as usize]));
        }
    }
    let unreadable_events = source.unreadable_events();
    // The programs and their maps are not needed any more; naming wants the memory.
    drop(source);

    let naming = Instant::now();
    let (mut content, warnings) = match (&mut memory, &calls, &waits) {
        (Some(memory), ..) => memory.content(&recording, length),
        (None, Some(calls), _) => (calls.content(&recording, length), Vec::new()),
        (None, None, Some(waits)) => waits.content(&recording, length),
        (None, None, None) => {
            let (profile, warnings) = name::name(&recording, config.period_ns);
            (Content::Profile(profile), warnings)
        }
    };
    cost.naming_s = naming.elapsed().as_secs_f64();
    cost.peak_bytes = cost::resident_bytes().1;
    let mut summary = Summary::new(&recording, &counters, cost, length, stopped_by, unreadable_events);
    summary.warnings = warnings;
    summary.children = children;
    if let (Some(memory), Content::Memory(report, _)) = (&memory, &content) {
        summary.memory = Some(memory.summary(report, &counters));
        summary.warnings.extend(memory.warnings());
    }
    if let (Some(waits), Content::Waits(report)) = (&waits, &content) {
        let shows_table = config.output == OutputChoice::Stdout;
        summary.waits = Some(waits.summary(report, &counters, shows_table));
        summary.warnings.extend(waits.warnings());
    }
    if let Some(refusal) = calls.as_ref().and_then(|calls| calls.refusal(&recording)) {
        let hint = summary.children_line().map(|line| format!("; {line}"));
        return Err(anyhow!("{refusal}{}", hint.unwrap_or_default()));
    }
    if summary.samples == 0 {
        summary
            .warnings
            .extend(unmatched_name.map(|unmatched| unmatched.at_the_end()));
    }
    if let (Some(calls), Content::Calls(report)) = (&calls, &content) {
        // The table says the same above its first row.
        let lines = match calls.wanted().format {
            Some(_) => crate::report::calls::lines(report),
            None => Vec::new(),
        };
        summary.calls = Some(calls.summary(lines, &counters, length));
        summary.warnings.extend(calls.warnings());
    }
    summary.warnings.extend(unopened(&recording));
    summary.warnings.extend(recording.refused_maps().map(str::to_owned));
    summary.warnings.extend(shrunk());
    if let Content::Profile(_) = &content {
        summary.cpu = Some(cpu_use(config, &recording, &summary, length, clocks));
    }
    let lines = summary.lines();
    if let Some(profile) = content.profile_mut() {
        profile.started_at_ns = started_at
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as i64);
        profile.duration_ns = length.as_nanos() as i64;
        profile.comments = std::iter::once(command_line()).chain(lines.iter().cloned()).collect();
    }

    let view = view(config, &recording, &summary, &lines);
    let connect = |output: Output| waits_for_reader(|| output.connect(|path| waiting(config, path)));
    let writing = Instant::now();
    let written = connect(outputs.profile).and_then(|output| output.write(|out| content.write(config, &view, out)));
    summary.cost.write_s = writing.elapsed().as_secs_f64();
    // What the recording came to is said even if it could not be written.
    match &content {
        Content::Profile(profile) => say!("{}", screen(config, &summary, profile)),
        Content::Memory(..) | Content::Calls(_) | Content::Waits(_) => lines.iter().for_each(|line| say!("{line}")),
    }
    let written = written?;
    if let (Some(memory), Some(output)) = (&memory, outputs.curve) {
        let output = connect(output)?;
        let path = output.path().map(Path::to_owned).unwrap_or_default();
        output.write(|out| memory.write_curve(&content, &path, out))?;
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
    Ok(())
}

/// A pipe without a reader is no reason to wait in silence.
fn waiting(config: &Config, path: &Path) {
    if config.verbosity != Verbosity::Quiet {
        say!("{} is a pipe that nobody reads yet; Ctrl-C gives it up", path.display());
    }
}

/// Reads what waits and passes on what the kernel side must know.
fn take_in(
    source: &mut Source,
    unwinder: &mut Unwinder<Tables>,
    recording: &mut Recording,
    mut memory: Option<&mut Memory>,
    mut calls: Option<&mut Calls>,
    mut waits: Option<&mut Waits>,
) -> anyhow::Result<()> {
    source.read(|event| match event {
        Event::Process(event) => recording.apply(event),
        Event::Record(record) => recording.take(record),
        Event::Malformed => recording.ledger.tally.malformed += 1,
    });
    if let Some(memory) = memory.as_deref_mut() {
        memory.take_in(recording);
    }
    if let Some(calls) = calls.as_deref_mut() {
        calls.take_in(&mut source.kernel, recording)?;
    }
    if let Some(waits) = waits.as_deref_mut() {
        waits.take_in(recording);
    }
    let forgotten = recording.forget_stacks();
    source.kernel.forget(&forgotten.stacks, &forgotten.codes);
    tell(&mut source.kernel, unwinder, recording, memory, calls, waits)?;
    unwinder.install(None);
    Ok(())
}

fn tell(
    kernel: &mut Kernel,
    unwinder: &mut Unwinder<Tables>,
    recording: &mut Recording,
    mut memory: Option<&mut Memory>,
    mut calls: Option<&mut Calls>,
    mut waits: Option<&mut Waits>,
) -> anyhow::Result<()> {
    for fact in recording.drain_facts() {
        match fact {
            Fact::Mappings { pid, mappings } => {
                unwinder.set_mappings(&recording.files, pid, &mappings);
                if let Some(memory) = memory.as_deref_mut() {
                    memory.probe_native(kernel, recording, pid);
                }
            }
            // The table is full: its stacks stay native, and the summary says so.
            Fact::Python { pid, facts } => {
                if kernel.set_python(pid, &facts).is_err() {
                    recording.ledger.tally.not_walked += 1;
                }
                if let Some(memory) = memory.as_deref_mut() {
                    memory.probe(kernel, recording, pid);
                }
                if let Some(calls) = calls.as_deref_mut() {
                    calls.probe(kernel, recording, pid);
                }
                if let Some(waits) = waits.as_deref_mut() {
                    waits.know(recording, pid);
                }
            }
            Fact::NotPython { pid } => {
                if let Some(waits) = waits.as_deref_mut() {
                    waits.know(recording, pid);
                }
                kernel.remove_python(pid);
                kernel.remove_pool_facts(pid);
                kernel.remove_call_facts(pid);
            }
            Fact::Exited { pid } => {
                kernel.remove_target(pid);
                unwinder.remove(pid);
            }
        }
    }
    Ok(())
}

/// The process whose clock says what the target used: if it is one, and all of it.
fn clocked(config: &Config) -> Option<u32> {
    let all = !config.subprocesses && config.tids.is_empty() && config.comm.is_none() && config.cgroup.is_none();
    match &config.target {
        Target::Pids(pids) if all && config.memory.is_none() && config.calls.is_none() && config.waits.is_none() => {
            match pids[..] {
                [pid] => Some(pid),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What was used while `recording` was made: by the kernel's clock if it was asked, else by samples.
fn cpu_use(
    config: &Config,
    recording: &Recording,
    summary: &Summary,
    length: Duration,
    clocks: Option<(Clock, Clock)>,
) -> CpuUse {
    let period_s = config.period_ns as f64 / 1e9;
    let mut by_process: FxHashMap<u32, (u32, u64)> = FxHashMap::default();
    for (sampled, count) in &recording.ledger.samples {
        by_process.entry(sampled.pid).or_insert((sampled.comm, 0)).1 += count;
    }
    let mut by_process: Vec<_> = by_process.into_iter().collect();
    by_process.sort_unstable_by_key(|&(pid, (_, count))| (std::cmp::Reverse(count), pid));
    let named = |pid: u32, comm: &str| label::clean(format!("{comm} ({pid})"));
    let busiest: Vec<(String, f64)> = by_process
        .iter()
        .map(|&(pid, (comm, count))| (named(pid, recording.ledger.name(comm)), count as f64 * period_s))
        .collect();
    let filtered = !config.tids.is_empty() || config.comm.is_some() || config.cgroup.is_some();
    let one = match &config.target {
        Target::Pids(pids) if pids.len() == 1 => Some(pids[0]),
        _ => None,
    };
    let whose = match &config.target {
        Target::All if !filtered => Whose::Machine,
        Target::All => Whose::Several,
        _ if filtered || busiest.len() > 1 => Whose::Several,
        Target::Pids(pids) if pids.len() > 1 => Whose::Several,
        Target::Pids(_) | Target::Command(_) => Whose::Process,
    };
    let samples = match whose {
        // Whatever ran, also what is not recorded.
        Whose::Machine => summary.ticks,
        Whose::Several | Whose::Process => summary.samples,
    };
    let subject = match (&whose, busiest.first(), one) {
        (Whose::Process, Some((name, _)), _) => name.clone(),
        (Whose::Process, None, Some(pid)) => match comm::of(Path::new("/proc"), pid).as_str() {
            "" => format!("process {pid}"),
            comm => named(pid, comm),
        },
        (Whose::Process, None, None) => "the command".to_owned(),
        (Whose::Several, None, _) => "what was chosen".to_owned(),
        _ => summary::many(busiest.len() as u64, "process"),
    };
    let mut used = CpuUse {
        busiest: match whose {
            Whose::Process => Vec::new(),
            Whose::Several | Whose::Machine => busiest,
        },
        whose,
        subject,
        length_s: length.as_secs_f64(),
        cpu_s: samples as f64 * period_s,
        // Of no sample at all it is likely that less than three were due: e⁻³ is 5 %.
        error_s: cpu_use::error_of(samples).max(if samples == 0 { 3.0 } else { 0.0 }) * period_s,
        at_least: !summary.lost.is_empty(),
        threads: None,
        ready_s: None,
        cpus: source::online_cpus().map_or(1, |cpus| cpus.len()),
    };
    if let Some((before, after)) = &clocks {
        used.by_clock(before, after);
    }
    used
}

/// What is said at the end of a recording of CPU time: what was used, where, and what is to be known of the numbers.
fn screen(config: &Config, summary: &Summary, profile: &Profile) -> String {
    let (mut lines, rest) = summary.brief();
    if config.verbosity != Verbosity::Quiet {
        let table = hottest::text(profile, 0, progress::stderr_columns());
        if !table.is_empty() {
            lines.extend([String::new(), table]);
        }
    }
    match config.verbosity {
        Verbosity::Verbose | Verbosity::Debug => {
            // The first lines are there already.
            let told = lines.len().min(2);
            lines.extend(summary.lines().into_iter().skip(told));
        }
        Verbosity::Quiet | Verbosity::Normal => lines.extend(rest),
    }
    lines.join("\n")
}

/// Names may be missing, or wrong, of files that were cut short while they were read.
fn shrunk() -> Option<String> {
    let pages = truncated::pages();
    (pages > 0).then(|| format!("files shrank while they were read ({})", summary::many(pages, "page")))
}

/// Bytes of the files that these processes have mapped as code.
fn code_bytes(pids: &[u32]) -> u64 {
    let maps = pids.iter().filter_map(|&pid| maps::read(pid).ok());
    let files: FxHashMap<FileKey, u64> = maps
        .flat_map(|maps| maps.entries)
        .filter(|entry| entry.executable)
        .filter_map(|entry| Some((FileKey::of(&entry)?, entry.end.saturating_sub(entry.start))))
        .collect();
    files.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
}

fn load_options(config: &Config, findings: &Findings, cpus: usize) -> LoadOptions {
    let mut kernel = KernelConfig {
        own_pid: std::process::id(),
        hash_seed: seed(),
        gate_stretch: (GATE_STRETCH_NS / cost::jiffy_ns()).max(1),
        ..KernelConfig::default()
    };
    let mut feature = |wanted: bool, bit: u32| kernel.features |= if wanted { bit } else { 0 };
    feature(config.kernel_stacks, FEATURE_KERNEL_STACK);
    feature(config.native_stacks, FEATURE_NATIVE_STACK);
    feature(!matches!(config.target, Target::All), FEATURE_FILTER_PID);
    feature(!config.tids.is_empty(), FEATURE_FILTER_TID);
    feature(config.comm.is_some(), FEATURE_FILTER_COMM);
    feature(findings.cgroup.is_some(), FEATURE_FILTER_CGROUP);
    feature(findings.task_pointers, FEATURE_TASK_POINTERS);
    let timed = config.calls.as_ref().is_some_and(|calls| !calls.functions.is_empty());
    feature(timed, FEATURE_TIME_CALLS);
    let watched = config
        .calls
        .as_ref()
        .is_some_and(|calls| calls.via != Via::Probes && !calls.functions.is_empty());
    feature(watched, FEATURE_WATCH_CALLS);
    feature(findings.pid_namespace.is_some(), FEATURE_PID_NAMESPACE);
    kernel.pid_namespace = findings.pid_namespace.unwrap_or_default();
    if let Some(comm) = &config.comm {
        kernel.comm = comm_words(comm);
    }
    if let Some(cgroup) = findings.cgroup {
        kernel.cgroup_id = cgroup.id;
        kernel.cgroup_level = cgroup.level;
    }
    LoadOptions {
        config: kernel,
        ring_bytes: ring_bytes(cpus),
        log: config.verbosity >= Verbosity::Debug,
        event: match config.memory {
            Some(MemoryConfig { exact: Some(exact), .. }) => bpf::Event::Allocations { blocks: exact.max_live },
            Some(_) => bpf::Event::Memory,
            None if config.waits.is_some() => bpf::Event::Waits {
                threads: match config.target {
                    Target::All => waits::SLOTS_OF_ALL,
                    Target::Pids(_) | Target::Command(_) => waits::SLOTS,
                },
                lazy: waits::is_lazy(config, findings.pid_namespace.is_some()),
            },
            None if config.calls.is_some() => bpf::Event::Calls {
                period_ns: config.period_ns,
            },
            None => bpf::Event::Clock {
                period_ns: config.period_ns,
            },
        },
        follow_forks: config.subprocesses || matches!(config.target, Target::All),
        probe: config.probe.is_some(),
        unwind: match &config.target {
            _ if !config.native_stacks => Sizes::NONE,
            Target::All => Sizes::MACHINE,
            Target::Pids(pids) => Sizes::for_code(code_bytes(pids)),
            Target::Command(_) => Sizes::for_code(0),
        },
    }
}

/// A thread name as the kernel compares it: NUL padded, in two words.
fn comm_words(comm: &OsStr) -> [u64; 2] {
    let comm = comm.as_bytes();
    let mut bytes = [0u8; COMM_BYTES];
    let len = comm.len().min(COMM_BYTES - 1);
    bytes[..len].copy_from_slice(&comm[..len]);
    let (low, high) = bytes.split_at(8);
    let word = |half: &[u8]| half.iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
    [word(low), word(high)]
}

/// Two unpredictable words.
fn seed() -> [u64; 2] {
    use std::hash::{BuildHasher as _, RandomState};
    // The standard library seeds each `RandomState` from the system's generator.
    [RandomState::new().hash_one(0), RandomState::new().hash_one(1)]
}

/// Half a megabyte for each CPU and at least four in all: we share the CPUs with what we look at, and may not get one
/// for a while. A known stack is 64 bytes, a new one some 600.
fn ring_bytes(cpus: usize) -> u32 {
    const MOST_BYTES: u32 = 64 << 20;
    let bytes = u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(512 << 10);
    bytes.clamp(4 << 20, MOST_BYTES).next_power_of_two()
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

/// Tells the kernel side its targets and says which processes the recording is about.
fn scope(config: &Config, command_pid: Option<u32>, kernel: &mut Kernel) -> anyhow::Result<Scope> {
    for &tid in &config.tids {
        kernel.add_target_tid(tid)?;
    }
    let named: Vec<u32> = match (&config.target, command_pid) {
        (Target::All, _) => return Ok(Scope::All),
        (Target::Pids(pids), _) => pids.clone(),
        (Target::Command(_), Some(pid)) => vec![pid],
        (Target::Command(_), None) => return Err(anyhow!("the command was not started")),
    };
    let mut pids: FxHashSet<u32> = named.iter().copied().collect();
    for &pid in &named {
        kernel.add_target(pid)?;
    }
    if config.subprocesses {
        // Listed after the kernel side follows forks: a child cannot slip through in between.
        for pid in ancestry::descendants(Path::new("/proc"), &named)? {
            kernel.add_target(pid)?;
            pids.insert(pid);
        }
    }
    Ok(Scope::Pids {
        pids,
        children: config.subprocesses,
    })
}

/// Takes in the processes that exist already.
fn adopt(recording: &mut Recording, scope: &Scope) -> anyhow::Result<()> {
    match scope {
        Scope::All => {
            for pid in ancestry::pids(Path::new("/proc"))? {
                recording.adopt(pid);
            }
        }
        Scope::Pids { pids, .. } => pids.iter().for_each(|&pid| recording.adopt(pid)),
    }
    Ok(())
}

/// What is about to happen, in one line.
fn opening(config: &Config, command_pid: Option<u32>) -> String {
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
    if config.calls.is_some() {
        return format!("counting the calls of {what}{until}");
    }
    if config.waits.is_some() {
        return format!("following the waits of {what}{until}");
    }
    if config.memory.is_some() {
        return format!("watching the memory of {what}{until}");
    }
    format!(
        "sampling {what} {} times a second{until}",
        humanize::count(config.rate_hz.into())
    )
}

/// What to say of files that could not be opened.
fn unopened(recording: &Recording) -> Option<String> {
    let count = recording.files.unopened().count();
    let first = recording.files.unopened().next()?;
    let others = if count > 1 {
        format!(" and {} others", humanize::count(count as u64 - 1))
    } else {
        String::new()
    };
    Some(format!(
        "could not open {}{others}: code there has no names, and a CPython there is not seen",
        first.path.display()
    ))
}

fn view(config: &Config, recording: &Recording, summary: &Summary, lines: &[String]) -> View {
    let sites = recording.ledger.sites.iter().flatten();
    let sampled: Vec<&Sampled> = recording.ledger.samples.keys().chain(sites).collect();
    let pids: FxHashSet<u32> = sampled.iter().map(|sampled| sampled.pid).collect();
    let one_target = match &config.target {
        Target::All => false,
        Target::Pids(pids) => pids.len() == 1,
        Target::Command(_) => true,
    };
    let one = one_target && pids.len() <= 1;
    let subject = match sampled.first() {
        Some(sampled) if one => format!("{} ({})", recording.ledger.name(sampled.command), sampled.pid),
        _ => summary::many(pids.len() as u64, "process"),
    };
    View {
        process: !one,
        thread: config.threads,
        merge_workers: config.merge_workers,
        title: match &config.memory {
            None if config.waits.is_some() => format!("Waiting time of {subject}"),
            None => format!("CPU time of {subject}"),
            Some(wanted) => format!("{} of {subject}", memory::headline(wanted)),
        },
        // Of CPU time, how many samples there are, and what was used.
        subtitle: match (&summary.cpu, lines) {
            (Some(cpu), [_, samples, ..]) => format!("{samples} · {}", cpu.short()),
            (_, lines) => lines.first().cloned().unwrap_or_default(),
        },
        value: match &config.memory {
            Some(wanted) => memory::value(wanted),
            None if config.waits.is_some() => crate::report::waits::VALUE,
            None => 0,
        },
        interpreter: match (&config.memory, config.native_frames) {
            // A heap's files for other programs keep all frames.
            (Some(_), _) if config.format != Format::Svg => Interpreter::Full,
            (Some(_), _) => Interpreter::Hidden,
            (None, NativeFrames::Full) => Interpreter::Full,
            (None, NativeFrames::Work) => Interpreter::Work,
        },
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
