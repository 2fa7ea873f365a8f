//! What a recording comes to.

use crate::{
    profile::Profile,
    report::{calls::CallsReport, memory::MemoryReport, waits::WaitsReport},
};

/// What is written: of memory perhaps with what to compare it with.
pub enum Content {
    Profile(Profile),
    Memory(Box<MemoryReport>, Option<Profile>),
    Calls(Box<CallsReport>),
    Waits(Box<WaitsReport>),
}

impl Content {
    /// The profile that goes into formats of stacks, if it has one.
    pub fn profile_mut(&mut self) -> Option<&mut Profile> {
        match self {
            Self::Profile(profile) => Some(profile),
            Self::Memory(report, _) => Some(&mut report.profile),
            Self::Waits(report) => Some(&mut report.profile),
            Self::Calls(_) => None,
        }
    }
}
