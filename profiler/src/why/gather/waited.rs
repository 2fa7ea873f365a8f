//! What threads wait for: which role each wait has, who has the GIL meanwhile, and what is in the way of event loops.

use std::{cell::OnceCell, time::Duration};

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::StackFacts;
use crate::{
    profile::{FrameId, FrameKind, Profile, SampleKey, StackId},
    report::{
        self, label,
        owner::Owners,
        waits::{
            Detail, Relation, VALUE as WAITED, WaitsReport,
            rows::{Place, place},
        },
    },
    waits::{
        cause::Cause,
        io::{Family, Lengths},
    },
    why::{
        evidence::{CallFamily, Calls, Holder, Role, Stall, Wait},
        findings::ALL_OF_IT,
        options::STALL,
        source::LooksLike,
        stacks::{Facts, Innermost},
        surroundings::Surroundings,
    },
};

/// What waits come to, before their profile becomes part of another.
#[derive(Default)]
pub struct Waited {
    pub(super) waits: Vec<(u32, Wait)>,
    pub(super) by_thread: FxHashMap<(u32, u32), ByRole>,
    pub(super) calls: Vec<(u32, Calls)>,
    /// How long calls were looked at.
    pub(super) calls_ns: u64,
    pub(super) tells_of_quotas: bool,
    pub(super) holders: Vec<(u32, Holder)>,
    pub(super) stalls: Vec<(u32, Stall)>,
    /// Who is at the other end, by whose connection it is and the address.
    pub(super) peers: Vec<(u32, String, String)>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct ByRole {
    pub(super) ns: [u64; Role::ALL.len()],
    pub(super) is_loop: bool,
}

impl Waited {
    pub fn of(report: &WaitsReport, surroundings: &Surroundings) -> Self {
        let mut waited = Self {
            tells_of_quotas: report.tells_of_quotas,
            peers: (report.peers.iter())
                .map(|((pid, address), peer)| (*pid, label::clean(address.clone()), label::clean(peer.to_string())))
                .collect(),
            ..Self::default()
        };
        waited.waits(report, surroundings);
        waited.calls(report, surroundings);
        let profile = &report.profile;
        let mut owners = Owners::new(profile);
        for relation in &report.holders {
            let place = place(profile, relation.other.stack, owners.find(relation.other.stack));
            let pid = relation.waiter.labels.pid;
            match waited
                .holders
                .iter_mut()
                .find(|(of, known)| *of == pid && known.place == place)
            {
                Some((_, known)) => known.waited_ns = known.waited_ns.saturating_add(relation.sums.ns),
                None => waited.holders.push((
                    pid,
                    Holder {
                        place,
                        waited_ns: relation.sums.ns,
                    },
                )),
            }
        }
        waited
            .holders
            .sort_by_key(|(_, holder)| std::cmp::Reverse(holder.waited_ns));
        for stall in report.stalls.iter().flat_map(|stalled| &stalled.stalls) {
            let mut parts: IndexMap<(Option<Cause>, Place), u64, FxBuildHasher> = IndexMap::default();
            let length_ns = own_ns(stall.length_ns, stall.parts.iter().map(|&(cause, _, ns)| (cause, ns)));
            if Duration::from_nanos(length_ns) < STALL {
                continue;
            }
            for &(cause, stack, ns) in stall.parts.iter().filter(|(cause, ..)| !is_held_up(*cause)) {
                let place = place(profile, stack, owners.find(stack));
                *parts.entry((cause, place)).or_default() += ns;
            }
            let most = parts.into_iter().max_by_key(|&(_, ns)| ns);
            waited.stalls.push((
                stall.pid,
                Stall {
                    tid: stall.tid,
                    length_ns,
                    most: most.map(|((cause, place), ns)| (place, cause, ns)),
                },
            ));
        }
        waited
    }

