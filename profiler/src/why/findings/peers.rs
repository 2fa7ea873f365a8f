//! Other programs that are waited for: one that is slow, and one that is asked again and again.

use super::{
    case::{Case, named, percent, time},
    stuck,
};
use crate::{
    humanize::count,
    report::waits::rows::Place,
    summary::many,
    why::{
        Finding, Kind, Severity,
        evidence::{CallFamily, Role, Wait},
    },
};

/// An answer that takes less is not slow, however much time all of them take together.
const SLOW_NS: u64 = 10_000_000;
/// So often for each request, a line asks again and again.
const AGAIN_AND_AGAIN: f64 = 10.0;
/// With fewer requests that is not said.
const FEW_REQUESTS: f64 = 3.0;
/// How many questions there were is about known if calls were looked at for a smaller part of the time.
const MOST_OF_IT: f64 = 0.95;
/// Where there are no requests: so often a second.
const OFTEN: f64 = 50.0;
const LONGEST_SHORT_CALL_NS: u64 = 20_000_000;

/// What one line waits for one peer.
struct Asked {
    place: Place,
    peer: String,
    ns: u64,
    error_ns: u64,
    count: u64,
    longest_ns: u64,
}

pub fn find(case: &Case<'_>, found: &mut Vec<Finding>) {
    for asked in asked(case).into_iter().take(3) {
        let share = case.share(asked.ns);
        match again_and_again(case, &asked, share) {
            Some(finding) => found.push(finding),
            None => found.extend(slow(case, &asked, share)),
        }
    }
}

/// Lines with the peers they wait for, those that wait longest first.
fn asked(case: &Case<'_>) -> Vec<Asked> {
    let is_meant = |wait: &&Wait| wait.role == Role::Peer && !wait.in_loop && !stuck::is_for_good(case, wait);
    let mut all: Vec<Asked> = Vec::new();
    for wait in case.process.waits.iter().filter(is_meant) {
        let peer = match &*wait.target {
            "" => peer_of(case, &wait.place),
            target => target.to_owned(),
        };
        let known = all
            .iter_mut()
            .find(|asked| asked.place == wait.place && asked.peer == peer);
        match known {
            Some(asked) => {
                asked.ns += wait.ns;
                asked.error_ns += wait.error_ns;
                asked.count += wait.count;
                asked.longest_ns = asked.longest_ns.max(wait.longest_ns);
            }
            None => all.push(Asked {
                place: wait.place.clone(),
                peer,
                ns: wait.ns,
                error_ns: wait.error_ns,
                count: wait.count,
                longest_ns: wait.longest_ns,
            }),
        }
    }
    all.sort_by_key(|asked| std::cmp::Reverse(asked.ns));
    all
}

/// Whom a line talks to that polls: the calls tell that move the data.
fn peer_of(case: &Case<'_>, place: &Place) -> String {
    let calls = case.process.calls.iter();
    let talks = calls
        .filter(|calls| calls.place == *place && !calls.target.is_empty() && !calls.is_client)
        .find(|calls| {
            matches!(
                calls.family,
                CallFamily::Receive | CallFamily::Send | CallFamily::Read | CallFamily::Other
            )
        });
    talks.map_or(String::new(), |calls| calls.target.clone())
}

fn slow(case: &Case<'_>, asked: &Asked, share: f64) -> Option<Finding> {
    let finding = case.finding(Kind::SlowPeer, share)?;
    let each = asked.ns / asked.count.max(1);
    let whom = match &*asked.peer {
        "" => "another program".to_owned(),
        peer => case.whom(peer),
    };
    let finding = match each < SLOW_NS {
        // Each answer is quick.
        true => finding.no_worse_than(Severity::Medium),
        false => finding,
    };
    Some(
        finding
            .at(&asked.place)
            .says(format!(
                "{} waits for {whom} {} of the time: {}, {} each, {} at most",
                named(&asked.place),
                percent(share),
                many(asked.count, "wait"),
                time(each),
                time(asked.longest_ns)
            ))
            .gains(format!("at most {} less time", percent(share)))
            .give_or_take(case.share(asked.error_ns))
            .by_peer(case, &asked.peer)
            .by("waited_s", asked.ns as f64 / 1e9)
            .by("waits", asked.count as f64)
            .by("mean_s", each as f64 / 1e9)
            .by("longest_s", asked.longest_ns as f64 / 1e9)
            .next(case.next("waits", "-d 10 --io")),
    )
}

