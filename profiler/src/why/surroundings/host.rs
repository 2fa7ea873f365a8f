//! What the machine has, and who has its CPUs: all of its processes, by their clocks before and after.

use std::{path::Path, time::Duration};

use rustc_hash::FxHashMap;

use super::{field, kibibytes, text};
use crate::{
    process::{ancestry, comm, command, stat::Stat},
    report::label,
    why::evidence::{Busy, Host},
};

/// Processes whose clocks are read. They take some 10 µs each.
const MOST_READ: usize = 16 * 1024;
/// Those that are told, and the least of a CPU that is worth it.
const MOST_TOLD: usize = 16;
const LEAST: f64 = 0.02;
/// Ancestors that are looked at.
const MOST_ANCESTORS: usize = 32;

impl Host {
    pub(super) fn read() -> Self {
        let memory = text(Path::new("/proc/meminfo"));
        let load = text(Path::new("/proc/loadavg"));
        let cpus = crate::source::online_cpus().map_or(0, |cpus| cpus.len());
        // The fourth field is `running/all`.
        let running = load.as_deref().and_then(|load| {
            let text = str::from_utf8(load).ok()?;
            let running = text.split_ascii_whitespace().nth(3)?.split('/').next()?;
            running.parse::<f64>().ok()
        });
        Self {
            cpus,
            available_bytes: memory
                .as_deref()
                .and_then(|memory| kibibytes(&field(memory, b"MemAvailable:")?)),
            load_per_cpu: running.filter(|_| cpus > 0).map(|running| running / cpus as f64),
            ..Self::default()
        }
    }
}

/// What clocks say at a moment.
#[derive(Debug, Default)]
pub struct Clocks {
    machine: Option<Ticks>,
    processes: FxHashMap<u32, Clock>,
}

/// Of the machine's CPUs together, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    stolen: u64,
    all: u64,
}

/// Of a process.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    parent: u32,
    /// Tells it apart from others that had its number.
    began: u64,
    own: Duration,
    /// Of children that have ended and were waited for.
    children: Duration,
}

impl Clocks {
    pub fn read() -> Self {
        let proc = Path::new("/proc");
        let pids = ancestry::pids(proc).unwrap_or_default();
        let clocks = pids.into_iter().take(MOST_READ).filter_map(|pid| {
            let stat = Stat::read(proc, pid)?;
            let clock = Clock {
                parent: stat.parent,
                began: stat.began_ticks(),
                own: stat.cpu_time(),
                children: stat.childrens_cpu_time(),
            };
            Some((pid, clock))
        });
        Self {
            machine: text(&proc.join("stat")).as_deref().and_then(Ticks::parse),
            processes: clocks.collect(),
        }
    }

    /// Who has had CPUs since `before`, how many idled and how many were taken by a hypervisor.
    pub fn told(&self, before: &Self, cpus: usize, host: &mut Host) {
        let Some((now, was)) = self.machine.zip(before.machine) else {
            return;
        };
        let all = now.all.saturating_sub(was.all);
        if all == 0 {
            return;
        }
        let on_average = |now: u64, was: u64| now.saturating_sub(was) as f64 / all as f64 * cpus as f64;
        host.idle_cpus = Some(on_average(now.idle, was.idle));
        host.stolen_cpus = Some(on_average(now.stolen, was.stolen));
        // All CPUs tick alike.
        let elapsed = crate::process::stat::ticks(all).as_secs_f64() / cpus.max(1) as f64;
        let mut busy: Vec<(u32, f64)> = (self.since(before).into_iter())
            .map(|(pid, used)| (pid, used.as_secs_f64() / elapsed.max(1e-9)))
            .filter(|(_, used)| *used >= LEAST)
            .collect();
        busy.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let busy = busy.into_iter().take(MOST_TOLD);
        host.busy = busy
            .map(|(pid, cpus)| Busy {
                pid,
                name: name(pid),
                cpus,
                ancestors: self.ancestors(pid),
            })
            .collect();
    }

    /// What each process that is there has used since then, with what its children have that ended meanwhile.
    fn since(&self, before: &Self) -> FxHashMap<u32, Duration> {
        let was = |pid: u32| {
            let (now, was) = (self.processes.get(&pid)?, before.processes.get(&pid)?);
            (now.began == was.began).then_some(was)
        };
        let mut used: FxHashMap<u32, Duration> = FxHashMap::default();
        for (&pid, now) in &self.processes {
            let was = was(pid).copied().unwrap_or_default();
            let (own, children) = (
                now.own.saturating_sub(was.own),
                now.children.saturating_sub(was.children),
            );
            used.insert(pid, own.saturating_add(children));
        }
        // What ended meanwhile had used some of what its parent is told of long before.
        for (&pid, gone) in &before.processes {
            if was(pid).is_some() {
                continue;
            }
            let mut parent = gone.parent;
            for _ in 0..MOST_ANCESTORS {
                if was(parent).is_some() {
                    break;
                }
                parent = before.processes.get(&parent).map_or(0, |clock| clock.parent);
            }
            if let Some(used) = used.get_mut(&parent) {
                *used = used.saturating_sub(gone.own.saturating_add(gone.children));
            }
        }
        used
    }

