//! Where one window ends and the next begins, and the end of all of them.

use std::{mem, time::Instant};

use rustc_hash::FxHashSet;

use super::{Cut, Recording, note_others};
use crate::{
    process::{maps, table::Process},
    window::Window,
};

impl Recording {
    /// Ends a window: what was counted since the last cut. What nobody needs any more goes.
    ///
    /// Call this after everything that waited was taken in, and its facts were passed on. Sites of memory and code objects
    /// that are counted by have no cuts: who follows them holds on to their numbers.
    pub fn cut(&mut self) -> Cut {
        self.bury_the_lost();
        for process in self.table.iter_mut() {
            if !process.counts.is_empty() {
                // It may have changed, as a worker's title does after the fork.
                process.look_at_command_now_and_then();
            }
            process.look_at_other_pythons();
            self.ledger.seal(process, &self.raw.stacks);
            // They are tried again.
            process.unreadable_codes = FxHashSet::default();
        }
        // What was sampled was there then.
        self.forget_unmapped();
        for process in self.table.iter() {
            note_others(&mut self.other_pythons, &self.files, process);
        }
        self.stop_clock();
        let window = Window::new(self.ledger.cut(&mut self.table), &self.files);
        self.begin();
        self.before.add(&window.ledger.tally);
        let window = self.with_notes(window);
        for pids in self.refused.values_mut() {
            pids.retain(|&pid| self.table.get(pid).is_some());
        }
        self.refused.retain(|_, pids| !pids.is_empty());

        let forgotten = self.raw.cut(self.table.iter_mut());
        let codes = self.table.iter().flat_map(Process::codes).map(|(_, code)| code);
        self.ledger.codes.keep(codes);
        let pythons = self.table.iter().flat_map(|process| {
            let others = process.other_pythons.iter().map(|other| &other.python);
            process.python.iter().chain(others).map(|python| python.file)
        });
        let files = self.table.iter().flat_map(Process::files).chain(pythons);
        let gone = self.files.keep(&files.collect(), Instant::now());
        Cut {
            window,
            files: gone,
            forgotten,
        }
    }

    /// Ends the recording: resolves what is left.
    pub fn finish(&mut self) -> Window {
        let left: Vec<Process> = self.table.take_all().collect();
        for process in left {
            self.seal(Some(process));
        }
        self.before.add(&self.ledger.tally);
        self.stop_clock();
        let mut window = Window::new(mem::take(&mut self.ledger), &self.files);
        // Also of those that were not met: a CPython that was not seen may be among them.
        window.unopened = self.unopened();
        self.with_notes(window)
    }

    pub(super) fn stop_clock(&mut self) {
        if let Some(clock) = &self.clock {
            self.ledger.times.elapsed_ns = clock.elapsed_ns();
        }
    }

    pub(super) fn with_notes(&mut self, mut window: Window) -> Window {
        let refused = self.refused.iter();
        window.processes = mem::take(&mut self.sampled_pids).len();
        window.refused = refused.map(|(reason, pids)| (reason.clone(), pids.len())).collect();
        window.refused_maps = mem::take(&mut self.refused_maps).into_iter().collect();
        let others = mem::take(&mut self.other_pythons).into_iter();
        window.other_pythons = others
            .map(|(path, (pids, used))| (path, pids.into_iter().collect(), used))
            .collect();
        window
    }

    /// The side band tells of what is mapped, not of what is unmapped: who maps one file after the other seems to have them
    /// all. So who has mapped many is looked at, a few of them at a time.
    pub(super) fn forget_unmapped(&mut self) {
        const MANY: u32 = 32;
        const MOST_AT_ONCE: usize = 16;
        let many = self.table.iter_mut().filter(|process| process.mapped >= MANY);
        for process in many.take(MOST_AT_ONCE) {
            let now = maps::read(process.pid).map(|maps| maps.entries).unwrap_or_default();
            if process.forget_unmapped(&now) {
                self.remapped.insert(process.pid);
            }
        }
    }

    /// Resolves what was counted for a process that is gone.
    pub(super) fn seal(&mut self, process: Option<Process>) {
        if let Some(mut process) = process {
            self.ledger.seal(&mut process, &self.raw.stacks);
            self.raw.ended.append(&mut process.stacks);
            note_others(&mut self.other_pythons, &self.files, &process);
        }
    }
}
