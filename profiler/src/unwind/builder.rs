//! Makes tables beside the recording, which must not wait for a file of a hundred megabytes.

use std::{
    io,
    ops::Deref as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use memmap2::{Mmap, UncheckedAdvice};

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

/// A thread that makes tables, in the order in which they are asked for.
pub struct Builder {
    jobs: Sender<Job>,
    built: Receiver<Built>,
    /// Asked for, but not taken yet.
    waiting: usize,
}

/// Drops the file's pages from our memory; the page cache keeps them.
fn let_go(bytes: &Mmap) {
    // SAFETY: the map is a shared one of a file and never written, so a page that is touched again is the same again.
    // Failing costs memory only.
    let _ = unsafe { bytes.unchecked_advise(UncheckedAdvice::DontNeed) };
}

impl Builder {
    pub fn start() -> io::Result<Self> {
        let (jobs, to_do) = channel::<Job>();
        let (done, built) = channel();
        // It ends when the other ends of the channels are dropped.
        thread::Builder::new().name("unwind-tables".to_owned()).spawn(move || {
            for Job {
                file,
                generation,
                image,
                alike,
            } in to_do
            {
                let started = cost::thread_cpu_time();
                if let Image::Mapped(bytes) = &image
                    && let Some((other, _)) = alike.iter().find(|(_, other)| **other == **bytes)
                {
                    let (made, took) = (
                        Made::SameAs(*other, image),
                        cost::thread_cpu_time().saturating_sub(started),
                    );
                    let built = Built {
                        file,
                        generation,
                        made,
                        took,
                    };
                    if done.send(built).is_err() {
                        break;
                    }
                    continue;
                }
                drop(alike);
                // Whatever is wrong with one file, the others want their tables. Nothing outlives the call but its result.
                let table = catch_unwind(AssertUnwindSafe(|| match &image {
                    Image::Mapped(bytes) => build_and(bytes.deref(), &|| let_go(bytes)),
                    Image::Owned(bytes) => build(bytes),
                }))
                .unwrap_or(Err(NoTable::Damaged));
                let took = cost::thread_cpu_time().saturating_sub(started);
                let built = Built {
                    file,
                    generation,
                    made: Made::Table(table),
                    took,
                };
                if done.send(built).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self {
            jobs,
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
        // The thread lives as long as `self`; should it have died, nothing comes back and nothing is waited for.
        if self.jobs.send(job).is_ok() {
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
