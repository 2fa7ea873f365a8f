//! Tasks beside another one: what has to be fetched beside the compiler, and compilers beside the end-to-end tests, on the
//! CPU time that these leave (a claim mostly waits for its programs).
//!
//! One after another. What they print is kept in files, and shown where one failed: in between the claims nobody would find
//! it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::command;
use crate::failures::Failures;
use crate::steps::Steps;

/// Of what a task printed, as much is shown if it failed.
const SHOWN_LINES: usize = 150;

/// One of them: a name for the summary, and a command.
pub struct Task {
    pub name: &'static str,
    pub command: Command,
}

/// Tasks that are under way.
pub struct Beside(JoinHandle<Vec<Done>>);

/// What became of one.
pub struct Done {
    pub name: &'static str,
    took: Duration,
    log: PathBuf,
    became: Result<()>,
}

/// A task of this program itself: `name` says which in the summary, `words` to the program.
///
/// No longer than `minutes`: a mirror that hangs must not take the time of all that follows.
pub fn this<Word: AsRef<OsStr>>(name: &'static str, minutes: u32, words: &[Word]) -> Result<Task> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new("timeout");
    // Without the first, timeout makes a group of its own, which a Ctrl-C and CI's own limit do not reach.
    command.args(["--foreground", "--kill-after=30s", &format!("{minutes}m")]);
    command.arg(program).args(words);
    Ok(Task { name, command })
}

impl Task {
    /// As idle as the kernel has it (`SCHED_IDLE`): whatever else wants a CPU has it at once.
    pub fn idle(self) -> Self {
        // chrt is of util-linux, which every Debian has; nice as well, since SCHED_IDLE is about CPUs only.
        let mut idle = Command::new("nice");
        idle.args(["-n", "19", "chrt", "--idle", "0"]);
        idle.arg(self.command.get_program()).args(self.command.get_args());
        Self { command: idle, ..self }
    }
}

/// Begins with the first of `tasks`; what they print goes into `folder`.
pub fn begin(folder: PathBuf, tasks: Vec<Task>) -> Beside {
    Beside(thread::spawn(move || {
        tasks.into_iter().map(|task| one(&folder, task)).collect()
    }))
}

fn one(folder: &Path, Task { name, mut command }: Task) -> Done {
    let start = Instant::now();
    let file = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    let log = folder.join(format!("{file}.log"));
    let became =
        log_of(&log).and_then(|(out, error)| command::run(command.stdin(Stdio::null()).stdout(out).stderr(error)));
    Done {
        name,
        took: start.elapsed(),
        log,
        became,
    }
}

/// The same file for both, so that what failed stands below what led to it.
fn log_of(path: &Path) -> Result<(File, File)> {
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).with_context(failed)?;
    let file = File::create(path).with_context(failed)?;
    let again = file.try_clone().with_context(failed)?;
    Ok((file, again))
}

impl Beside {
    /// Waits for the last of them.
    pub fn end(self) -> Vec<Done> {
        let panicked = || Done {
            name: "tasks beside",
            took: Duration::ZERO,
            log: PathBuf::new(),
            became: Err(anyhow!("their thread panicked")),
        };
        self.0.join().unwrap_or_else(|_| vec![panicked()])
    }
}

impl Done {
    /// Adds it to the summary, and shows what it had printed if it failed. Returns whether it passed.
    pub fn tell(self, steps: &mut Steps) -> bool {
        self.show();
        steps.told(self.name, self.took, self.became).is_some()
    }

    /// The tests that failed in it, if it ran any: what it printed stands far above the end of a log.
    pub fn failures(&self) -> Failures {
        let mut failures = Failures::default();
        if self.became.is_err() {
            // What cannot be read is said where the log's end is shown.
            let text = fs::read(&self.log).unwrap_or_default();
            String::from_utf8_lossy(&text)
                .lines()
                .for_each(|line| failures.take(line));
        }
        failures
    }

    /// The same of one that may fail: `why` says what is done without it.
    pub fn tell_if_it_passed(self, steps: &mut Steps, why: &str) -> bool {
        if self.became.is_ok() {
            return self.tell(steps);
        }
        self.show();
        steps.skip(self.name, why);
        false
    }

    /// Says where its log is, or what stands at its end if it failed.
    pub fn show(&self) {
        let Self { name, log, .. } = self;
        match &self.became {
            Ok(()) => eprintln!("xtask: {name}: {}", log.display()),
            Err(_) => eprint!(
                "
xtask: {name}: the end of {}
{}",
                log.display(),
                last_lines(log)
            ),
        }
    }
}

fn last_lines(log: &Path) -> String {
    // By bytes: what programs under test print need not be text.
    let text = match fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("cannot be read: {error}\n"),
    };
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(SHOWN_LINES);
    lines[from..].iter().flat_map(|line| [*line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &'static str, script: &str) -> Task {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Task { name, command }
    }

    #[test]
    fn tasks_run_in_turn_idle_ones_idle_and_each_says_in_its_file_what_it_did() {
        let folder = std::env::temp_dir().join(format!("xtask-beside-{}", std::process::id()));
        let tasks = vec![
            shell("one task", "chrt -p $$; echo no >&2; exit 3").idle(),
            shell("two", "echo two"),
            shell("three", "exit 1"),
        ];
        let mut steps = Steps::default();
        let mut done = begin(folder.clone(), tasks).end();
        assert!(!done.pop().unwrap().tell_if_it_passed(&mut steps, "without"));
        let told: Vec<bool> = done.into_iter().map(|done| done.tell(&mut steps)).collect();
        assert_eq!(told, [false, true]);
        let one = last_lines(&folder.join("one-task.log"));
        let two = last_lines(&folder.join("two.log"));
        fs::remove_dir_all(&folder).unwrap();
        assert!(one.contains("SCHED_IDLE") && one.ends_with("no\n"), "{one}");
        assert_eq!(two, "two\n");
        assert_eq!(
            format!("{:#}", steps.finish("test").unwrap_err()),
            "test: 1 of 3 steps failed: one task"
        );
    }

    #[test]
    fn this_program_itself_is_run_idle_and_in_its_time() {
        let folder = std::env::temp_dir().join(format!("xtask-beside-this-{}", std::process::id()));
        // It is the test program here, which lists its tests.
        let task = this("list", 1, &["--list"]).unwrap().idle();
        let done = begin(folder.clone(), vec![task]).end();
        let list = last_lines(&folder.join("list.log"));
        fs::remove_dir_all(&folder).unwrap();
        assert!(done[0].became.is_ok() && list.contains("this_program_itself"), "{list}");
    }

    #[test]
    fn of_a_long_log_the_end_is_shown() {
        let path = std::env::temp_dir().join(format!("xtask-beside-{}.log", std::process::id()));
        fs::write(&path, "line\n".repeat(1_000) + "last\n").unwrap();
        let text = last_lines(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!(text.lines().count(), SHOWN_LINES);
        assert!(text.ends_with("line\nlast\n"));
    }
}
