//! What an instrument may ask of the kernel side: the only arrow back besides [`Fact`](crate::recording::Fact).
//!
//! A trait, and values for what is put where, so that instruments are tested without a kernel. Each order is carried out
//! at once, and says whether it could be: what comes next often depends on it (a process's calls are counted only when
//! all probes are in place).

use std::io;

use profiler_common::{
    birth::{Birth, BirthControl},
    group::Group,
    mark::Unwinding,
    python::{CallCount, CallFacts, CodeKey, ExpectedPython, GilFacts, PoolFacts, Watch, WatchKey},
    stats::Counter,
    wait::{IoKey, IoTotal, WaitControl, WaitSlot},
};

use crate::{process::file::MappedFile, python::memory_error::MemoryErrorPlaces};

/// A place in a file where calls of Python functions can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPlace {
    pub offset: u64,
    /// Probe the return of the function that begins there instead of the instruction.
    pub returns: bool,
    /// What the program finds there: [`profiler_common::python::call_cookie`].
    pub cookie: u64,
}

/// A place in a file where an allocator is called, or returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocationProbe {
    pub offset: u64,
    pub hook: Hook,
    /// What the program finds there: [`profiler_common::python::allocation_cookie`].
    pub cookie: u64,
}

/// A place in a file where exceptions, imports or garbage collections can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkPlace {
    pub offset: u64,
    /// As in [`CallPlace`].
    pub returns: bool,
    /// What the program finds there: [`profiler_common::mark::mark_cookie`].
    pub cookie: u64,
}

/// What a probe on an allocator sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Entry,
    Return,
    Free,
    /// A block that a stub has sampled is there (`memory --sampled`).
    Sampled,
}

/// What is in place for as long as this is held.
pub trait Held {}

/// A hardware breakpoint on every CPU.
pub trait Breakpoint {
    /// Takes it away. How often it was hit.
    fn end(self: Box<Self>) -> anyhow::Result<u64>;
}

/// A thread whose event loop does something else than poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away {
    pub pid: u32,
    /// As user space numbers it, and as the kernel does.
    pub tid: u32,
    pub kernel_tid: u32,
    pub since_ns: u64,
}

/// Hits of the register that sees births, in one window and on one CPU, after which the kernel closes it.
pub const WINDOW_HITS: u64 = 500;
/// The same of a register that follows an object, for as long as it does.
pub const FOLLOWED_HITS: u64 = 300;

/// Hardware watchpoints on the lists of a process's collector. Dropped, they are gone.
pub trait Watchpoints: Send {
    /// Takes the registers, for the young generation whose list begins at `head`: nothing stops there yet. How many objects
    /// can be followed at a time.
    fn open(&mut self, pid: u32, head: u64) -> anyhow::Result<usize>;

    /// Opens a window. `last`: the list's last link; `length_ns`: how long births are told, in the process's own time, of
    /// which a hit takes `hit_ns`.
    fn begin(&mut self, last: u64, length_ns: u64, hit_ns: u64) -> io::Result<()>;

    /// Closes it; `false` if the kernel had done so.
    fn end(&mut self) -> io::Result<bool>;

    fn control(&self) -> BirthControl;

    /// Births of the window, by number.
    fn births(&self, from: usize, to: usize) -> Vec<Birth>;

    /// Begins to follow the object with this GC head, with one of the registers for that.
    fn follow(&mut self, slot: usize, head: u64) -> io::Result<()>;

    /// Follows it no more; `false` if the kernel had stopped to.
    fn leave(&mut self, slot: usize) -> io::Result<bool>;
}

/// The accounts of threads, which the kernel side keeps and both sides write.
pub trait ThreadAccounts {
    /// Whether drawn waits are told at the end of the scheduler's work, and not at the end of every system call.
    fn resumes(&self) -> bool;

    /// Whether the kernel says how long a cgroup's quota was used up.
    fn tells_of_quotas(&self) -> bool;

    /// Which waits are drawn.
    fn set_control(&mut self, control: WaitControl);

    /// Have a thread accounted for from now on; `false` if there is no room. Nothing happens if it has a slot already.
    fn add(&mut self, slot: WaitSlot) -> bool;

