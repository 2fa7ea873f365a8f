//! perf(1), which copies each sample's stack and unwinds it by DWARF afterwards: slow, large, and right.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::{
    folded::Folded,
    pattern::{file_of, is_kernel},
    process::{self, die_with_parent, until},
    workshop::run,
};

/// A `perf record` at work.
#[derive(Debug)]
pub struct Perf {
    child: Child,
    directory: TempDir,
}

impl Perf {
    /// Records a process's user-space stacks. Returns when it samples.
    pub fn record(pid: u32, rate: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = Command::new("perf");
        command
            .args([
                "record",
                "-q",
                "-e",
                "cpu-clock",
                "-F",
                rate,
                "--call-graph",
                "dwarf,16384",
                "-o",
            ])
            .arg(directory.path().join("perf.data"))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut perf = Self {
            child: die_with_parent(&mut command).spawn().context("cannot run perf")?,
            directory,
        };
        // It has written its header, and maps its buffers, before it samples.
        let data = perf.data();
        until(Duration::from_secs(20), "perf records", || {
            std::fs::metadata(&data).is_ok_and(|data| data.len() > 0)
                || perf.child.try_wait().is_ok_and(|end| end.is_some())
        })?;
        if let Some(status) = perf.child.try_wait()? {
            bail!("perf ended with {status}");
        }
        Ok(perf)
    }

    /// Ends the recording and unwinds its stacks.
    pub fn stop(mut self) -> Result<Folded> {
        process::signal(self.child.id(), libc::SIGINT)?;
        process::wait(&mut self.child, Duration::from_secs(60))?;
        let mut script = Command::new("perf");
        script
            // Neither inlined functions, which the profiler is asked not to find here either, nor a limit of 127.
            .args(["script", "--no-inline", "--max-stack", "1024", "-F", "ip,sym,dso", "-i"])
            .arg(self.data());
        parse(&run(&mut script)?)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("perf.data")
    }
}

impl Drop for Perf {
    fn drop(&mut self) {
        // Usually it has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `perf script`'s paragraphs, leaf first, one sample each, in the words of folded stacks.
fn parse(text: &str) -> Result<Folded> {
    let mut stacks: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        let mut stack = paragraph.lines().filter_map(frame).collect::<Vec<_>>();
        if stack.is_empty() {
            continue;
        }
        stack.reverse();
        *stacks.entry(stack).or_default() += 1;
    }
    ensure!(!stacks.is_empty(), "perf has no samples");
    Ok(Folded { stacks })
}

/// `    55c8 main (/tmp/a)` or `ffffffff8 vfs_read ([kernel.kallsyms])`.
fn frame(line: &str) -> Option<String> {
    let (_address, rest) = line.trim().split_once(' ')?;
    let (name, file) = rest.rsplit_once(" (")?;
    let file = file.strip_suffix(')')?;
    if file.starts_with("[kernel") || file.starts_with("[guest") {
        return Some(format!("{name}_[k]"));
    }
    Some(format!("{name} ({})", file.rsplit('/').next().unwrap_or(file)))
}

/// Stacks in words on which two tools agree: the program's functions by name, what others did (which depends on whose
/// debug symbols are there) by file, and nothing of the kernel.
pub fn normalized(folded: &Folded, program: &str) -> Folded {
    let mut stacks = BTreeMap::new();
    for (stack, count) in &folded.stacks {
        let mut normal: Vec<String> = Vec::new();
        for frame in stack.iter().filter(|frame| !is_kernel(frame)) {
            let name = match file_of(frame) {
                Some(file) if file == program => plain(frame),
                Some(file) => format!("<{}>", file.trim_start_matches('[').trim_end_matches(']')),
                None => frame.clone(),
            };
            // Several frames of a library are one; a recursion of the program's is not.
            if !name.starts_with('<') || normal.last() != Some(&name) {
                normal.push(name);
            }
        }
        *stacks.entry(normal).or_default() += count;
    }
    Folded { stacks }
}

/// A function's name without what compilers and linkers append to it.
fn plain(frame: &str) -> String {
    let name = frame.rsplit_once(" (").map_or(frame, |(name, _)| name);
    let end = name.find(['@', '.']).unwrap_or(name.len());
    name[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_become_stacks_and_are_counted() {
        let text = "\n  1f work.constprop.0 (/tmp/a)\n  2f main (/tmp/a)\n  3f start@@GLIBC_2.34 (/lib/libc.so.6)\n\n\
                    \n  10 read ([kernel.kallsyms])\n  1e work (/tmp/a)\n  2f main (/tmp/a)\n  3e f (/lib/libc.so.6)\n\
                    \x20 3f g (/lib/libc.so.6)\n\n";
        let folded = parse(text).unwrap();
        assert_eq!(folded.total(), 2);
        assert_eq!(
            normalized(&folded, "a"),
            Folded::parse("<libc.so.6>;main;work 2\n").unwrap()
        );
    }
}
