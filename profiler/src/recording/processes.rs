//! Processes as the side band and /proc tell of them: who is in scope, who begins, maps, forks, execs and ends, and what the
//! kernel side must know of it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustc_hash::FxHashSet;

use super::{Ended, Fact, Recording, Scope};
use crate::{
    cost,
    memory::event::{Event, What},
    process::{
        ancestry,
        files::{FileId, PythonFile},
        sideband::{SidebandEvent, SidebandKind},
        table::Process,
    },
};

impl Recording {
    /// Takes in a process that exists already.
    pub fn adopt(&mut self, pid: u32) {
        if self.table.get(pid).is_none() && self.is_in_scope(pid) {
            self.table.adopt(&mut self.files, pid);
            self.remapped.insert(pid);
            self.tell_python(pid);
        }
    }

    /// Takes in a process that was none of ours. The kernel side is told by the engine.
    pub fn include(&mut self, pid: u32) {
        if let Scope::Pids { pids, .. } = &mut self.scope {
            pids.insert(pid);
        }
        self.adopt(pid);
    }

    /// Lets go of a process that is none of ours any more. The kernel side is told as if it had ended.
    pub fn exclude(&mut self, pid: u32) {
        self.apply_exit(cost::monotonic_ns(), pid);
    }

    /// From now on it is noted which processes that are none of ours have begun a program, or mapped code.
    pub fn note_strangers(&mut self) {
        self.strangers = Some(FxHashSet::default());
    }

    /// Those since the last time: any of them may have become a CPython.
    pub fn drain_strangers(&mut self) -> Vec<u32> {
        self.strangers
            .as_mut()
            .map(|pids| pids.drain().collect())
            .unwrap_or_default()
    }

    /// A machine that starts thousands of compilers is not to fill our memory.
    pub fn note_stranger(&mut self, pid: u32) {
        const MOST: usize = 16 << 10;
        if let Some(pids) = &mut self.strangers
            && pids.len() < MOST
        {
            pids.insert(pid);
        }
    }

    /// Looks at the files that a process is about to run, so that what there is to know of them is known when it does.
    /// Returns the CPython among them.
    pub fn expect(&mut self, paths: &[PathBuf]) -> Option<FileId> {
        let files: Vec<FileId> = paths.iter().filter_map(|path| self.files.foresee(path)).collect();
        files.into_iter().find(|&file| self.files.get(file).cpython().is_some())
    }

    /// Why the interpreter in one of these files, which a process is about to run, is refused, if it is.
    pub fn refusal_in(&mut self, paths: &[PathBuf]) -> Option<String> {
        let files: Vec<FileId> = paths.iter().filter_map(|path| self.files.foresee(path)).collect();
        files.into_iter().find_map(|file| {
            let file = self.files.get(file);
            match file.python() {
                PythonFile::Refused(refusal) => Some(format!("{}: {refusal}", file.path.display())),
                PythonFile::Asked | PythonFile::No | PythonFile::Yes(_) => None,
            }
        })
    }

    /// Takes in what was found in files meanwhile: of those that map one with a CPython the kernel side is told.
    pub fn take_inspected(&mut self) {
        for file in self.files.take_inspected() {
            for pid in self.table.look_again(&self.files, file) {
                self.tell_python(pid);
            }
        }
    }

    /// Whether it is not known yet what is in a file that a process has mapped as code.
    pub fn is_being_looked_at(&self, pid: u32) -> bool {
        self.files_of(pid)
            .any(|(_, file)| matches!(file.python(), PythonFile::Asked))
    }

    /// Takes in a side-band event.
    pub fn apply(&mut self, event: &SidebandEvent) {
        if let Some(offspring) = &mut self.offspring {
            offspring.note(event);
        }
        match &event.kind {
            // A thread.
            SidebandKind::Fork { parent_pid, pid, .. } if parent_pid == pid => {}
            SidebandKind::Fork { parent_pid, pid, .. } => {
                // Whoever had the number is gone.
                if let Some(ended_ns) = self.lingering.remove(pid) {
                    self.apply_exit(ended_ns, *pid);
                }
                self.apply_fork(event.time_ns, *parent_pid, *pid);
            }
            SidebandKind::Exec { pid, comm } => {
                self.lingering.remove(pid);
                if self.is_in_scope(*pid) {
                    self.note_process(event.time_ns, *pid, What::Exec);
                    let before = self.table.begin(*pid, comm.clone());
                    if let Some(process) = self.table.get_mut(*pid) {
                        process.began_ns = Some(event.time_ns);
                    }
                    self.remapped.insert(*pid);
                    if let Some(process) = &before
                        && process.python.is_some()
                    {
                        self.note_end(process, event.time_ns);
                        // Of calls, the kernel side has seen the exec, and may know what is there now.
                        if !self.follows_calls {
                            self.facts.push(Fact::NotPython { pid: *pid });
                        }
                    }
                    self.seal(before);
                } else {
                    self.note_stranger(*pid);
                }
            }
            SidebandKind::Comm { pid, tid, comm } => {
                if pid == tid
                    && let Some(process) = self.table.get_mut(*pid)
                {
                    process.comm.clone_from(comm);
                }
            }
            SidebandKind::Mmap { pid, map, .. } => {
                let Some(process) = self.table.get(*pid) else {
                    self.note_stranger(*pid);
                    return;
                };
                let before = process.python.as_ref().map(|python| python.facts);
                self.table.map(&mut self.files, *pid, map);
                self.remapped.insert(*pid);
                let python = self.table.get(*pid).and_then(|process| process.python.as_ref());
                if before.is_none() || python.map(|python| python.facts) != before {
                    self.tell_python(*pid);
                }
            }
            SidebandKind::Exit { pid, tid } if pid == tid => {
                if let Some(strangers) = &mut self.strangers {
                    strangers.remove(pid);
                }
                self.apply_end_of_first(event.time_ns, *pid);
            }
            SidebandKind::Exit { pid, tid } => {
                if let Some(process) = self.table.get_mut(*pid) {
                    process.threads.end(*tid);
                }
            }
            SidebandKind::Lost { records } => self.ledger.tally.lost_events += records,
        }
    }