    /// It had gone on when its slot was made: what it did until now is not known, and its account begins here. Nothing
    /// happens, and `false` is returned, if the kernel side has seen it since.
    fn begin_again(&mut self, as_it_was: &WaitSlot, as_it_is: &WaitSlot) -> bool;

    /// Where the GIL of each thread is, by the numbers of its process and its own; of `None` nothing is said.
    fn set_gil(&mut self, gil_of: &dyn Fn(u32, u32) -> Option<u64>);

    /// The accounts of threads that have ended: they are handed over once, and there is room for others.
    fn take_ended(&mut self) -> Vec<WaitSlot>;

    /// The accounts of threads that live.
    fn live(&self) -> Vec<WaitSlot>;

    /// A thread polls an event loop just now.
    fn set_polling(&mut self, tid: u32, now_ns: u64);

    /// Since when a thread is back from polling; none if it was never seen to poll.
    fn back_from_poll(&self, tid: u32) -> Option<u64>;

    /// Threads whose event loops are away from polling, and since when, if that is before this moment. Not more than `most`.
    fn away_from_poll(&self, before_ns: u64, most: usize) -> Vec<Away>;

    /// Calls that move data, so far.
    fn io_totals(&self) -> Vec<(IoKey, IoTotal)>;
}

/// The kernel side, as instruments see it. Probes are for one process (`pid`), or for all that run the file.
pub trait Orders {
    /// One of its counters, of all CPUs together.
    fn counter(&self, counter: Counter) -> anyhow::Result<u64>;

    /// The same of one group of programs: what others have spent is not its affair.
    fn counter_of(&self, group: Group, counter: Counter) -> anyhow::Result<u64>;

    /// A process is a target no more: of these groups of programs.
    fn remove_target(&mut self, pid: u32, groups: &[Group]);

    /// Where the GIL of a process is, or that it has none.
    fn set_gil(&mut self, pid: u32, facts: Option<&GilFacts>) -> anyhow::Result<()>;

    /// How to see a process's pools.
    fn set_pool_facts(&mut self, pid: u32, facts: &PoolFacts) -> anyhow::Result<()>;

    /// Look at the births of pymalloc's pools, for as long as this is held.
    fn attach_pools(&mut self, file: &MappedFile, offset: u64, pid: Option<u32>) -> anyhow::Result<Box<dyn Held>>;

    /// Look for `MemoryError`s of the processes that are named so with their class `MemoryError`, for as long as this is held.
    fn attach_memory_errors(
        &mut self,
        file: &MappedFile,
        places: &MemoryErrorPlaces,
        pid: Option<u32>,
    ) -> anyhow::Result<Box<dyn Held>>;

    /// Where the class `MemoryError` of a process is.
    fn set_memory_error(&mut self, pid: u32, class: u64) -> anyhow::Result<()>;

    /// Look at exceptions, imports or garbage collections, for as long as this is held.
    fn attach_marks(
        &mut self,
        file: &MappedFile,
        places: &[MarkPlace],
        pid: Option<u32>,
    ) -> anyhow::Result<Box<dyn Held>>;

    /// What became of the last exception of each thread.
    fn unwinding(&self) -> Vec<(u32, Unwinding)>;

    /// Look at calls of an allocator.
    fn attach_allocator(&mut self, file: &MappedFile, probe: &AllocationProbe, pid: Option<u32>) -> anyhow::Result<()>;

    /// Look at calls of Python functions.
    fn attach_calls(&mut self, file: &MappedFile, places: &[CallPlace], pid: Option<u32>) -> anyhow::Result<()>;

    /// How to see a process's calls: from then on they count.
    fn set_call_facts(&mut self, pid: u32, facts: &CallFacts) -> anyhow::Result<()>;

    /// How to see the calls of processes that will run a file, by its number in cookies: they count from the first on.
    fn expect_calls(&mut self, file: u8, expected: &ExpectedPython) -> anyhow::Result<()>;

    /// No calls count any more.
    fn remove_all_call_facts(&mut self);

    /// Whether the calls of this code object are timed from now on.
    fn choose(&mut self, code: CodeKey, is_chosen: bool) -> anyhow::Result<()>;

    /// Calls so far.
    fn calls(&self) -> Vec<(CodeKey, CallCount)>;

    /// Code of the calls under way that probes have seen to begin.
    fn calls_under_way(&self) -> Vec<u64>;

