//! Booting a kernel under QEMU: what is started, and how it ended.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::debs::Debs;
use super::kernels::Kernel;
use crate::{cargo, command};

const QEMU: &str = "qemu-system-x86_64";

/// How long a kernel may take, all its guests together. One needs about a minute; beside a build each step of its job takes
/// half a minute, and in CI a guest was once given up after four minutes in which it may only have been slow.
pub const PATIENCE: Duration = Duration::from_secs(540);
/// How long a guest may say nothing. Each step of its job is said, and none may take longer than `job.sh` lets it, 240 s.
const SILENCE: Duration = Duration::from_secs(270);
/// How exact the time of an end is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The job ran to its end, and this was its exit status.
    Finished(i32),
    /// The machine went away before.
    Crashed,
    /// It was still there when time was up.
    Hung,
}

/// A guest that is no more.
pub struct Run {
    pub ending: Ending,
    pub took: Duration,
    /// What it said on its console.
    pub console: PathBuf,
    /// The archive it sent, as far as it came.
    pub sent: PathBuf,
}

/// The emulator.
pub struct Qemu {
    program: PathBuf,
    /// What comes before our own arguments.
    arguments: Vec<OsString>,
    modules: Option<PathBuf>,
}

impl Qemu {
    /// This machine's, or Debian 12's, unpacked into a directory with all it needs.
    ///
    /// Not installed: that would need root, and apt may have to remove something for it (Debian 12 with the qemu-utils
    /// of its backports is such a machine).
    pub fn find(debs: &Debs, own: &Path) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut known = std::env::split_paths(&path).map(|directory| directory.join(QEMU));
        if let Some(program) = known.find(|program| program.is_file()) {
            return Ok(Self {
                program,
                arguments: Vec::new(),
                modules: None,
            });
        }
        if !own.exists() {
            debs.unpack_whole("qemu-system-x86", "bookworm", own)
                .with_context(|| format!("{QEMU} is not on PATH"))?;
        }
        Ok(Self::unpacked(own))
    }

    /// Its own loader starts it with its own libraries, so it does not matter what this machine has.
    fn unpacked(root: &Path) -> Self {
        let inside = |path: &str| root.join(path).into_os_string();
        let mut libraries = OsString::new();
        for directory in ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"] {
            if !libraries.is_empty() {
                libraries.push(":");
            }
            libraries.push(inside(directory));
        }
        let arguments = vec![
            "--library-path".into(),
            libraries,
            inside(&format!("usr/bin/{QEMU}")),
            // The BIOS, and what starts a kernel from it.
            "-L".into(),
            inside("usr/share/qemu"),
            "-L".into(),
            inside("usr/share/seabios"),
        ];
        Self {
            program: root.join("lib64/ld-linux-x86-64.so.2"),
            arguments,
            modules: Some(root.join("usr/lib/x86_64-linux-gnu/qemu")),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        if let Some(modules) = &self.modules {
            command.env("QEMU_MODULE_DIR", modules);
        }
        command
    }

    /// Its version, in its own words.
    pub fn version(&self) -> Result<String> {
        let said = command::output(self.command().arg("--version"))?;
        Ok(said.lines().next().unwrap_or_default().to_owned())
    }
}

/// Boots a kernel and waits so long for the end of the guest. The console and the archive go to files in `directory`.
pub fn boot(qemu: &Qemu, kernel: &Kernel, initramfs: &Path, directory: &Path, limit: Duration) -> Result<Run> {
    let (console, sent, said) = (
        directory.join("console"),
        directory.join("sent.tar"),
        directory.join("qemu"),
    );
    let create = |path: &Path| File::create(path).with_context(|| format!("cannot write {}", path.display()));
    let mut command = command_line(qemu, kernel, initramfs, &sent);
    command
        .stdin(Stdio::null())
        .stdout(create(&console)?)
        .stderr(create(&said)?);
    cargo::leave(&mut command);
    // SAFETY: prctl is a system call and nothing else, which may be made between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let started = Instant::now();
    let mut child = command
        .spawn()
        .map_err(|error| command::cannot_start(&command, error))?;
    let in_time = wait(&mut child, &console, limit)?;
    let took = started.elapsed();
    let status = child.wait().context("cannot wait for QEMU")?;
    if in_time && !status.success() {
        let said = fs::read_to_string(&said).unwrap_or_default();
        bail!("`{}` failed: {status}: {}", command::shown(&command), said.trim());
    }
    let text = fs::read(&console).with_context(|| format!("cannot read {}", console.display()))?;
    Ok(Run {
        ending: ending(&String::from_utf8_lossy(&text), in_time),
        took,
        console,
        sent,
    })
}

