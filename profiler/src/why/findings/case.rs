//! One process, as findings look at it.

use std::time::Duration;

use crate::{
    humanize,
    report::waits::rows::Place,
    why::{
        Fact, Finding, Kind, Severity, Thresholds,
        evidence::{Host, Process},
    },
};

#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub process: &'a Process,
    /// All that were looked at.
    pub all: &'a [Process],
    pub host: &'a Host,
    pub length_ns: u64,
    pub thresholds: &'a Thresholds,
}

impl Case<'_> {
    /// Of the time that the process's threads were at work, or of the whole, if that is longer. What they were without a CPU
    /// is told by itself, and no part of it: so a program has the same shares on a busy machine.
    pub fn share(&self, ns: u64) -> f64 {
        (ns as f64 / self.process.whole_ns(self.length_ns) as f64).min(1.0)
    }

    /// The same with it: what a busy machine takes away.
    pub fn share_of_all(&self, ns: u64) -> f64 {
        (ns as f64 / self.process.whole_with_ready_ns(self.length_ns) as f64).min(1.0)
    }

    /// Half the width of the interval around the share of what so many samples stand for. How long threads were on a CPU is
    /// known exactly; which part of that it was, samples tell.
    pub fn sampling_error(&self, samples: u64) -> f64 {
        let all = self.process.samples.max(samples).max(1) as f64;
        let part = samples as f64 / all;
        let error = 1.96 * (part * (1.0 - part) / all).sqrt() + 0.5 / all;
        error * self.share(self.process.cpu_ns())
    }

    /// Of the time it was looked at.
    pub fn of_length(&self, ns: u64) -> f64 {
        ns as f64 / self.length_ns.max(1) as f64
    }

    /// What is below the least threshold is no finding.
    pub fn finding(&self, kind: Kind, share: f64) -> Option<Finding> {
        Some(self.with(kind, self.thresholds.severity(share)?, share))
    }

    pub fn with(&self, kind: Kind, severity: Severity, share: f64) -> Finding {
        Finding {
            kind,
            severity,
            share,
            error: 0.0,
            place: None,
            pid: self.process.pid,
            command: self.process.command.clone(),
            also: Vec::new(),
            sentence: String::new(),
            gain: String::new(),
            evidence: Vec::new(),
            next: String::new(),
        }
    }

    /// `127.0.0.1:5432 of process 812 (postgres)`, if it is on this machine.
    pub fn whom(&self, peer: &str) -> String {
        match self.process.peers.get(peer) {
            Some(process) => format!("{peer} of process {process}"),
            None => peer.to_owned(),
        }
    }

    /// `profiler waits -p 4242 -d 10`.
    pub fn next(&self, command: &str, options: &str) -> String {
        format!("profiler {command} -p {} {options}", self.process.pid)
            .trim_end()
            .to_owned()
    }
}

impl Finding {
    pub fn at(mut self, place: &Place) -> Self {
        self.place = Some(place.clone());
        self
    }

    pub fn says(mut self, sentence: impl Into<String>) -> Self {
        self.sentence = sentence.into();
        self
    }

    pub fn gains(mut self, gain: impl Into<String>) -> Self {
        self.gain = gain.into();
        self
    }

    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    pub fn by(mut self, name: &'static str, value: f64) -> Self {
        // JSON has no infinity.
        if value.is_finite() {
            self.evidence.push((name, Fact::Number(value)));
        }
        self
    }

    pub fn by_text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.evidence.push((name, Fact::Text(value.into())));
        self
    }

    /// Whom it waits for, and which process of this machine that is.
    pub fn by_peer(self, case: &Case<'_>, peer: &str) -> Self {
        let told = self.by_text("peer", peer);
        match case.process.peers.get(peer) {
            Some(process) => told.by_text("peer_process", process.clone()),
            None => told,
        }
    }

    pub fn give_or_take(mut self, error: f64) -> Self {
        self.error = if error.is_finite() { error.max(0.0) } else { 0.0 };
        self
    }

    pub fn no_worse_than(mut self, severity: Severity) -> Self {
        self.severity = self.severity.at_most(severity);
        self
    }
}

pub fn time(ns: u64) -> String {
    humanize::duration(Duration::from_nanos(ns))
}

pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        p if p >= 9.95 => format!("{p:.0} %"),
        p => format!("{p:.1} %"),
    }
}

/// `orders (views.py:29) via CursorWrapper.execute (django)`.
pub fn named(place: &Place) -> String {
    match &*place.via {
        "" => place.name.clone(),
        via => format!("{} via {via}", place.name),
    }
}

/// A function's name as options take it: without the functions and classes around it.
pub fn bare(function: &str) -> &str {
    function.rsplit('.').next().unwrap_or(function)
}
