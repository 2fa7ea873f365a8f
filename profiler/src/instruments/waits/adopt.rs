//! Who is there when it begins, and where processes have their GIL.

use std::path::Path;

use profiler_common::wait::WAIT_GATE;
use profiler_ebpf::wait::class;

use super::{MOST_LOOKS, Waits};
use crate::{
    config::Target,
    process::ancestry,
    python::memory::ProcessMemory,
    recording::Recording,
    summary::many,
    waits::{gil, threads},
};

impl Waits {
    /// Threads that are there, and may wait already, are told by /proc.
    pub(super) fn adopt(&mut self, recording: &Recording) {
        let pids: Vec<u32> = match &self.target {
            Target::All => ancestry::pids(Path::new("/proc")).unwrap_or_default(),
            Target::Pids(_) | Target::Command(_) => recording.pids().collect(),
        };
        self.adopt_threads(pids);
    }

    /// Threads of these processes that nobody has an account of.
    pub(super) fn adopt_threads(&mut self, pids: Vec<u32>) {
        let Some(maps) = self.maps.as_mut().filter(|_| !self.lazy) else {
            return;
        };
        let mut left_out = 0;
        for pid in pids.into_iter().filter(|&pid| pid != std::process::id()) {
            if threads::is_of_the_kernel(pid) {
                continue;
            }
            let gil = self.gils.get(&pid).copied().unwrap_or(0);
            let begun = |seen: &threads::Seen, tid| {
                let mut slot = seen.slot(pid, tid, gil);
                if matches!(self.target, Target::Command(_)) && slot.out_ns != 0 {
                    slot.class = WAIT_GATE;
                }
                slot
            };
            for tid in threads::list(pid) {
                if !self.tids.is_empty() && !self.tids.contains(&tid) {
                    continue;
                }
                let Some(mut seen) = threads::Seen::of(pid, tid) else {
                    continue;
                };
                let mut slot = begun(&seen, tid);
                if !maps.add(slot) {
                    left_out += 1;
                    continue;
                }
                // It may have gone on while we looked.
                for _ in 0..MOST_LOOKS {
                    let Some(later) = threads::Seen::of(pid, tid).filter(|later| !seen.is_still(later)) else {
                        break;
                    };
                    let again = begun(&later, tid);
                    if !maps.begin_again(&slot, &again) {
                        break;
                    }
                    (seen, slot) = (later, again);
                }
                if slot.out_ns != 0 && class::is_loop(slot.call) {
                    maps.set_polling(tid, slot.out_ns);
                }
            }
        }
        if left_out > 0 {
            self.warnings.push(format!(
                "there was no room for {}: their waits are not seen",
                many(left_out, "thread")
            ));
        }
    }

    /// A process is known to be a CPython, or no more.
    pub(super) fn know(&mut self, recording: &Recording, pid: u32) {
        self.without_gil.retain(|&without| without != pid);
        let Some((python, file)) = recording.python(pid) else {
            self.own_gils.forget_process(pid);
            if self.gils.remove(&pid).is_some()
                && let Some(maps) = &mut self.maps
            {
                maps.set_gil(&|of, _| (of == pid).then_some(0));
            }
            return;
        };
        if !gil::waits_are_known(python) {
            let path = file.path.display();
            let version = python.binary.version;
            let warning = match gil::is_known(python) {
                true => format!("{path}: on musl, waiting for the GIL of CPython {version} is told as `lock`"),
                false => format!(
                    "{path}: where CPython {version} has its GIL is not known; waiting for it is told as `lock`"
                ),
            };
            self.warn_of_python(warning);
            return;
        }
        let memory = ProcessMemory { pid };
        match gil::find(python, &memory) {
            Some(gil) => {
                self.own_gils.forget_process(pid);
                // It can be turned on later, so its place is told either way; while it is off nobody waits there.
                let is_on = gil::is_on(python, &memory, gil);
                let is_new = self.gils.insert(pid, gil).is_none();
                self.processes_with_gil += u64::from(is_new && is_on);
                if let Some(maps) = &mut self.maps {
                    maps.set_gil(&|of, _| (of == pid).then_some(gil));
                }
                if !is_on {
                    self.warn_of_python(format!(
                        "{}: free-threaded CPython {} runs without a GIL: nobody waits for it, or holds it",
                        file.path.display(),
                        python.binary.version
                    ));
                }
            }
            None => self.without_gil.push(pid),
        }
    }

    /// Once; on a machine on which ever new programs run there are ever new ones.
    fn warn_of_python(&mut self, warning: String) {
        const MOST_WARNINGS: usize = 100;
        if !self.warnings.contains(&warning) && self.warnings.len() < MOST_WARNINGS {
            self.warnings.push(warning);
        }
    }
}