/// The flags are those of 32 boots without a crash. With the emulator's defaults QEMU 7.2 crashed guests:
///
/// - `cx16=off`: `cmpxchg16b` left stale flags, and 6.12's allocator believed them;
/// - `thread=single`: with a thread for each CPU, a kernel that patched its own code met half-patched instructions.
///   It costs nothing here, and KVM, which would be faster, hangs where the machine is itself a guest.
fn command_line(qemu: &Qemu, kernel: &Kernel, initramfs: &Path, sent: &Path) -> Command {
    let mut command = qemu.command();
    command
        .args(["-M", "q35", "-cpu", "max,cx16=off", "-accel", "tcg,thread=single"])
        .args(["-smp", "2", "-m", "1024", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot", "-serial", "stdio", "-serial"])
        .arg(format!("file:{}", sent.display()))
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        // A panic reboots at once, which ends QEMU.
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
    command
}

/// Waits for an end, and makes one when time is up. Whether it came by itself.
fn wait(child: &mut Child, console: &Path, limit: Duration) -> Result<bool> {
    let mut patience = Patience::new(Instant::now(), limit);
    loop {
        if child.try_wait().context("cannot wait for QEMU")?.is_some() {
            return Ok(true);
        }
        let said = fs::metadata(console).map_or(0, |console| console.len());
        if patience.is_over(Instant::now(), said) {
            child.kill().context("cannot kill QEMU")?;
            return Ok(false);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// When a guest is given up.
struct Patience {
    until: Instant,
    /// When its console last became longer, and how long it was then.
    heard: (Instant, u64),
}

impl Patience {
    fn new(now: Instant, limit: Duration) -> Self {
        Self {
            until: now + limit,
            heard: (now, 0),
        }
    }

    fn is_over(&mut self, now: Instant, said: u64) -> bool {
        if said != self.heard.1 {
            self.heard = (now, said);
        }
        now > self.until || now - self.heard.0 > SILENCE
    }
}

/// How a guest ended, by the last word of its `/init`. QEMU's exit status does not tell: it is 0 after a panic, too.
fn ending(console: &str, in_time: bool) -> Ending {
    let last_word = console
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix("VMK-END rc=")?.parse().ok());
    match last_word {
        Some(status) => Ending::Finished(status),
        None if in_time => Ending::Crashed,
        None => Ending::Hung,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_says_its_last_word_has_finished() {
        let console =
            "[    1.0] x\r\nVMK-BEGIN 6.1.0-50-cloud-amd64\r\nVMK-END rc=137\r\n[    9.0] reboot: Power down\r\n";
        assert_eq!(ending(console, true), Ending::Finished(137));
        // Its work was done, whatever became of the machine.
        assert_eq!(ending(console, false), Ending::Finished(137));
    }

    #[test]
    fn a_guest_is_given_up_when_it_says_nothing_and_when_it_does_not_end() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let patience = || Patience::new(began, Duration::from_secs(500));
        let mut silent = patience();
        assert!(!silent.is_over(at(269), 0));
        assert!(silent.is_over(at(271), 0));
        let mut slow = patience();
        assert!(!slow.is_over(at(200), 40));
        assert!(!slow.is_over(at(400), 80), "it spoke 200 s ago");
        assert!(!slow.is_over(at(499), 120));
        assert!(slow.is_over(at(501), 160));
    }

    #[test]
    fn an_end_without_a_last_word_is_a_crash_and_no_end_is_a_hang() {
        let console = "VMK-BEGIN 6.1\r\n[    5.0] Kernel panic - not syncing: sysrq triggered crash\r\n";
        assert_eq!(ending(console, true), Ending::Crashed);
        assert_eq!(ending(console, false), Ending::Hung);
        assert_eq!(ending("", true), Ending::Crashed);
        assert_eq!(ending("VMK-END rc=", true), Ending::Crashed);
    }
}
