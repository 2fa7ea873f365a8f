//! Stubs in a process, from the first mapping to the last slot that has its function back.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use memmap2::{MmapMut, MmapOptions};

use super::{
    apart::Tracer,
    journal::{Identity, Journal, JournalError, Journals, Slot},
    layout::{self, Job},
    plan::Plan,
    refusal,
    stops::is_there,
    stub::{Stub, stub},
    tracer::TraceError,
};
use crate::{
    process::{ancestry, file::MappedFile},
    python::memory::{ProcessMemory, ReadMemory as _},
};

/// Samples that the stubs may take before we look again, many times a second.
const ALLOWANCE: u64 = 100_000;

#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error("the memfd of the process cannot be had: {0}")]
    Memfd(io::Error),
    #[error("the journal cannot be written: {0}")]
    Journal(#[from] JournalError),
    #[error("process {pid} has ended, or is another program by now")]
    Gone { pid: u32 },
    #[error("process {pid} changed its allocators in this very moment; nothing was changed: try again")]
    Changed { pid: u32 },
}

/// What the stubs have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that allocate: of all three functions.
    pub allocations: u64,
    pub bytes: u64,
    pub frees: u64,
    pub samples: u64,
    /// Samples for which there was no room.
    pub unremembered: u64,
    /// They have gone to sleep, and nothing was sampled from then on.
    pub asleep: bool,
}

/// How long the process was stopped, each time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops(pub Vec<Duration>);

/// What taking the stubs away came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// All slots have what was there before.
    All,
    /// Somebody else has put something there since, which was left alone; the stubs below sleep.
    Except { slots: usize },
    /// The process has ended, or runs another program.
    Gone,
}

#[derive(Debug)]
pub struct Placed {
    tracer: Tracer,
    journals: Journals,
    journal: Journal,
    file: File,
    control: MmapMut,
    stub: Stub,
    pub stops: Stops,
    /// Children that keep sleeping stubs.
    pub children_left: usize,
    installed: bool,
    /// There is something left for `profiler undo`.
    keeps_journal: bool,
    /// The last that were read while the process was there.
    last: Counts,
}

impl Placed {
    /// Maps everything, and changes nothing that the process does.
    ///
    /// # Errors
    /// If a step fails; what was mapped is unmapped, as far as the process lets us.
    pub fn prepare(plan: &Plan, bytes_per_sample: u64, journals: Journals) -> Result<Self, InjectError> {
        let pid = plan.process.pid;
        let us = Identity::of(std::process::id()).ok_or(InjectError::Gone { pid })?;
        let mut journal = Journal::begun(plan.process, us);
        journals.begin(&journal)?;
        let mut tracer = Tracer::default();
        let mapped = tracer
            .start()
            .and_then(|()| tracer.map(plan.process, plan.originals, bytes_per_sample));
        let mapped = mapped.map_err(InjectError::from).and_then(|(base, file, took)| {
            // SAFETY: whoever else has this file is the process, which maps it for reading; what it reads there is words.
            let control = unsafe {
                MmapOptions::new()
                    .offset(layout::CONTROL)
                    .len(layout::PAGE as usize)
                    .map_mut(&file)
            };
            Ok((base, file, control.map_err(InjectError::Memfd)?, took))
        });
        let (base, file, control, took) = match mapped {
            Ok(mapped) => mapped,
            Err(error) => {
                journals.remove(pid);
                return Err(match error {
                    InjectError::Trace(TraceError::Gone { .. }) => InjectError::Gone { pid },
                    other => other,
                });
            }
        };
        let stub = stub();
        journal.base = base;
        journal.swap = stub.swap;
        let swap = stub.swap as usize;
        journal.swap_code = stub.code[swap..swap + stub.swap_bytes as usize].to_vec();
        journal.slots = plan.slots([stub.malloc, stub.calloc, stub.realloc, stub.free].map(|entry| base + entry));
        let mut placed = Self {
            tracer,
            journals,
            journal,
            file,
            control,
            stub,
            stops: Stops(vec![took]),
            children_left: 0,
            installed: false,
            keeps_journal: false,
            last: Counts::default(),
        };
        placed.write_jobs(bytes_per_sample);
        // From here on it can be undone by whoever reads it.
        placed.journals.write(&placed.journal)?;
        Ok(placed)
    }

