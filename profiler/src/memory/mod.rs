//! Memory: who made a process grow, and what of it stays.
//!
//! Sources (page faults, pools, mappings, calls of allocators) speak one language ([`event`]); `space` makes of it what
//! came and went; [`account`] keeps it by site, the stack that got the memory; [`report`] hands it to the writers. What
//! comes after `account` knows nothing of what comes before.

pub mod account;
mod apart;
pub mod blocks;
pub mod cut;
pub mod event;
mod held;
mod loan;
pub mod pools;
pub mod regions;
pub mod report;
pub mod rss;
pub mod sites;
pub mod space;
pub mod victim;
pub mod watch;