    fn ancestors(&self, pid: u32) -> Vec<u32> {
        let parent = |pid: &u32| {
            let clock = self.processes.get(pid)?;
            (clock.parent != 0).then_some(clock.parent)
        };
        std::iter::successors(parent(&pid), parent)
            .take(MOST_ANCESTORS)
            .collect()
    }
}

impl Ticks {
    /// The first line of proc_stat(5).
    fn parse(stat: &[u8]) -> Option<Self> {
        let line = field(stat, b"cpu ")?;
        let ticks: Vec<u64> = line
            .split_ascii_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        // The eight first: guests' time is in users' already.
        let all = ticks.iter().take(8).fold(0u64, |sum, ticks| sum.saturating_add(*ticks));
        Some(Self {
            idle: ticks.get(3)?.saturating_add(*ticks.get(4)?),
            stolen: ticks.get(7).copied().unwrap_or(0),
            all,
        })
    }
}

fn name(pid: u32) -> String {
    let comm = comm::of(Path::new("/proc"), pid);
    label::clean(match command::of(pid) {
        Some(command) => command.with_name(&comm),
        None => comm,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clocks(processes: &[(u32, u32, u64, u64)]) -> Clocks {
        let processes = processes.iter().map(|&(pid, parent, own, children)| {
            let clock = Clock {
                parent,
                began: 7,
                own: Duration::from_secs(own),
                children: Duration::from_secs(children),
            };
            (pid, clock)
        });
        Clocks {
            machine: None,
            processes: processes.collect(),
        }
    }

    fn used(before: &Clocks, after: &Clocks) -> Vec<(u32, u64)> {
        let mut used: Vec<_> = (after.since(before).into_iter())
            .map(|(pid, used)| (pid, used.as_secs()))
            .filter(|(_, used)| *used > 0)
            .collect();
        used.sort_unstable();
        used
    }

    #[test]
    fn what_has_ended_meanwhile_is_told_of_who_waited_for_it_and_nothing_of_long_before_is() {
        // A shell, a build, a compiler of a hundred seconds that ends, and another that begins and ends.
        let before = clocks(&[(2, 1, 0, 50), (3, 2, 10, 40), (4, 3, 100, 0)]);
        let after = clocks(&[(2, 1, 0, 50), (3, 2, 11, 40 + 103 + 2)]);
        assert_eq!(used(&before, &after), [(3, 1 + 3 + 2)]);
        // The build ends, too: all of it is in its shell's.
        let after = clocks(&[(2, 1, 0, 50 + 11 + 40 + 103 + 2)]);
        assert_eq!(used(&before, &after), [(2, 6)]);
        // Nobody waited for the compiler: nothing is told, and no nonsense.
        let after = clocks(&[(2, 1, 0, 50), (3, 2, 10, 40)]);
        assert_eq!(used(&before, &after), []);
    }

    #[test]
    fn another_process_with_the_same_number_is_not_the_same() {
        let before = clocks(&[(4, 1, 100, 0)]);
        let mut after = clocks(&[(4, 1, 2, 0)]);
        after.processes.get_mut(&4).unwrap().began = 8;
        assert_eq!(used(&before, &after), [(4, 2)]);
    }

    #[test]
    fn parents_that_go_round_in_a_circle_end() {
        let before = clocks(&[(2, 3, 1, 0), (3, 2, 1, 0)]);
        assert_eq!(used(&before, &clocks(&[(5, 1, 1, 0)])), [(5, 1)]);
        assert_eq!(before.ancestors(2).len(), MOST_ANCESTORS);
    }

    #[test]
    fn ticks_are_read() {
        let stat = b"cpu  10 1 20 300 5 1 2 40 7 0\ncpu0 1 1 1 1\n";
        let expected = Ticks {
            idle: 305,
            stolen: 40,
            all: 379,
        };
        assert_eq!(Ticks::parse(stat), Some(expected));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "cpu [0-9 ]{0,80}") {
            Ticks::parse(&bytes);
            Ticks::parse(text.as_bytes());
        }
    }
}
