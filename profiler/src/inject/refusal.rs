//! What keeps us from writing to a process: looked at before anything is touched, and told by name.

use std::{fs, io, path::Path};

use super::journal::JournalError;
use crate::{objects::target::NoTarget, process::cgroup::Cgroup};

#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Python(#[from] NoTarget),
    #[error("process {pid} is gone")]
    Gone { pid: u32 },
    #[error("process {pid} cannot be looked at: {source}; run as root")]
    Unreadable { pid: u32, source: io::Error },
    #[error("process {pid} is stopped (kill -CONT {pid} lets it go on): a stopped process is not written to")]
    Stopped { pid: u32 },
    #[error("process {pid} is frozen (docker pause, systemctl freeze): let it go on first")]
    Frozen { pid: u32 },
    #[error("the first thread of process {pid} has ended, and no other is tried")]
    NoFirstThread { pid: u32 },
    #[error("process {pid} is traced by process {tracer} (a debugger, strace): end that first")]
    Traced { pid: u32, tracer: u32 },
    #[error("process {pid} has a seccomp filter, which may end it for calls that it does not make itself")]
    Seccomp { pid: u32 },
    #[error("process {pid} has a shadow stack ({features}), with which this was not proven")]
    ShadowStack { pid: u32, features: String },
    #[error("SELinux is enforcing, under which this was not proven")]
    Selinux,
    #[error("vm.memfd_noexec is 2: code from a memfd may not be mapped (sysctl vm.memfd_noexec)")]
    MemfdNoExec,
    #[error("process {pid} is in another {which} namespace (a container), in which this was not proven")]
    Namespace { pid: u32, which: &'static str },
    #[error("process {pid} runs on musl, on which this was not proven")]
    Musl { pid: u32 },
    #[error("process {pid} runs CPython {version}; this was proven with {first} to {last}")]
    Version {
        pid: u32,
        version: String,
        first: &'static str,
        last: &'static str,
    },
    #[error("process {pid} has {count} interpreters, which may allocate at the same time: not proven")]
    Interpreters { pid: u32, count: usize },
    #[error("process {pid} allocates through {what}; start it without {remedy}")]
    Hooked {
        pid: u32,
        what: &'static str,
        remedy: &'static str,
    },
    #[error(
        "process {pid} has somebody else's functions in CPython's table of allocators (memray or another profiler): \
         end that first"
    )]
    Other { pid: u32 },
    #[error(
        "process {pid} still has the sleeping stubs of a profiler that was killed: profiler undo -p {pid} removes them"
    )]
    LeftBehind { pid: u32 },
    #[error("process {pid} is being sampled by process {profiler}: wait until that has ended")]
    InUse { pid: u32, profiler: u32 },
    #[error("the table of allocators of process {pid} is not where it can be written")]
    NotWritable { pid: u32 },
    #[error("this is built for x86-64 only")]
    OtherMachine,
    #[error("the journal that a later `profiler undo` would need cannot be kept: {0}")]
    Journal(#[from] JournalError),
}

/// What `/proc/PID/status` says of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    state: u8,
    tracer: u32,
    seccomp: u32,
    features: String,
}

impl Status {
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
        };
        Some(Self {
            state: *field("State")?.as_bytes().first()?,
            tracer: field("TracerPid")?.parse().ok()?,
            // Kernels without seccomp have no such line.
            seccomp: field("Seccomp").map_or(Some(0), |mode| mode.parse().ok())?,
            features: field("x86_Thread_features").unwrap_or_default().to_owned(),
        })
    }

    pub fn check(&self, pid: u32) -> Result<(), Refusal> {
        match self.state {
            b'Z' | b'X' => return Err(Refusal::NoFirstThread { pid }),
            b'T' => return Err(Refusal::Stopped { pid }),
            _ => {}
        }
        if self.tracer != 0 {
            let tracer = self.tracer;
            return Err(Refusal::Traced { pid, tracer });
        }
        if self.seccomp != 0 {
            return Err(Refusal::Seccomp { pid });
        }
        if self.features.contains("shstk") {
            let features = self.features.clone();
            return Err(Refusal::ShadowStack { pid, features });
        }
        Ok(())
    }
}

