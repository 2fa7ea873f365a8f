//! What is said of it.

use std::io;

use profiler_common::stats::{COUNTERS, Counter};

use super::Waits;
use crate::{
    config::{NativeFrames, WaitsFormat},
    instruments::{Picture, Tells, content::Content},
    progress::stdout_columns,
    report::{
        Interpreter, View,
        waits::{VALUE, WaitsReport, export, table},
    },
    summary::{IoSummary, WaitsSummary},
    waits::{cause::Cause, io::IoAccount},
};

impl Waits {
    /// Where much is waited for CPUs, and it cannot be told whether there were none or no quota.
    pub(super) fn of_quotas(&self, report: &WaitsReport) -> Option<String> {
        const MUCH: f64 = 0.01;
        let ready = Cause::ALL.iter().zip(report.by_cause());
        let ready_ns = ready.filter(|(cause, _)| **cause == Cause::Ready).map(|(_, ns)| ns);
        let is_much = ready_ns.sum::<u64>() as f64 > MUCH * report.elapsed_ns() as f64;
        let maps = self.maps.as_ref().filter(|_| is_much)?;
        (!maps.tells_of_quotas()).then(|| {
            "`ready` may be a CPU quota (cgroups) that is used up: only Linux 6.7 and later tell of that".to_owned()
        })
    }

    pub(super) fn summary(&self, report: &WaitsReport, counters: &[u64; COUNTERS]) -> WaitsSummary {
        let counter = |counter: Counter| counters[counter as usize];
        WaitsSummary {
            shows_table: self.shows_table,
            threads: report.threads.len() as u64,
            elapsed_s: report.elapsed_ns() as f64 / 1e9,
            on_cpu_s: report.on_cpu_ns() as f64 / 1e9,
            waiting_s: report.waiting_ns() as f64 / 1e9,
            accounted: report.accounted(),
            waits: self
                .ended
                .iter()
                .flat_map(|ended| ended.slot.sums)
                .map(|sum| sum.count)
                .sum(),
            drawn: counter(Counter::WaitsDrawn),
            target_ns: self.budget.highest,
            lost_stacks: counter(Counter::LostWaits),
            ending: counter(Counter::EndingWaits),
            lost_threads: counter(Counter::LostThreads),
            lost_switches: counter(Counter::LostSwitches),
            forgotten: self.account.forgotten() + self.io.as_ref().map_or(0, IoAccount::forgotten),
            io: self.io.as_ref().map(|_| IoSummary {
                calls: counter(Counter::IoCalls),
                drawn: counter(Counter::IoDrawn),
                lost_stacks: counter(Counter::LostIo),
                without_file: counter(Counter::CoarseIo),
            }),
            stalls: self.stalls.as_ref().map(|_| counter(Counter::Stalls)),
            lost_stalls: counter(Counter::LostStalls),
            every_call: self.maps.as_ref().is_some_and(|maps| !maps.resumes()),
        }
    }
}

impl Tells for Waits {
    fn opening(&self, what: &str) -> String {
        format!("following the waits of {what}")
    }

    fn picture(&self) -> Picture {
        Picture {
            headline: "Waiting time",
            value: VALUE,
            interpreter: match self.native_frames {
                NativeFrames::Full => Interpreter::Full,
                NativeFrames::Work => Interpreter::Work,
            },
        }
    }

    fn write(&self, content: &Content, view: &View, out: &mut dyn io::Write) -> anyhow::Result<()> {
        let Content::Waits(report) = content else {
            return Ok(());
        };
        if let Some(format) = self.wanted.format.stacks() {
            return format.writer().write(&report.profile, view, out);
        }
        match self.wanted.format {
            WaitsFormat::Csv => export::write_csv(report, out),
            WaitsFormat::Json => export::write_json(report, out),
            _ => Ok(out.write_all(table::text(report, self.wanted.by, self.wanted.top, stdout_columns()).as_bytes())?),
        }
    }
}
