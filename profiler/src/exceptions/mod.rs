//! Exceptions: what was raised where and how far it went ([`account`]), what windows say of the time between them
//! ([`account::Estimate`]), how much of the time is spent in handlers ([`handling`]), and what a report says of it
//! ([`report`]).

pub mod account;
pub mod handling;
pub mod report;