    /// Take away what stops processes at instructions. They stop no more when this returns, or soon after.
    fn detach_probes(&mut self);

    /// Whether all have gone that were taken away. Until then none can be put in without waiting.
    fn probes_are_gone(&mut self) -> bool;

    /// A probe that does nothing: to measure what that costs.
    fn attach_nothing(&mut self, file: &MappedFile, offset: u64, pid: u32) -> anyhow::Result<Box<dyn Held>>;

    /// Look whenever anybody in user space reads or writes the byte at this address.
    fn attach_watch(&mut self, address: u64) -> anyhow::Result<Box<dyn Breakpoint>>;

    /// What it means that this byte is read.
    fn set_watch(&mut self, key: WatchKey, watch: &Watch) -> anyhow::Result<()>;

    fn remove_watch(&mut self, key: WatchKey);

    /// Look at where event loops poll, for as long as this is held ([`WaitNeeds::sparing`](crate::instruments::WaitNeeds)).
    fn attach_loops(&mut self) -> anyhow::Result<Box<dyn Held>>;

    /// The same of calls that move data.
    fn attach_io(&mut self) -> anyhow::Result<Box<dyn Held>>;

    /// Watchpoints on births of objects, if they were asked for: once.
    fn watchpoints(&mut self) -> Option<Box<dyn Watchpoints>>;

    /// The accounts of threads, if they are kept: once.
    fn thread_accounts(&mut self) -> Option<Box<dyn ThreadAccounts>>;
}

