//! The time of threads: what they do when the recording begins, and what is under way when it ends.
//!
//! A thread that waits does not switch until that is over: the kernel side would not see it. So what /proc says of it
//! begins its account.

use std::{fs, path::Path};

use profiler_common::wait::{CALLS, NO_CALL, WAIT_READY, WaitSlot};
use profiler_ebpf::wait::class;

use crate::cost;

/// What /proc says of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// As the kernel numbers states; 0 if it runs or could.
    pub task_state: u32,
    pub call: u32,
    pub arguments: [u64; 2],
    pub pc: u64,
    pub sp: u64,
    pub run_delay_ns: u64,
    pub ran_ns: u64,
    /// How often it got a CPU.
    pub slices: u64,
}

impl Seen {
    /// `None` if it is gone, or may not be looked at.
    pub fn of(pid: u32, tid: u32) -> Option<Self> {
        // As bytes: `stat` has a name that anybody may choose.
        let read = |file: &str| {
            let text = fs::read(format!("/proc/{pid}/task/{tid}/{file}")).ok()?;
            Some(String::from_utf8_lossy(&text).into_owned())
        };
        // First: if it goes on in between, it has more slices afterwards.
        let (ran_ns, run_delay_ns, slices) =
            parse_schedstat(&read("schedstat").unwrap_or_default()).unwrap_or_default();
        let task_state = parse_state(&read("stat")?)?;
        let mut seen = Self {
            task_state,
            call: NO_CALL,
            run_delay_ns,
            ran_ns,
            slices,
            ..Self::default()
        };
        if task_state != 0 {
            seen.set_call(&read("syscall")?);
        }
        Some(seen)
    }

    /// `running`, or `202 0x7f… … 0xsp 0xpc`, or `-1 0xsp 0xpc` outside of calls.
    fn set_call(&mut self, text: &str) {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap_or(0);
        match words[..] {
            [call, a, b, _, _, _, _, sp, pc] => {
                self.call = call.parse().unwrap_or(NO_CALL);
                self.arguments = [number(a), number(b)];
                (self.sp, self.pc) = (number(sp), number(pc));
            }
            [_, sp, pc] => (self.sp, self.pc) = (number(sp), number(pc)),
            _ => self.task_state = 0,
        }
    }

    /// Whether a thread that was seen like this has not gone on by the time it is seen as `later`.
    pub fn is_still(&self, later: &Self) -> bool {
        match (self.task_state, later.task_state) {
            (0, 0) => true,
            (0, _) | (_, 0) => false,
            _ => self.slices == later.slices,
        }
    }

    /// An account that begins with it.
    pub fn slot(&self, pid: u32, tid: u32, gil: u64) -> WaitSlot {
        let now_ns = cost::monotonic_ns();
        let entry = if self.call < CALLS {
            class::of_call(self.call)
        } else {
            0
        };
        let waits = self.task_state != 0;
        WaitSlot {
            tid,
            shown_pid: pid,
            shown_tid: tid,
            first_ns: now_ns,
            in_ns: if waits { 0 } else { now_ns },
            out_ns: if waits { now_ns } else { 0 },
            run_delay_ns: self.run_delay_ns,
            ran_ns: self.ran_ns,
            gil,
            class: match waits {
                true => class::of_wait(self.task_state, self.call, entry, self.arguments, gil),
                false => WAIT_READY,
            },
            task_state: self.task_state,
            call: self.call,
            arguments: self.arguments,
            pc: self.pc,
            sp: self.sp,
            ..WaitSlot::default()
        }
    }
}

/// The letters of `/proc/PID/stat` as the states they are of.
fn parse_state(stat: &str) -> Option<u32> {
    // The name before it may hold anything, parentheses included.
    let letter = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
    Some(match letter {
        'S' | 'P' => 0x1,
        'D' => 0x2,
        'T' => 0x4,
        't' => 0x8,
        _ => 0,
    })
}

/// Time on CPUs, time waited for them, and how often it got one.
fn parse_schedstat(text: &str) -> Option<(u64, u64, u64)> {
    let mut words = text.split_ascii_whitespace().map(|word| word.parse().ok());
    Some((words.next()??, words.next()??, words.next()??))
}

/// Time on CPUs, and time waited for them. `None` if it is gone, or the kernel keeps no such account.
pub fn turns(pid: u32, tid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    let (ran_ns, run_delay_ns, _) = parse_schedstat(&text)?;
    Some((ran_ns, run_delay_ns))
}