    /// Where probes go: the file, and the offsets of what is run when a sampled block comes and goes.
    ///
    /// # Errors
    /// If the memfd cannot be opened.
    pub fn probes(&self) -> io::Result<(MappedFile, u64, u64)> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        Ok((MappedFile::open_path(&path)?, self.stub.born, self.stub.died))
    }

    /// Puts the stubs into the slots.
    ///
    /// # Errors
    /// If the process cannot be stopped, or has changed its allocators since they were looked at: then nothing is changed.
    pub fn install(&mut self) -> Result<(), InjectError> {
        let pid = self.journal.process.pid;
        self.allow();
        let jobs = INITIAL_WORDS + self.journal.slots.len();
        // Whatever comes of it: some may be in place.
        self.installed = true;
        let done = self.swap(layout::INSTALL, jobs)?;
        if done != mask(jobs) {
            // What was changed goes back at once.
            self.remove()?;
            return Err(InjectError::Changed { pid });
        }
        Ok(())
    }

    /// Has the stubs go on: they sleep if this is not said often enough.
    pub fn allow(&mut self) {
        let counts = self.counts();
        self.set_allowance(counts.samples.saturating_add(ALLOWANCE));
    }

    /// From the next sample on, they sleep.
    pub fn put_to_sleep(&mut self) {
        self.set_allowance(0);
    }

    fn set_allowance(&mut self, allowance: u64) {
        // SAFETY: the word is the first of the page, aligned, and mapped as long as `control` lives; the process reads it.
        let word = unsafe { AtomicU64::from_ptr(self.control.as_mut_ptr().cast()) };
        word.store(allowance, Ordering::Relaxed);
    }

    /// What they have counted so far; the last known if the process is gone.
    pub fn counts(&mut self) -> Counts {
        let mut bytes = [0; layout::COUNTERS_BYTES];
        let memory = ProcessMemory {
            pid: self.journal.process.pid,
        };
        // A program that it has become by an exec has nothing there, or something else, and is not asked.
        if self.journal.process.is_there()
            && self.code_is_there()
            && memory.read(self.journal.base + layout::DATA, &mut bytes)
        {
            self.last = counts(&bytes);
        }
        self.last
    }

    /// What was read last: after [`Self::remove`], what they had counted until they were put to sleep.
    pub fn last(&self) -> Counts {
        self.last
    }

    fn code_is_there(&self) -> bool {
        is_there(&self.journal)
    }

    /// Gives the slots back what they had. The pages stay mapped: a thread may be on its way through the stubs.
    ///
    /// # Errors
    /// If the process cannot be stopped. Then the stubs sleep, and the journal stays for `profiler undo`.
    pub fn remove(&mut self) -> Result<Removed, InjectError> {
        self.counts();
        self.put_to_sleep();
        let (removed, took) = remove(&mut self.tracer, &self.journal)?;
        self.stops.0.extend(took);
        self.installed = false;
        self.children_left = remove_from_children(&mut self.tracer, &self.journal);
        match removed {
            // What somebody else has there may bring the stubs back when it ends, as tracemalloc does.
            Removed::Except { .. } => self.keeps_journal = true,
            Removed::All | Removed::Gone => self.journals.remove(self.journal.process.pid),
        }
        Ok(removed)
    }

    fn write_jobs(&mut self, bytes_per_sample: u64) {
        let base = self.journal.base;
        let first = fastrand::u64(1..=bytes_per_sample.max(1));
        let word = |offset: u64, new: u64| Job {
            address: base + offset,
            expected: 0,
            new,
        };
        let mut install = vec![
            word(layout::COUNTDOWN, first),
            word(layout::DRAWN, first),
            word(layout::RANDOM, fastrand::u64(1..)),
            word(layout::ARMED, 1),
        ];
        debug_assert_eq!(install.len(), INITIAL_WORDS);
        install.extend(self.journal.slots.iter().copied().map(Slot::install));
        let remove: Vec<Job> = self.journal.slots.iter().copied().map(Slot::remove).collect();
        for (at, jobs) in [(layout::INSTALL, install), (layout::REMOVE, remove)] {
            let at = (at - layout::CONTROL) as usize;
            let bytes = layout::bytes_of(&jobs);
            self.control[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }

    fn swap(&mut self, list: u64, jobs: usize) -> Result<u64, InjectError> {
        let (done, took) = self.tracer.swap(&self.journal, list, jobs)?.ok_or(InjectError::Gone {
            pid: self.journal.process.pid,
        })?;
        self.stops.0.push(took);
        Ok(done)
    }
}

impl Drop for Placed {
    /// On the way out of an error: what is in place goes.
    fn drop(&mut self) {
        if self.installed {
            let _ = self.remove();
        } else if !self.keeps_journal {
            self.put_to_sleep();
            // Nothing was changed, or all was put back, or the journal is what `undo` needs.
            let pid = self.journal.process.pid;
            if matches!(self.journals.read(pid), Ok(Some(journal)) if journal == self.journal) {
                self.journals.remove(pid);
            }
        }
    }
}

const INITIAL_WORDS: usize = 4;

fn mask(jobs: usize) -> u64 {
    (1 << jobs) - 1
}

fn counts(bytes: &[u8; layout::COUNTERS_BYTES]) -> Counts {
    let word = |offset: u64| {
        let at = (offset - layout::DATA) as usize;
        let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
        word.map_or(0, u64::from_le_bytes)
    };
    Counts {
        allocations: [layout::MALLOCS, layout::CALLOCS, layout::REALLOCS]
            .into_iter()
            .map(word)
            .fold(0, u64::wrapping_add),
        bytes: word(layout::DRAWN).wrapping_sub(word(layout::COUNTDOWN)),
        frees: word(layout::FREES),
        samples: word(layout::SPENT),
        unremembered: word(layout::UNREMEMBERED),
        asleep: word(layout::DORMANT) != 0,
    }
}

/// Whether something of the range may still be in the process, where it cannot be read: a process whose first thread has ended
/// has no memory by its number, and who has not the right to read one must not take it for gone.
fn may_be_there(journal: &Journal) -> bool {
    let pid = journal.process.pid;
    match fs::read(format!("/proc/{pid}/maps")) {
        Ok(maps) if !maps.is_empty() => {
            let maps = String::from_utf8_lossy(&maps);
            maps.lines().any(|line| {
                let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
                let number = |text: &str| u64::from_str_radix(text, 16).ok();
                range
                    .and_then(|(from, to)| Some((number(from)?, number(to)?)))
                    .is_some_and(|(from, to)| (from..to).contains(&(journal.base + journal.swap)))
            }) && !is_readable(journal)
        }
        // Its first thread has ended, and others may go on.
        Ok(_) => fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1),
        Err(error) => error.kind() != io::ErrorKind::NotFound && journal.is_of_a_living_process(),
    }
}

