//! Growth mode: page faults, calls that map and unmap, and births of pymalloc's pools. Nothing in the program is slowed
//! down but what takes memory from the kernel.

use std::{collections::hash_map::Entry, io, path::Path, time::Duration};

use profiler_common::{
    python::{ARENAS_STATIC, PoolFacts},
    stats::COUNTERS,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{account::Account, not_pymalloc};
use crate::{
    births::Driver,
    config::{Config, MemoryConfig, Target},
    foreign,
    instruments::{
        Change, Instrument, Needs, Picture, Tells, Told, Turn, calls::in_virtual_machine, content::Content,
        measured::Measured,
    },
    name::Namer,
    orders::{Held, Orders},
    python::{
        allocator::{
            self, Allocators, NoAllocator,
            pool::{PoolProbe, UsableArenas},
            table::Domain,
        },
        memory::ProcessMemory,
        memory_error::{self, MemoryErrorPlaces},
    },
    recording::Recording,
    report::View,
    summary::Summary,
    window::Window,
};

pub struct Growth {
    account: Account,
    /// What is known of a file's allocators, by [`File::serial`](crate::process::files::File::serial); nothing where they were
    /// not found.
    allocators: FxHashMap<u64, Option<Allocators>>,
    /// Probes that are in place: in a file, for a process or for all.
    probed: FxHashMap<(u64, Option<u32>), Box<dyn Held>>,
    /// Where a file raises `MemoryError`, likewise; and the probes that are there.
    errors: FxHashMap<u64, Option<MemoryErrorPlaces>>,
    watched: FxHashMap<(u64, Option<u32>), Box<dyn Held>>,
    /// A probe for each process, so that others do not stop there; otherwise one for all that run the file.
    by_process: bool,
    watchpoints: bool,
    length: Option<Duration>,
    births: Option<Driver>,
}

impl Growth {
    pub fn new(config: &Config, wanted: &MemoryConfig, command_pid: Option<u32>) -> anyhow::Result<Self> {
        Ok(Self {
            account: Account::new(config, wanted, command_pid)?,
            allocators: FxHashMap::default(),
            probed: FxHashMap::default(),
            errors: FxHashMap::default(),
            watched: FxHashMap::default(),
            by_process: matches!(config.target, Target::Pids(_)) && !config.subprocesses,
            watchpoints: wanted.watchpoints.is_some(),
            length: config.duration,
            births: None,
        })
    }

    /// Notes the `MemoryError`s of a process, so that its end after one can be told. Where they are not found, it is not.
    fn watch_errors(&mut self, host: &Recording, kernel: &mut dyn Orders, pid: u32) {
        let Some((python, file)) = host.python(pid) else {
            return;
        };
        let Some(opened) = &file.opened else { return };
        let places = self.errors.entry(file.serial).or_insert_with(|| {
            let bytes = opened.map().ok()?;
            foreign::parsed(|| memory_error::places(&bytes, &python.binary)).flatten()
        });
        let Some(places) = places else { return };
        let scope = self.by_process.then_some(pid);
        let attached = kernel
            .set_memory_error(pid, places.class.wrapping_add(python.bias))
            .and_then(|()| {
                if let Entry::Vacant(watched) = self.watched.entry((file.serial, scope)) {
                    watched.insert(kernel.attach_memory_errors(opened, places, scope)?);
                }
                Ok(())
            });
        if let Err(error) = attached {
            self.account.warn(format!(
                "{error:#}; it is not told if a process ends after a MemoryError"
            ));
        }
    }

    /// Puts a probe into a process where its pymalloc takes its pools.
    fn probe(&mut self, host: &Recording, kernel: &mut dyn Orders, pid: u32) {
        let Some((python, file)) = host.python(pid) else {
            return;
        };
        let Some(opened) = &file.opened else { return };
        let account = &mut self.account;
        let allocators = self.allocators.entry(file.serial).or_insert_with(|| {
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
            if let Entry::Vacant(probed) = self.probed.entry((file.serial, scope)) {
                probed.insert(kernel.attach_pools(opened, probe.place.file_offset, scope)?);
            }
            Ok(())
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
            births: self.watchpoints,
            ..Needs::default()
        }
    }

    fn start(&mut self, host: &mut Recording, kernel: &mut dyn Orders) -> anyhow::Result<()> {
        self.account.start(host);
        self.births = self.account.start_births(kernel, self.length)?;
        Ok(())
    }

    fn follow(&mut self, change: Change, host: &Recording, kernel: &mut dyn Orders) {
        match change {
            Change::Python { pid } => {
                self.watch_errors(host, kernel, pid);
                self.probe(host, kernel, pid);
            }
            Change::Mapped { .. } | Change::NotPython { .. } | Change::Joined { .. } => {}
        }
    }

    fn turn(&mut self, host: &mut Recording, _kernel: &mut dyn Orders) -> anyhow::Result<Turn> {
        self.account.take_in(host);
        Ok(Turn::Goes)
    }

    fn stop(&mut self, _host: &mut Recording, _kernel: &mut dyn Orders, _recorded: Duration) -> anyhow::Result<()> {
        if let Some(births) = self.births.take() {
            self.account.end_births(births.end());
        }
        self.account.stop();
        self.probed.clear();
        self.watched.clear();
        Ok(())
    }

    fn finish(&mut self, _host: &mut Recording, _kernel: &dyn Orders) {
        self.account.finish();
    }

    fn close(&mut self, host: &mut Recording, _kernel: &dyn Orders) {
        self.account.close();
        // What nobody runs any more needs no probe, which would keep the file.
        let known: FxHashSet<u64> = host.files.iter().map(|(_, file)| file.serial).collect();
        self.allocators.retain(|serial, _| known.contains(serial));
        self.errors.retain(|serial, _| known.contains(serial));
        for held in [&mut self.probed, &mut self.watched] {
            held.retain(|(serial, pid), _| known.contains(serial) && pid.is_none_or(|pid| host.python(pid).is_some()));
        }
    }

    fn cut(&mut self, window: &Window) -> anyhow::Result<Measured> {
        Ok(self.account.cut(window))
    }

    fn worth_keeping(&mut self) -> Vec<String> {
        self.account.worth_keeping()
    }

    fn sites(&self) -> usize {
        self.account.watch.sites()
    }

    fn tell_windows(&self, summary: &mut Summary, counters: &[u64; COUNTERS]) {
        self.account.tell_windows(summary, counters);
    }

    fn content(&mut self, _namer: &mut Namer, window: &Window, length: Duration) -> (Content, Vec<String>) {
        self.account.content(window, length)
    }

    fn tell(&self, summary: &mut Summary, content: &Content, told: &Told<'_>) {
        self.account.tell(summary, content, told, None);
    }
}

impl Tells for Growth {
    fn opening(&self, what: &str) -> String {
        let opening = Account::opening(what);
        match self.watchpoints {
            true if in_virtual_machine() => format!(
                "{opening}, some births of objects by hardware watchpoints (in a virtual machine whose host has a Linux before \
                 6.14 a stop can end the process)"
            ),
            true => format!("{opening}, some births of objects by hardware watchpoints"),
            false => opening,
        }
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
