//! What probes cost the program they are in, while they are in it, and when that is too much.
//!
//! A probe is a trap: what it costs is measured at the start, on an instruction of our own, and multiplied by the hits
//! that the programs in the kernel count. Their own time is added. Together that is the time which the program would not
//! have needed without us, out of the CPU time it has used.

mod wear;

use std::{
    hint::black_box,
    path::Path,
    ptr::read_volatile,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use profiler_common::python::{PROBE_STEPPED, Toll};
use serde::Serialize;

use self::wear::Work;
use crate::{
    orders::Orders,
    process::{file::MappedFile, maps},
    python::allocator::place::Place,
};

/// What a trap costs, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrapCost {
    /// Of a probe on an instruction that the kernel emulates.
    pub entry_ns: f64,
    /// Of a probe on any other instruction: the kernel runs it somewhere else and steps. Not measured where no probe is.
    pub stepped_ns: Option<f64>,
    /// Of a return probe, in addition. Worked out: half as much again (1,168 and 664 ns for both and for one, measured
    /// on Linux 6.18 by `cargo xtask bench memory`).
    pub return_ns: f64,
    /// What a hit costs a program later that had worked before it: see `governor/wear.rs`.
    pub wear_ns: f64,
}

const RETURN_OVER_ENTRY: f64 = 0.76;

core::arch::global_asm!(
    ".globl profiler_trap_yardstick",
    ".p2align 4",
    "profiler_trap_yardstick:",
    "push rbp",
    "pop rbp",
    "ret",
    ".globl profiler_step_yardstick",
    ".p2align 4",
    "profiler_step_yardstick:",
    // Loads are not among what is emulated (arch/x86/kernel/uprobes.c, Linux 5.10 to 6.18).
    "mov rax, [rsp]",
    "ret",
);

unsafe extern "C" {
    fn profiler_trap_yardstick();
    fn profiler_step_yardstick();
}

impl TrapCost {
    /// Measures it on this machine, in this process: a few milliseconds.
    pub fn measure(kernel: &mut dyn Orders) -> anyhow::Result<Self> {
        let entry_ns = probed_over_plain(kernel, profiler_trap_yardstick, |hit| fastest(2_000, hit))?;
        let work = Work::new();
        let worn_ns = probed_over_plain(kernel, profiler_trap_yardstick, |hit| work.round_ns(hit))?;
        Ok(Self {
            entry_ns,
            stepped_ns: None,
            return_ns: entry_ns * RETURN_OVER_ENTRY,
            wear_ns: (worn_ns - entry_ns).max(0.0),
        })
    }

    /// Of what a thread was stopped for, our programs' time included. `watch_ns`: of a hardware breakpoint.
    pub fn of_toll(&self, toll: &Toll, watch_ns: f64) -> f64 {
        f64::from(toll.emulated) * self.entry_ns
            + f64::from(toll.stepped) * self.stepped_ns.unwrap_or(self.entry_ns)
            + f64::from(toll.returns) * self.return_ns
            + f64::from(toll.watches) * watch_ns
            + toll.program_ns as f64
    }

    /// Of all hits together.
    fn of(&self, hits: Hits) -> f64 {
        let stepped = hits.stepped.min(hits.entries);
        (hits.entries - stepped) as f64 * self.entry_ns
            + stepped as f64 * self.stepped_ns.unwrap_or(self.entry_ns)
            + hits.returns as f64 * self.return_ns
    }
}

/// By how much longer one of our own functions takes with a probe on its first instruction, as `time` measures it.
fn probed_over_plain(
    kernel: &mut dyn Orders,
    yardstick: unsafe extern "C" fn(),
    time: impl Fn(&dyn Fn()) -> f64,
) -> anyhow::Result<f64> {
    let own = MappedFile::open_path(Path::new("/proc/self/exe")).context("cannot open this program's own file")?;
    let address = yardstick as *const () as usize as u64;
    let entries = maps::read(std::process::id())?.entries;
    let offset = entries
        .iter()
        .find(|entry| (entry.start..entry.end).contains(&address))
        .map(|entry| address - entry.start + entry.offset)
        .context("this program does not find itself in its memory")?;
    let hit = || {
        // SAFETY: both yardsticks only change what a caller expects a function to change, and return.
        unsafe { yardstick() };
    };
    let plain_ns = time(&hit);
    let link = kernel.attach_nothing(&own, offset, std::process::id())?;
    let probed_ns = time(&hit);
    drop(link);
    Ok((probed_ns - plain_ns).max(0.0))
}

