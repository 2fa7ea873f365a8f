//! What memory grew by, and where.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use super::MOST_LINES;
use crate::{
    report::{
        memory::MemoryReport,
        owner::Owners,
        waits::rows::{Place, place},
    },
    why::evidence::{GrowthLine, Memory, Process},
};

pub fn add(report: &MemoryReport, processes: &mut IndexMap<u32, Process, FxBuildHasher>) {
    let steps: Vec<i64> = (report.curve.iter())
        .flat_map(|curve| curve.rss.windows(2))
        .filter_map(|pair| Some(i64::try_from(pair[1]?).ok()? - i64::try_from(pair[0]?).ok()?))
        .collect();
    let several = report.processes.len() > 1;
    for told in &report.processes {
        let Some(process) = processes.get_mut(&told.pid) else {
            continue;
        };
        process.memory = Some(Memory {
            rss_before: told.before.rss,
            rss_after: told.after.rss,
            started: told.started,
            // The curve is of all processes together.
            steps: if several { Vec::new() } else { steps.clone() },
            explained: told.explained_share(),
            ..Memory::default()
        });
    }
    let profile = &report.profile;
    let mut owners = Owners::new(profile);
    let mut lines: IndexMap<(u32, Place), (GrowthLine, f64), FxBuildHasher> = IndexMap::default();
    for ((sample, values), detail) in profile.samples().zip(&report.details) {
        let place = place(profile, sample.stack, owners.find(sample.stack));
        let value = |index: usize| values.get(index).map_or(0, |value| u64::try_from(*value).unwrap_or(0));
        let (line, variance) = lines.entry((sample.labels.pid, place.clone())).or_insert_with(|| {
            let line = GrowthLine {
                place,
                live_bytes: 0,
                error_bytes: 0,
                came_bytes: 0,
                uncertain_bytes: 0,
            };
            (line, 0.0)
        });
        line.came_bytes = line.came_bytes.saturating_add(value(1));
        line.live_bytes = line.live_bytes.saturating_add(value(3));
        line.uncertain_bytes = line
            .uncertain_bytes
            .saturating_add(detail.uncertain_bytes.min(value(3)));
        *variance += detail.variance_inuse.max(0.0);
    }
    for ((pid, _), (line, variance)) in lines {
        let memory = processes.get_mut(&pid).and_then(|process| process.memory.as_mut());
        if let Some(memory) = memory {
            memory.came_bytes = memory.came_bytes.saturating_add(line.came_bytes);
            memory.live_bytes = memory.live_bytes.saturating_add(line.live_bytes);
            memory.lines.push(GrowthLine {
                error_bytes: (1.96 * variance.sqrt()) as u64,
                ..line
            });
        }
    }
    for process in processes.values_mut() {
        if let Some(memory) = &mut process.memory {
            memory.lines.sort_by_key(|line| std::cmp::Reverse(line.live_bytes));
            memory.lines.truncate(MOST_LINES);
        }
    }
}
