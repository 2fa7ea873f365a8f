//! How much CPU time the target used, and how long it waited: the first thing to know of a slow program.
//!
//! The kernel's clock of a process is exact; where it cannot be had (the process has ended, children count as well, only
//! some threads were chosen), the samples say it with an error.

use std::{fs, path::Path, time::Duration};

use serde::Serialize;

use crate::humanize::percent;

/// What the kernel has counted of one process so far.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pid: u32,
    cpu: Duration,
    /// How long its only thread was ready to run, and had no CPU; none of a process with several.
    ready: Option<Duration>,
    threads: usize,
}

impl Clock {
    /// `None` if the process is gone.
    pub fn read(proc: &Path, pid: u32) -> Option<Self> {
        let threads = fs::read_dir(proc.join(format!("{pid}/task"))).ok()?.count();
        // The second number of the main thread's.
        let ready = fs::read_to_string(proc.join(format!("{pid}/schedstat")))
            .ok()
            .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse().ok())
            .map(Duration::from_nanos);
        Some(Self {
            pid,
            cpu: process_cpu_time(pid)?,
            ready: ready.filter(|_| threads == 1),
            threads,
        })
    }
}

/// CPU time of a process and all its threads, those that have ended included.
fn process_cpu_time(pid: u32) -> Option<Duration> {
    // `MAKE_PROCESS_CPUCLOCK` of include/linux/posix-timers.h, with `CPUCLOCK_SCHED`.
    let clock = (!pid.cast_signed() << 3) | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live and writable.
    let answer = unsafe { libc::clock_gettime(clock, &raw mut time) };
    let nanos = u32::try_from(time.tv_nsec).ok()?;
    (answer == 0).then(|| Duration::new(time.tv_sec.unsigned_abs(), nanos))
}

/// Whose CPU time it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// One process, all of it.
    Process,
    /// Several, or some threads.
    Several,
    /// Whatever ran.
    Machine,
}

/// CPU time in a recording.
#[derive(Clone, Debug, Serialize)]
pub struct CpuUse {
    pub whose: Whose,
    /// As people say it: `gunicorn (4242)`, `3 processes`.
    #[serde(skip)]
    pub subject: String,
    pub length_s: f64,
    pub cpu_s: f64,
    /// It is within that of the true one, 19 times out of 20; 0 if the kernel's clock says it.
    pub error_s: f64,
    /// More is lost.
    pub at_least: bool,
    /// Of one process, if it is known.
    pub threads: Option<usize>,
    /// How long its only thread was ready, and had no CPU.
    pub ready_s: Option<f64>,
    pub cpus: usize,
    /// Of several processes, and the most first: name, and CPU time.
    pub busiest: Vec<(String, f64)>,
}

impl CpuUse {
    /// Takes what the kernel's clock said at the beginning and at the end.
    pub fn by_clock(&mut self, before: &Clock, after: &Clock) {
        // Another process may have the number by now.
        if before.pid != after.pid || after.cpu < before.cpu {
            return;
        }
        self.cpu_s = (after.cpu - before.cpu).as_secs_f64();
        self.error_s = 0.0;
        self.at_least = false;
        self.threads = Some(before.threads.max(after.threads));
        let ready = before.ready.zip(after.ready);
        self.ready_s = ready.map(|(before, after)| after.saturating_sub(before).as_secs_f64());
    }

    /// `3.4 % of a CPU`, where a line has no room for more.
    pub fn short(&self) -> String {
        format!("{} of a CPU", self.used())
    }

    fn used(&self) -> String {
        let length = self.length_s.max(1e-9);
        match self.error_s {
            0.0 => percent(self.cpu_s / length),
            // Not one sample.
            error if self.cpu_s == 0.0 => format!("less than {:.0} %", (100.0 * error / length).ceil()),
            error => {
                let (share, error) = (100.0 * self.cpu_s / length, 100.0 * error / length);
                let digits = usize::from(error < 0.95);
                format!("{share:.digits$} ± {error:.digits$} %")
            }
        }
    }

    /// One line, without its end.
    pub fn line(&self) -> String {
        let length = self.length_s.max(1e-9);
        let used = self.used();
        let at_least = if self.at_least { "at least " } else { "" };
        let subject = &self.subject;
        if self.cpu_s == 0.0 && self.error_s > length {
            return format!("{subject} ran for too short a time to know what it used");
        }
        let idle = 1.0 - self.cpu_s / length;
        match self.whose {
            Whose::Machine => {
                let share = 100.0 * self.cpu_s / length / self.cpus.max(1) as f64;
                let cpus = match self.cpus {
                    1 => "the CPU was".to_owned(),
                    cpus => format!("{cpus} CPUs were"),
                };
                format!("{cpus} {at_least}{share:.0} % busy{}", self.of_which(length))
            }
            Whose::Several => format!("{subject} used {at_least}{used} of a CPU{}", self.of_which(length)),
            Whose::Process if self.threads == Some(1) && self.error_s == 0.0 => {
                let ready = self.ready_s.unwrap_or_default() / length;
                let waited = percent((idle - ready).clamp(0.0, 1.0));
                // Less than that is what every program waits for its turn.
                let ready = match ready {
                    0.01.. => format!(", lacked a CPU {}", percent(ready)),
                    _ => String::new(),
                };
                format!("{subject} used {used} of a CPU, waited {waited} of the time{ready}")
            }
            Whose::Process => {
                let threads = match self.threads {
                    Some(threads @ 2..) => format!(" in {threads} threads"),
                    _ => String::new(),
                };
                // Only so much is certain of several threads: they may have run one after the other.
                let waited = match idle {
                    0.05.. if self.error_s == 0.0 => {
                        // Down, as it is at least that.
                        let idle = (idle * 1000.0).floor() / 10.0;
                        format!("; at least {idle:.1} % of the time none of them ran")
                    }
                    _ => String::new(),
                };
                format!("{subject} used {at_least}{used} of a CPU{threads}{waited}")
            }
        }
    }

