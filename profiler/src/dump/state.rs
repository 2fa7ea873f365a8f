//! What a thread is doing, as it is told.

use profiler_common::wait::{
    CALL_DESCRIPTOR, CALL_POLL, CALLS, WAIT_CHILD, WAIT_GIL, WAIT_LOCK, WAIT_POLL, WAIT_READY, WAIT_SLEEP, WAIT_STOPPED,
};
use profiler_ebpf::wait::class;

use super::{
    descriptor::{Behind, Descriptors},
    look::Look,
};
use crate::{
    cost,
    process::{
        peers::{Peer, Peers},
        who,
    },
    python::memory::ReadMemory,
    waits::{
        cause::{self, Cause},
        gil,
    },
};

/// A thread's state when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, or could: the kernel's word for both is R.
    Running {
        cpu: u32,
    },
    Waiting(Wait),
    /// The kernel's thread, or the process, has ended.
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub cause: Cause,
    /// The system call's number; `NO_CALL` if it is in none.
    pub call: u32,
    /// Whom, or what for: `10.0.0.7:5432`, `/var/lib/x.db`, `child 4250 (ffmpeg)`; empty if there is nothing to say.
    pub target: String,
    /// The number of a socket, and the process at its other end.
    pub socket: Option<u64>,
    pub peer: Option<Peer>,
    /// Who has the GIL that it waits for.
    pub holder: Option<Holder>,
    /// Of a sleep: how long it still takes.
    pub left_ns: Option<u64>,
    /// No signal ends it.
    pub is_uninterruptible: bool,
}

/// The thread that has a GIL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub tid: u32,
    pub name: Option<String>,
}

/// What is known of the process that a state is a thread's of.
pub struct Around<'a> {
    pub memory: &'a dyn ReadMemory,
    pub descriptors: &'a Descriptors,
    /// Where the GIL is that the thread must have to run; 0 if there is none, or it is not known.
    pub gil: u64,
    /// The process's C library is musl.
    pub is_on_musl: bool,
}

impl State {
    pub fn of(look: &Look, around: &Around<'_>) -> Self {
        if look.has_ended() {
            return Self::Ended;
        }
        let entry = entry(look.call);
        let [first, second, ..] = look.arguments;
        let class = class::of_wait(look.task_state(), look.call, entry, [first, second], around.gil);
        let class = match class {
            WAIT_LOCK if around.is_on_musl && gil::is_waited_for_on_musl(around.memory, around.gil, first) => WAIT_GIL,
            class => class,
        };
        if class == WAIT_READY {
            return Self::Running { cpu: look.cpu };
        }
        let is_uninterruptible = look.letter == b'D';
        let mut wait = Wait {
            cause: Cause::of_class(class).unwrap_or(Cause::Other),
            call: look.call,
            target: String::new(),
            socket: None,
            peer: None,
            holder: None,
            left_ns: None,
            is_uninterruptible,
        };
        match class {
            WAIT_STOPPED => wait.target = if look.letter == b't' { "traced" } else { "stopped" }.to_owned(),
            WAIT_GIL => {}
            WAIT_CHILD => wait.target = child(look).unwrap_or_default(),
            WAIT_SLEEP => wait.left_ns = left_ns(look, around.memory),
            _ if is_epoll(look.call) => {
                let watched = around.descriptors.watched(first as u32);
                wait.target = watched.map(descriptors).unwrap_or_default();
            }
            WAIT_POLL if entry & CALL_POLL != 0 => wait.target = descriptors(second as u32 as usize),
            _ => {
                let number = match entry {
                    entry if entry & CALL_DESCRIPTOR != 0 => Some(first as u32),
                    // `struct pollfd { int fd; … }`
                    entry if entry & CALL_POLL != 0 => around.memory.read_u64(first).map(|word| word as u32),
                    _ => None,
                };
                if let Some(number) = number {
                    let Behind { cause, text, socket } = around.descriptors.behind(number, is_uninterruptible);
                    // The call says it where it can be of one kind only.
                    wait.cause = Cause::of_class(class).or(cause).unwrap_or(Cause::Other);
                    wait.target = text;
                    wait.socket = socket;
                }
            }
        }
        Self::Waiting(wait)
    }

    /// One word of a closed list.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running { .. } => "running",
            Self::Waiting(wait) => wait.cause.name(),
            Self::Ended => "ended",
        }
    }

    pub fn is_waiting_for_gil(&self) -> bool {
        matches!(self, Self::Waiting(wait) if wait.cause == Cause::Gil)
    }

    pub fn wait(&self) -> Option<&Wait> {
        match self {
            Self::Waiting(wait) => Some(wait),
            _ => None,
        }
    }
}

/// Names the processes at the other ends of sockets that threads of a process wait for.
pub fn name_peers<'a>(states: impl Iterator<Item = &'a mut State>, pid: u32, peers: &mut Peers) {
    for state in states {
        if let State::Waiting(wait) = state {
            wait.peer = wait.socket.and_then(|socket| peers.of_socket(pid, socket));
        }
    }
}

fn entry(call: u32) -> u32 {
    if call < CALLS { class::of_call(call) } else { 0 }
}

/// epoll_wait, epoll_pwait, epoll_pwait2.
fn is_epoll(call: u32) -> bool {
    matches!(call, 232 | 281 | 441)
}

fn descriptors(number: usize) -> String {
    match number {
        1 => "1 descriptor".to_owned(),
        number => format!("{number} descriptors"),
    }
}