/// A kernel side for tests: it carries nothing out, and keeps what it was asked.
#[cfg(test)]
pub mod fake {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default)]
    pub struct Asked {
        /// Orders in words, in the order in which they came.
        pub orders: Vec<String>,
        pub counters: BTreeMap<usize, u64>,
        pub calls: Vec<(CodeKey, CallCount)>,
        /// Threads whose accounts are kept.
        pub accounts: Option<Vec<WaitSlot>>,
        /// Whatever could fail does.
        pub fails: bool,
        /// Probes that were taken away are still there.
        pub leaving: bool,
    }

    /// Accounts as they were made.
    struct Kept(Vec<WaitSlot>);

    impl ThreadAccounts for Kept {
        fn resumes(&self) -> bool {
            true
        }

        fn tells_of_quotas(&self) -> bool {
            true
        }

        fn set_control(&mut self, _: WaitControl) {}

        fn add(&mut self, _: WaitSlot) -> bool {
            true
        }

        fn begin_again(&mut self, _: &WaitSlot, _: &WaitSlot) -> bool {
            false
        }

        fn set_gil(&mut self, _: &dyn Fn(u32, u32) -> Option<u64>) {}

        fn take_ended(&mut self) -> Vec<WaitSlot> {
            Vec::new()
        }

        fn live(&self) -> Vec<WaitSlot> {
            self.0.clone()
        }

        fn set_polling(&mut self, _: u32, _: u64) {}

        fn back_from_poll(&self, _: u32) -> Option<u64> {
            None
        }

        fn away_from_poll(&self, _: u64, _: usize) -> Vec<Away> {
            Vec::new()
        }

        fn io_totals(&self) -> Vec<(IoKey, IoTotal)> {
            Vec::new()
        }
    }

    struct Nothing;
    impl Held for Nothing {}
    impl Breakpoint for Nothing {
        fn end(self: Box<Self>) -> anyhow::Result<u64> {
            Ok(0)
        }
    }

    impl Asked {
        fn note(&mut self, order: String) -> anyhow::Result<()> {
            self.orders.push(order);
            anyhow::ensure!(!self.fails, "no room");
            Ok(())
        }

        pub fn set(&mut self, counter: Counter, value: u64) {
            self.counters.insert(counter as usize, value);
        }
    }

    impl Orders for Asked {
        fn counter(&self, counter: Counter) -> anyhow::Result<u64> {
            Ok(self.counters.get(&(counter as usize)).copied().unwrap_or_default())
        }

        fn counter_of(&self, _: Group, counter: Counter) -> anyhow::Result<u64> {
            self.counter(counter)
        }

        fn remove_target(&mut self, pid: u32, groups: &[Group]) {
            self.orders.push(format!("remove target {pid} of {groups:?}"));
        }

        fn set_gil(&mut self, pid: u32, facts: Option<&GilFacts>) -> anyhow::Result<()> {
            self.note(format!("GIL of {pid}: {}", facts.is_some()))
        }

        fn set_pool_facts(&mut self, pid: u32, _: &PoolFacts) -> anyhow::Result<()> {
            self.note(format!("pool facts of {pid}"))
        }

        fn attach_pools(&mut self, _: &MappedFile, _: u64, pid: Option<u32>) -> anyhow::Result<Box<dyn Held>> {
            self.note(format!("probe pools of {pid:?}"))?;
            Ok(Box::new(Nothing))
        }

        fn attach_memory_errors(
            &mut self,
            _: &MappedFile,
            _: &MemoryErrorPlaces,
            pid: Option<u32>,
        ) -> anyhow::Result<Box<dyn Held>> {
            self.note(format!("probe memory errors of {pid:?}"))?;
            Ok(Box::new(Nothing))
        }

        fn set_memory_error(&mut self, pid: u32, _: u64) -> anyhow::Result<()> {
            self.note(format!("class MemoryError of {pid}"))
        }

        fn attach_marks(
            &mut self,
            _: &MappedFile,
            places: &[MarkPlace],
            pid: Option<u32>,
        ) -> anyhow::Result<Box<dyn Held>> {
            self.note(format!("probe {} marks of {pid:?}", places.len()))?;
            Ok(Box::new(Nothing))
        }

        fn unwinding(&self) -> Vec<(u32, Unwinding)> {
            Vec::new()
        }

        fn attach_allocator(
            &mut self,
            _: &MappedFile,
            probe: &AllocationProbe,
            pid: Option<u32>,
        ) -> anyhow::Result<()> {
            self.note(format!("probe allocator of {pid:?}: {:?}", probe.hook))
        }

        fn attach_calls(&mut self, _: &MappedFile, _: &[CallPlace], pid: Option<u32>) -> anyhow::Result<()> {
            self.note(format!("probe calls of {pid:?}"))
        }

        fn set_call_facts(&mut self, pid: u32, _: &CallFacts) -> anyhow::Result<()> {
            self.note(format!("call facts of {pid}"))
        }

        fn expect_calls(&mut self, file: u8, _: &ExpectedPython) -> anyhow::Result<()> {
            self.note(format!("expect calls in file {file}"))
        }

        fn remove_all_call_facts(&mut self) {
            self.orders.push("no calls count".to_owned());
        }

        fn choose(&mut self, code: CodeKey, is_chosen: bool) -> anyhow::Result<()> {
            self.note(format!("choose {:#x}: {is_chosen}", code.address))
        }

        fn calls(&self) -> Vec<(CodeKey, CallCount)> {
            self.calls.clone()
        }

        fn calls_under_way(&self) -> Vec<u64> {
            Vec::new()
        }

        fn detach_probes(&mut self) {
            self.orders.push("take probes away".to_owned());
        }

        fn probes_are_gone(&mut self) -> bool {
            !self.leaving
        }

        fn attach_nothing(&mut self, _: &MappedFile, _: u64, _: u32) -> anyhow::Result<Box<dyn Held>> {
            Ok(Box::new(Nothing))
        }

        fn attach_watch(&mut self, address: u64) -> anyhow::Result<Box<dyn Breakpoint>> {
            self.note(format!("watch {address:#x}"))?;
            Ok(Box::new(Nothing))
        }

        fn set_watch(&mut self, _: WatchKey, _: &Watch) -> anyhow::Result<()> {
            self.note("set watch".to_owned())
        }

        fn remove_watch(&mut self, _: WatchKey) {
            self.orders.push("remove watch".to_owned());
        }

        fn attach_loops(&mut self) -> anyhow::Result<Box<dyn Held>> {
            self.note("look at loops".to_owned())?;
            Ok(Box::new(Nothing))
        }

        fn attach_io(&mut self) -> anyhow::Result<Box<dyn Held>> {
            self.note("look at calls that move data".to_owned())?;
            Ok(Box::new(Nothing))
        }

        fn watchpoints(&mut self) -> Option<Box<dyn Watchpoints>> {
            None
        }

        fn thread_accounts(&mut self) -> Option<Box<dyn ThreadAccounts>> {
            Some(Box::new(Kept(self.accounts.take()?)))
        }
    }
}
