//! What the agent has seen so far, for metrics and the page: shared between the thread that takes windows and the one that
//! answers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    alerts::{Alert, Watch},
    digest::{Digest, Kind, MOST_SERVICES, OTHERS},
};
use crate::waits::cause::Cause;

/// Windows whose numbers are kept for the page: an hour of minutes.
const MOST_WINDOWS: usize = 60;
/// Windows after which a service that was not met makes room for others.
const LONG_AGO: u64 = 60;
/// Alerts that the page shows.
const MOST_ALERTS: usize = 20;

#[derive(Clone, Debug, Default)]
pub struct State(Arc<Mutex<Seen>>);

#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub sums: BTreeMap<String, Sums>,
    pub last: Option<Digest>,
    /// The last ones, oldest first.
    pub history: VecDeque<Digest>,
    pub outputs: Vec<OutputNow>,
    pub windows: u64,
    pub own_cpu: Duration,
    pub kernel_cpu: Duration,
    pub lost: BTreeMap<String, u64>,
    /// What of it is not in the store, or cut there, by what it was.
    pub cut: BTreeMap<String, u64>,
    /// Windows that nobody has.
    pub windows_lost: u64,
    /// What is broken.
    pub watch: Watch,
    pub alerts: u64,
    pub last_alerts: VecDeque<Alert>,
    /// Steps by which less is measured than was asked for.
    pub level: u32,
    /// Why nothing is looked at, if so.
    pub paused: Option<String>,
}

/// A service since the agent began.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    pub cpu_ns: [u64; Kind::ALL.len()],
    pub waiting_ns: [u64; Cause::ALL.len()],
    pub growth_bytes: i64,
    /// The window in which it was met last.
    met: u64,
}

/// What became of messages to one receiver.
#[derive(Clone, Debug, Default)]
pub struct OutputNow {
    pub name: String,
    pub sent: u64,
    pub bytes: u64,
    pub failed: u64,
    pub lost: u64,
    pub waiting: u64,
    pub waiting_bytes: u64,
    pub trouble: Option<String>,
}

impl State {
    pub fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    pub fn take(&mut self, digest: Digest) {
        self.windows += 1;
        self.own_cpu += digest.own_cpu;
        self.kernel_cpu += digest.kernel_cpu;
        for (reason, number) in &digest.lost {
            *self.lost.entry(reason.clone()).or_default() += number;
        }
        for (service, window) in &digest.services {
            if !self.sums.contains_key(service) {
                self.make_room();
            }
            // Names that come and go for weeks must not take up ever more.
            let known = self.sums.contains_key(service) || self.sums.len() < MOST_SERVICES;
            let service = if known { &**service } else { OTHERS };
            let sums = self.sums.entry(service.to_owned()).or_default();
            sums.met = self.windows;
            for (sum, ns) in sums.cpu_ns.iter_mut().zip(window.cpu_ns) {
                *sum = sum.saturating_add(ns);
            }
            for (sum, ns) in sums.waiting_ns.iter_mut().zip(window.waiting_ns) {
                *sum = sum.saturating_add(ns);
            }
            sums.growth_bytes = sums.growth_bytes.saturating_add(window.growth_bytes);
        }
        if self.history.len() == MOST_WINDOWS {
            self.history.pop_front();
        }
        self.history.push_back(digest.clone());
        self.last = Some(digest);
    }

    /// Puts services that have not been met for long to the others.
    fn make_room(&mut self) {
        if self.sums.len() < MOST_SERVICES {
            return;
        }
        let is_old = |name: &str, sums: &Sums| name != OTHERS && sums.met + LONG_AGO < self.windows;
        let old: Vec<String> = (self.sums.iter())
            .filter(|(name, sums)| is_old(name, sums))
            .map(|(name, _)| name.clone())
            .collect();
        for name in old {
            let Some(gone) = self.sums.remove(&name) else { continue };
            let others = self.sums.entry(OTHERS.to_owned()).or_default();
            for (sum, ns) in others.cpu_ns.iter_mut().zip(gone.cpu_ns) {
                *sum = sum.saturating_add(ns);
            }
            for (sum, ns) in others.waiting_ns.iter_mut().zip(gone.waiting_ns) {
                *sum = sum.saturating_add(ns);
            }
            others.growth_bytes = others.growth_bytes.saturating_add(gone.growth_bytes);
        }
    }

    pub fn tell(&mut self, alert: Alert) {
        if alert.state == super::alerts::State::Begins {
            self.alerts += 1;
        }
        if self.last_alerts.len() == MOST_ALERTS {
            self.last_alerts.pop_front();
        }
        self.last_alerts.push_back(alert);
    }
}
