//! What can be found out before anything is recorded, so that it is not found out by an empty profile.
//!
//! Every refusal is one line that names the remedy. The checks read /proc and /sys only; they load nothing and touch no
//! process. What only the kernel can tell (a seccomp filter, a security module) comes from loading the programs.
//!
//! The order matters: without the rights to see a process, "no such process" would be a wrong answer.

mod capabilities;
mod cgroup;
mod target;

use std::{fmt, fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

pub use self::cgroup::Cgroup;
use crate::config::{Config, Target};

/// Ring buffers (5.8), CAP_BPF and CAP_PERFMON (5.8) and CAP_CHECKPOINT_RESTORE (5.9) are all there. `cargo xtask vm` runs
/// this one, 6.1, 6.12 and 7.2.
const OLDEST_KERNEL: KernelVersion = KernelVersion { major: 5, minor: 10 };

/// `bpf_get_current_task_btf` (5.11) and `bpf_task_pt_regs` (5.15).
const TASK_POINTERS_SINCE: KernelVersion = KernelVersion { major: 5, minor: 15 };

/// Cookies of perf events (`bpf_get_attach_cookie`, 7adfc6c9b315): what a probe is about.
const COOKIES_SINCE: KernelVersion = KernelVersion { major: 5, minor: 15 };

/// Programs on perf events may ask for the cgroup of the running task since
/// <https://git.kernel.org/linus/95b861a7935bf75f647959073093ab8058b88c26>. 5.10 refuses.
const CGROUP_FILTER_SINCE: KernelVersion = KernelVersion { major: 5, minor: 14 };

/// Inode numbers of the initial namespaces: include/linux/proc_ns.h, `PROC_PID_INIT_INO` and `PROC_USER_INIT_INO`
/// (Linux 3.8 and later; part of the ABI by now).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

/// Where to look, so that tests can look elsewhere.
#[derive(Clone, Debug)]
pub struct Roots {
    pub proc: PathBuf,
    pub sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: PathBuf::from("/proc"),
            sys: PathBuf::from("/sys"),
        }
    }
}

/// What the checks found and the recording needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub cgroup: Option<Cgroup>,
    /// Inode number of the profiler's pid namespace, if that is not the machine's.
    pub pid_namespace: Option<u32>,
    /// The kernel has the helpers of `FEATURE_TASK_POINTERS`.
    pub task_pointers: bool,
}

/// All checks for `config`, before anything is started.
pub fn check(config: &Config, roots: &Roots) -> Result<Findings> {
    let kernel = check_kernel(roots)?;
    check_user_namespace(roots)?;
    let pid_namespace = pid_namespace(roots)?;
    capabilities::check(roots)?;
    check_type_information(roots)?;
    check_lockdown(roots)?;
    if let Target::Pids(pids) = &config.target {
        for &pid in pids {
            target::check_pid(pid, roots)?;
            let wants_python = config.memory.is_some() || config.calls.is_some() || config.why.is_some();
            if wants_python || config.sees_marks().is_some() {
                target::check_program(pid, roots)?;
            }
        }
    }
    for &tid in &config.tids {
        target::check_tid(tid, config, roots)?;
    }
    if config.cgroup.is_some()
        && let Some(version) = kernel.filter(|&version| version < CGROUP_FILTER_SINCE)
    {
        bail!("--cgroup needs Linux {CGROUP_FILTER_SINCE} or later; this kernel is {version}");
    }
    let follows_waits = match (config.wall, &config.waits) {
        _ if config.why.is_some() => Some("profiler why"),
        (true, None) => Some("--wall"),
        // Both: it is looked at, and need not be.
        (true, Some(_)) => Some("profiler top without --no-waits"),
        (false, waits) => waits.as_ref().map(|_| "profiler waits"),
    };
    if let Some(what) = follows_waits
        && let Some(version) = kernel.filter(|&version| version < TASK_POINTERS_SINCE)
    {
        bail!("{what} needs Linux {TASK_POINTERS_SINCE} or later; this kernel is {version}");
    }
    let with_cookies = match &config.memory {
        Some(memory) if memory.exact.is_some() => Some("--exact"),
        Some(memory) if memory.sampled.is_some() => Some("--sampled"),
        _ if config.calls.is_some() => Some("profiler calls"),
        _ => config.sees_marks(),
    };
    if let Some(what) = with_cookies
        && let Some(version) = kernel.filter(|&version| version < COOKIES_SINCE)
    {
        bail!("{what} needs Linux {COOKIES_SINCE} or later; this kernel is {version}");
    }
    let cgroup = config
        .cgroup
        .as_deref()
        .map(|path| cgroup::resolve(path, roots))
        .transpose()?;
    Ok(Findings {
        cgroup,
        pid_namespace,
        task_pointers: kernel.is_none_or(|version| version >= TASK_POINTERS_SINCE),
    })
}

