//! Opens windows, and follows objects: on a thread of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use profiler_common::birth::{
    Birth, BirthControl, ENDED_DEAD, ENDED_NOT, FOLLOWED, GC_HEAD_BYTES, LINK_FLAGS, LINK_OFFSET, MAX_BIRTHS,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    choice::{Strata, Stratum},
    pace::{Pace, Used},
};
use crate::{
    cost,
    governor::cpu_time_ns,
    objects::{
        account::Account,
        census::{self, Limits},
        growth::Growth,
        target::Target,
    },
    orders::{FOLLOWED_HITS, Watchpoints},
    prompt::Prompt,
    python::{
        collector::Whereabouts,
        heap::{References, TYPE_BASIC_SIZE},
        memory::{Piece, ProcessMemory, ReadMemory as _},
    },
};

/// What a type must have grown by until births of it are looked at.
const LEAST_OBJECTS: i64 = 24;
const LEAST_BYTES: i64 = 2048;
/// Types that are looked at, those first that grew most.
const MOST_TYPES: usize = 16;
/// Between two looks at what grows, and how much of the time they may take.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_SHARE: u32 = 100;
/// A window is closed after this, whatever it has met.
const LONGEST_WINDOW: Duration = Duration::from_millis(12);
/// How often slots are looked at.
const LOOK_AT_SLOTS: Duration = Duration::from_millis(4);
/// Survivors that are kept.
const MOST_SURVIVORS: usize = 1 << 14;
/// Words of an object that are compared later: its type, and three more.
const WORDS: usize = 4;

/// What is wanted of it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What all stops may take, as a share of the CPU time that the process uses for itself.
    pub share: f64,
    /// How long an object is followed.
    pub follow: Duration,
    /// When it is first looked at what grows.
    pub first_look: Duration,
}

impl Wanted {
    /// For a recording of this length, if that is known.
    pub fn of(share: f64, length: Option<Duration>) -> Self {
        let length = length.unwrap_or(Duration::from_secs(60));
        Self {
            share,
            follow: (length / 30).clamp(Duration::from_secs(1), Duration::from_secs(10)),
            first_look: (length / 12).clamp(Duration::from_millis(1500), Duration::from_secs(10)),
        }
    }
}

/// An object that was followed and stayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Survivor {
    /// By which its stack is known.
    pub number: u64,
    pub address: u64,
    pub stratum: Stratum,
    /// Full collections before its birth, and what it was when it was followed no more.
    pub collections: u64,
    words: [u64; WORDS],
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub windows: u64,
    /// Closed by the kernel, or by the clock.
    pub cut: u64,
    pub births: u64,
    /// Births of types that grow, alive when their windows ended.
    pub alive: u64,
    pub followed: u64,
    pub died: u64,
    /// Tracked no more, but alive.
    pub untracked: u64,
    /// Stopped too often, or what they were was not sure.
    pub given_up: u64,
    pub hits: u64,
    /// Of them, those of windows.
    pub window_hits: u64,
    pub other_hits: u64,
    pub hits_ns: u64,
    pub process_ns: u64,
    /// A stop without the program.
    pub stop_ns: u64,
    pub window_ns: u64,
    pub longest_ns: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub pid: u32,
    pub survivors: Vec<Survivor>,
    pub strata: FxHashMap<Stratum, super::choice::Seen>,
    pub tally: Tally,
    pub follow: Duration,
    /// For how long windows were opened.
    pub length: Duration,
    /// Full collections until the end.
    pub collections: u64,
    /// Why there is nothing, or not all there could be.
    pub notes: Vec<String>,
}

/// A running one.
#[derive(Debug)]
pub struct Driver {
    thread: JoinHandle<Outcome>,
    stop: Arc<AtomicBool>,
}

/// A process whose first census was taken.
pub type Begun = (Target, Arc<Account>);

impl Driver {
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(begun: Vec<Begun>, watch: Box<dyn Watchpoints>, wanted: Wanted) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("births".to_owned())
            .spawn(move || {
                be_prompt();
                let mut outcome = Outcome {
                    follow: wanted.follow,
                    ..Outcome::default()
                };
                let ran = run(begun, watch, &wanted, &is_over, &mut outcome);
                if let Err(error) = ran {
                    outcome.notes.push(format!("watchpoints: {error:#}"));
                }
                outcome
            })
            .context("failed to start the thread that opens windows")?;
        Ok(Self { thread, stop })
    }

    /// Ends it: all registers are given back.
    pub fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_else(|_| Outcome {
            notes: vec!["watchpoints: the thread that opens windows has failed".to_owned()],
            ..Outcome::default()
        })
    }
}

