//! What an instrument may ask of the kernel side: the only arrow back besides [`Fact`](crate::recording::Fact).
//!
//! A trait, and values for what is put where, so that instruments are tested without a kernel. Each order is carried out
//! at once, and says whether it could be: what comes next often depends on it (a process's calls are counted only when
//! all probes are in place).

use profiler_common::{
    python::{CallCount, CallFacts, CodeKey, ExpectedPython, PoolFacts, Watch, WatchKey},
    stats::Counter,
    wait::WaitSlot,
};

use crate::process::file::MappedFile;

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

/// What a probe on an allocator sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Entry,
    Return,
    Free,
}

/// What is in place for as long as this is held.
pub trait Held {}

/// A hardware breakpoint on every CPU.
pub trait Breakpoint {
    /// Takes it away. How often it was hit.
    fn end(self: Box<Self>) -> anyhow::Result<u64>;
}

/// The accounts of threads, which the kernel side keeps and both sides write.
pub trait ThreadAccounts {
    /// Whether drawn waits are told at the end of the scheduler's work, and not at the end of every system call.
    fn resumes(&self) -> bool;

    /// From this length on, every wait is drawn.
    fn set_target(&mut self, target_ns: u64);

    /// Have a thread accounted for from now on; `false` if there is no room. Nothing happens if it has a slot already.
    fn add(&mut self, slot: WaitSlot) -> bool;

    /// It had gone on when its slot was made (`as_it_was`): what was taken for its state is not. Nothing happens if the
    /// kernel side has seen it since.
    fn set_running(&mut self, as_it_was: &WaitSlot, now_ns: u64);

    /// Where the GIL of a process is.
    fn set_gil(&mut self, pid: u32, gil: u64);

    /// The accounts of threads that have ended: they are handed over once, and there is room for others.
    fn take_ended(&mut self) -> Vec<WaitSlot>;

    /// The accounts of threads that live.
    fn live(&self) -> Vec<WaitSlot>;
}

/// The kernel side, as instruments see it. Probes are for one process (`pid`), or for all that run the file.
pub trait Orders {
    /// One of its counters, of all CPUs together.
    fn counter(&self, counter: Counter) -> anyhow::Result<u64>;

    /// A process is a target no more.
    fn remove_target(&mut self, pid: u32);

    /// How to see a process's pools.
    fn set_pool_facts(&mut self, pid: u32, facts: &PoolFacts) -> anyhow::Result<()>;

    /// Look at the births of pymalloc's pools.
    fn attach_pools(&mut self, file: &MappedFile, offset: u64, pid: Option<u32>) -> anyhow::Result<()>;

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
        /// Whatever could fail does.
        pub fails: bool,
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

        fn remove_target(&mut self, pid: u32) {
            self.orders.push(format!("remove target {pid}"));
        }

        fn set_pool_facts(&mut self, pid: u32, _: &PoolFacts) -> anyhow::Result<()> {
            self.note(format!("pool facts of {pid}"))
        }

        fn attach_pools(&mut self, _: &MappedFile, _: u64, pid: Option<u32>) -> anyhow::Result<()> {
            self.note(format!("probe pools of {pid:?}"))
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
            true
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

        fn thread_accounts(&mut self) -> Option<Box<dyn ThreadAccounts>> {
            None
        }
    }
}
