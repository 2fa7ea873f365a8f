//! The machine that is measured on, and whether it does something else meanwhile.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

pub struct Machine {
    pub cpus: usize,
    pub description: String,
    kernel: String,
    model: String,
    load: String,
}

impl Machine {
    pub fn of_this() -> Result<Self> {
        let cpus = thread::available_parallelism()
            .context("cannot tell the number of CPUs")?
            .get();
        let kernel = read("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let model = read("/proc/cpuinfo")?
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown CPU", |(_, model)| model)
            .to_owned();
        let load = read("/proc/loadavg")?
            .split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
            .join(" ");
        let description = format!("{cpus} × {model}, Linux {kernel}, load average before {load}");
        Ok(Self {
            cpus,
            description,
            kernel,
            model,
            load,
        })
    }

    pub fn json(&self) -> Value {
        json!({"cpus": self.cpus, "kernel": self.kernel, "model": self.model, "load_average_before": self.load})
    }
}

/// Other work that would be measured too, if there is enough of it to matter.
///
/// Looked at for two seconds: the load average is a memory of what was, and a build that has just ended is no harm.
pub fn disturbance() -> Result<Option<String>> {
    const LOOK: Duration = Duration::from_secs(2);
    /// Of one CPU. An idle machine's daemons stay below a tenth of it.
    const TOLERATED: f64 = 0.1;
    let before = CpuTimes::now()?;
    let processes_before = processes();
    thread::sleep(LOOK);
    let busy = CpuTimes::now()?.busy_since(&before);
    if busy <= TOLERATED {
        return Ok(None);
    }
    let mut used: Vec<(u64, Process)> = processes()
        .into_iter()
        .map(|process| {
            let then = processes_before.iter().find(|then| then.pid == process.pid);
            (
                process.ticks - then.map_or(0, |then| then.ticks).min(process.ticks),
                process,
            )
        })
        .filter(|(ticks, process)| *ticks > 0 && process.pid != std::process::id())
        .collect();
    used.sort_by_key(|(ticks, _)| std::cmp::Reverse(*ticks));
    let names: Vec<String> = used
        .iter()
        .take(3)
        .map(|(_, process)| format!("{} ({})", process.comm, process.pid))
        .collect();
    let names = if names.is_empty() {
        String::new()
    } else {
        format!(", above all {}", names.join(", "))
    };
    Ok(Some(format!("the machine is busy: {busy:.1} CPUs are in use{names}")))
}

/// What all CPUs together have done since the machine was started, in clock ticks.
pub struct CpuTimes {
    fields: Vec<u64>,
}

/// Places in the first line of /proc/stat (proc_stat(5)).
const IDLE: usize = 3;
const IOWAIT: usize = 4;
const STEAL: usize = 7;

impl CpuTimes {
    pub fn now() -> Result<Self> {
        Self::parse(&read("/proc/stat")?).context("cannot parse /proc/stat")
    }

    fn parse(stat: &str) -> Option<Self> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        // Guest time is counted as user time, too.
        let fields: Vec<u64> = fields
            .take(STEAL + 1)
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        (fields.len() == STEAL + 1).then_some(Self { fields })
    }

    fn since(&self, before: &Self, field: usize) -> u64 {
        self.fields[field].saturating_sub(before.fields[field])
    }

    fn all_since(&self, before: &Self) -> u64 {
        (0..=STEAL).map(|field| self.since(before, field)).sum::<u64>().max(1)
    }

    /// How many CPUs were in use.
    fn busy_since(&self, before: &Self) -> f64 {
        let cpus = thread::available_parallelism().map_or(1, usize::from) as f64;
        let idle = self.since(before, IDLE) + self.since(before, IOWAIT);
        let all = self.all_since(before);
        cpus * all.saturating_sub(idle) as f64 / all as f64
    }

    /// The share of time that the host of this virtual machine took away.
    pub fn stolen_since(&self, before: &Self) -> f64 {
        self.since(before, STEAL) as f64 / self.all_since(before) as f64
    }
}

struct Process {
    pid: u32,
    comm: String,
    ticks: u64,
}

fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().into_string().ok()?.parse().ok()?;
            // Gone since it was listed: nothing to tell.
            let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
            process(pid, &String::from_utf8_lossy(&stat))
        })
        .collect()
}

/// `1234 (name) S …` with utime and stime as fields 14 and 15 (proc_pid_stat(5)). A name may contain parentheses.
fn process(pid: u32, stat: &str) -> Option<Process> {
    let (before, after) = stat.rsplit_once(") ")?;
    let comm = before.split_once('(')?.1.to_owned();
    let mut times = after.split_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    let ticks = times.next()?? + times.next()??;
    Some(Process { pid, comm, ticks })
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_not_busy_and_stolen_is_told_apart() {
        let before = CpuTimes::parse("cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 …").unwrap();
        let after = CpuTimes::parse("cpu  20 0 10 50 10 0 0 10 20 0").unwrap();
        let cpus = thread::available_parallelism().unwrap().get() as f64;
        assert_eq!(after.busy_since(&before), cpus * 0.4);
        assert_eq!(after.stolen_since(&before), 0.1);
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let process = process(7, "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 5").unwrap();
        assert_eq!((process.comm.as_str(), process.ticks), ("a) b (c", 42));
    }
}