/// A window that is not closed in time costs the process a stop per object.
fn be_prompt() {
    const SLACK_NS: libc::c_ulong = 1000;
    // SAFETY: a plain call, of this thread alone. Where it is refused, windows are a little longer.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS) };
}

/// Waits; `false` if it is over.
fn wait(is_over: &AtomicBool, time: Duration) -> bool {
    let until = Instant::now() + time;
    loop {
        if is_over.load(Ordering::Acquire) {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::park_timeout(left);
    }
}

fn run(
    begun: Vec<Begun>,
    watch: Box<dyn Watchpoints>,
    wanted: &Wanted,
    is_over: &AtomicBool,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    if begun.is_empty() {
        outcome
            .notes
            .push("watchpoints: there is no process whose objects are known".to_owned());
        return Ok(());
    }
    if !wait(is_over, wanted.first_look) {
        outcome
            .notes
            .push("watchpoints: the recording was too short to see what grows; -d 30 is a good start".to_owned());
        return Ok(());
    }
    let (target, before, look) = loop {
        let began = Instant::now();
        let looks = begun.iter().filter_map(|(target, before)| {
            let look = Look::at(target, before)?;
            Some((target, before, look))
        });
        // One process at a time: the one that grows most.
        let most = looks.max_by_key(|(.., look)| look.bytes);
        match most {
            Some(most) if !most.2.kinds.is_empty() => break most,
            _ => {}
        }
        let every = LOOK_EVERY.max(began.elapsed() * LOOK_SHARE);
        if !wait(is_over, every) {
            outcome.notes.push(
                "watchpoints: no type of objects that the collector tracks grew; no register was taken".to_owned(),
            );
            return Ok(());
        }
    };
    outcome.pid = target.pid;
    if begun.len() > 1 {
        outcome.notes.push(format!(
            "watchpoints: process {} alone was watched, which grew most of {}",
            target.pid,
            begun.len()
        ));
    }
    let memory = ProcessMemory { pid: target.pid };
    let head = target.binary.layout.interpreter.head;
    let places = Whereabouts::new(&memory, target.binary.version, target.runtime(), head);
    let list = places
        .young(&memory)
        .context("where this CPython's collector has its youngest objects is not known")?;
    let mut session = Session::open(target, memory, places, list, watch, wanted)?;
    let began = Instant::now();
    let ran = session.windows(before, look, is_over);
    outcome.length = began.elapsed();
    outcome.collections = session.collections();
    session.close();
    let Session {
        survivors,
        strata,
        tally,
        ..
    } = session;
    outcome.survivors = survivors;
    outcome.strata = strata.seen;
    outcome.tally = tally;
    ran
}

/// What grows.
struct Look {
    /// Addresses of types.
    kinds: FxHashSet<u64>,
    bytes: i64,
    took: Duration,
}

impl Look {
    fn at(target: &Target, before: &Account) -> Option<Self> {
        let began = Instant::now();
        let found = census::look(target, &Limits::default(), |walk, notes| {
            let account = Account::new(walk, notes);
            let Ok(growth) = Growth::between(before, &account) else {
                return (FxHashSet::default(), 0);
            };
            let growing: Vec<_> = growth
                .kinds
                .iter()
                .filter(|(_, change)| change.objects >= LEAST_OBJECTS && change.whole >= LEAST_BYTES)
                .collect();
            let names: FxHashSet<&str> = growing.iter().map(|(name, _)| &**name).collect();
            let tracked: FxHashSet<&str> = walk
                .types
                .iter()
                .filter(|(_, kind)| kind.facts.gc && names.contains(&*kind.name))
                .map(|(_, kind)| &*kind.name)
                .collect();
            let chosen: FxHashSet<&str> = growing
                .iter()
                .map(|(name, _)| &**name)
                .filter(|name| tracked.contains(name))
                .take(MOST_TYPES)
                .collect();
            let kinds = walk
                .types
                .iter()
                .filter(|(_, kind)| kind.facts.gc && chosen.contains(&*kind.name))
                .map(|(_, kind)| kind.facts.address)
                .collect();
            (kinds, growing.iter().map(|(_, change)| change.whole).sum())
        });
        let (kinds, bytes) = found.ok()?;
        Some(Self {
            kinds,
            bytes,
            took: began.elapsed(),
        })
    }
}

/// An object that is followed.
#[derive(Clone, Copy, Debug)]
struct Followed {
    birth: Birth,
    since: Instant,
    collections: u64,
}

/// One process under watchpoints.
struct Session<'t> {
    target: &'t Target,
    memory: ProcessMemory,
    places: Whereabouts,
    list: u64,
    watch: Box<dyn Watchpoints>,
    follow: Duration,
    share: f64,
    /// What a stop takes at least, and usually, without the program.
    least_stop_ns: u64,
    stop_ns: u64,
    slots: Vec<Option<Followed>>,
    strata: Strata,
    survivors: Vec<Survivor>,
    tally: Tally,
    random: fastrand::Rng,
}

