//! A session that somebody looks at while it runs: it ends with whoever looks, and writes nothing.
//!
//! The loop takes its turns and cuts windows, as one that records in windows does; what each came to is handed to a
//! [`Watcher`], which gives it names and shows it, on threads of its own. What is watched are processes that were named, or
//! all Pythons of the machine, those that begin meanwhile included.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use profiler_common::stats::{COUNTERS, Counter};
use tokio::{runtime, sync::Notify};

use super::{
    raise_file_limit,
    setup::{adopt, load_options, scope},
    wait::{Signals, watch},
};
use crate::{
    bpf::Kernel,
    config::Config,
    dump::process::{self, Found, Search},
    engine::{self, Engine},
    instruments::{self, Needs, measured::Measured},
    output,
    preflight::{self, Roots},
    process::ancestry,
    recording::Recording,
    rights, source, truncated,
    unwind::store::Sizes,
    window::Window,
};

/// How often what waits is taken in, on average. The kernel side wakes us earlier when there is much.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After side-band events were read, how long to wait before more are: programs that begin are known soon enough.
const SIDEBAND_PAUSE: Duration = Duration::from_millis(20);
/// Code of all Pythons of a machine, for the size of unwind tables: 16 MiB, which is enough for some 200 MiB of code. What
/// finds no room is told.
const CODE_OF_ALL: u64 = 64 << 20;

/// What is read of the kernel side's counters at each refresh.
pub const COUNTED: [Counter; 4] = [
    Counter::LostRingFull,
    Counter::LostWaits,
    Counter::LostThreads,
    Counter::RunTimeNs,
];

/// Whom to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The targets of the configuration.
    Targets,
    /// All Pythons.
    Pythons,
}

/// What a window came to.
pub struct Seen {
    pub window: Window,
    pub measured: Measured,
    /// What the kernel side counted since the beginning, of all its programs together: [`COUNTED`].
    pub counters: [u64; COUNTERS],
    /// Files whose unwind tables found no room, likewise.
    pub not_unwound: u64,
    pub length: Duration,
    pub ended: Instant,
    /// The processes that are watched now, and whether each is a CPython that is walked.
    pub processes: Vec<(u32, Walked)>,
}

/// Whether Python stacks of a process are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Walked {
    Yes,
    /// Why not.
    Refused(String),
    /// It is no Python.
    No,
}

/// Who looks.
pub trait Watcher {
    /// It is a moment, one of ten a second, that has nothing to do with what programs do.
    fn look(&mut self, host: &Recording);

    /// A window has ended. `false`: nobody looks any more.
    fn take(&mut self, seen: Seen) -> bool;
}

/// How who looks asks for things, from any thread.
#[derive(Clone, Debug, Default)]
pub struct Wishes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ended: AtomicBool,
    woken: Notify,
}

impl Wishes {
    /// Ends the session.
    pub fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.woken.notify_one();
    }

    pub fn is_over(&self) -> bool {
        self.0.ended.load(Ordering::Acquire)
    }
}

/// What there is to know before anything is shown. Whatever cannot be done is refused here.
pub struct Prepared {
    engine: Engine,
    signals: Signals,
    runtime: runtime::Runtime,
    whom: Whom,
}

/// Loads the kernel side and begins to measure.
pub fn prepare(config: &Config, whom: Whom) -> anyhow::Result<Prepared> {
    let findings = preflight::check(config, &Roots::default())?;
    raise_file_limit();
    truncated::survive().context("failed to prepare for files that shrink while they are read")?;
    output::survive_limit();
    rights::give_up().context("failed to give up capabilities")?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    let plan = instruments::wanted(config, None, findings.pid_namespace.is_some())?;
    let needs = plan
        .instruments
        .iter()
        .fold(Needs::default(), |needs, instrument| needs.and(instrument.needs()));
    let mut options = load_options(config, &findings, needs, source::online_cpus()?.len());
    if whom == Whom::Pythons {
        options.unwind = Sizes::for_code(CODE_OF_ALL);
    }
    let mut kernel = Kernel::load(&options)?;
    let scope = scope(config, None, &mut kernel)?;
    let host = Recording::new(scope.clone(), config.native_stacks).following(&needs);
    let mut engine = Engine::new(kernel, host, plan)?;
    adopt(&mut engine.host, &scope)?;
    if whom == Whom::Pythons {
        engine.host.note_strangers();
        include(&mut engine, ancestry::pids(Path::new("/proc"))?)?;
    }
    // A Python that begins is taken in at the look that meets it, or not at all.
    engine.start(None, engine::TABLES_WAIT, false)?;
    Ok(Prepared {
        engine,
        signals,
        runtime,
        whom,
    })
}