    fn waits(&mut self, report: &WaitsReport, surroundings: &Surroundings) {
        #[derive(PartialEq, Eq, Hash)]
        struct Key {
            pid: u32,
            role: Role,
            cause: Cause,
            place: Place,
            target: String,
            holds_gil: bool,
            in_loop: bool,
        }
        let profile = &report.profile;
        let length_ns = report.length.as_nanos() as f64;
        let mut owners = Owners::new(profile);
        let mut known = StackFacts::default();
        let mut rows: IndexMap<Key, (Wait, f64), FxBuildHasher> = IndexMap::default();
        let mut wakers: FxHashMap<&SampleKey, Vec<&Relation>> = FxHashMap::default();
        for relation in &report.wakers {
            wakers.entry(&relation.waiter).or_default().push(relation);
        }
        // Who ended the waits of each row.
        let mut ended_by: Vec<IndexMap<Place, u64, FxBuildHasher>> = Vec::new();
        for ((sample, values), detail) in profile.samples().zip(&report.details) {
            let pid = sample.labels.pid;
            let facts = known.of(profile, sample.stack);
            let place = place(profile, sample.stack, owners.find(sample.stack));
            let by_line = OnceCell::new();
            let by_line = || *by_line.get_or_init(|| lock_by_line(profile, sample.stack, pid, surroundings));
            let role = role(detail, &facts, &|| by_line().is_some(), &|peer| {
                surroundings.is_client(pid, peer)
            });
            let surely_lock = role == Role::Lock && (facts.takes_lock || by_line() != Some(LooksLike::Lock));
            // A loop may be kept from running by others; that is none of its own calls.
            let is_a_call = !matches!(
                detail.cause,
                Cause::Poll | Cause::Gil | Cause::Ready | Cause::Throttled | Cause::Fault | Cause::Stopped
            );
            let in_loop = facts.in_loop && !facts.is_polling_loop && (is_a_call || role == Role::Peer);
            let role = match role {
                // Whatever it waits for, others wait for the loop.
                Role::Timer | Role::Work | Role::Own if in_loop => Role::Peer,
                role => role,
            };
            let ns = values.get(WAITED).map_or(0, |ns| ns.unsigned_abs());
            let count = values.first().map_or(0, |count| count.unsigned_abs());
            let by_role = self.by_thread.entry((pid, sample.labels.tid)).or_default();
            // What waits for all of the time may be stuck, or listen: it is told apart, and no work.
            let for_good = detail.unended_ns as f64 >= ALL_OF_IT * length_ns;
            let counted = match role {
                Role::Peer | Role::Lock if for_good && !in_loop => Role::Unknown,
                role => role,
            };
            if let Some(at) = Role::ALL.iter().position(|known| *known == counted) {
                by_role.ns[at] = by_role.ns[at].saturating_add(ns);
            }
            by_role.is_loop |= facts.in_loop;
            let key = Key {
                pid,
                role,
                cause: detail.cause,
                place: place.clone(),
                target: detail.target.text().to_owned(),
                holds_gil: detail.holds_gil,
                in_loop,
            };
            let entry = rows.entry(key);
            let index = entry.index();
            let (wait, variance) = entry.or_insert_with(|| {
                let wait = Wait {
                    role,
                    cause: detail.cause,
                    place,
                    target: match detail.target.text() {
                        "" => String::new(),
                        text => label::clean(text.to_owned()),
                    },
                    call: detail.call,
                    ns: 0,
                    count: 0,
                    longest_ns: 0,
                    error_ns: 0,
                    unended_ns: 0,
                    tids: Vec::new(),
                    holds_gil: detail.holds_gil,
                    others_ns: 0,
                    in_loop,
                    importing: facts.importing,
                    surely_lock,
                    waker: None,
                };
                (wait, 0.0)
            });
            wait.ns = wait.ns.saturating_add(ns);
            wait.count = wait.count.saturating_add(count);
            wait.longest_ns = wait.longest_ns.max(detail.longest_ns);
            wait.unended_ns = wait.unended_ns.saturating_add(detail.unended_ns);
            wait.others_ns = wait.others_ns.saturating_add(detail.others_ns);
            wait.importing &= facts.importing;
            wait.surely_lock &= surely_lock;
            if index == ended_by.len() {
                ended_by.push(IndexMap::default());
            }
            if role == Role::Lock {
                for relation in wakers.get(sample).into_iter().flatten() {
                    let waker = &relation.other;
                    let is_mark = |id: &FrameId| profile.frame(*id).kind == FrameKind::Marker;
                    if profile.stack(waker.stack).iter().all(is_mark) {
                        continue;
                    }
                    let place = report::waits::rows::place(profile, waker.stack, owners.find(waker.stack));
                    *ended_by[index].entry(place).or_default() += relation.sums.ns;
                }
            }
            *variance += detail.variance.max(0.0);
            if !wait.tids.contains(&sample.labels.tid) {
                wait.tids.push(sample.labels.tid);
            }
        }
        self.waits = rows
            .into_iter()
            .zip(ended_by)
            .map(|((key, (wait, variance)), wakers)| {
                let error_ns = (1.96 * variance.sqrt()) as u64;
                let waker = wakers.into_iter().max_by_key(|&(_, ns)| ns).map(|(place, _)| place);
                let wait = Wait {
                    error_ns,
                    waker,
                    ..wait
                };
                (key.pid, wait)
            })
            .collect();
        self.waits.sort_by_key(|(_, wait)| std::cmp::Reverse(wait.ns));
    }