impl<'t> Session<'t> {
    fn open(
        target: &'t Target,
        memory: ProcessMemory,
        places: Whereabouts,
        list: u64,
        mut watch: Box<dyn Watchpoints>,
        wanted: &Wanted,
    ) -> anyhow::Result<Self> {
        let (least_stop_ns, stop_ns) = crate::bpf::stop_ns()?;
        let slots = watch.open(target.pid, list)?;
        Ok(Self {
            target,
            memory,
            places,
            list,
            watch,
            follow: wanted.follow,
            share: wanted.share,
            least_stop_ns,
            stop_ns,
            slots: vec![None; slots.min(FOLLOWED)],
            strata: Strata::default(),
            survivors: Vec::new(),
            tally: Tally {
                stop_ns,
                ..Tally::default()
            },
            random: fastrand::Rng::new(),
        })
    }

    /// Full collections so far.
    fn collections(&self) -> u64 {
        let collector = self.places.read(&self.memory);
        collector.map_or(0, |collector| collector.stats[2].collections)
    }

    fn used(&self, control: &BirthControl) -> Used {
        Used {
            at_ns: cost::monotonic_ns(),
            process_ns: cpu_time_ns(self.target.pid),
            hits_ns: control.all_hits * self.stop_ns + control.program_ns,
        }
    }

    fn windows(&mut self, before: &Account, mut look: Look, is_over: &AtomicBool) -> anyhow::Result<()> {
        let begun = self.used(&self.watch.control());
        let mut pace = Pace::new(self.share, begun);
        let mut looked = Instant::now();
        let mut next = Instant::now();
        loop {
            // What is followed is looked at meanwhile.
            while Instant::now() < next {
                let left = next.saturating_duration_since(Instant::now());
                if !wait(is_over, left.min(LOOK_AT_SLOTS)) {
                    return Ok(());
                }
                self.look_at_slots()?;
            }
            if is_over.load(Ordering::Acquire) {
                return Ok(());
            }
            if looked.elapsed() > LOOK_EVERY.max(look.took * LOOK_SHARE) {
                if let Some(again) = Look::at(self.target, before) {
                    look = again;
                }
                looked = Instant::now();
            }
            self.look_at_slots()?;
            let control = self.watch.control();
            let used = self.used(&control);
            anyhow::ensure!(used.process_ns > 0, "the process has ended");
            let left_ns = pace.left_ns(used);
            self.tally.hits = control.all_hits;
            self.tally.other_hits = control.other_hits;
            self.tally.hits_ns = used.hits_ns - begun.hits_ns;
            self.tally.process_ns = used.process_ns - begun.process_ns;
            if left_ns < -2.0 * super::pace::GRACE_NS {
                // What is followed is what costs.
                self.leave_all()?;
            }
            if left_ns > 0.0 && !look.kinds.is_empty() {
                self.window(&mut pace, &look.kinds)?;
            }
            let gap = pace.gap_ns(self.used(&self.watch.control()), &mut self.random);
            next = Instant::now() + Duration::from_nanos(gap);
        }
    }

