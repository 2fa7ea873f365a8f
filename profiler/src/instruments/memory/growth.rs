//! Growth mode: page faults, calls that map and unmap, and births of pymalloc's pools. Nothing in the program is slowed
//! down but what takes memory from the kernel.

use std::{io, path::Path, time::Duration};

use profiler_common::python::{ARENAS_STATIC, PoolFacts};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{account::Account, not_pymalloc};
use crate::{
    config::{Config, MemoryConfig, Target},
    foreign,
    instruments::{Change, Instrument, Needs, Picture, Told, Turn, content::Content},
    orders::Orders,
    process::files::FileId,
    python::{
        allocator::{
            self, Allocators, NoAllocator,
            pool::{PoolProbe, UsableArenas},
            table::Domain,
        },
        memory::ProcessMemory,
    },
    recording::Recording,
    report::View,
    summary::Summary,
    window::Window,
};

pub struct Growth {
    account: Account,
    /// What is known of a file's allocators; nothing where they were not found.
    allocators: FxHashMap<FileId, Option<Allocators>>,
    /// Probes that are in place: in a file, for a process or for all.
    probed: FxHashSet<(FileId, Option<u32>)>,
    /// A probe for each process, so that others do not stop there; otherwise one for all that run the file.
    by_process: bool,
}

impl Growth {
    pub fn new(config: &Config, wanted: &MemoryConfig, command_pid: Option<u32>) -> anyhow::Result<Self> {
        Ok(Self {
            account: Account::new(config, wanted, command_pid)?,
            allocators: FxHashMap::default(),
            probed: FxHashSet::default(),
            by_process: matches!(config.target, Target::Pids(_)) && !config.subprocesses,
        })
    }

    /// Puts a probe into a process where its pymalloc takes its pools.
    fn probe(&mut self, host: &Recording, kernel: &mut dyn Orders, pid: u32) {
        let Some((python, file)) = host.python(pid) else {
            return;
        };
        let Some(opened) = &file.opened else { return };
        let account = &mut self.account;
        let allocators = self.allocators.entry(python.file).or_insert_with(|| {
            let found = match opened.map() {
                Ok(bytes) => foreign::parsed(|| allocator::inspect(&bytes, &python.binary))
                    .unwrap_or(Err(NoAllocator::Unreadable)),
                Err(_) => Err(NoAllocator::NotPython),
            };
            if let Err(error) = found.as_ref().and_then(|found| found.pool.as_ref()) {
                account.warn(format!(
                    "{}: {error}; its small objects are followed by page only",
                    file.path.display()
                ));
            }
            found.ok()
        });
        let Some(allocators) = allocators else { return };
        let in_use = allocators
            .tables
            .in_use(&ProcessMemory { pid }, python.bias, Domain::Object);
        if let Some(line) = in_use.and_then(|in_use| not_pymalloc(pid, in_use)) {
            self.account.warn(line);
        }
        let Ok(probe) = allocators.pool else { return };
        let facts = pool_facts(&probe, python.bias);
        let scope = self.by_process.then_some(pid);
        let attached = kernel.set_pool_facts(pid, &facts).and_then(|()| {
            if self.probed.insert((python.file, scope)) {
                kernel.attach_pools(opened, probe.place.file_offset, scope)
            } else {
                Ok(())
            }
        });
        if let Err(error) = attached {
            self.account
                .warn(format!("{error:#}; small objects are followed by page only"));
        }
    }
}

impl Instrument for Growth {
    fn needs(&self) -> Needs {
        Needs {
            memory: true,
            ..Needs::default()
        }
    }

    fn start(&mut self, host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<()> {
        self.account.start(host);
        Ok(())
    }

    fn follow(&mut self, change: Change, host: &Recording, kernel: &mut dyn Orders) {
        match change {
            Change::Python { pid } => self.probe(host, kernel, pid),
            Change::Mapped { .. } | Change::NotPython { .. } => {}
        }
    }

    fn turn(&mut self, host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<Turn> {
        self.account.take_in(host);
        Ok(Turn::Goes)
    }

    fn stop(&mut self, _host: &mut Recording, _kernel: &mut dyn Orders, _recorded: Duration) -> anyhow::Result<()> {
        self.account.stop();
        Ok(())
    }

    fn finish(&mut self, _host: &mut Recording, _kernel: &dyn Orders) {
        self.account.watch.finish();
    }

    fn content(&mut self, window: &Window, length: Duration) -> (Content, Vec<String>) {
        self.account.content(window, length)
    }

    fn tell(&self, summary: &mut Summary, content: &Content, told: &Told<'_>) {
        self.account.tell(summary, content, told, None);
    }

    fn opening(&self, what: &str) -> String {
        Account::opening(what)
    }

    fn picture(&self) -> Picture {
        self.account.picture()
    }

    fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        self.account.write(content, view, out)
    }

    fn write_beside(&self, content: &Content, path: &Path, out: &mut dyn io::Write) -> anyhow::Result<()> {
        self.account.write_beside(content, path, out)
    }
}

fn pool_facts(probe: &PoolProbe, bias: u64) -> PoolFacts {
    let (arenas_register, arenas) = match probe.usable_arenas {
        UsableArenas::Static { address } => (ARENAS_STATIC, address.wrapping_add(bias)),
        UsableArenas::InState { register, offset } => (register.0.into(), offset.into()),
    };
    PoolFacts {
        class_register: probe.size_class.0.into(),
        arenas_register,
        arenas,
        pool_bytes: probe.pool_bytes,
        reserved: 0,
    }
}