    pub(super) fn apply_fork(&mut self, time_ns: u64, parent_pid: u32, pid: u32) {
        if let Scope::Pids { pids, children: true } = &mut self.scope
            && pids.contains(&parent_pid)
        {
            pids.insert(pid);
        }
        if self.is_in_scope(pid) {
            self.note_process(time_ns, pid, What::Fork { parent: parent_pid });
            let before = self.table.fork(parent_pid, pid);
            if let Some(process) = self.table.get_mut(pid) {
                process.began_ns = Some(time_ns);
            }
            self.remapped.insert(pid);
            self.seal(before);
            self.tell_python(pid);
        } else if self.is_in_scope(parent_pid) {
            self.note_stranger(pid);
        }
    }

    /// For those who follow calls.
    pub(super) fn note_end(&mut self, process: &Process, ended_ns: u64) {
        if let (true, Some(python)) = (self.follows_calls, &process.python) {
            self.ended.push(Ended {
                pid: process.pid,
                file: python.file,
                began_ns: process.began_ns,
                ended_ns,
            });
        }
    }

    /// For those who follow memory.
    pub(super) fn note_process(&mut self, time_ns: u64, pid: u32, what: What) {
        if self.follows_memory {
            self.memory_events.push(Event { pid, time_ns, what });
        }
    }

    pub(super) fn apply_exit(&mut self, time_ns: u64, pid: u32) {
        if let Some(process) = self.table.remove(pid) {
            self.note_process(time_ns, pid, What::Exit);
            self.remapped.remove(&pid);
            self.facts.push(Fact::Exited { pid });
            if process.python.is_some() {
                self.note_end(&process, time_ns);
                self.facts.push(Fact::NotPython { pid });
            }
            self.seal(Some(process));
        } else if self.is_in_scope(pid) {
            // Its fork was lost, and the kernel side knows it from then on all the same.
            self.facts.extend([Fact::Exited { pid }, Fact::NotPython { pid }]);
        }
        if let Scope::Pids { pids, .. } = &mut self.scope {
            pids.remove(&pid);
        }
    }

    /// The end of a process may be among events that were lost, or it was sampled once more after it: then it would stay
    /// for ever.
    pub(super) fn bury_the_lost(&mut self) {
        /// Windows can be short, and a machine have thousands of processes.
        const EVERY: Duration = Duration::from_secs(5);
        if self.buried.is_some_and(|then| then.elapsed() < EVERY) {
            return;
        }
        self.buried = Some(Instant::now());
        let Ok(living) = ancestry::pids(Path::new("/proc")) else {
            return;
        };
        let living: FxHashSet<u32> = living.into_iter().collect();
        let gone: Vec<u32> = self.pids().filter(|pid| !living.contains(pid)).collect();
        let now_ns = cost::monotonic_ns();
        for pid in gone {
            self.apply_exit(now_ns, pid);
        }
    }

    pub(super) fn is_in_scope(&self, pid: u32) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Pids { pids, .. } => pids.contains(&pid),
        }
    }

    /// Tells the kernel side how to walk a process, or notes why it is not told.
    pub(super) fn tell_python(&mut self, pid: u32) {
        let Some(process) = self.table.get(pid) else { return };
        if let Some(python) = &process.python {
            self.facts.push(Fact::Python {
                pid,
                facts: Box::new(python.facts),
            });
        }
        for file in process.files() {
            let file = self.files.get(file);
            if let PythonFile::Refused(refusal) = file.python() {
                let reason = format!("{}: {refusal}", file.path.display());
                self.refused.entry(reason).or_default().insert(pid);
            }
        }
    }

    /// Asks programs what they call their threads, while they live: those of which a new one was met, and the others now
    /// and then. At most a hundredth of the time is spent on it. `last`: the recording ends, and all are asked.
    pub fn name_threads(&mut self, last: bool) {
        /// What may be spent before the first hundredth is earned, and on the last round.
        const ADVANCE: Duration = Duration::from_millis(20);
        const LAST_ROUND: Duration = Duration::from_millis(500);
        let began = Instant::now();
        let allowed = match last {
            true => LAST_ROUND,
            false => (self.started.elapsed() / 100 + ADVANCE).saturating_sub(self.spent_on_names),
        };
        let now_ns = cost::monotonic_ns();
        for process in self.table.iter_mut() {
            if began.elapsed() >= allowed {
                break;
            }
            if last {
                process.look_at_other_pythons();
            }
            if last && !process.counts.is_empty() {
                process.look_at_command(true);
            }
            if process.threads.is_due(if last { u64::MAX } else { now_ns }) {
                let knew_all = self.ledger.name_threads(process);
                process.threads.asked(now_ns, knew_all);
            }
        }
        self.spent_on_names += began.elapsed();
    }

    /// Takes in a process that was there before us, in a recording of the whole machine that did not list it.
    pub(super) fn know(&mut self, pid: u32) {
        if self.table.get(pid).is_none() {
            self.table.adopt(&mut self.files, pid);
            self.remapped.insert(pid);
            self.tell_python(pid);
        }
    }
}
