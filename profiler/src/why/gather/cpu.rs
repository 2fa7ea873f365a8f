//! What CPU time goes into: by line, and by what is known of it by name.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use super::{MOST_LINES, StackFacts};
use crate::{
    report::{
        owner::Owners,
        waits::rows::{Place, place},
    },
    wall::{VALUE as WALL, WallReport},
    why::evidence::{CpuLine, Process, Purpose, Use},
};

pub fn add(wall: &WallReport, processes: &mut IndexMap<u32, Process, FxBuildHasher>) {
    let profile = &wall.profile;
    let mut owners = Owners::new(profile);
    let mut known = StackFacts::default();
    let mut lines: IndexMap<(u32, Place), CpuLine, FxBuildHasher> = IndexMap::default();
    let mut uses: IndexMap<(u32, Purpose, Place), Use, FxBuildHasher> = IndexMap::default();
    for ((sample, values), cause) in profile.samples().zip(&wall.causes) {
        if cause.is_some() {
            continue;
        }
        let pid = sample.labels.pid;
        let place = place(profile, sample.stack, owners.find(sample.stack));
        let facts = known.of(profile, sample.stack);
        let (samples, ns) = (
            values.first().map_or(0, |count| count.unsigned_abs()),
            values.get(WALL).map_or(0, |ns| ns.unsigned_abs()),
        );
        if let Some(process) = processes.get_mut(&pid) {
            process.samples += samples;
            process.samples_without_frames += if facts.has_python { 0 } else { samples };
        }
        let line = lines.entry((pid, place.clone())).or_insert_with(|| CpuLine {
            place: place.clone(),
            ..CpuLine::default()
        });
        line.ns = line.ns.saturating_add(ns);
        line.samples += samples;
        for (is_so, purpose) in [
            (facts.collecting, Purpose::Gc),
            (facts.paging, Purpose::Pages),
            (facts.importing, Purpose::Import),
            (facts.raising, Purpose::Exception),
            (facts.serializing, Purpose::Serialization),
            (facts.logging, Purpose::Logging),
        ] {
            if !is_so {
                continue;
            }
            let entry = uses.entry((pid, purpose, place.clone())).or_insert_with(|| Use {
                purpose,
                place: place.clone(),
                ns: 0,
                samples: 0,
            });
            entry.ns = entry.ns.saturating_add(ns);
            entry.samples += samples;
        }
    }
    for ((pid, _), line) in lines {
        if let Some(process) = processes.get_mut(&pid) {
            process.cpu.push(line);
        }
    }
    for ((pid, ..), entry) in uses {
        if let Some(process) = processes.get_mut(&pid) {
            process.uses.push(entry);
        }
    }
    for process in processes.values_mut() {
        process.cpu.sort_by_key(|line| std::cmp::Reverse(line.ns));
        process.cpu.truncate(MOST_LINES);
        process.uses.sort_by_key(|entry| std::cmp::Reverse(entry.ns));
    }
}