    fn window(&mut self, pace: &mut Pace, kinds: &FxHashSet<u64>) -> anyhow::Result<()> {
        let last = self.memory.read_u64(self.list + LINK_OFFSET);
        let last = last.context("the process has ended, or runs another program")? & !LINK_FLAGS;
        let control = self.watch.control();
        let program_ns = control.program_ns / control.all_hits.max(1);
        // Rather too little: a window that believes stops to take longer than they do goes on for as long as many follow each
        // other, and sees little else.
        let hit_ns = self.least_stop_ns + program_ns;
        let length_ns = pace.length_ns();
        let collections = self.collections();
        // Whoever has the processors meanwhile must not keep it open.
        let prompt = Prompt::begin();
        let began = Instant::now();
        self.watch.begin(last, length_ns, hit_ns)?;
        let opened_ns = self.watch.control().opened_ns;
        let mut is_cut = false;
        loop {
            let control = self.watch.control();
            let passed_ns = cost::monotonic_ns().saturating_sub(opened_ns);
            let left_ns = (length_ns + control.hits * hit_ns).saturating_sub(passed_ns);
            if left_ns == 0 {
                break;
            }
            if began.elapsed() > LONGEST_WINDOW {
                is_cut = true;
                break;
            }
            // The process is stopped meanwhile, and what is left becomes more.
            thread::sleep(Duration::from_nanos(left_ns.clamp(10_000, 200_000)));
        }
        let births = self.watch.control().births as usize;
        let seen = self.watch.births(0, births);
        let alive = self.alive(&seen, kinds);
        let armed = if is_cut || births > MAX_BIRTHS {
            Vec::new()
        } else {
            self.arm(&seen, &alive, collections)?
        };
        // Only now: a birth at the same address says that the one before has gone.
        is_cut |= !self.watch.end()?;
        drop(prompt);
        let took = began.elapsed();
        let control = self.watch.control();
        self.tally.window_hits += control.hits;
        let after = control.births as usize;
        is_cut |= after > MAX_BIRTHS;
        let later = self.watch.births(births, after);
        for slot in armed {
            let head = self.slots[slot].map(|followed| followed.birth.head);
            if is_cut || later.iter().any(|birth| Some(birth.head) == head) {
                self.give_up(slot)?;
            }
        }
        self.tally.windows += 1;
        self.tally.window_ns += took.as_nanos() as u64;
        self.tally.longest_ns = self.tally.longest_ns.max(took.as_nanos() as u64);
        if is_cut {
            self.tally.cut += 1;
            return Ok(());
        }
        let told = seen.iter().filter(|birth| birth.number != 0).count() as u64;
        self.tally.births += told;
        for &at in &alive {
            if let Some(seen) = self.strata.of(stratum(&seen[at])) {
                seen.alive += 1;
                self.tally.alive += 1;
            }
        }
        pace.met(told);
        Ok(())
    }

    /// Which births of these types were told, are not followed by another at their place, and are alive: their numbers.
    fn alive(&self, births: &[Birth], kinds: &FxHashSet<u64>) -> Vec<usize> {
        let mut last: FxHashMap<u64, usize> = FxHashMap::default();
        for (at, birth) in births.iter().enumerate() {
            last.insert(birth.head, at);
        }
        let mut at: Vec<usize> = last
            .into_values()
            .filter(|&at| births[at].number != 0 && kinds.contains(&births[at].kind))
            .collect();
        at.sort_unstable();
        let mut alive = Vec::with_capacity(at.len());
        for some in at.chunks(256) {
            let mut pieces: Vec<Piece> = some
                .iter()
                .map(|&at| Piece {
                    address: births[at].head,
                    bytes: vec![0; 32],
                })
                .collect();
            if !self.memory.read_pieces(&mut pieces) {
                continue;
            }
            let references = self.target.heap.references;
            let found = some.iter().zip(&pieces);
            alive.extend(
                found.filter_map(|(&at, piece)| is_alive(&piece.bytes, births[at].kind, references).then_some(at)),
            );
        }
        alive
    }

    /// Follows some of them, as many as there are free slots. Which slots.
    fn arm(&mut self, births: &[Birth], alive: &[usize], collections: u64) -> anyhow::Result<Vec<usize>> {
        let free: Vec<usize> = (0..self.slots.len())
            .filter(|&slot| self.slots[slot].is_none())
            .collect();
        let strata: Vec<Stratum> = alive.iter().map(|&at| stratum(&births[at])).collect();
        let drawn = self.strata.draw(&strata, free.len(), &mut self.random);
        let mut armed = Vec::new();
        for (slot, drawn) in free.into_iter().zip(drawn) {
            let birth = births[alive[drawn]];
            self.watch.follow(slot, birth.head)?;
            // It may have gone before.
            let mut bytes = [0; 32];
            if !self.memory.read(birth.head, &mut bytes) || !is_alive(&bytes, birth.kind, self.target.heap.references) {
                self.watch.leave(slot)?;
                continue;
            }
            self.slots[slot] = Some(Followed {
                birth,
                since: Instant::now(),
                collections,
            });
            if let Some(seen) = self.strata.of(stratum(&birth)) {
                seen.under_way += 1;
            }
            self.tally.followed += 1;
            armed.push(slot);
        }
        Ok(armed)
    }

    fn look_at_slots(&mut self) -> anyhow::Result<()> {
        let control = self.watch.control();
        for slot in 0..self.slots.len() {
            let Some(followed) = self.slots[slot] else { continue };
            let ended = control.ended[slot];
            if control.followed_hits[slot] >= FOLLOWED_HITS {
                self.give_up(slot)?;
            } else if ended == ENDED_DEAD {
                self.conclude(slot, false)?;
            } else if ended != ENDED_NOT {
                self.tally.untracked += 1;
                self.give_up(slot)?;
            } else if followed.since.elapsed() >= self.follow {
                self.conclude_alive(slot, followed)?;
            }
        }
        Ok(())
    }