    fn of_which(&self, length: f64) -> String {
        const SHOWN: usize = 2;
        let shown = self.busiest.iter().take(SHOWN);
        let mut parts: Vec<String> = shown
            .map(|(name, cpu_s)| format!("{name} {}", percent(cpu_s / length)))
            .collect();
        if let (Whose::Machine, Some((name, cpu_s)), Some(first)) =
            (&self.whose, self.busiest.first(), parts.first_mut())
        {
            *first = format!("{name} used {} of one", percent(cpu_s / length));
        }
        let more = match self.busiest.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(", {more} more"),
        };
        match parts.is_empty() {
            true => String::new(),
            false => format!(": {}{more}", parts.join(", ")),
        }
    }
}

/// By how much a number of samples can be off, 19 times out of 20.
pub fn error_of(samples: u64) -> f64 {
    1.96 * (samples as f64).sqrt()
}

/// By how much a share of so many samples can be off, 19 times out of 20: one of a half, which can the most.
pub fn error_of_shares(samples: u64) -> f64 {
    (0.98 / (samples.max(1) as f64).sqrt()).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu_use(whose: Whose) -> CpuUse {
        CpuUse {
            whose,
            subject: "web (42)".to_owned(),
            length_s: 10.0,
            cpu_s: 0.34,
            error_s: 0.0,
            at_least: false,
            threads: Some(1),
            ready_s: Some(0.01),
            cpus: 2,
            busiest: Vec::new(),
        }
    }

    fn clock(cpu_ms: u64, threads: usize) -> Clock {
        Clock {
            pid: 42,
            cpu: Duration::from_millis(cpu_ms),
            ready: (threads == 1).then(|| Duration::from_millis(cpu_ms / 2)),
            threads,
        }
    }

    #[test]
    fn of_one_thread_it_is_said_how_long_it_waited() {
        let mut one = cpu_use(Whose::Process);
        assert_eq!(one.line(), "web (42) used 3.4 % of a CPU, waited 96.5 % of the time");
        one.by_clock(&clock(1000, 1), &clock(5000, 1));
        assert_eq!(
            one.line(),
            "web (42) used 40.0 % of a CPU, waited 40.0 % of the time, lacked a CPU 20.0 %"
        );
    }

    #[test]
    fn of_several_threads_only_what_is_certain() {
        let mut many = cpu_use(Whose::Process);
        many.by_clock(&clock(0, 1), &clock(340, 12));
        assert_eq!(
            many.line(),
            "web (42) used 3.4 % of a CPU in 12 threads; at least 96.6 % of the time none of them ran"
        );
        many.cpu_s = 17.0;
        assert_eq!(many.line(), "web (42) used 170.0 % of a CPU in 12 threads");
    }

    #[test]
    fn what_samples_say_has_an_error() {
        let mut sampled = cpu_use(Whose::Process);
        sampled.error_s = 0.115;
        assert_eq!(sampled.line(), "web (42) used 3 ± 1 % of a CPU");
        assert_eq!(sampled.short(), "3 ± 1 % of a CPU");
        let none = CpuUse {
            cpu_s: 0.0,
            error_s: 0.303,
            ..sampled.clone()
        };
        assert_eq!(none.line(), "web (42) used less than 4 % of a CPU");
        let short = CpuUse {
            length_s: 0.002,
            ..none
        };
        assert_eq!(short.line(), "web (42) ran for too short a time to know what it used");
        sampled.whose = Whose::Several;
        sampled.at_least = true;
        sampled.error_s = 0.05;
        sampled.busiest = vec![("web (42)".to_owned(), 0.2), ("web (43)".to_owned(), 0.14)];
        assert_eq!(
            sampled.line(),
            "web (42) used at least 3.4 ± 0.5 % of a CPU: web (42) 2.0 %, web (43) 1.4 %"
        );
        assert_eq!(format!("{:.2}", error_of_shares(11)), "0.30");
        assert_eq!(error_of_shares(0), 0.98);
    }

    #[test]
    fn of_a_machine_the_share_of_its_cpus() {
        let mut machine = cpu_use(Whose::Machine);
        machine.cpu_s = 13.4;
        machine.busiest = vec![("rustc (7)".to_owned(), 10.4), ("node (8)".to_owned(), 1.0)];
        assert_eq!(
            machine.line(),
            "2 CPUs were 67 % busy: rustc (7) used 104.0 % of one, node (8) 10.0 %"
        );
    }

    #[test]
    fn our_own_clock_runs() {
        let proc = Path::new("/proc");
        let before = Clock::read(proc, std::process::id()).unwrap();
        while process_cpu_time(std::process::id()).unwrap() <= before.cpu {}
        assert!(Clock::read(proc, u32::MAX / 2).is_none());
    }
}