/// What a hit takes in the fastest of a few rounds: whatever else runs only adds.
fn fastest(calls: u32, hit: &dyn Fn()) -> f64 {
    let round = |_| {
        let started = Instant::now();
        (0..calls).for_each(|_| hit());
        started.elapsed().as_nanos() as f64 / f64::from(calls)
    };
    (0..5).map(round).fold(f64::INFINITY, f64::min)
}

/// What a probe's cookie says of its instruction.
pub fn stepped(place: &Place) -> u32 {
    if place.emulated { 0 } else { PROBE_STEPPED }
}

/// Whether a cookie says that.
pub fn is_stepped(cookie: u64) -> bool {
    cookie as u32 & PROBE_STEPPED != 0
}

/// What a hardware breakpoint costs whoever comes upon it, in nanoseconds, without what our program does: measured on a
/// byte of our own. An error if the machine has none to give (or not this kind of machine: some virtual ones).
pub fn watch_cost_ns(kernel: &mut dyn Orders) -> anyhow::Result<f64> {
    /// Most of what it costs in a virtual machine is leaving it (9 µs, where hardware needs 1 or 2).
    const READS: u32 = 200;
    let byte = 0u8;
    let timed = || {
        let round = |_| {
            let started = Instant::now();
            for _ in 0..READS {
                // SAFETY: a reference is valid for reads. Volatile: each is to take place.
                black_box(unsafe { read_volatile(&raw const byte) });
            }
            started.elapsed().as_nanos() as f64 / f64::from(READS)
        };
        (0..5).map(round).fold(f64::INFINITY, f64::min)
    };
    let plain_ns = timed();
    let link = kernel.attach_watch((&raw const byte) as u64)?;
    let watched_ns = timed();
    link.end()?;
    Ok((watched_ns - plain_ns).max(0.0))
}

/// Hits of probes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hits {
    pub entries: u64,
    /// Of those, on instructions that are stepped.
    pub stepped: u64,
    pub returns: u64,
    /// Of the programs in the kernel.
    pub program_ns: u64,
    /// Spent in being stopped by hardware breakpoints.
    pub watch_ns: f64,
}

/// How many times as long a program took for us, and what it can be at least and at most: of the time that it took, what we
/// have spent is known within [`HIT_CHEAPER`] and [`HIT_DEARER`], so where that is most of it, what would have been is not
/// known well.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SlowDown {
    pub factor: f64,
    pub least: f64,
    pub most: f64,
}

impl SlowDown {
    pub const NONE: Self = Self {
        factor: 1.0,
        least: 1.0,
        most: 1.0,
    };

    /// Of `used` time, `spent` was ours, and of that `worn` what hits did to caches; the program itself needed `floor` at the
    /// very least.
    pub fn of(used: f64, spent: f64, worn: f64, floor: f64) -> Self {
        if spent <= 0.0 || used <= 0.0 {
            return Self::NONE;
        }
        /// With less than that left for itself nobody knows whether it is that much.
        const LEAST_LEFT: f64 = 0.03;
        let of = |spent: f64| used / (used - spent).max(floor).max(used / MOST_THINKABLE);
        let least = of((spent - worn) * HIT_CHEAPER);
        let most = of(spent * HIT_DEARER + worn * WEAR_ERROR);
        // More than there was: processes ended before their clocks could be read, and nobody knows what they used.
        if (spent - worn) * HIT_CHEAPER > used {
            return Self {
                factor: MOST_THINKABLE.sqrt(),
                least: 1.0,
                most: MOST_THINKABLE,
            };
        }
        let factor = if used - spent > used * LEAST_LEFT {
            of(spent)
        } else {
            (least * most).sqrt()
        };
        Self {
            factor: factor.max(1.0),
            least: least.max(1.0),
            most: most.max(1.0),
        }
    }