fn is_readable(journal: &Journal) -> bool {
    let memory = ProcessMemory {
        pid: journal.process.pid,
    };
    memory.read(journal.base + journal.swap, &mut vec![0; journal.swap_code.len()])
}

/// Takes the stubs away from children that were forked meanwhile, in which they sleep: first those of the process must be gone,
/// so that no other child gets any. How many children keep them, because they are not to be stopped.
pub(super) fn remove_from_children(tracer: &mut Tracer, journal: &Journal) -> usize {
    let parent = journal.process.pid;
    let children = ancestry::descendants(Path::new("/proc"), &[parent]).unwrap_or_default();
    let mut keeps = |child: u32| {
        let Some(process) = Identity::of(child) else {
            return false;
        };
        let journal = journal.of(process);
        // One that runs another program by now has none.
        // It may end while we are at it.
        is_there(&journal)
            && (refusal::surroundings(child).is_err() || remove(tracer, &journal).is_err())
            && is_there(&journal)
    };
    children
        .into_iter()
        .filter(|&child| child != parent && keeps(child))
        .count()
}

/// Takes the stubs of a journal away, whoever has put them there. How long the process was stopped, if it was.
pub(super) fn remove(tracer: &mut Tracer, journal: &Journal) -> Result<(Removed, Option<Duration>), TraceError> {
    if !journal.is_of_a_living_process() {
        return Ok((Removed::Gone, None));
    }
    if !is_there(journal) {
        return match may_be_there(journal) {
            true => Err(TraceError::Denied {
                tid: journal.process.pid,
                source: io::Error::from_raw_os_error(libc::EPERM),
            }),
            false => Ok((Removed::Gone, None)),
        };
    }
    let jobs: Vec<Job> = journal.slots.iter().copied().map(Slot::remove).collect();
    // What stands in the process must be what the journal says.
    let mut found = vec![0; jobs.len() * layout::JOB_BYTES as usize];
    let memory = ProcessMemory {
        pid: journal.process.pid,
    };
    if !memory.read(journal.base + layout::REMOVE, &mut found) || found != layout::bytes_of(&jobs) {
        return Ok((Removed::Gone, None));
    }
    let Some((done, took)) = tracer.swap(journal, layout::REMOVE, jobs.len())? else {
        return Ok((Removed::Gone, None));
    };
    // One that has what it had before needed nothing: it was never swapped, or another has put it back.
    let is_original = |slot: &Slot| {
        let mut word = [0; 8];
        memory.read(slot.address, &mut word) && u64::from_le_bytes(word) == slot.original
    };
    let is_left = |(at, slot): &(usize, &Slot)| done & 1 << at == 0 && !is_original(slot);
    let left = journal.slots.iter().enumerate().filter(is_left).count();
    let removed = match left {
        0 => Removed::All,
        slots => Removed::Except { slots },
    };
    Ok((removed, Some(took)))
}
