//! What can be found out before anything is recorded, so that it is not found out by an empty profile.
//!
//! Every refusal is one line that names the remedy. The checks read /proc and /sys only; they load nothing and touch no
//! process. What only the kernel can tell (a seccomp filter, a security module) comes from loading the programs.
//!
//! The order matters: without the rights to see a process, "no such process" would be a wrong answer.

use std::{
    ffi::OsStr,
    fmt, fs,
    io::ErrorKind,
    mem::MaybeUninit,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::MetadataExt as _,
    },
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};

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

/// A cgroup as `bpf_get_current_ancestor_cgroup_id` knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// The inode of its directory, which is its id on 64-bit kernels since 5.5.
    pub id: u64,
    /// Depth below the root, which is 0. Counted from the root of the machine, not of a cgroup namespace.
    pub level: u32,
}

/// All checks for `config`, before anything is started.
pub fn check(config: &Config, roots: &Roots) -> Result<Findings> {
    let kernel = check_kernel(roots)?;
    check_user_namespace(roots)?;
    let pid_namespace = pid_namespace(roots)?;
    check_capabilities(roots)?;
    check_type_information(roots)?;
    check_lockdown(roots)?;
    if let Target::Pids(pids) = &config.target {
        for &pid in pids {
            check_pid(pid, roots)?;
        }
    }
    for &tid in &config.tids {
        check_tid(tid, config, roots)?;
    }
    if config.cgroup.is_some()
        && let Some(version) = kernel.filter(|&version| version < CGROUP_FILTER_SINCE)
    {
        bail!("--cgroup needs Linux {CGROUP_FILTER_SINCE} or later; this kernel is {version}");
    }
    let with_cookies = match &config.memory {
        Some(memory) if memory.exact.is_some() => Some("--exact"),
        _ => config.calls.as_ref().map(|_| "profiler calls"),
    };
    if let Some(what) = with_cookies
        && let Some(version) = kernel.filter(|&version| version < COOKIES_SINCE)
    {
        bail!("{what} needs Linux {COOKIES_SINCE} or later; this kernel is {version}");
    }
    let cgroup = config
        .cgroup
        .as_deref()
        .map(|path| resolve_cgroup(path, roots))
        .transpose()?;
    Ok(Findings {
        cgroup,
        pid_namespace,
        task_pointers: kernel.is_none_or(|version| version >= TASK_POINTERS_SINCE),
    })
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

/// A capability, by its bit in /proc/PID/status (include/uapi/linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Capability {
    bit: u32,
    name: &'static str,
}

const SYS_PTRACE: Capability = Capability {
    bit: 19,
    name: "SYS_PTRACE",
};
const SYS_ADMIN: Capability = Capability {
    bit: 21,
    name: "SYS_ADMIN",
};
const PERFMON: Capability = Capability {
    bit: 38,
    name: "PERFMON",
};
const BPF: Capability = Capability { bit: 39, name: "BPF" };
const CHECKPOINT_RESTORE: Capability = Capability {
    bit: 40,
    name: "CHECKPOINT_RESTORE",
};

/// Each need, and the capability that also covers it (capabilities(7)): programs and maps; perf events and reading
/// memory from BPF; /proc/PID/{maps,mem,root} of others; /proc/PID/map_files, which has the files deleted since.
const NEEDS: [(Capability, Option<Capability>); 4] = [
    (BPF, Some(SYS_ADMIN)),
    (PERFMON, Some(SYS_ADMIN)),
    (SYS_PTRACE, None),
    (CHECKPOINT_RESTORE, Some(SYS_ADMIN)),
];

