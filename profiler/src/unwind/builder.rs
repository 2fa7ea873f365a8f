//! Makes tables beside the recording, which must not wait for a file of a hundred megabytes.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    ops::Deref as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use memmap2::{Mmap, UncheckedAdvice};
use rustc_hash::FxHashMap;

use super::table::{NoTable, Table, build, build_and};
use crate::cost;

/// The bytes of a file to make a table of.
pub enum Image {
    Mapped(Mmap),
    /// Of the vDSO, which is no file.
    Owned(Vec<u8>),
}

/// A file that others may be copies of: its index, and which of those that had it.
pub type Original = (u32, u32);

/// What became of a file.
pub enum Made {
    Table(Result<Table, NoTable>),
    /// It is the same as this other one, byte for byte.
    SameAs(Original, Image),
}

/// A table that is made, or need not be.
pub struct Built {
    pub file: u32,
    /// As it was asked for.
    pub generation: u32,
    pub made: Made,
    /// CPU time it took.
    pub took: Duration,
}

struct Job {
    file: u32,
    generation: u32,
    image: Image,
    /// Files that claim to be the same.
    alike: Vec<(Original, Mmap)>,
}

impl Job {
    fn bytes(&self) -> usize {
        match &self.image {
            Image::Mapped(bytes) => bytes.len(),
            Image::Owned(bytes) => bytes.len(),
        }
    }
}

/// Two threads that make tables, one of them those of large files.
///
/// One thread was tried, first come, first served: on a busy host a small program had no callers for seconds (72 % of its
/// samples in eight seconds beside a compiler's build) because libraries of 150 MB were before it.
pub struct Builder {
    small: Sender<Job>,
    large: Sender<Job>,
    built: Receiver<Built>,
    /// Asked for, but not taken yet.
    waiting: usize,
}

/// Copies are as large as their original, so whoever is to be compared with another comes after it, on the same thread.
const LARGE: usize = 8 << 20;

/// What is asked for, the next first: small files before larger ones that were asked for shortly before. A file waits no
/// longer for those that come after it than it has MiB times this, so none waits for ever.
#[derive(Default)]
struct Queue {
    waiting: BinaryHeap<Reverse<(Instant, u64)>>,
    jobs: FxHashMap<u64, Job>,
    taken: u64,
}

const PATIENCE_A_MIB: Duration = Duration::from_millis(250);

impl Queue {
    fn add(&mut self, job: Job, now: Instant) {
        let mib = u32::try_from(job.bytes() >> 10).unwrap_or(u32::MAX);
        let due = now + PATIENCE_A_MIB * mib / 1024;
        // Of equals, the first.
        self.waiting.push(Reverse((due, self.taken)));
        self.jobs.insert(self.taken, job);
        self.taken += 1;
    }

    fn next(&mut self) -> Option<Job> {
        let Reverse((_, number)) = self.waiting.pop()?;
        self.jobs.remove(&number)
    }
}

/// Makes what is asked for until nobody asks, or listens, any more.
fn make(to_do: &Receiver<Job>, done: &Sender<Built>) {
    let mut queue = Queue::default();
    loop {
        while let Ok(job) = to_do.try_recv() {
            queue.add(job, Instant::now());
        }
        let job = match queue.next() {
            Some(job) => job,
            None => match to_do.recv() {
                Ok(job) => job,
                Err(_) => return,
            },
        };
        if done.send(made(job)).is_err() {
            return;
        }
    }
}

fn made(job: Job) -> Built {
    let Job {
        file,
        generation,
        image,
        alike,
    } = job;
    let started = cost::thread_cpu_time();
    let same = match &image {
        Image::Mapped(bytes) => alike
            .iter()
            .find(|(_, other)| **other == **bytes)
            .map(|(other, _)| *other),
        Image::Owned(_) => None,
    };
    drop(alike);
    let made = match same {
        Some(other) => Made::SameAs(other, image),
        // Whatever is wrong with one file, the others want their tables. Nothing outlives the call but its result.
        None => Made::Table(
            catch_unwind(AssertUnwindSafe(|| match &image {
                Image::Mapped(bytes) => build_and(bytes.deref(), &|| let_go(bytes)),
                Image::Owned(bytes) => build(bytes),
            }))
            .unwrap_or(Err(NoTable::Damaged)),
        ),
    };
    Built {
        file,
        generation,
        made,
        took: cost::thread_cpu_time().saturating_sub(started),
    }
}

/// Drops the file's pages from our memory; the page cache keeps them.
fn let_go(bytes: &Mmap) {
    // SAFETY: the map is a shared one of a file and never written, so a page that is touched again is the same again.
    // Failing costs memory only.
    let _ = unsafe { bytes.unchecked_advise(UncheckedAdvice::DontNeed) };
}

impl Builder {
    pub fn start() -> io::Result<Self> {
        let (done, built) = channel();
        // They end when the other ends of the channels are dropped.
        let thread = |name: &str, done: Sender<Built>| {
            let (jobs, to_do) = channel::<Job>();
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || make(&to_do, &done))
                .map(|_| jobs)
        };
        Ok(Self {
            small: thread("unwind-tables", done.clone())?,
            large: thread("large-tables", done)?,
            built,
            waiting: 0,
        })
    }

    /// `alike`: files of which it may be a copy. A build id is what a file says of itself, so they are compared.
    pub fn ask(&mut self, file: u32, generation: u32, image: Image, alike: Vec<(Original, Mmap)>) {
        let job = Job {
            file,
            generation,
            image,
            alike,
        };
        let jobs = if job.bytes() < LARGE { &self.small } else { &self.large };
        // The threads live as long as `self`; should they have died, nothing comes back and nothing is waited for.
        if jobs.send(job).is_ok() {
            self.waiting += 1;
        }
    }

    /// The next table that is made, waiting for it no longer than `deadline`.
    pub fn next(&mut self, deadline: Option<Instant>) -> Option<Built> {
        if self.waiting == 0 {
            return None;
        }
        let built = match deadline {
            None => self
                .built
                .try_recv()
                .map_err(|error| error == TryRecvError::Disconnected),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let built = self.built.recv_timeout(left);
                built.map_err(|error| error == RecvTimeoutError::Disconnected)
            }
        };
        match built {
            Ok(built) => {
                self.waiting -= 1;
                Some(built)
            }
            Err(is_dead) => {
                if is_dead {
                    self.waiting = 0;
                }
                None
            }
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_come_before_larger_ones_but_none_waits_for_ever() {
        let job = |file: u32, bytes: usize| Job {
            file,
            generation: 0,
            image: Image::Owned(vec![0; bytes]),
            alike: Vec::new(),
        };
        let mut queue = Queue::default();
        let began = Instant::now();
        queue.add(job(0, 4 << 20), began);
        queue.add(job(1, 2 << 20), began);
        queue.add(job(2, 100), began);
        queue.add(job(3, 100), began);
        // Half a second for 2 MiB is over.
        queue.add(job(4, 100), began + PATIENCE_A_MIB * 3);
        let order: Vec<u32> = std::iter::from_fn(|| queue.next()).map(|job| job.file).collect();
        assert_eq!(order, [2, 3, 1, 4, 0]);
    }
}
