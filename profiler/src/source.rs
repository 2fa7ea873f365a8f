//! Where everything comes from: the programs' ring buffer and the kernel's side band, merged in order of time.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use anyhow::Context as _;

use crate::{
    bpf::Kernel,
    cost::monotonic_ns,
    decode::{RawRecord, decode},
    process::sideband::{Sideband, SidebandEvent},
};

/// The kernel's two streams.
pub struct Source {
    pub kernel: Kernel,
    sideband: Sideband,
    /// Those that were online when we last looked.
    cpus: BTreeSet<u32>,
    batch: Batch,
}

/// What has come in and was not handed over.
#[derive(Default)]
struct Batch {
    /// Records one after the other …
    bytes: Vec<u8>,
    /// … and where each ends.
    ends: Vec<usize>,
    events: Vec<SidebandEvent>,
    /// So many of either were held back before: they are not held back again.
    records_held: usize,
    events_held: usize,
}

impl Batch {
    /// Hands over what happened until then: both streams are whole up to that moment, because both were read after it. An
    /// event goes before a record that is not older, so that a process is known by its first record, and still by its last.
    /// What happened later, in either stream, is held back until both were read again: a process that ended meanwhile may
    /// have records that have not been read.
    fn hand_over(&mut self, until_ns: u64, mut visit: impl FnMut(Event<'_>)) {
        // Both parts were in order.
        self.events.sort_by_key(|event| event.time_ns);
        let due = |event: &SidebandEvent| event.time_ns <= until_ns;
        let events_due = self.events.partition_point(due).max(self.events_held);
        let mut events = self.events.drain(..events_due).peekable();
        let (mut start, mut visited) = (0, 0);
        for &end in &self.ends {
            match decode(&self.bytes[start..end]) {
                Ok(record) => {
                    let time_ns = record.time_ns();
                    // All that follow, too: what is older among them was sent later, and may refer to this one.
                    if time_ns > until_ns && visited >= self.records_held {
                        break;
                    }
                    while let Some(event) = events.next_if(|event| event.time_ns <= time_ns) {
                        visit(Event::Process(&event));
                    }
                    visit(Event::Record(record));
                }
                Err(_) => visit(Event::Malformed),
            }
            (start, visited) = (end, visited + 1);
        }
        events.for_each(|event| visit(Event::Process(&event)));
        self.events_held = self.events.len();
        self.ends.drain(..visited);
        self.ends.iter_mut().for_each(|end| *end -= start);
        self.records_held = self.ends.len();
        self.bytes.drain(..start);
    }
}

/// One thing that happened.
pub enum Event<'a> {
    Process(&'a SidebandEvent),
    Record(RawRecord<'a>),
    /// A record that could not be decoded.
    Malformed,
}

impl Source {
    /// Opens the side band; samples flow only after [`Source::start`], so that no process escapes in between.
    pub fn open(kernel: Kernel) -> anyhow::Result<Self> {
        let cpus = online_cpus()?;
        let listed: Vec<u32> = cpus.iter().copied().collect();
        Ok(Self {
            kernel,
            sideband: Sideband::open(&listed)?,
            cpus,
            batch: Batch::default(),
        })
    }

    /// Starts sampling on every CPU that is online, or at the events asked for.
    pub fn start(&mut self) -> anyhow::Result<()> {
        for &cpu in &self.cpus {
            self.kernel.attach_cpu(cpu)?;
        }
        self.kernel.attach_events()
    }

    /// Follows CPUs that come and go: the events of one that went away stay dead when it comes back.
    pub fn follow_cpus(&mut self) -> anyhow::Result<()> {
        let online = online_cpus()?;
        for &gone in self.cpus.difference(&online) {
            self.kernel.detach_cpu(gone);
            self.sideband.remove_cpu(gone);
        }
        for &new in online.difference(&self.cpus) {
            self.sideband.add_cpu(new)?;
            self.kernel.attach_cpu(new)?;
        }
        self.cpus = online;
        Ok(())
    }

    /// Readable when side-band events wait.
    pub fn sideband_fd(&self) -> BorrowedFd<'_> {
        self.sideband.as_fd()
    }

    /// Hands over everything that waits and happened before now.
    pub fn read(&mut self, visit: impl FnMut(Event<'_>)) {
        let until_ns = monotonic_ns();
        self.sideband.drain(&mut self.batch.events);
        let Batch { bytes, ends, .. } = &mut self.batch;
        self.kernel.drain(|record| {
            bytes.extend_from_slice(record);
            ends.push(bytes.len());
        });
        self.batch.hand_over(until_ns, visit);
    }

    /// Side-band records that could not be read.
    pub fn unreadable_events(&self) -> u64 {
        self.sideband.unreadable()
    }

    /// Bytes shared with the kernel for the side band.
    pub fn sideband_bytes(&self) -> u64 {
        self.sideband.ring_bytes() as u64
    }
}

/// The CPUs that are online now.
pub fn online_cpus() -> anyhow::Result<BTreeSet<u32>> {
    let path = Path::new("/sys/devices/system/cpu/online");
    let text = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    parse_cpus(&text).with_context(|| format!("{} reads `{}`, which is no list of CPUs", path.display(), text.trim()))
}

/// `0-3,8,10-11`
fn parse_cpus(text: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last.checked_sub(first)? > 1 << 16 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use profiler_common::record::{CallRecord, RECORD_CALL};

    use super::*;
    use crate::process::sideband::SidebandKind;

    impl Batch {
        fn record(&mut self, time_ns: u64) {
            let mut bytes = vec![0; size_of::<CallRecord>()];
            bytes[0] = RECORD_CALL as u8;
            let at = std::mem::offset_of!(CallRecord, time_ns);
            bytes[at..at + 8].copy_from_slice(&time_ns.to_ne_bytes());
            self.bytes.extend_from_slice(&bytes);
            self.ends.push(self.bytes.len());
        }

        fn exit(&mut self, time_ns: u64) {
            let kind = SidebandKind::Exit { pid: 1, tid: 1 };
            self.events.push(SidebandEvent { time_ns, kind });
        }

        fn handed_over(&mut self, until_ns: u64) -> Vec<(char, u64)> {
            let mut seen = Vec::new();
            self.hand_over(until_ns, |event| {
                seen.push(match event {
                    Event::Process(event) => ('e', event.time_ns),
                    Event::Record(record) => ('r', record.time_ns()),
                    Event::Malformed => ('m', 0),
                });
            });
            seen
        }
    }

    #[test]
    fn what_happened_after_both_streams_were_begun_to_be_read_waits_for_what_may_have_come_before_it() {
        let mut batch = Batch::default();
        batch.record(10);
        batch.record(90);
        batch.exit(110);
        batch.exit(50);
        // Sent after a later one: it may refer to it, and so waits, too.
        batch.record(120);
        batch.record(95);
        assert_eq!(batch.handed_over(100), [('r', 10), ('e', 50), ('r', 90)]);
        // Of the process whose end was read before this record was.
        batch.record(105);
        batch.record(210);
        batch.exit(205);
        let second = batch.handed_over(200);
        assert_eq!(second, [('e', 110), ('r', 120), ('r', 95), ('r', 105)]);
        assert_eq!(batch.handed_over(300), [('e', 205), ('r', 210)]);
        assert_eq!(batch.handed_over(400), []);
    }

    #[test]
    fn nothing_is_held_back_twice_whatever_the_clocks_say() {
        let mut batch = Batch::default();
        batch.record(1_000);
        batch.exit(2_000);
        assert_eq!(batch.handed_over(10), []);
        assert_eq!(batch.handed_over(20), [('r', 1_000), ('e', 2_000)]);
    }

    #[test]
    fn lists_of_cpus_are_read_as_the_kernel_writes_them() {
        let list = |text| parse_cpus(text).map(|cpus| cpus.into_iter().collect::<Vec<_>>());
        assert_eq!(list("0-1\n"), Some(vec![0, 1]));
        assert_eq!(list("0,2-3,7"), Some(vec![0, 2, 3, 7]));
        assert_eq!(list(""), Some(vec![]));
        assert_eq!(list("3-1"), None);
        assert_eq!(list("x"), None);
        assert_eq!(list("0-4294967295"), None);
    }
}
