//! What a recording comes to.

use crate::{
    profile::Profile,
    report::{
        calls::CallsReport, collections::CollectionsReport, exceptions::ExceptionsReport, imports::ImportsReport,
        memory::MemoryReport, waits::WaitsReport,
    },
    wall::WallReport,
    why::{WhyReport, surroundings::Surroundings},
};

/// What is written: of memory perhaps with what to compare it with.
pub enum Content {
    Profile(Profile),
    Memory(Box<MemoryReport>, Option<Profile>),
    /// Where formats of stacks want it, with CPU time beside calls.
    Calls(Box<CallsReport>, Option<Profile>),
    Waits(Box<WaitsReport>),
    Wall(Box<WallReport>),
    Surroundings(Box<Surroundings>),
    /// With CPU time and waits.
    Why(Box<WhyReport>, Profile),
    Exceptions(Box<ExceptionsReport>),
    Imports(Box<ImportsReport>),
    Collections(Box<CollectionsReport>),
}

impl Content {
    /// As [`profile_mut`](Self::profile_mut).
    pub fn profile(&self) -> Option<&Profile> {
        match self {
            Self::Profile(profile) => Some(profile),
            Self::Memory(report, _) => Some(&report.profile),
            Self::Waits(report) => Some(&report.profile),
            Self::Wall(report) => Some(&report.profile),
            Self::Exceptions(report) => Some(&report.profile),
            Self::Collections(report) => Some(&report.profile),
            Self::Why(_, profile) => Some(profile),
            Self::Calls(_, profile) => profile.as_ref(),
            Self::Imports(_) | Self::Surroundings(_) => None,
        }
    }

    /// The profile that goes into formats of stacks, if it has one.
    pub fn profile_mut(&mut self) -> Option<&mut Profile> {
        match self {
            Self::Profile(profile) => Some(profile),
            Self::Memory(report, _) => Some(&mut report.profile),
            Self::Waits(report) => Some(&mut report.profile),
            Self::Wall(report) => Some(&mut report.profile),
            Self::Exceptions(report) => Some(&mut report.profile),
            Self::Collections(report) => Some(&mut report.profile),
            Self::Why(_, profile) => Some(profile),
            Self::Calls(_, profile) => profile.as_mut(),
            Self::Imports(_) | Self::Surroundings(_) => None,
        }
    }
}
