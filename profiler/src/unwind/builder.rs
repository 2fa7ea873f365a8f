//! Makes tables beside the recording, which must not wait for a file of a hundred megabytes.

use std::{
    io,
    ops::Deref as _,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Instant,
};

use memmap2::Mmap;

use super::table::{NoTable, Table, build};

/// The bytes of a file to make a table of.
pub enum Image {
    Mapped(Mmap),
    /// Of the vDSO, which is no file.
    Owned(Vec<u8>),
}

/// A table that is made.
pub struct Built {
    pub file: u32,
    pub table: Result<Table, NoTable>,
}

/// A thread that makes tables, in the order in which they are asked for.
pub struct Builder {
    jobs: Sender<(u32, Image)>,
    built: Receiver<Built>,
    /// Asked for, but not taken yet.
    waiting: usize,
}

impl Builder {
    pub fn start() -> io::Result<Self> {
        let (jobs, to_do) = channel::<(u32, Image)>();
        let (done, built) = channel();
        // It ends when the other ends of the channels are dropped.
        thread::Builder::new().name("unwind-tables".to_owned()).spawn(move || {
            for (file, image) in to_do {
                let table = match &image {
                    Image::Mapped(bytes) => build(bytes.deref()),
                    Image::Owned(bytes) => build(bytes),
                };
                if done.send(Built { file, table }).is_err() {
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

    pub fn ask(&mut self, file: u32, image: Image) {
        // The thread lives as long as `self`; should it have died, nothing comes back and nothing is waited for.
        if self.jobs.send((file, image)).is_ok() {
            self.waiting += 1;
        }
    }

    /// The next table that is made, waiting for it no longer than `deadline`.
    pub fn next(&mut self, deadline: Option<Instant>) -> Option<Built> {
        if self.waiting == 0 {
            return None;
        }
        let built = match deadline {
            None => self.built.try_recv().ok(),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                match self.built.recv_timeout(left) {
                    Ok(built) => Some(built),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => {
                        self.waiting = 0;
                        None
                    }
                }
            }
        };
        self.waiting -= usize::from(built.is_some());
        built
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }
}