    /// The larger of how far the ends are from the factor, as a part of it.
    pub fn error(&self) -> f64 {
        (1.0 - self.least / self.factor).max(self.most / self.factor - 1.0)
    }

    /// As people read it: with the range where that matters.
    pub fn told(&self) -> String {
        /// Beyond, the number means nothing.
        const MOST: f64 = 100.0;
        let Self { factor, least, most } = *self;
        let digits = |factor: f64| match factor {
            ..10.0 => format!("{factor:.2}"),
            ..=MOST => format!("{factor:.0}"),
            _ => format!("over {MOST}"),
        };
        match self.error() {
            // Nothing is known, and what lies in the middle of that is no guess.
            _ if least <= 1.0 && most > MOST => format!("{} to {}", digits(least), digits(most)),
            ..0.1 => digits(factor),
            _ => format!("about {} ({} to {})", digits(factor), digits(least), digits(most)),
        }
    }
}

/// How many times what the yardstick says a hit costs in a program: what a probe pushes out of the caches is brought back by
/// the program. 1.06 to 1.10 times, on CPython 3.12.1, by the CPU time of the test suites of click and Jinja with and without
/// probes, when all calls were counted.
pub const HIT_USUAL: f64 = 1.08;

/// How far what calls are said to have cost is from what they did, at most: 0.95 to 1.16 times what the yardstick says,
/// measured on CPython 3.8, 3.11 and 3.12 with calls and nothing else; a window of 41 ms on Debian's 3.13.18 came to 1.25 times.
pub const HIT_ERROR: f64 = 0.25;

/// How many times the usual a hit costs where calls are all there is, …
pub const HIT_CHEAPER: f64 = 0.95 / HIT_USUAL;

/// … and in a service, where the program and the kernel push each other out of the caches: 1.19 to 1.35 times what the
/// yardstick says, by the CPU time per request of Django and FastAPI on CPython 3.12.1 with and without probes
/// (docs/cost.md).
pub const HIT_DEARER: f64 = 1.36 / HIT_USUAL;

/// How many times what the second yardstick says what hits do to caches can be more, or less: programs have larger or smaller
/// ones to lose. On a machine where the yardstick said 0.3 µs, a loop of CPython 3.12.1 lost 1.6 µs in all for a hit where it
/// called each half microsecond, and 2.0 to 3.8 where it did each 22: up to seven times as much.
pub const WEAR_ERROR: f64 = 5.0;

/// No call costs a program more: 200 times as long was measured where each call is stepped (3.12.1), 30 ns become 10 µs.
pub const MOST_THINKABLE: f64 = 1_000.0;

/// Watches over a budget.
#[derive(Clone, Debug)]
pub struct Governor {
    trap: TrapCost,
    /// The program may become this many times slower.
    most: f64,
    /// CPU time of the program when the probes came.
    cpu_before_ns: u64,
    spent_ns: f64,
    /// Of that, what stops took themselves, and what they did to caches.
    stopped_ns: f64,
    worn_ns: f64,
    trap_ns: f64,
    used_ns: u64,
    hits: u64,
}

/// Beyond this many times slower, the number means nothing.
pub const MOST_TOLD: f64 = 20.0;

/// So much may be spent on any program before it is asked what share of its time that is: a service that idles uses little
/// CPU time, and what the first requests cost would use up a budget that is a part of it.
const GRACE_NS: f64 = 50e6;

impl Governor {
    pub fn new(trap: TrapCost, most: f64, cpu_before_ns: u64) -> Self {
        Self {
            trap,
            most,
            cpu_before_ns,
            spent_ns: 0.0,
            stopped_ns: 0.0,
            worn_ns: 0.0,
            trap_ns: trap.entry_ns,
            used_ns: 0,
            hits: 0,
        }
    }