impl Prepared {
    /// Whom it is about by now.
    pub fn processes(&self) -> Vec<(u32, Walked)> {
        processes(&self.engine.host)
    }

    /// Watches until nobody looks any more, a signal comes, or every target is gone.
    pub fn run(self, every: Duration, wishes: &Wishes, watcher: &mut dyn Watcher) -> anyhow::Result<()> {
        let Self {
            mut engine,
            mut signals,
            runtime,
            whom,
        } = self;
        runtime.block_on(async {
            let ring = watch(engine.ring_fd(), "the ring buffer")?;
            let sideband = watch(engine.source.sideband_fd(), "the side band")?;
            let mut began = Instant::now();
            let mut look = began + pause();
            loop {
                let due = (began + every).into();
                tokio::select! {
                    ready = ring.readable() => ready.context("failed to watch the ring buffer")?.clear_ready(),
                    ready = sideband.readable() => {
                        ready.context("failed to watch the side band")?.clear_ready();
                        engine.turn()?;
                        // Not the runtime's: each record that comes meanwhile would wake us, some 200 times a second where
                        // others build, only to find that it is not time yet.
                        std::thread::sleep(SIDEBAND_PAUSE);
                    }
                    () = tokio::time::sleep_until(look.into()) => {}
                    () = tokio::time::sleep_until(due) => {}
                    () = wishes.0.woken.notified() => {}
                    received = signals.next() => {
                        if matches!(received, libc::SIGINT | libc::SIGTERM | libc::SIGHUP) {
                            return Ok(());
                        }
                    }
                }
                if wishes.is_over() {
                    return Ok(());
                }
                // First: what there is to take in has to do with what programs do.
                if Instant::now() >= look {
                    watcher.look(&engine.host);
                    look = Instant::now() + pause();
                }
                engine.turn()?;
                engine.follow_machine()?;
                let now = Instant::now();
                if now < began + every {
                    continue;
                }
                let (window, measured) = engine.cut()?;
                let seen = Seen {
                    window,
                    measured,
                    counters: engine.source.kernel.counters_of(&COUNTED)?,
                    not_unwound: engine.unwinder().tally().no_room,
                    length: now - began,
                    ended: now,
                    processes: processes(&engine.host),
                };
                began = now;
                let is_over = whom == Whom::Targets && engine.host.has_no_targets();
                if !watcher.take(seen) || is_over {
                    return Ok(());
                }
                if whom == Whom::Pythons {
                    exclude(&mut engine);
                    let strangers = engine.host.drain_strangers();
                    include(&mut engine, strangers)?;
                }
            }
        })
    }
}

/// How long until the next look. Programs do things ten times a second, too.
fn pause() -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    let drawn = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
    LOOK_EVERY.mul_f64(0.5 + drawn)
}

/// Makes targets of those among these that are Pythons, or would be if they were not refused.
fn include(engine: &mut Engine, pids: Vec<u32>) -> anyhow::Result<()> {
    let own = std::process::id();
    for pid in pids.into_iter().filter(|&pid| pid != own) {
        match process::find(&mut engine.host.files, pid, Search::Likely) {
            Found::Python(_) | Found::Refused(_) => engine.include(pid)?,
            Found::Later => engine.host.note_stranger(pid),
            Found::Nothing => {}
        }
    }
    Ok(())
}

/// Lets go of those that have become something else.
fn exclude(engine: &mut Engine) {
    for (pid, walked) in processes(&engine.host) {
        if walked == Walked::No && !engine.host.is_being_looked_at(pid) {
            engine.host.exclude(pid);
        }
    }
}

fn processes(host: &Recording) -> Vec<(u32, Walked)> {
    let walked = |pid| match (host.python(pid), host.refusal_of(pid)) {
        (Some(_), _) => Walked::Yes,
        (None, Some(reason)) => Walked::Refused(reason.to_owned()),
        (None, None) => Walked::No,
    };
    let mut all: Vec<(u32, Walked)> = host.pids().map(|pid| (pid, walked(pid))).collect();
    all.sort_unstable_by_key(|(pid, _)| *pid);
    all
}