/// Which child is waited for, if it is one.
fn child(look: &Look) -> Option<String> {
    const P_PID: u64 = 1;
    let [first, second, ..] = look.arguments;
    let pid = match (look.call, first) {
        // wait4; waitid.
        (61, pid) => pid,
        (247, P_PID) => second,
        _ => return None,
    };
    // -1 and 0 and groups: any of several.
    let pid = u32::try_from(pid as u32 as i32).ok().filter(|&pid| pid > 0)?;
    Some(format!("child {}", who::process(std::path::Path::new("/proc"), pid)))
}

/// How long a sleep with an end still takes.
fn left_ns(look: &Look, memory: &dyn ReadMemory) -> Option<u64> {
    const CLOCK_NANOSLEEP: u32 = 230;
    const ABSOLUTE: u64 = 1;
    let [clock, flags, request, ..] = look.arguments;
    let is_monotonic = clock == libc::CLOCK_MONOTONIC as u64;
    if look.call != CLOCK_NANOSLEEP || flags & ABSOLUTE == 0 || !is_monotonic {
        return None;
    }
    let seconds = memory.read_u64(request)?;
    let nanos = memory.read_u64(request.checked_add(8)?)?;
    let end = seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?;
    Some(end.saturating_sub(cost::monotonic_ns()))
}

/// The name of a system call as people know it.
pub fn call_name(call: u32) -> String {
    match cause::call_name(call) {
        Some("recvfrom") => "recv".to_owned(),
        Some("sendto") => "send".to_owned(),
        Some("pselect6") => "select".to_owned(),
        Some("accept4") => "accept".to_owned(),
        Some("wait4") => "wait".to_owned(),
        Some(name) => name.to_owned(),
        None => match call {
            17 => "pread".to_owned(),
            18 => "pwrite".to_owned(),
            19 => "readv".to_owned(),
            20 => "writev".to_owned(),
            26 => "msync".to_owned(),
            40 => "sendfile".to_owned(),
            162 => "sync".to_owned(),
            275 => "splice".to_owned(),
            299 => "recvmmsg".to_owned(),
            307 => "sendmmsg".to_owned(),
            326 => "copy_file_range".to_owned(),
            number => format!("system call {number}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::memory::FakeMemory;

    fn state(letter: u8, call: u32, arguments: [u64; 6], gil: u64) -> State {
        let look = Look {
            letter,
            call,
            arguments,
            cpu: 3,
            ..Look::default()
        };
        let mut memory = FakeMemory::default();
        let end = (cost::monotonic_ns() / 1_000_000_000 + 100).to_le_bytes();
        memory.put(0x1000, [end, 0_u64.to_le_bytes()].concat());
        State::of(
            &look,
            &Around {
                memory: &memory,
                descriptors: &Descriptors::of(std::process::id()),
                gil,
                is_on_musl: false,
            },
        )
    }

    #[test]
    fn on_musl_who_waits_for_the_gil_sleeps_on_its_own_stack() {
        let (gil, node) = (0x9000_u64, 0x5000_u64);
        // The second of two that wait for it, and one that waits for something else.
        let mut memory = FakeMemory::default();
        memory.put(gil + 40, 0x4000_u64.to_le_bytes());
        memory.put(0x4000, [0_u64, node].map(u64::to_le_bytes).concat());
        memory.put(node, [0x4000_u64, 0].map(u64::to_le_bytes).concat());
        for (futex, expected) in [
            (node + 20, true),
            (0x4000 + 20, true),
            (node, false),
            (0x6000 + 20, false),
        ] {
            assert_eq!(gil::is_waited_for_on_musl(&memory, gil, futex), expected);
        }
        assert_eq!(state(b'S', 202, [0x7010, 0, 0, 0, 0, 0], 0x9000).name(), "lock");
        // A list that is a circle.
        memory.put(node + 8, 0x4000_u64.to_le_bytes());
        assert!(!gil::is_waited_for_on_musl(&memory, gil, 0x6000));
    }

    #[test]
    fn a_thread_s_state_is_told_in_one_word() {
        for (letter, call, arguments, expected) in [
            (b'R', 202, [0; 6], "running"),
            (b'S', 202, [0x7010, 0, 0, 0, 0, 0], "gil"),
            (b'S', 202, [0x9000, 0, 0, 0, 0, 0], "lock"),
            (b'S', 230, [1, 1, 0x1000, 0, 0, 0], "sleep"),
            (b'S', 61, [u64::MAX, 0, 0, 0, 0, 0], "child"),
            (b'T', 230, [0; 6], "stopped"),
            (b't', 230, [0; 6], "stopped"),
            (b'S', 232, [u64::from(u32::MAX), 0, 0, 0, 0, 0], "poll"),
            (b'D', 0, [u64::from(u32::MAX), 0, 0, 0, 0, 0], "other"),
            (b'Z', 0, [0; 6], "ended"),
        ] {
            assert_eq!(state(letter, call, arguments, 0x7000).name(), expected, "{call}");
        }
    }

    #[test]
    fn a_sleep_tells_how_long_it_takes_and_a_wait_for_a_child_which() {
        let sleep = state(b'S', 230, [1, 1, 0x1000, 0, 0, 0], 0);
        let left = sleep.wait().unwrap().left_ns.unwrap();
        assert!((90_000_000_000..=100_000_000_000).contains(&left), "{left}");
        assert_eq!(
            state(b'S', 230, [1, 0, 0x1000, 0, 0, 0], 0).wait().unwrap().left_ns,
            None
        );
        let own = std::process::id();
        let child = state(b'S', 61, [own.into(), 0, 0, 0, 0, 0], 0);
        assert!(
            child.wait().unwrap().target.starts_with(&format!("child {own} (")),
            "{child:?}"
        );
        assert_eq!(state(b'S', 61, [u64::MAX, 0, 0, 0, 0, 0], 0).wait().unwrap().target, "");
    }
}