    /// A process joins that has used so much CPU time before.
    pub fn leave_out(&mut self, cpu_ns: u64) {
        self.cpu_before_ns += cpu_ns;
    }

    /// A probe is going to be on an instruction that is stepped: what that costs is measured now, if it has not been.
    pub fn expect_stepped(&mut self, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        if self.trap.stepped_ns.is_none() {
            self.trap.stepped_ns = Some(probed_over_plain(kernel, profiler_step_yardstick, |hit| {
                fastest(200, hit)
            })?);
        }
        Ok(())
    }

    /// Takes in how things are. Returns whether the budget is spent.
    pub fn look(&mut self, hits: Hits, cpu_ns: u64) -> bool {
        let used_ns = cpu_ns.saturating_sub(self.cpu_before_ns);
        let traps_ns = self.trap.of(hits);
        let stopped_ns = (traps_ns + hits.program_ns as f64) * HIT_USUAL + hits.watch_ns;
        let count = hits.entries + hits.returns;
        let (since, used_since) = (count - self.hits.min(count), used_ns.saturating_sub(self.used_ns));
        if since > 0 {
            let own_ns = used_since as f64 - (stopped_ns - self.stopped_ns);
            self.worn_ns += since as f64 * self.trap.wear_ns * wear::part(own_ns / since as f64);
        }
        (self.hits, self.used_ns, self.stopped_ns) = (count, used_ns, stopped_ns);
        self.spent_ns = stopped_ns + self.worn_ns;
        self.trap_ns = match hits.entries + hits.returns {
            0 => self.trap.entry_ns,
            hits => traps_ns / hits as f64,
        };
        // What is left for the program itself is the small difference of two large numbers where it is slowed down much.
        let own_ns = (used_ns as f64 - self.spent_ns)
            .max(self.spent_ns / (MOST_TOLD - 1.0))
            .max(1.0);
        self.spent_ns >= GRACE_NS && (own_ns + self.spent_ns) / own_ns > self.most
    }

    /// How many times slower the program has been so far.
    pub fn slow_down(&self) -> SlowDown {
        SlowDown::of(self.used_ns as f64, self.spent_ns, self.worn_ns, 1.0)
    }

    /// CPU time of the program since the probes came.
    pub fn used_ns(&self) -> u64 {
        self.used_ns
    }

    pub fn trap(&self) -> &TrapCost {
        &self.trap
    }

    /// CPU time that the program has spent in probes.
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent_ns as u64)
    }

    /// Of what was spent, what hits did to caches.
    pub fn worn_ns(&self) -> f64 {
        self.worn_ns
    }

    /// What a hit cost so far, on average, without what our program did.
    pub fn trap_ns(&self) -> f64 {
        self.trap_ns
    }
}