    fn calls(&mut self, report: &WaitsReport, surroundings: &Surroundings) {
        let Some(io) = &report.io else { return };
        self.calls_ns = u64::try_from(io.looked.as_nanos()).unwrap_or(u64::MAX);
        let profile = &report.profile;
        let mut owners = Owners::new(profile);
        /// Process, line, family and target.
        type Key = (u32, Place, &'static str, String);
        let mut rows: IndexMap<Key, (Calls, Lengths), FxBuildHasher> = IndexMap::default();
        for line in &io.lines {
            let pid = line.sample.labels.pid;
            let place = place(profile, line.sample.stack, owners.find(line.sample.stack));
            let target = line.target.text().to_owned();
            let key = (pid, place.clone(), line.family.name(), target.clone());
            let (calls, lengths) = rows.entry(key).or_insert_with(|| {
                let calls = Calls {
                    place,
                    family: match line.family {
                        Family::Send => CallFamily::Send,
                        Family::Receive => CallFamily::Receive,
                        Family::Accept => CallFamily::Accept,
                        Family::Connect => CallFamily::Connect,
                        Family::Sync => CallFamily::Sync,
                        Family::Read => CallFamily::Read,
                        Family::Write => CallFamily::Other,
                    },
                    is_client: surroundings.is_client(pid, &line.target.peer),
                    target: match &*target {
                        "" => String::new(),
                        text => label::clean(text.to_owned()),
                    },
                    ..Calls::default()
                };
                (calls, Lengths::default())
            });
            calls.calls += line.line.sums.calls;
            calls.ns += line.line.sums.ns;
            calls.bytes += line.line.sums.bytes;
            lengths.merge(&line.line.sums.lengths, 1.0);
        }
        self.calls = rows
            .into_iter()
            .map(|((pid, ..), (calls, lengths))| {
                let median_ns = lengths.quantile(0.5);
                (pid, Calls { median_ns, ..calls })
            })
            .collect();
        self.calls.sort_by(|(_, a), (_, b)| b.calls.total_cmp(&a.calls));
    }
}

/// It could go on, and may not: that is none of the line's doing.
fn is_held_up(cause: Option<Cause>) -> bool {
    matches!(cause, Some(Cause::Ready | Cause::Throttled | Cause::Gil))
}

/// How long a stall would have been if nothing had held it up.
fn own_ns(length_ns: u64, parts: impl Iterator<Item = (Option<Cause>, u64)>) -> u64 {
    let held_up = parts.filter(|(cause, _)| is_held_up(*cause)).map(|(_, ns)| ns);
    held_up.fold(length_ns, u64::saturating_sub)
}

/// What a wait means. `is_lock_line`: whether the line that waits takes a lock. `is_client`: whether who is at the other end
/// has connected to the process.
fn role(detail: &Detail, facts: &Facts, is_lock_line: &dyn Fn() -> bool, is_client: &dyn Fn(&str) -> bool) -> Role {
    match detail.cause {
        Cause::Gil => Role::Gil,
        Cause::Disk => Role::Disk,
        Cause::Fault => Role::Fault,
        Cause::Ready | Cause::Throttled => Role::Ready,
        Cause::Sleep => Role::Timer,
        Cause::Child => Role::Own,
        Cause::Pipe => Role::Work,
        Cause::Stopped => Role::Unknown,
        Cause::Lock if !facts.has_python => Role::Work,
        Cause::Lock => match facts.innermost {
            Innermost::Queue => Role::Work,
            Innermost::Own => Role::Own,
            _ if facts.takes_item => Role::Work,
            _ if facts.in_extension => Role::Own,
            _ if facts.takes_lock => Role::Lock,
            _ if is_lock_line() => Role::Lock,
            _ => Role::Unknown,
        },
        Cause::Socket => {
            let target = &detail.target;
            let listens = target.peer.starts_with("listening on");
            if facts.serving || listens || is_client(&target.peer) || !facts.has_python {
                Role::Work
            } else if target.is_empty() {
                Role::Unknown
            } else {
                Role::Peer
            }
        }
        Cause::Poll => {
            let asks = facts.has_python && (facts.in_client || facts.innermost == Innermost::Socket);
            match asks && !facts.serving && !facts.is_polling_loop {
                true => Role::Peer,
                false => Role::Work,
            }
        }
        Cause::File => match detail.call {
            Some("flock" | "fcntl") => Role::Lock,
            _ => Role::Work,
        },
        Cause::Other => Role::Unknown,
    }
}

/// Whether the innermost line takes a lock, by its source: of a queue of C and of a lock the stacks are alike where there are
/// no names.
fn lock_by_line(profile: &Profile, stack: StackId, pid: u32, surroundings: &Surroundings) -> Option<LooksLike> {
    let innermost = profile
        .stack(stack)
        .iter()
        .map(|&id| profile.frame(id))
        .find(|frame| frame.kind == FrameKind::Python);
    innermost.and_then(|frame| surroundings.takes_lock(pid, profile.string(frame.file), frame.line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_as_long_as_the_loop_itself_takes() {
        let of = |parts: &[(Option<Cause>, u64)]| own_ns(150, parts.iter().copied());
        assert_eq!(of(&[(None, 50), (Some(Cause::Sleep), 100)]), 150);
        assert_eq!(of(&[(None, 50), (Some(Cause::Ready), 60), (Some(Cause::Gil), 40)]), 50);
        assert_eq!(of(&[(Some(Cause::Throttled), 900)]), 0);
    }
}
