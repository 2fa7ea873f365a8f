use std::{os::unix::fs::symlink, process};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    capabilities::{PERFMON, SYS_ADMIN, SYS_PTRACE},
    *,
};
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

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
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
            format!("Name:\tprofiler\nCapEff:\t{effective:016x}\n"),
        );
    }

    fn process(&self, pid: u32, tgid: u32, state: &str) {
        self.write(
            &format!("proc/{pid}/status"),
            format!("Name:\tx\nState:\t{state}\nTgid:\t{tgid}\n"),
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
        windows: None,
        memory: None,
        calls: None,
        waits: None,
        exceptions: None,
        imports: None,
        gc: None,
        wall: false,
        why: None,
        agent: None,
        gil: false,
        duration: None,
        kernel_stacks: true,
        native_stacks: true,
        native_frames: crate::config::NativeFrames::default(),
        probe: None,
        output: OutputChoice::Stdout,
        format: Format::Folded,
        threads: false,
        merge_workers: false,
        with_source: false,
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
    machine.write(
        "proc/45/status",
        b"Name:\t\xd0\xbe\xd1\nState:\tR (running)\nTgid:\t45\n",
    );
    machine.write("proc/45/maps", "");
    for with_tid in [vec![], vec![45]] {
        let config = Config {
            tids: with_tid,
            ..config(Target::Pids(vec![45]))
        };
        check(&config, &machine.roots).expect("a name need not be UTF-8");
    }
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
    target::check_pid(process::id(), &roots).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        // SAFETY: gettid(2) has no preconditions.
        tell.send(unsafe { libc::gettid() }.unsigned_abs()).unwrap();
        let _ = stopped.recv();
    });
    let tid = told.recv().unwrap();
    let error = target::check_pid(tid, &roots).unwrap_err().to_string();
    assert!(error.contains("is a thread of process"), "{error}");
    // PID_MAX_LIMIT is 4194304 (include/linux/threads.h).
    assert!(
        target::check_pid(4_194_305, &roots)
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
        target::check_pid(child.id(), &roots)
            .unwrap_err()
            .to_string()
            .contains("has ended")
    );
    child.wait().unwrap();
}

proptest! {
    #[test]
    fn no_status_makes_the_parsers_panic(
        text in prop_oneof!["(CapEff:|Tgid:|State:)?.*".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..80)],
        release in ".*",
    ) {
        capabilities::missing(&text);
        status_field(&text, "Tgid");
        KernelVersion::parse(&release);
    }
}

#[test]
fn a_thread_of_the_kernel_has_no_memory_and_no_calls() {
    let proc = tempfile::tempdir().unwrap();
    let put = |pid: u32, flags: u64| {
        let folder = proc.path().join(pid.to_string());
        fs::create_dir(&folder).unwrap();
        let stat = format!("{pid} (x) S 2 0 0 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0");
        fs::write(folder.join("stat"), stat).unwrap();
        fs::write(folder.join("comm"), "kworker/0:1\n").unwrap();
    };
    put(10, 0x0420_8060);
    put(11, 0x0040_0000);
    let roots = Roots {
        proc: proc.path().to_owned(),
        ..Roots::default()
    };
    let error = target::check_program(10, &roots).unwrap_err().to_string();
    assert!(
        error.starts_with("process 10 (kworker/0:1) is a thread of the kernel"),
        "{error}"
    );
    target::check_program(11, &roots).unwrap();
    // Gone: others say so.
    target::check_program(12, &roots).unwrap();
}