/// CPU time of a process so far, all threads that ever were in it; 0 if it is gone.
pub fn cpu_time_ns(pid: u32) -> u64 {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both variables are live, and the calls only write them.
    let known = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    if known {
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAP: TrapCost = TrapCost {
        entry_ns: 700.0,
        stepped_ns: Some(9_000.0),
        return_ns: 500.0,
        wear_ns: 0.0,
    };

    #[test]
    fn a_hit_costs_a_program_more_that_has_worked_since_the_last_one() {
        let trap = TrapCost { wear_ns: 400.0, ..TRAP };
        let spent_ns = |own_ns: f64| {
            let mut governor = Governor::new(trap, 2.0, 0);
            let hits = |entries| Hits {
                entries,
                ..Hits::default()
            };
            let used_ns = |hits: f64| (hits * (700.0 * HIT_USUAL + own_ns)) as u64;
            governor.look(hits(1_000), used_ns(1_000.0));
            governor.look(hits(2_000), used_ns(2_000.0));
            // Time without hits is none between them.
            governor.look(hits(2_000), used_ns(2_000.0) + 1_000_000_000);
            governor.spent().as_nanos() as f64 / 2_000.0
        };
        let stopped_ns = 700.0 * HIT_USUAL;
        assert!((spent_ns(100_000.0) - stopped_ns - 400.0).abs() < 1.0);
        assert!((spent_ns(0.0) - stopped_ns).abs() < 1.0);
    }

    #[test]
    fn a_program_that_spends_half_its_time_in_probes_is_twice_as_slow() {
        let mut governor = Governor::new(TRAP, 1.9, 1_000_000_000);
        // 50,000 × (0.7 + 0.5) µs and 40 ms.
        let hits = Hits {
            entries: 50_000,
            returns: 50_000,
            program_ns: 40_000_000,
            ..Hits::default()
        };
        let used_ns = 1_000_000_000 + (200e6 * HIT_USUAL) as u64;
        assert!(governor.look(hits, used_ns));
        assert!((governor.slow_down().factor - 2.0).abs() < 1e-9);
        assert!(!Governor::new(TRAP, 2.1, 1_000_000_000).look(hits, used_ns));
    }

    #[test]
    fn what_a_service_took_is_within_what_is_told() {
        // Told by the yardstick alone, and by CPU time per request, where it was counted all the time: docs/cost.md.
        for (told, measured) in [(3.68, 19.4), (4.90, 19.1), (3.15, 8.5), (2.55, 5.65), (2.83, 5.43)] {
            let slow_down = SlowDown::of(1e9, 1e9 * (1.0 - 1.0 / told) * HIT_USUAL, 0.0, 1.0);
            assert!((told..measured).contains(&slow_down.factor), "{told}: {slow_down:?}");
            assert!(
                (slow_down.least..slow_down.most).contains(&measured),
                "{measured}: {slow_down:?}"
            );
        }
        // What a test suite took that calls as often as it can.
        let most = SlowDown::of(18.46, 15.79 * HIT_USUAL, 0.0, 0.043);
        assert!((most.factor / 14.0 - 1.0).abs() < 0.2, "{most:?}");
        let wide = SlowDown {
            factor: 3.68,
            least: 2.2,
            most: 139.0,
        };
        assert_eq!(wide.told(), "about 3.68 (2.20 to over 100)");
    }

    #[test]
    fn a_program_that_used_less_than_was_spent_on_it_was_not_seen_whole() {
        let slow_down = SlowDown::of(10.0, 45.0, 1.0, 0.1);
        assert_eq!(slow_down.told(), "1.00 to over 100");
    }

    #[test]
    fn stepped_instructions_are_told_from_emulated_ones() {
        let mut governor = Governor::new(TRAP, 10.0, 0);
        let hits = Hits {
            entries: 30_000,
            stepped: 10_000,
            ..Hits::default()
        };
        assert!(!governor.look(hits, (208e6 * HIT_USUAL) as u64));
        // 20,000 × 0.7 µs and 10,000 × 9 µs.
        assert_eq!(governor.spent(), Duration::from_nanos((104e6 * HIT_USUAL) as u64));
        assert!((governor.trap_ns() - 104e6 / 30e3).abs() < 1e-6);
        assert!((governor.slow_down().factor - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_budget_of_little_is_not_spent_by_the_first_calls() {
        let mut governor = Governor::new(TRAP, 1.1, 0);
        let hits = |entries| Hits {
            entries,
            ..Hits::default()
        };
        assert!(!governor.look(hits(60_000), 80_000_000));
        assert!(governor.look(hits(80_000), 110_000_000));
        assert!(!governor.look(hits(80_000), 1_000_000_000));
    }

    #[test]
    fn the_clock_of_a_process_runs_while_it_works() {
        let before_ns = cpu_time_ns(std::process::id());
        let mut sum = 0u64;
        while cpu_time_ns(std::process::id()) < before_ns + 1_000_000 {
            sum = sum.wrapping_add(black_box(1));
        }
        assert!(sum > 0);
        // The kernel's limit of pids (PID_MAX_LIMIT) is 4 Mi.
        assert_eq!(cpu_time_ns((4 << 20) + 7), 0);
    }
}
