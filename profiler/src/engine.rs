//! The engine: the kernel's streams, what is known of the machine, and the instruments that measure. It never calls back:
//! whoever has it asks it to take its next turn.

use std::{
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use profiler_common::group::Group;

use crate::{
    bpf::{Kernel, Tables},
    instruments::{self, Change, Instrument, Joint, Plan, Turn, measured::Measured},
    orders::Orders as _,
    process::files::FileId,
    recording::{Cut, Fact, Recording},
    source::{Event, Source},
    unwind::{Unwinder, store::StoreTally},
    window::Window,
};

/// How long to wait for unwind tables before sampling starts: what is missing then leaves stacks incomplete until it is
/// there. Those of a Python process take some 50 ms.
pub const TABLES_WAIT: Duration = Duration::from_secs(2);
/// The same where processes were named: whoever names a process wants its stacks, and no others' files are among those that
/// are waited for. Of one with OpenBLAS on two busy CPUs two seconds were not always enough.
pub const NAMED_TABLES_WAIT: Duration = Duration::from_secs(5);
/// How often to look for CPUs that came or went.
const FOLLOW_CPUS_EVERY: Duration = Duration::from_secs(1);

pub struct Engine {
    pub source: Source,
    unwinder: Unwinder<Tables>,
    /// What is known of the machine, and what was counted.
    pub host: Recording,
    pub instruments: Vec<Box<dyn Instrument>>,
    /// What makes one of what several instruments measured.
    pub joint: Option<Box<dyn Joint>>,
    cpus_followed: Instant,
}

impl Engine {
    /// Nothing is measured yet.
    pub fn new(kernel: Kernel, host: Recording, plan: Plan) -> anyhow::Result<Self> {
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
            instruments: plan.instruments,
            joint: plan.joint,
            cpus_followed: Instant::now(),
        })
    }

    /// From now on everything counts. `expected`: a CPython that the command is about to run. `patience`: for unwind tables.
    /// `crowd`: processes come and go that nobody named.
    pub fn start(&mut self, expected: Option<FileId>, patience: Duration, crowd: bool) -> anyhow::Result<()> {
        for instrument in &mut self.instruments {
            instrument.prepare(&mut self.source.kernel)?;
        }
        self.tell();
        self.unwinder.install(Some(Instant::now() + patience));
        // What is there was looked at. From here on the kernel's buffers do not wait for files, unless everything is to be
        // counted from the first on: there is a probe to be put into each. Of chosen processes, few files are new, and what is
        // known of them at once is worth more.
        if crowd && !self.has_budget() {
            let inspector = self.host.files.inspect_elsewhere();
            inspector.context("failed to start the thread that looks into files")?;
        }
        self.source.start()?;
        for instrument in &mut self.instruments {
            if let Some(file) = expected {
                instrument.expect(&self.host, &mut self.source.kernel, file);
            }
            instrument.start(&mut self.host, &mut self.source.kernel)?;
        }
        Ok(())
    }

    /// Makes a process a target that has run for a while.
    pub fn include(&mut self, pid: u32) -> anyhow::Result<()> {
        self.source.kernel.add_target(pid)?;
        self.host.include(pid);
        self.tell();
        for instrument in &mut self.instruments {
            instrument.follow(Change::Joined { pid }, &self.host, &mut self.source.kernel);
        }
        Ok(())
    }

    /// Takes in what waits, lets the instruments look at it, and tells the kernel side what it must know.
    pub fn turn(&mut self) -> anyhow::Result<Turn> {
        let Self { source, host, .. } = self;
        // First: a process that is known is known before its records.
        host.take_inspected();
        source.read(|event| match event {
            Event::Process(event) => host.apply(event),
            Event::Record(record) => host.take(record),
            Event::Malformed => host.ledger.tally.malformed += 1,
        });
        host.settle();
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

    /// Whether unwind tables are being made, or files looked into.
    pub fn waits_for_files(&self) -> bool {
        self.unwinder.waiting() > 0 || self.host.files.asked() > 0
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

    /// Ends a window, and says what was measured in it. What was found out on the way is told, and what
    /// nobody has any more is forgotten.
    pub fn cut(&mut self) -> anyhow::Result<(Window, Measured)> {
        for instrument in &mut self.instruments {
            instrument.close(&mut self.host, &self.source.kernel);
        }
        // What was on its way. A budget that is spent now is so in the next turn, too.
        self.turn()?;
        let Cut {
            window,
            files,
            forgotten,
        } = self.host.cut();
        self.source.kernel.forget(&forgotten.stacks, &forgotten.codes);
        self.tell();
        for file in files {
            self.unwinder.forget(file);
        }
        let measured = instruments::cut(&mut self.instruments, self.joint.as_deref(), &window)?;
        Ok((window, measured))
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
                    kernel.remove_target(pid, &Group::ALL);
                    // The kernel side may have taken up a CPython in it that nobody here has seen.
                    kernel.remove_call_facts(pid);
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
