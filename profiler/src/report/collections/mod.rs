//! Reports of garbage collections.

pub mod export;
pub mod table;

use std::time::Duration;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use crate::{
    collections::{AUTOMATIC, Account, ByGeneration, Pauses, Process},
    name::{self, Namer},
    profile::{FrameKind, Profile, ValueType},
    report::{label, owner::Owners},
    window::Window,
};

const COLLECTIONS: ValueType = ValueType {
    kind: "collections",
    unit: "count",
};
const PAUSE: ValueType = ValueType {
    kind: "pause",
    unit: "nanoseconds",
};

/// A line that sets collections off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub pid: u32,
    pub generation: usize,
    /// What people read. Never empty.
    pub name: String,
    pub function: String,
    pub file: String,
    pub line: u32,
}

#[derive(Debug)]
pub struct CollectionsReport {
    pub profile: Profile,
    pub processes: Vec<Process>,
    /// By process, in their order.
    pub by_generation: Vec<ByGeneration>,
    /// The one with most of the time first.
    pub places: Vec<(Place, Pauses)>,
    pub length: Duration,
    pub lost: u64,
}

impl CollectionsReport {
    pub fn new(
        window: &Window,
        namer: &mut Namer,
        account: &Account,
        processes: Vec<Process>,
        length: Duration,
        lost: u64,
    ) -> (Self, Vec<String>) {
        let mut profile = Profile::new(vec![COLLECTIONS, PAUSE], Some((PAUSE, 1)));
        profile.default_type = 1;
        let (stacks, warnings) = namer.name_stacks(window, &mut profile);
        let mut by_generation: Vec<ByGeneration> = vec![Default::default(); processes.len()];
        let mut places: IndexMap<Place, Pauses, FxBuildHasher> = IndexMap::default();
        let mut pauses: Vec<_> = account.pauses().collect();
        // In order, so that equal recordings give equal reports.
        pauses.sort_by_key(|(key, _)| **key);
        let mut met = Vec::new();
        for (key, pauses) in pauses {
            if let Some(at) = processes.iter().position(|process| process.pid == key.pid) {
                by_generation[at][key.generation].merge(pauses);
            }
            let sampled = window.ledger.sites.get(key.site as usize).and_then(Option::as_ref);
            let sample = sampled.map(|sampled| name::key(&mut profile, &window.ledger, &stacks, sampled));
            if let Some(sample) = &sample {
                let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
                profile.add(sample.clone(), &[number(pauses.count), number(pauses.ns)]);
            }
            met.push((key, pauses, sample));
        }
        let mut owners = Owners::new(&profile);
        for (key, pauses, sample) in met {
            let frame = sample
                .and_then(|sample| owners.find(sample.stack).frame)
                .map(|id| profile.frame(id));
            let mut place = Place {
                pid: key.pid,
                generation: key.generation,
                name: "[no Python frame]".to_owned(),
                function: String::new(),
                file: String::new(),
                line: 0,
            };
            if let Some(frame) = frame {
                place.name = label::frame(&profile, frame);
                if frame.kind == FrameKind::Python {
                    place.function = label::clean(profile.string(frame.function).to_owned());
                    place.file = label::clean(profile.string(frame.file).to_owned());
                    place.line = frame.line;
                }
            }
            places.entry(place).or_default().merge(pauses);
        }
        drop(owners);
        let mut places: Vec<(Place, Pauses)> = places.into_iter().collect();
        places.sort_by(|a, b| b.1.ns.cmp(&a.1.ns).then_with(|| a.0.cmp(&b.0)));
        let report = Self {
            profile,
            processes,
            by_generation,
            places,
            length,
            lost,
        };
        (report, warnings)
    }

    /// Whether pauses of a process are known by generation.
    pub fn tells_generations(&self, index: usize) -> bool {
        self.processes[index].looks.is_none() && self.by_generation[index][AUTOMATIC].count == 0
    }

    /// All pauses of a process.
    pub fn all(&self, index: usize) -> Pauses {
        let mut all = Pauses::default();
        self.by_generation[index].iter().for_each(|pauses| all.merge(pauses));
        all
    }

    /// Whether there is a process whose collections cannot be seen one by one.
    pub fn is_estimated(&self) -> bool {
        self.processes.iter().any(|process| process.looks.is_some())
    }

    /// Of the recording, what a process spent collecting: by its pauses, or by looking at it, with an error then.
    pub fn share(&self, index: usize) -> Option<(f64, Option<f64>)> {
        if let Some(looks) = &self.processes[index].looks {
            return looks.share().map(|(share, error)| (share, Some(error)));
        }
        let ns: u64 = self.by_generation[index].iter().map(|pauses| pauses.ns).sum();
        Some((ns as f64 / self.length.as_nanos().max(1) as f64, None))
    }
}
