//! What an instrument has measured in a window: a value that goes to another thread, where it gets its names.

use std::time::Duration;

use profiler_common::stats::COUNTERS;

use super::{content::Content, memory::account};
use crate::{
    memory::cut::MemoryCut,
    name::Namer,
    report::memory::{lines_of_window, table::WIDTH, victim},
    summary::{MemorySummary, Summary},
    waits::window::WaitsCut,
    wall::WallReport,
    window::Window,
};

pub enum Measured {
    /// Samples, which the window has itself, so many nanoseconds apart.
    Samples {
        period_ns: u64,
    },
    Memory(Box<MemoryCut>),
    Waits(Box<WaitsCut>),
    /// Samples and waits, to be one picture.
    Wall {
        period_ns: u64,
        waits: Box<WaitsCut>,
    },
    /// Several that stay apart.
    Several(Vec<Measured>),
}

impl Measured {
    /// Gives it names, and adds what it has to say to the summary of its window.
    pub fn name(
        self,
        window: &mut Window,
        namer: &mut Namer,
        counters: &[u64; COUNTERS],
        length: Duration,
        summary: &mut Summary,
    ) -> Vec<Content> {
        let (content, warnings) = match self {
            Self::Samples { period_ns } => {
                let (profile, warnings) = namer.name(window, period_ns);
                (Content::Profile(profile), warnings)
            }
            Self::Memory(cut) => {
                let lost = cut.lost;
                let (report, warnings) = cut.report(window, namer, length);
                let victims = victim::lines(&report, WIDTH);
                let lines = victim::sentences(&report)
                    .chain(victims.iter().cloned())
                    .chain(lines_of_window(&report))
                    .collect();
                let memory = account::summary(lines, Some(&report), counters, lost);
                summary.memory = Some(MemorySummary { victims, ..memory });
                (Content::Memory(Box::new(report), None), warnings)
            }
            Self::Waits(cut) => {
                let (report, warnings) = cut.report(window, namer, length);
                summary.waits = Some(cut.summary(counters));
                (Content::Waits(Box::new(report)), warnings)
            }
            Self::Wall { period_ns, waits } => {
                let (cpu, mut warnings) = namer.name(window, period_ns);
                let (report, warned) = waits.report(window, namer, length);
                warnings.extend(warned);
                summary.samples = window.ledger.tally.ticks;
                summary.waits = Some(waits.summary(counters));
                let report = WallReport::new(&cpu, report, period_ns);
                (Content::Wall(Box::new(report)), warnings)
            }
            Self::Several(parts) => {
                return (parts.into_iter())
                    .flat_map(|part| part.name(window, namer, counters, length, summary))
                    .collect();
            }
        };
        summary.warnings.extend(warnings);
        vec![content]
    }
}
