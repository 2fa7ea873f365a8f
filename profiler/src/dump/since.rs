//! Since when a thread waits, by the scheduler's own clock.
//!
//! `se.exec_start` in /proc/PID/task/TID/sched is when the scheduler last charged the thread for running: for one that
//! waits, when it went to sleep (`update_curr`, `dequeue_entity`: kernel/sched/fair.c, 5.10 – 7.2; the deadline and
//! real-time classes set it alike). The file needs a kernel with CONFIG_SCHED_DEBUG, which the distributions' have.
//!
//! The clock is the run queue's, one for each CPU, and its zero is nobody else's. What it says now is
//! found out there: whoever goes to that CPU, sleeps for a microsecond, and wakes up, is charged. Time that interrupts and the hypervisor took
//! from the CPU does not count in that clock, so what is told is a little too short at times, and never too long.

use std::{fs, thread, time::Duration};

use rustc_hash::FxHashMap;

use super::place::Place;
use crate::cost;

/// The clocks of the CPUs, by how far each is behind CLOCK_MONOTONIC. `None`: it cannot be known.
#[derive(Debug, Default)]
pub struct Clocks {
    behind_ns: FxHashMap<u32, Option<i64>>,
}

/// No thread waits longer: what says so is another clock's.
const LONGEST_NS: i64 = 100 * 365 * 86_400 * 1_000_000_000;

impl Clocks {
    /// How long a thread waits that ran on this CPU last. It must not have run since; the caller looks whether it has.
    pub fn waits_ns(&mut self, pid: u32, tid: u32, cpu: u32) -> Option<u64> {
        let began = exec_start_ns(&format!("/proc/{pid}/task/{tid}/sched")).filter(|&began| began > 0)?;
        let behind = *self.behind_ns.entry(cpu).or_insert_with(|| measure(cpu));
        let now = cost::monotonic_ns().cast_signed().checked_sub(behind?)?;
        length_ns(now.checked_sub(began)?)
    }
}

/// A thread that has just gone to sleep can seem to do so a moment from now: how far its clock is behind is known no better
/// than a thread is woken up.
const INEXACT_NS: i64 = 1_000_000;

fn length_ns(waits: i64) -> Option<u64> {
    (-INEXACT_NS..LONGEST_NS)
        .contains(&waits)
        .then(|| waits.max(0).cast_unsigned())
}

/// How far the clock of a CPU is behind, found out there.
fn measure(cpu: u32) -> Option<i64> {
    let _place = Place::on(cpu).ok()?;
    // The smallest distance is the one between whose two looks nothing came.
    let once = |_| {
        thread::sleep(Duration::from_micros(1));
        let charged = exec_start_ns("/proc/thread-self/sched")?;
        Some(cost::monotonic_ns().cast_signed() - charged)
    };
    (0..3).filter_map(once).min()
}

fn exec_start_ns(path: &str) -> Option<i64> {
    parse(&fs::read(path).ok()?)
}

/// `se.exec_start   :   593237.749458`: milliseconds, and nanoseconds behind the point.
pub fn parse(text: &[u8]) -> Option<i64> {
    let line = text
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"se.exec_start"))?;
    let (_, number) = str::from_utf8(line).ok()?.split_once(':')?;
    let (millis, nanos) = number.trim().split_once('.')?;
    let (millis, nanos): (i64, i64) = (millis.parse().ok()?, nanos.parse().ok()?);
    millis.checked_mul(1_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_has_just_gone_to_sleep_waits_and_a_clock_that_is_another_ones_says_nothing() {
        assert_eq!(length_ns(1_500), Some(1_500));
        assert_eq!(length_ns(-20_000), Some(0));
        assert_eq!(length_ns(-5_000_000), None);
        assert_eq!(length_ns(LONGEST_NS), None);
    }

    #[test]
    fn the_kernel_s_milliseconds_are_read() {
        let text = b"cat (24754, #threads: 1)\n-----\nse.exec_start    :        593237.749458\nse.vruntime : 1.0\n";
        assert_eq!(parse(text), Some(593_237_749_458));
        assert_eq!(parse(b"se.exec_start : x"), None);
    }

    #[test]
    fn a_thread_of_ours_waits_as_long_as_it_does() {
        let (tell, told) = mpsc::channel();
        let (_end, ended) = mpsc::channel::<()>();
        let sleeper = thread::spawn(move || {
            // SAFETY: gettid(2) has no preconditions.
            tell.send(unsafe { libc::gettid() }.cast_unsigned())
                .expect("somebody who listens");
            let _ = ended.recv_timeout(Duration::from_secs(60));
        });
        let tid: u32 = told.recv().expect("a number");
        let began = Instant::now();
        thread::sleep(Duration::from_millis(300));
        let pid = std::process::id();
        let look = super::super::look::Look::of(pid, tid).expect("a thread");
        // A kernel without the file tells nothing.
        if let Some(waits) = Clocks::default().waits_ns(pid, tid, look.cpu) {
            let waits = Duration::from_nanos(waits);
            assert!(waits <= began.elapsed() + Duration::from_millis(50), "{waits:?}");
            assert!(waits >= Duration::from_millis(200), "{waits:?}");
        }
        drop(_end);
        sleeper.join().expect("it ends");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), number in "se.exec_start *: ?-?[0-9]{0,25}.?[0-9]{0,25}") {
            parse(&bytes);
            parse(number.as_bytes());
        }
    }
}