/// Whether a process is there and ours to read, where no program in the kernel is needed.
pub fn check_process(pid: u32, roots: &Roots) -> Result<()> {
    target::check_pid(pid, roots)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct KernelVersion {
    major: u32,
    minor: u32,
}

impl KernelVersion {
    /// `6.1.0-13-amd64`, `5.15`: two numbers, then whatever a distribution adds.
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self {
            major: numbers.next()?.parse().ok()?,
            minor: numbers.next()?.parse().ok()?,
        })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The kernel's version; `None` if its name is no version, which is let through: loading the programs will tell.
fn check_kernel(roots: &Roots) -> Result<Option<KernelVersion>> {
    let path = roots.proc.join("sys/kernel/osrelease");
    let release = fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}; mount proc with mount -t proc proc /proc",
            path.display()
        )
    })?;
    match KernelVersion::parse(&release) {
        Some(version) if version < OLDEST_KERNEL => bail!(
            "this kernel is {}, which is too old; the profiler needs Linux {OLDEST_KERNEL} or later",
            release.trim()
        ),
        version => Ok(version),
    }
}

/// The inode number of the pid namespace we are in; `None` for the machine's own.
///
/// The programs in the kernel translate into it what they see. That it is the one /proc shows is checked, too: after
/// `unshare --pid` without `--mount-proc`, the same number would mean another process here and there.
fn pid_namespace(roots: &Roots) -> Result<Option<u32>> {
    let Ok(link) = fs::read_link(roots.proc.join("self/ns/pid")) else {
        return Ok(None);
    };
    if link.as_os_str() == INITIAL_PID_NAMESPACE {
        return Ok(None);
    }
    let number = link
        .to_str()
        .and_then(|text| text.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok())
        .with_context(|| format!("{} is no pid namespace", link.display()))?;
    let shown = fs::read_link(roots.proc.join("self")).ok();
    if shown.is_some_and(|shown| shown.as_os_str() != std::process::id().to_string().as_str()) {
        bail!(
            "/proc shows the processes of another pid namespace than this one; mount its own with \
             mount -t proc proc /proc (unshare does with --mount-proc)"
        );
    }
    Ok(Some(number))
}

fn check_user_namespace(roots: &Roots) -> Result<()> {
    // Capabilities of another user namespace are worth nothing to BPF, however many /proc/self/status shows.
    let link = fs::read_link(roots.proc.join("self/ns/user"));
    if link.is_ok_and(|link| link.as_os_str() != INITIAL_USER_NAMESPACE) {
        bail!(
            "this is a user namespace of its own (a rootless container?), whose root has no rights over the kernel; \
             run with sudo outside, or in a container that is not rootless"
        );
    }
    Ok(())
}

fn check_type_information(roots: &Roots) -> Result<()> {
    let path = roots.sys.join("kernel/btf/vmlinux");
    if path.exists() {
        return Ok(());
    }
    bail!(
        "the kernel has no type information ({}); use a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions have \
         since about 2021, or mount sysfs if it is not mounted",
        path.display()
    )
}

fn check_lockdown(roots: &Roots) -> Result<()> {
    // Not there: built without, or securityfs is not mounted, which it need not be.
    let modes = fs::read_to_string(roots.sys.join("kernel/security/lockdown")).unwrap_or_default();
    if modes.contains("[confidentiality]") {
        bail!(
            "kernel lockdown is in confidentiality mode, in which no program in the kernel may read memory; boot with \
             lockdown=integrity or without lockdown="
        );
    }
    Ok(())
}

/// A field of /proc/PID/status. Its first line has the process's name, which need not be UTF-8.
pub(crate) fn status_field<'a>(status: &'a [u8], name: &str) -> Option<&'a str> {
    let value = status
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":"))?;
    str::from_utf8(value).ok().map(str::trim)
}

#[cfg(test)]
mod tests;
