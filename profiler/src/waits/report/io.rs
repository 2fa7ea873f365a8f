//! Calls that move data, with names.

use std::time::Duration;

use profiler_common::wait::{IoKey, IoTotal};

use super::Names;
use crate::{
    profile::{Labels, Profile, SampleKey},
    recording::NO_SITE,
    report::waits::{Io, IoLine},
    waits::{
        account::Key,
        cause::{Cause, Target},
        io::{Family, IoAccount, Line, Sums},
    },
};

/// Of calls none of which was drawn.
const NOT_DRAWN: &str = "[calls too small to be drawn]";
/// Of drawn calls whose stack did not arrive.
const LOST: &str = "[stack lost]";

pub(super) fn told(names: &mut Names<'_>, account: &IoAccount, totals: &[(IoKey, IoTotal)], looked: Duration) -> Io {
    let mut told = account.told(totals);
    let mut lines = Vec::with_capacity(told.lines.len());
    for (key, line) in std::mem::take(&mut told.lines) {
        let Some(family) = Family::of(key.of.family) else {
            continue;
        };
        let sample = match names.sampled(key.site) {
            Some(sample) => sample,
            None => marked(names, &key.of, LOST),
        };
        lines.push(IoLine {
            family,
            target: account.target_of(&key).clone(),
            sample,
            line,
        });
    }
    for (key, total) in std::mem::take(&mut told.rest) {
        let Some(family) = Family::of(key.family) else { continue };
        let sums = Sums {
            calls: total.calls as f64,
            errors: total.errors as f64,
            bytes: total.bytes as f64,
            ns: total.ns as f64,
            longest_ns: total.longest_ns,
            ..Sums::default()
        };
        lines.push(IoLine {
            family,
            target: Target::default(),
            sample: marked(names, &key, NOT_DRAWN),
            line: Line {
                sums,
                ..Line::default()
            },
        });
    }
    Io { lines, told, looked }
}

fn marked(names: &mut Names<'_>, key: &IoKey, text: &str) -> SampleKey {
    let frames = [names.marker(text)];
    let labels = names.labels(&Key {
        pid: key.pid,
        tid: key.tid,
        class: 0,
        cause: Cause::Other,
        holds_gil: false,
        site: NO_SITE,
        call: 0,
        target: 0,
    });
    SampleKey {
        stack: names.profile.intern_stack(&frames),
        labels: Labels {
            cgroup: Profile::EMPTY,
            ..labels
        },
    }
}