/// The threads of a process.
pub fn list(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    names.collect()
}

/// Whether it is one of the kernel's own: it has no memory.
pub fn is_of_the_kernel(pid: u32) -> bool {
    fs::read_link(Path::new("/proc").join(pid.to_string()).join("exe")).is_err()
        && fs::read(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.is_empty())
}

/// Its number inside, where the process is in a pid namespace of its own.
pub fn number_inside(pid: u32, tid: u32) -> u32 {
    let status = fs::read(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
    // Line by line, as bytes: the first one has a name that anybody may choose.
    let line = status
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"NSpid:"));
    line.and_then(|line| {
        str::from_utf8(line)
            .ok()?
            .split_ascii_whitespace()
            .next_back()?
            .parse()
            .ok()
    })
    .unwrap_or(tid)
}

/// The number by which we know a thread that its process knows by another.
pub fn number_outside(pid: u32, inside: u32) -> Option<u32> {
    if inside == 0 {
        return None;
    }
    let exists = fs::exists(format!("/proc/{pid}/task/{inside}")).unwrap_or(false);
    if exists && number_inside(pid, inside) == inside {
        return Some(inside);
    }
    list(pid).into_iter().find(|&tid| number_inside(pid, tid) == inside)
}

/// What the kernel calls a thread.
pub fn comm(pid: u32, tid: u32) -> Vec<u8> {
    let mut comm = fs::read(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
    comm.pop_if(|last| *last == b'\n');
    comm
}

#[cfg(test)]
mod tests {
    use profiler_common::wait::{WAIT_LOCK, WAIT_SLEEP};

    use super::*;

    #[test]
    fn what_a_thread_waits_for_is_read_from_its_call() {
        let mut seen = Seen {
            task_state: 1,
            call: NO_CALL,
            ..Seen::default()
        };
        seen.set_call("202 0x7f10 0x189 0x0 0x0 0x0 0xffffffff 0x7ffd30 0x7f2040\n");
        assert_eq!(
            (seen.call, seen.arguments, seen.sp, seen.pc),
            (202, [0x7f10, 0x189], 0x7ffd30, 0x7f2040)
        );
        assert_eq!(seen.slot(1, 2, 0).class, WAIT_LOCK);
        seen.set_call("230 0x1 0x0 0x7f 0x0 0x0 0x0 0x10 0x20");
        let slot = seen.slot(1, 2, 0);
        assert_eq!((slot.class, slot.in_ns), (WAIT_SLEEP, 0));
        assert!(slot.out_ns > 0);
        seen.set_call("running\n");
        assert!(seen.slot(1, 2, 0).in_ns > 0);
    }

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_state() {
        assert_eq!(parse_state("12 (a) R) b) S 1 2"), Some(1));
        assert_eq!(parse_state("12 (x) t 1"), Some(8));
        assert_eq!(parse_state("12"), None);
        assert_eq!(parse_schedstat("10 20 30\n"), Some((10, 20, 30)));
        assert_eq!(parse_schedstat("10 20"), None);
    }

    #[test]
    fn a_thread_that_got_a_cpu_in_between_is_not_where_it_was() {
        let waits = Seen {
            task_state: 1,
            slices: 7,
            ..Seen::default()
        };
        let runs = Seen {
            task_state: 0,
            slices: 8,
            ..waits
        };
        let waits_again = Seen { task_state: 1, ..runs };
        assert!(waits.is_still(&waits) && runs.is_still(&runs));
        assert!(!waits.is_still(&runs) && !waits.is_still(&waits_again) && !runs.is_still(&waits_again));
    }

    #[test]
    fn a_thread_of_ours_is_seen() {
        let pid = std::process::id();
        let seen = Seen::of(pid, pid).unwrap();
        assert!(list(pid).contains(&pid));
        assert!(!is_of_the_kernel(pid));
        assert_eq!(seen.slot(pid, pid, 0).shown_pid, pid);
    }

    #[test]
    fn a_thread_whose_name_is_no_text_is_seen() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "printf '\\320\\276\\321' > /proc/$$/comm; echo; read line"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        let pid = child.id();
        let (name, seen) = (comm(pid, pid), Seen::of(pid, pid));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(name, b"\xd0\xbe\xd1");
        assert!(seen.is_some());
    }
}