    fn conclude_alive(&mut self, slot: usize, followed: Followed) -> anyhow::Result<()> {
        let birth = followed.birth;
        let address = birth.head + GC_HEAD_BYTES;
        let words = words(&self.memory, address);
        let mut bytes = [0; 32];
        let is_there =
            self.memory.read(birth.head, &mut bytes) && is_alive(&bytes, birth.kind, self.target.heap.references);
        // It was read before it was left, and what was seen until then holds for what was read.
        let is_whole = self.watch.leave(slot)?;
        let ended = self.watch.control().ended[slot];
        self.slots[slot] = None;
        match words {
            Some(words) if is_there && is_whole && ended == ENDED_NOT => {
                self.count(&birth, true);
                if self.survivors.len() < MOST_SURVIVORS {
                    self.survivors.push(Survivor {
                        number: birth.number,
                        address,
                        stratum: stratum(&birth),
                        collections: followed.collections,
                        words,
                    });
                }
            }
            _ if ended == ENDED_DEAD => {
                self.count(&birth, false);
                self.tally.died += 1;
            }
            _ => {
                self.not_counted(&birth);
                self.tally.given_up += 1;
            }
        }
        Ok(())
    }

    fn conclude(&mut self, slot: usize, stayed: bool) -> anyhow::Result<()> {
        self.watch.leave(slot)?;
        if let Some(followed) = self.slots[slot].take() {
            self.count(&followed.birth, stayed);
            self.tally.died += u64::from(!stayed);
        }
        Ok(())
    }

    fn count(&mut self, birth: &Birth, stayed: bool) {
        if let Some(seen) = self.strata.of(stratum(birth)) {
            seen.under_way = seen.under_way.saturating_sub(1);
            seen.followed += 1;
            seen.stayed += u64::from(stayed);
        }
    }

    fn not_counted(&mut self, birth: &Birth) {
        if let Some(seen) = self.strata.of(stratum(birth)) {
            seen.under_way = seen.under_way.saturating_sub(1);
        }
    }

    /// What became of it is not known.
    fn give_up(&mut self, slot: usize) -> anyhow::Result<()> {
        self.watch.leave(slot)?;
        if let Some(followed) = self.slots[slot].take() {
            self.not_counted(&followed.birth);
            self.tally.given_up += 1;
        }
        Ok(())
    }

    fn leave_all(&mut self) -> anyhow::Result<()> {
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_some() {
                self.give_up(slot)?;
            }
        }
        Ok(())
    }

    /// What is under way is not counted. Dropping the watch gives the registers back.
    fn close(&mut self) {
        let _ = self.watch.end();
        for slot in 0..self.slots.len() {
            let _ = self.watch.leave(slot);
        }
    }
}

fn stratum(birth: &Birth) -> Stratum {
    Stratum {
        kind: birth.kind,
        place: birth.place,
    }
}

fn word(bytes: &[u8], number: usize) -> u64 {
    let bytes = bytes.get(8 * number..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Whether these are the GC head and the first words of an object of this type that is tracked.
fn is_alive(bytes: &[u8], kind: u64, references: References) -> bool {
    let is_tracked = word(bytes, 0) != 0 && word(bytes, 1) & !LINK_FLAGS != 0;
    is_tracked && references.are_sane(word(bytes, 2)) && word(bytes, 3) == kind
}

/// What an object is: its type, and what follows. What its type does not say that it has is another object's.
fn words(memory: &ProcessMemory, address: u64) -> Option<[u64; WORDS]> {
    let mut bytes = [0; 8 * WORDS];
    let kind = memory.read_u64(address + 8)?;
    let basic = memory.read_u64(kind.checked_add(TYPE_BASIC_SIZE)?)?;
    let length = basic.saturating_sub(8).clamp(8, 8 * WORDS as u64) as usize;
    memory.read(address + 8, &mut bytes[..length]).then_some(())?;
    Some(std::array::from_fn(|number| word(&bytes, number)))
}

impl Survivor {
    #[cfg(test)]
    pub(super) fn made(number: u64, stratum: Stratum) -> Self {
        Self {
            number,
            address: 0x1000 * number,
            stratum,
            collections: 0,
            words: [0; WORDS],
        }
    }

    /// Whether it is still what it was when it was followed no more.
    pub fn is_same(&self, memory: &ProcessMemory) -> bool {
        words(memory, self.address) == Some(self.words)
    }
}