fn again_and_again(case: &Case<'_>, asked: &Asked, share: f64) -> Option<Finding> {
    let process = case.process;
    let here = process
        .calls
        .iter()
        .filter(|calls| calls.place == asked.place && !calls.is_client);
    let asks = here
        .filter(|calls| calls.target == asked.peer && !calls.target.is_empty())
        .filter(|calls| {
            matches!(
                calls.family,
                CallFamily::Send | CallFamily::Receive | CallFamily::Read | CallFamily::Other
            )
        });
    // What is sent in one piece may be read in several.
    let asks = asks
        .map(|calls| (calls.calls, calls.median_ns))
        .fold(None::<(f64, u64)>, |least, this| {
            Some(match least {
                Some(least) if least.0 <= this.0 => least,
                _ => this,
            })
        });
    let (asks, median_ns) = asks?;
    let each = asked.ns / asked.count.max(1);
    if median_ns.max(each) > LONGEST_SHORT_CALL_NS {
        return None;
    }
    let often = Often::of(case, asks)?;
    let finding = case.finding(Kind::NPlusOne, share)?;
    let finding = match often.requests.is_some() {
        true => finding,
        // It may be what the program is for.
        false => finding.no_worse_than(Severity::Medium),
    };
    Some(
        finding
            .at(&asked.place)
            .says(format!(
                "N+1: {} asks {} {} ({}{} times, {} each), which takes {} of the time",
                named(&asked.place),
                case.whom(&asked.peer),
                often.said,
                if often.is_about { "about " } else { "" },
                count(often.all.round() as u64),
                time(each),
                percent(share)
            ))
            .gains(format!(
                "at most {} less time, with one question for many",
                percent(share)
            ))
            .give_or_take(case.share(asked.error_ns))
            .by_peer(case, &asked.peer)
            .by("calls", asks)
            .by("requests", often.requests.unwrap_or(0.0))
            .by("calls_looked_at_s", often.looked_s)
            .by("waited_s", asked.ns as f64 / 1e9)
            .next(case.next("calls", "-d 5")),
    )
}

/// How often a line asks, where that is again and again.
pub struct Often {
    /// If requests are known; else it is by the second.
    pub requests: Option<f64>,
    /// `100 times for each request`.
    pub said: String,
    /// Of the whole time.
    pub all: f64,
    /// Where there are many calls, a part of the time is looked at.
    pub looked_s: f64,
    pub is_about: bool,
}

impl Often {
    /// `asks`: while calls were looked at.
    pub fn of(case: &Case<'_>, asks: f64) -> Option<Self> {
        let requests = requests(case);
        let per_request = asks / requests.max(1.0);
        let looked_s = case.process.calls_ns.max(1) as f64 / 1e9;
        let a_second = asks / looked_s;
        let whole = case.length_ns.max(1) as f64 / 1e9;
        let of_all = (looked_s / whole).min(1.0);
        let is_per_request = requests >= FEW_REQUESTS && per_request >= AGAIN_AND_AGAIN;
        let is_often = requests < FEW_REQUESTS && a_second >= OFTEN;
        if !is_per_request && !is_often {
            return None;
        }
        Some(Self {
            requests: is_per_request.then_some(requests),
            said: match is_per_request {
                true => format!("{per_request:.0} times for each request"),
                false => format!("{a_second:.0} times a second"),
            },
            all: asks / of_all,
            looked_s,
            is_about: of_all < MOST_OF_IT,
        })
    }
}

/// Requests that were answered, as far as calls tell: what was sent to clients, or else connections that were accepted.
fn requests(case: &Case<'_>) -> f64 {
    let sum = |of: &dyn Fn(&crate::why::evidence::Calls) -> bool| -> f64 {
        let calls = case.process.calls.iter().filter(|calls| of(calls));
        calls.map(|calls| calls.calls).sum()
    };
    let sent = sum(&|calls| calls.is_client && calls.family == CallFamily::Send);
    let accepted = sum(&|calls| calls.family == CallFamily::Accept);
    // Answers can go out in several pieces, and connections be used again.
    match accepted > 0.0 {
        true => accepted.max(sent / 2.0),
        false => sent,
    }
}
