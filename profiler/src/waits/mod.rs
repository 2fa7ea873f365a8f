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
//! | [`report`] | all of it as what reports read |
//!
//! Two kinds of numbers come together. The sums of each thread by class are exact and know no stacks. Drawn waits have
//! stacks: long ones are all there, short ones stand for as much as there was. So a stack's time is what its drawn waits
//! stand for, and that of a thread's short waits is brought to the exact sum.

pub mod account;
pub mod cause;
pub mod descriptor;
pub mod gil;
pub mod report;
pub mod stuck;
pub mod threads;
