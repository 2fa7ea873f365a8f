//! What a recording comes to, and the file it becomes.

use std::io;

use super::{memory, waits};
use crate::{
    config::Config,
    profile::Profile,
    report::{
        View,
        calls::{CallsReport, table as calls_table},
        memory::MemoryReport,
        waits::WaitsReport,
    },
};

/// What is written: of memory perhaps with what to compare it with.
pub(super) enum Content {
    Profile(Profile),
    Memory(Box<MemoryReport>, Option<Profile>),
    Calls(Box<CallsReport>),
    Waits(Box<WaitsReport>),
}

impl Content {
    pub(super) fn profile_mut(&mut self) -> Option<&mut Profile> {
        match self {
            Self::Profile(profile) => Some(profile),
            Self::Memory(report, _) => Some(&mut report.profile),
            Self::Waits(report) => Some(&mut report.profile),
            Self::Calls(_) => None,
        }
    }

    pub(super) fn write(&self, config: &Config, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        match (self, &config.memory) {
            (Self::Profile(profile), _) => config.format.writer().write(profile, view, out),
            (Self::Memory(report, base), Some(wanted)) => memory::write(report, wanted, base.as_ref(), view, out),
            (Self::Calls(report), _) => write_calls(report, config, out),
            (Self::Waits(report), _) => match &config.waits {
                Some(wanted) => waits::write(report, wanted, view, out),
                None => config.format.writer().write(&report.profile, view, out),
            },
            (Self::Memory(report, _), None) => config.format.writer().write(&report.profile, view, out),
        }
    }
}

fn write_calls(report: &CallsReport, config: &Config, out: &mut dyn io::Write) -> anyhow::Result<()> {
    let Some(wanted) = &config.calls else { return Ok(()) };
    let table = calls_table::Table::new(report, wanted.sort);
    match wanted.format {
        Some(format) => format.write(report, &table, out),
        None => Ok(out.write_all(calls_table::text(report, &table, wanted.top, memory::columns()).as_bytes())?),
    }
}
