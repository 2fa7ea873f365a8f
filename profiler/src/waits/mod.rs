//! Where threads wait: from the kernel side's accounts and drawn waits to a report.
//!
//! | module | does |
//! |---|---|
//! | [`cause`] | what a wait was for, and whom or which file for |
//! | [`account`] | sums of drawn waits, by stack, cause and target |
//! | [`descriptor`] | what lies behind a descriptor, of waits that have not ended |
//! | [`threads`] | the time of each thread: what is there in the beginning, and what is under way at the end |
//! | [`stuck`] | the Python stack of a thread that does not run, read from outside |
//! | [`gil`] | where a process's GIL is |
//! | [`own_gil`] | sub-interpreters that have one of their own, and who is in them |
//! | [`held`] | threads that have it and wait for something else, and how long others wait for it meanwhile |
//! | [`waker`] | who ended a wait |
//! | [`stalls`] | event loops that do not come back, and what takes them so long |
//! | [`tasks`] | which task of asyncio such a loop runs meanwhile |
//! | [`io`] | calls that move data |
//! | [`targets`] | whom and which files waits and calls are for |
//! | [`budget`] | how many of them are drawn |
//! | [`report`] | all of it as what reports read |
//!
//! Two kinds of numbers come together. The sums of each thread by class are exact and know no stacks. Drawn waits have
//! stacks: long ones are all there, short ones stand for as much as there was. So a stack's time is what its drawn waits
//! stand for, and that of a thread's short waits is brought to the exact sum.

pub mod account;
pub mod budget;
pub mod cause;
pub mod descriptor;
pub mod gil;
pub mod held;
pub mod io;
pub mod own_gil;
pub mod report;
pub mod stalls;
pub mod stuck;
pub mod targets;
pub mod tasks;
pub mod threads;
pub mod waker;
pub mod window;