/// What the kernel says of the process and of itself.
pub fn surroundings(pid: u32) -> Result<(), Refusal> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(Refusal::OtherMachine);
    }
    let proc = Path::new("/proc").join(pid.to_string());
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Refusal::Gone { pid },
        _ => Refusal::Unreadable { pid, source },
    };
    let threads = fs::read_dir(proc.join("task")).map_err(unreadable)?;
    for thread in threads.flatten() {
        let Ok(text) = fs::read_to_string(thread.path().join("status")) else {
            continue; // It has just ended.
        };
        let is_first = thread.file_name().to_str() == Some(&pid.to_string());
        let status = Status::parse(&text).ok_or(Refusal::Gone { pid })?;
        // Of others that are about to end we want nothing.
        if is_first || !matches!(status.state, b'Z' | b'X') {
            status.check(pid)?;
        }
    }
    let cgroup = Cgroup::of(pid).map(|cgroup| cgroup.path).unwrap_or_default();
    let events = Path::new("/sys/fs/cgroup")
        .join(cgroup.trim_start_matches('/'))
        .join("cgroup.events");
    if fs::read_to_string(events).is_ok_and(|events| events.lines().any(|line| line == "frozen 1")) {
        return Err(Refusal::Frozen { pid });
    }
    for which in ["mnt", "user", "pid"] {
        let of = |of: &Path| fs::read_link(of.join("ns").join(which));
        let theirs = of(&proc).map_err(unreadable)?;
        if of(Path::new("/proc/self")).ok() != Some(theirs) {
            return Err(Refusal::Namespace { pid, which });
        }
    }
    let says = |path: &str, what: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == what);
    if says("/sys/fs/selinux/enforce", "1") {
        return Err(Refusal::Selinux);
    }
    if says("/proc/sys/vm/memfd_noexec", "2") {
        return Err(Refusal::MemfdNoExec);
    }
    let maps = fs::read(proc.join("maps")).map_err(unreadable)?;
    if String::from_utf8_lossy(&maps).contains("/ld-musl-") {
        return Err(Refusal::Musl { pid });
    }
    Ok(())
}

/// Whether these bytes of a process may be written by itself.
pub fn is_writable(pid: u32, from: u64, to: u64) -> bool {
    let Ok(maps) = fs::read(format!("/proc/{pid}/maps")) else {
        return false;
    };
    let maps = String::from_utf8_lossy(&maps);
    maps.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let range = fields.next().and_then(|range| range.split_once('-'));
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let Some((Some(start), Some(end))) = range.map(|(start, end)| (number(start), number(end))) else {
            return false;
        };
        start <= from && to <= end && fields.next().is_some_and(|rights| rights.starts_with("rw"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tpython3\nState:\tS (sleeping)\nTracerPid:\t0\nSeccomp:\t0\nx86_Thread_features:\t\n";

    fn refused(from: &str, to: &str) -> String {
        let status = Status::parse(&STATUS.replace(from, to)).unwrap();
        status
            .check(7)
            .map_or_else(|refusal| refusal.to_string(), |()| "not".to_owned())
    }

    #[test]
    fn each_state_of_a_thread_is_refused_by_name() {
        for (from, to, what) in [
            ("S (sleeping)", "S (sleeping)", "not"),
            ("S (sleeping)", "T (stopped)", "is stopped"),
            ("S (sleeping)", "Z (zombie)", "has ended"),
            ("TracerPid:\t0", "TracerPid:\t99", "traced by process 99"),
            ("Seccomp:\t0", "Seccomp:\t2", "seccomp"),
            ("features:\t", "features:\tshstk wrss", "shadow stack (shstk wrss)"),
        ] {
            let told = refused(from, to);
            assert!(told.contains(what), "{to}: {told}");
        }
    }

    #[test]
    fn a_stack_is_writable_and_code_is_not() {
        let (pid, here) = (std::process::id(), 0_u64);
        let stack = &raw const here as u64;
        assert!(is_writable(pid, stack, stack + 8));
        let code = is_writable as *const () as u64;
        assert!(!is_writable(pid, code, code + 8));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(State|TracerPid|Seccomp|x86_Thread_features)?:?[ -~\n\t]{0,80}") {
            let _ = Status::parse(&text);
        }
    }
}