fn check_capabilities(roots: &Roots) -> Result<()> {
    let path = roots.proc.join("self/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let missing = missing_capabilities(&status)
        .with_context(|| format!("{} does not tell our capabilities; run with sudo", path.display()))?;
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = missing
        .iter()
        .map(|capability| format!("CAP_{}", capability.name))
        .collect();
    let flags: Vec<String> = missing
        .iter()
        .map(|capability| format!("--cap-add={}", capability.name))
        .collect();
    bail!(
        "missing {}: run with sudo, or in a container as root with {}",
        enumerate(&names),
        flags.join(" ")
    )
}

fn missing_capabilities(status: &str) -> Option<Vec<Capability>> {
    let effective = u64::from_str_radix(status_field(status, "CapEff")?, 16).ok()?;
    let has = |capability: Capability| effective & 1 << capability.bit != 0;
    let missing = NEEDS
        .iter()
        .filter(|(need, instead)| !has(*need) && !instead.is_some_and(has));
    Some(missing.map(|(need, _)| *need).collect())
}

/// `a`, `a and b`, `a, b and c`.
fn enumerate(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
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

fn check_pid(pid: u32, roots: &Roots) -> Result<()> {
    let directory = roots.proc.join(pid.to_string());
    let status = match fs::read_to_string(directory.join("status")) {
        Ok(status) => status,
        Err(error) if is_gone(&error) => {
            bail!("there is no process {pid}; it may have ended, ps -e lists those there are")
        }
        Err(error) => return Err(not_ours(pid, &error)),
    };
    // /proc answers for threads, too, though it does not list them.
    if let Some(process) = status_field(&status, "Tgid").and_then(|tgid| tgid.parse::<u32>().ok())
        && process != pid
    {
        bail!("{pid} is a thread of process {process}; use -p {process} --tid {pid}");
    }
    if status_field(&status, "State").is_some_and(|state| state.starts_with(['Z', 'X'])) {
        bail!("process {pid} has ended and only waits for its parent to notice; name one that runs");
    }
    // Opening is what is checked (PTRACE_MODE_READ, Documentation/filesystems/proc.rst); nothing is read.
    match fs::File::open(directory.join("maps")) {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => bail!("there is no process {pid} any more; ps -e lists those there are"),
        Err(error) => Err(not_ours(pid, &error)),
    }
}

fn not_ours(pid: u32, error: &std::io::Error) -> anyhow::Error {
    anyhow!("process {pid} is not ours to see: {error}; run with sudo, or in a container with --cap-add=SYS_PTRACE")
}

fn check_tid(tid: u32, config: &Config, roots: &Roots) -> Result<()> {
    let status = match fs::read_to_string(roots.proc.join(tid.to_string()).join("status")) {
        Ok(status) => status,
        Err(error) if is_gone(&error) => bail!("there is no thread {tid}; ps -eL lists those there are (LWP)"),
        Err(error) => bail!("thread {tid} is not ours to see: {error}; run with sudo"),
    };
    let process = status_field(&status, "Tgid").and_then(|tgid| tgid.parse::<u32>().ok());
    // With -s it may be a thread of a child; the recording finds out.
    if let (Target::Pids(pids), Some(process), false) = (&config.target, process, config.subprocesses)
        && !pids.contains(&process)
    {
        bail!("thread {tid} belongs to process {process}, which is not among those to record; add -p {process}");
    }
    Ok(())
}

/// A process can end between two looks; reading then fails with ESRCH.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

/// Finds the cgroup that `path` means: a directory of a cgroup version 2 file system, or a path below its root as
/// /proc/PID/cgroup shows it.
pub fn resolve_cgroup(path: &Path, roots: &Roots) -> Result<Cgroup> {
    let mountinfo = fs::read(roots.proc.join("self/mountinfo")).context("cannot read the list of mounts")?;
    let mounts = cgroup2_mounts(&mountinfo);
    if mounts.is_empty() {
        bail!("no cgroup version 2 file system is mounted; mount one with mount -t cgroup2 none /sys/fs/cgroup");
    }
    let wanted = existing_cgroup(path, &mounts)?;
    let metadata = fs::metadata(&wanted).with_context(|| format!("cannot look at {}", wanted.display()))?;
    // The mount that shows it: the longest that it lies below.
    let mount = mounts
        .iter()
        .filter(|mount| wanted.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
        .with_context(|| {
            format!(
                "{} lies below no cgroup version 2 mount; name it below one",
                wanted.display()
            )
        })?;
    let below_mount = wanted.strip_prefix(&mount.point).unwrap_or(Path::new(""));
    let level = namespace_depth(roots) + depth(&mount.root) + depth(below_mount);
    let level = u32::try_from(level).ok().with_context(|| {
        format!(
            "cannot tell how deep {} lies; run in the machine's cgroup namespace (--cgroupns=host)",
            wanted.display()
        )
    })?;
    Ok(Cgroup {
        id: metadata.ino(),
        level,
    })
}

/// A mounted cgroup version 2 file system.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The cgroup that is mounted, as seen from our cgroup namespace: `/` but for bind mounts and foreign namespaces.
    root: PathBuf,
    point: PathBuf,
}

/// Lines are `36 35 98:0 /root /point options [optional…] - fstype source options` (proc_pid_mountinfo(5)).
fn cgroup2_mounts(mountinfo: &[u8]) -> Vec<Mount> {
    let mount_of = |line: &[u8]| {
        let mut fields = line.split(|&byte| byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        fields.find(|&field| field == b"-")?;
        (fields.next()? == b"cgroup2").then(|| Mount {
            root: unescape(root),
            point: unescape(point),
        })
    };
    mountinfo.split(|&byte| byte == b'\n').filter_map(mount_of).collect()
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let (byte, after) = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after)
            }
            _ => (*first, after),
        };
        path.push(byte);
        rest = after;
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

/// The directory that `path` means, canonical, on a cgroup version 2 file system.
fn existing_cgroup(path: &Path, mounts: &[Mount]) -> Result<PathBuf> {
    let below_root = path.strip_prefix("/").unwrap_or(path);
    let candidates = std::iter::once(path.to_owned()).chain(mounts.iter().map(|mount| mount.point.join(below_root)));
    let mut version_1 = false;
    for candidate in candidates {
        let Ok(real) = fs::canonicalize(&candidate) else {
            continue;
        };
        match file_system_of(&real) {
            Some(libc::CGROUP2_SUPER_MAGIC) if real.is_dir() => return Ok(real),
            Some(libc::CGROUP_SUPER_MAGIC) => version_1 = true,
            _ => {}
        }
    }
    let root = mounts
        .first()
        .map_or(Path::new("/sys/fs/cgroup"), |mount| &mount.point)
        .display();
    let path = path.display();
    if version_1 {
        bail!("{path} is a cgroup of version 1, which BPF does not know; name one below {root}");
    }
    bail!("{path} is not a cgroup (version 2); name a directory below {root}, systemd-cgls shows them")
}

fn file_system_of(path: &Path) -> Option<libc::c_long> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut answer = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `path` is NUL-terminated and `answer` has room for the answer; zeroes are a value of `statfs`.
    unsafe { (libc::statfs(path.as_ptr(), answer.as_mut_ptr()) == 0).then(|| answer.assume_init().f_type) }
}

