//! The engine: the kernel's streams, what is known of the machine, and the instruments that measure. It never calls back:
//! whoever has it asks it to take its next turn.

use std::{
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    bpf::{Kernel, Tables},
    instruments::{Change, Instrument, Turn},
    orders::Orders as _,
    process::files::FileId,
    recording::{Cut, Fact, Recording},
    source::{Event, Source},
    unwind::{Unwinder, store::StoreTally},
    window::Window,
};

/// How long to wait for unwind tables before sampling starts: what is missing then leaves stacks incomplete until it is
/// there. Those of a Python process take some 50 ms.
const TABLES_WAIT: Duration = Duration::from_secs(2);
/// How often to look for CPUs that came or went.
const FOLLOW_CPUS_EVERY: Duration = Duration::from_secs(1);

pub struct Engine {
    pub source: Source,
    unwinder: Unwinder<Tables>,
    /// What is known of the machine, and what was counted.
    pub host: Recording,
    pub instruments: Vec<Box<dyn Instrument>>,
    cpus_followed: Instant,
}

impl Engine {
    /// Nothing is measured yet.
    pub fn new(kernel: Kernel, host: Recording, instruments: Vec<Box<dyn Instrument>>) -> anyhow::Result<Self> {
        let mut source = Source::open(kernel)?;
        let tables = source
            .kernel
            .take_tables()
            .context("the kernel half has no unwind tables")?;
        let unwinder = Unwinder::new(tables).context("failed to start the thread that makes unwind tables")?;
        Ok(Self {
            source,
            unwinder,
            host,
            instruments,
            cpus_followed: Instant::now(),
        })
    }

    /// From now on everything counts. `expected`: a CPython that the command is about to run.
    pub fn start(&mut self, expected: Option<FileId>) -> anyhow::Result<()> {
        for instrument in &mut self.instruments {
            instrument.prepare(&mut self.source.kernel)?;
        }
        self.tell();
        self.unwinder.install(Some(Instant::now() + TABLES_WAIT));
        self.source.start()?;
        for instrument in &mut self.instruments {
            if let Some(file) = expected {
                instrument.expect(&self.host, &mut self.source.kernel, file);
            }
            instrument.start(&mut self.host, &mut self.source.kernel)?;
        }
        Ok(())
    }

    /// Takes in what waits, lets the instruments look at it, and tells the kernel side what it must know.
    pub fn turn(&mut self) -> anyhow::Result<Turn> {
        let Self { source, host, .. } = self;
        source.read(|event| match event {
            Event::Process(event) => host.apply(event),
            Event::Record(record) => host.take(record),
            Event::Malformed => host.ledger.tally.malformed += 1,
        });
        let mut turn = Turn::Goes;
        for instrument in &mut self.instruments {
            if instrument.turn(&mut self.host, &mut self.source.kernel)? == Turn::Spent {
                turn = Turn::Spent;
            }
        }
        let forgotten = self.host.forget_stacks();
        self.source.kernel.forget(&forgotten.stacks, &forgotten.codes);
        self.tell();
        self.unwinder.install(None);
        Ok(turn)
    }

    /// What is not done in each turn.
    pub fn follow_machine(&mut self) -> anyhow::Result<()> {
        self.host.name_threads(false);
        if self.cpus_followed.elapsed() >= FOLLOW_CPUS_EVERY {
            self.source.follow_cpus()?;
            self.host.files.let_go_of_deleted();
            self.cpus_followed = Instant::now();
        }
        Ok(())
    }

    /// How soon an instrument wants the next turn, if sooner than usual.
    pub fn look_soon(&self) -> Option<Duration> {
        self.instruments
            .iter()
            .filter_map(|instrument| instrument.look_soon())
            .min()
    }

    /// Whether probes are in the way of programs, so that a budget is to be looked at often.
    pub fn has_budget(&self) -> bool {
        self.instruments
            .iter()
            .any(|instrument| instrument.needs().has_budget())
    }

    /// Whether unwind tables are being made.
    pub fn waits_for_tables(&self) -> bool {
        self.unwinder.waiting() > 0
    }

    /// Counts nothing more, and takes the programs away. How long that took.
    pub fn stop(&mut self, recorded: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        for instrument in &mut self.instruments {
            instrument.stop(&mut self.host, &mut self.source.kernel, recorded)?;
        }
        self.source.kernel.detach_all();
        let took = began.elapsed();
        // What was on its way.
        self.turn()?;
        self.host.name_threads(true);
        for instrument in &mut self.instruments {
            instrument.finish(&mut self.host, &self.source.kernel);
        }
        let StoreTally {
            not_unwound,
            no_room,
            rules_refused,
            ..
        } = self.unwinder.tally();
        let tally = &mut self.host.ledger.tally;
        (tally.not_unwound, tally.tables_without_room, tally.rules_refused) = (not_unwound, no_room, rules_refused);
        Ok(took)
    }

    /// Ends a window. What was found out on the way is told, and what nobody has any more is forgotten.
    pub fn cut(&mut self) -> Window {
        let Cut {
            window,
            files,
            forgotten,
        } = self.host.cut();
        self.source.kernel.forget(&forgotten, &[]);
        self.tell();
        for file in files {
            self.unwinder.forget(file);
        }
        window
    }

    pub fn unwinder(&self) -> &Unwinder<Tables> {
        &self.unwinder
    }

    /// Readable when much is waiting in the ring buffer; otherwise look every now and then.
    pub fn ring_fd(&self) -> BorrowedFd<'_> {
        self.source.kernel.ring_fd()
    }

    fn tell(&mut self) {
        let Self {
            source,
            unwinder,
            host,
            instruments,
            ..
        } = self;
        let kernel = &mut source.kernel;
        for fact in host.drain_facts() {
            let change = match fact {
                Fact::Mappings { pid, mappings } => {
                    unwinder.set_mappings(&host.files, pid, &mappings);
                    Change::Mapped { pid }
                }
                Fact::Python { pid, facts } => {
                    // The table is full: its stacks stay native, and the summary says so.
                    if kernel.set_python(pid, &facts).is_err() {
                        host.ledger.tally.not_walked += 1;
                    }
                    Change::Python { pid }
                }
                Fact::NotPython { pid } => {
                    kernel.remove_python(pid);
                    kernel.remove_pool_facts(pid);
                    kernel.remove_call_facts(pid);
                    Change::NotPython { pid }
                }
                Fact::Exited { pid } => {
                    kernel.remove_target(pid);
                    unwinder.remove(pid);
                    continue;
                }
            };
            for instrument in &mut *instruments {
                instrument.follow(change, host, kernel);
            }
        }
    }
}
