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

/// What came in with one look. Kept for its capacity.
#[derive(Default)]
struct Batch {
    /// Records one after the other …
    bytes: Vec<u8>,
    /// … and where each ends.
    ends: Vec<usize>,
    events: Vec<SidebandEvent>,
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

    /// Hands over everything that waits.
    ///
    /// The side band is read *after* the ring buffer, so that every event older than a record is there when the record
    /// is looked at; then events go first where they are older.
    pub fn read(&mut self, mut visit: impl FnMut(Event<'_>)) {
        let Batch { bytes, ends, events } = &mut self.batch;
        bytes.clear();
        ends.clear();
        events.clear();
        self.kernel.drain(|record| {
            bytes.extend_from_slice(record);
            ends.push(bytes.len());
        });
        self.sideband.drain(events);

        let mut events = events.iter().peekable();
        let mut start = 0;
        for &end in &*ends {
            match decode(&bytes[start..end]) {
                Ok(record) => {
                    let time_ns = record.time_ns();
                    while let Some(event) = events.next_if(|event| event.time_ns <= time_ns) {
                        visit(Event::Process(event));
                    }
                    visit(Event::Record(record));
                }
                Err(_) => visit(Event::Malformed),
            }
            start = end;
        }
        events.for_each(|event| visit(Event::Process(event)));
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
    use super::*;

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