/// How deep the root of our cgroup namespace lies. /proc/PID/cgroup shows paths relative to it, and kthreadd (pid 2),
/// which cannot be moved, is in the machine's root cgroup: `/` seen from there, `/../..` seen from two levels below
/// (cgroup_namespaces(7)).
fn namespace_depth(roots: &Roots) -> i64 {
    let cgroups = fs::read(roots.proc.join("2/cgroup")).unwrap_or_default();
    let mut lines = cgroups.split(|&byte| byte == b'\n');
    let path = lines.find_map(|line| line.strip_prefix(b"0::")).unwrap_or_default();
    -depth(Path::new(OsStr::from_bytes(path)))
}

/// Steps down less steps up.
fn depth(path: &Path) -> i64 {
    path.components()
        .map(|component| match component {
            Component::Normal(_) => 1,
            Component::ParentDir => -1,
            Component::Prefix(_) | Component::RootDir | Component::CurDir => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process};

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::config::{OutputChoice, Verbosity};
    use crate::report::Format;

    const ALL_CAPABILITIES: u64 = 0x1ff_ffff_ffff;

    /// A machine on which everything is as it should be.
    struct Machine {
        _directory: TempDir,
        roots: Roots,
    }

    impl Machine {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let roots = Roots {
                proc: directory.path().join("proc"),
                sys: directory.path().join("sys"),
            };
            let machine = Self {
                _directory: directory,
                roots,
            };
            machine.write("proc/sys/kernel/osrelease", "6.1.0-13-amd64\n");
            machine.write("sys/kernel/btf/vmlinux", "");
            machine.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
            machine.capabilities(ALL_CAPABILITIES);
            fs::create_dir_all(machine.roots.proc.join("self/ns")).unwrap();
            machine.link("pid", INITIAL_PID_NAMESPACE);
            machine.link("user", INITIAL_USER_NAMESPACE);
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.roots.proc.parent().unwrap().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn link(&self, namespace: &str, target: &str) {
            let link = self.roots.proc.join("self/ns").join(namespace);
            let _ = fs::remove_file(&link);
            symlink(target, link).unwrap();
        }

        fn capabilities(&self, effective: u64) {
            self.write(
                "proc/self/status",
                &format!("Name:\tprofiler\nCapEff:\t{effective:016x}\n"),
            );
        }

        fn process(&self, pid: u32, tgid: u32, state: &str) {
            self.write(
                &format!("proc/{pid}/status"),
                &format!("Name:\tx\nState:\t{state}\nTgid:\t{tgid}\n"),
            );
            self.write(&format!("proc/{pid}/maps"), "");
        }

        fn refusal(&self, config: &Config) -> String {
            let text = format!("{:#}", check(config, &self.roots).expect_err("this machine is not fit"));
            assert!(!text.contains('\n') && !text.ends_with('.'), "{text:?}");
            text
        }
    }

    fn config(target: Target) -> Config {
        Config {
            target,
            subprocesses: false,
            tids: vec![],
            comm: None,
            cgroup: None,
            rate_hz: 99,
            period_ns: 10_101_010,
            memory: None,
            calls: None,
            duration: None,
            kernel_stacks: true,
            native_stacks: true,
            probe: None,
            output: OutputChoice::Stdout,
            format: Format::Folded,
            threads: false,
            verbosity: Verbosity::Quiet,
            summary_json: None,
        }
    }

    #[test]
    fn a_machine_as_it_should_be_passes() {
        let machine = Machine::new();
        machine.process(42, 42, "S (sleeping)");
        assert_eq!(
            check(&config(Target::All), &machine.roots).unwrap(),
            Findings {
                task_pointers: true,
                ..Findings::default()
            }
        );
        check(&config(Target::Pids(vec![42])), &machine.roots).unwrap();
        check(&config(Target::Command(vec!["true".into()])), &machine.roots).unwrap();
    }

    #[test]
    fn an_old_kernel_is_refused_by_name() {
        let machine = Machine::new();
        for release in ["4.19.0-26-amd64", "5.9.16", "3.10.0-1160.el7.x86_64"] {
            machine.write("proc/sys/kernel/osrelease", release);
            let text = machine.refusal(&config(Target::All));
            assert!(text.contains(release) && text.contains("Linux 5.10 or later"), "{text}");
        }
        for release in ["5.10.0", "5.15", "6.18.44-fc-v445", "10.0-rc1", "unheard-of"] {
            machine.write("proc/sys/kernel/osrelease", release);
            check(&config(Target::All), &machine.roots).unwrap();
        }
    }

    #[test]
    fn what_is_missing_of_roots_rights_is_named_with_both_remedies() {
        let machine = Machine::new();
        machine.capabilities(0);
        assert_eq!(
            machine.refusal(&config(Target::All)),
            "missing CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_CHECKPOINT_RESTORE: run with sudo, or in a container \
             as root with --cap-add=BPF --cap-add=PERFMON --cap-add=SYS_PTRACE --cap-add=CHECKPOINT_RESTORE"
        );
        machine.capabilities(ALL_CAPABILITIES & !(1 << PERFMON.bit) & !(1 << SYS_ADMIN.bit));
        assert!(
            machine
                .refusal(&config(Target::All))
                .starts_with("missing CAP_PERFMON: run with sudo")
        );
        // SYS_ADMIN stands for all but ptrace.
        machine.capabilities(1 << SYS_ADMIN.bit);
        assert!(
            machine
                .refusal(&config(Target::All))
                .starts_with("missing CAP_SYS_PTRACE: ")
        );
        machine.capabilities(1 << SYS_ADMIN.bit | 1 << SYS_PTRACE.bit);
        check(&config(Target::All), &machine.roots).unwrap();
    }

    #[test]
    fn a_pid_namespace_of_its_own_is_found_and_must_be_the_one_that_proc_shows() {
        let machine = Machine::new();
        assert_eq!(check(&config(Target::All), &machine.roots).unwrap().pid_namespace, None);
        machine.link("pid", "pid:[4026532281]");
        let findings = check(&config(Target::All), &machine.roots).unwrap();
        assert_eq!(findings.pid_namespace, Some(4026532281));
        let elsewhere = Roots {
            proc: machine.roots.proc.join("elsewhere"),
            ..machine.roots.clone()
        };
        fs::create_dir_all(elsewhere.proc.join("1/ns")).unwrap();
        symlink("1", elsewhere.proc.join("self")).unwrap();
        symlink("pid:[4026532281]", elsewhere.proc.join("self/ns/pid")).unwrap();
        assert!(
            pid_namespace(&elsewhere)
                .unwrap_err()
                .to_string()
                .contains("--mount-proc")
        );
    }

    #[test]
    fn a_user_namespace_of_its_own_is_refused_with_the_way_out() {
        let machine = Machine::new();
        machine.link("user", "user:[4026532281]");
        assert!(machine.refusal(&config(Target::All)).contains("rootless"));
    }

    #[test]
    fn no_btf_and_lockdown_are_refused() {
        let machine = Machine::new();
        machine.write("sys/kernel/security/lockdown", "none integrity [confidentiality]\n");
        assert!(machine.refusal(&config(Target::All)).contains("lockdown=integrity"));
        fs::remove_file(machine.roots.sys.join("kernel/btf/vmlinux")).unwrap();
        assert!(
            machine
                .refusal(&config(Target::All))
                .contains("CONFIG_DEBUG_INFO_BTF=y")
        );
    }

    #[test]
    fn a_pid_that_cannot_be_recorded_is_told_apart() {
        let machine = Machine::new();
        let refusal = |pid| machine.refusal(&config(Target::Pids(vec![pid])));
        assert!(refusal(41).starts_with("there is no process 41; "));
        machine.process(42, 42, "Z (zombie)");
        assert!(refusal(42).starts_with("process 42 has ended"));
        machine.process(44, 43, "S (sleeping)");
        assert_eq!(refusal(44), "44 is a thread of process 43; use -p 43 --tid 44");
    }

    #[test]
    fn a_tid_must_exist_and_belong_to_the_target() {
        let machine = Machine::new();
        machine.process(50, 50, "S (sleeping)");
        machine.process(52, 51, "S (sleeping)");
        let with_tid = |target, tid| Config {
            tids: vec![tid],
            ..config(target)
        };
        assert!(
            machine
                .refusal(&with_tid(Target::All, 99))
                .starts_with("there is no thread 99; ")
        );
        assert!(
            machine
                .refusal(&with_tid(Target::Pids(vec![50]), 52))
                .ends_with("add -p 51")
        );
        check(&with_tid(Target::All, 52), &machine.roots).unwrap();
        let followed = Config {
            subprocesses: true,
            ..with_tid(Target::Pids(vec![50]), 52)
        };
        check(&followed, &machine.roots).unwrap();
    }

    #[test]
    fn the_real_proc_tells_processes_and_threads_apart() {
        let roots = Roots::default();
        check_pid(process::id(), &roots).unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: gettid(2) has no preconditions.
            tell.send(unsafe { libc::gettid() }.unsigned_abs()).unwrap();
            let _ = stopped.recv();
        });
        let tid = told.recv().unwrap();
        let error = check_pid(tid, &roots).unwrap_err().to_string();
        assert!(error.contains("is a thread of process"), "{error}");
        // PID_MAX_LIMIT is 4194304 (include/linux/threads.h).
        assert!(
            check_pid(4_194_305, &roots)
                .unwrap_err()
                .to_string()
                .starts_with("there is no process")
        );
        drop(stop);
        thread.join().unwrap();
        let mut child = process::Command::new("true").spawn().unwrap();
        while !fs::read_to_string(format!("/proc/{}/stat", child.id()))
            .unwrap()
            .contains(") Z ")
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(
            check_pid(child.id(), &roots)
                .unwrap_err()
                .to_string()
                .contains("has ended")
        );
        child.wait().unwrap();
    }

    const HYBRID: &[u8] = b"\
        24 1 254:1 / / rw,relatime - ext4 /dev/root rw\n\
        30 24 0:26 / /sys/fs/cgroup rw shared:4 - tmpfs tmpfs rw\n\
        31 30 0:27 / /sys/fs/cgroup/memory rw shared:5 - cgroup cgroup rw,memory\n\
        32 30 0:28 / /sys/fs/cgroup/unified rw shared:6 master:1 - cgroup2 cgroup2 rw\n\
        33 24 0:28 /a/b /mnt/with\\040space rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn mounts_of_version_2_are_found_with_their_roots() {
        let mount = |root: &str, point: &str| Mount {
            root: root.into(),
            point: point.into(),
        };
        assert_eq!(
            cgroup2_mounts(HYBRID),
            [mount("/", "/sys/fs/cgroup/unified"), mount("/a/b", "/mnt/with space")]
        );
    }

    #[test]
    fn depth_is_counted_from_the_root_of_the_machine() {
        assert_eq!(depth(Path::new("/")), 0);
        assert_eq!(depth(Path::new("system.slice/docker.service")), 2);
        assert_eq!(depth(Path::new("/../x")), 0);
        let machine = Machine::new();
        assert_eq!(namespace_depth(&machine.roots), 0);
        machine.write("proc/2/cgroup", "9:memory:/\n0::/\n");
        assert_eq!(namespace_depth(&machine.roots), 0);
        machine.write("proc/2/cgroup", "0::/../..\n");
        assert_eq!(namespace_depth(&machine.roots), 2);
    }

    #[test]
    fn the_root_cgroup_has_id_1_and_level_0() {
        let roots = Roots::default();
        let mounts = cgroup2_mounts(&fs::read("/proc/self/mountinfo").unwrap());
        let Some(mount) = mounts.iter().find(|mount| mount.root == Path::new("/")) else {
            eprintln!("skipping: no cgroup version 2 file system is mounted");
            return;
        };
        let found = resolve_cgroup(&mount.point, &roots).unwrap();
        if namespace_depth(&roots) == 0 {
            assert_eq!(found, Cgroup { id: 1, level: 0 });
        }
        assert_eq!(
            resolve_cgroup(Path::new("/"), &roots).unwrap(),
            found,
            "paths as in /proc/PID/cgroup are taken, too"
        );
    }

    #[test]
    fn what_is_no_cgroup_is_refused_with_where_they_are() {
        let roots = Roots::default();
        for path in ["/tmp", "/no/such/path", "/proc/self/status"] {
            let error = resolve_cgroup(Path::new(path), &roots).unwrap_err().to_string();
            assert!(error.contains("cgroup") && error.contains("version 2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_mountinfo_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            cgroup2_mounts(&bytes);
        }

        #[test]
        fn no_status_makes_the_parsers_panic(text in "(CapEff:|Tgid:|State:)?.*", release in ".*") {
            missing_capabilities(&text);
            status_field(&text, "Tgid");
            KernelVersion::parse(&release);
        }
    }
}
