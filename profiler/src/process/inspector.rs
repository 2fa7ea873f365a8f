//! What is in the files that processes map, found out beside the recording: a library can take a tenth of a second, in which
//! the kernel's buffers wait.
//!
//! Files go out by a bounded channel, and what was found comes back as a value. When too many wait, whoever asks looks itself:
//! late is better than never.

use std::{
    fs::File as Descriptor,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, channel, sync_channel},
    },
    thread,
};

use super::files::{File, FileId, PythonFile};
use crate::{
    foreign,
    python::{
        binary::{Refusal, inspect},
        c_library::Musl,
        image::Image,
    },
    symbolize,
};

/// So many files may wait.
const MOST_WAITING: usize = 256;

const UNREADABLE: Refusal = Refusal::Damaged {
    what: "it cannot be read",
};

/// What is in a file.
#[derive(Debug, Default)]
pub struct Inspected {
    pub python: PythonFile,
    /// Its debug file in the container it was first seen in, which can be gone when names are wanted.
    pub debug_file: Option<Descriptor>,
    /// It is musl's C library.
    pub musl: Option<Musl>,
}

impl Inspected {
    /// `pid`: a process that maps the file, while it lives.
    pub fn of(file: &File, pid: u32) -> Self {
        let Some(opened) = file.opened.as_ref().filter(|_| file.headers.is_some()) else {
            return Self::default();
        };
        let bytes = opened.map().ok();
        Self {
            python: bytes.as_deref().map_or(PythonFile::No, python_in),
            musl: bytes
                .as_deref()
                .and_then(|bytes| foreign::parsed(|| Musl::of_library(&Image::parse(bytes)?))?),
            debug_file: foreign::parsed(|| symbolize::debug_file_in_container(pid, &file.path, opened.file()))
                .flatten(),
        }
    }
}

fn python_in(bytes: &[u8]) -> PythonFile {
    match foreign::parsed(|| inspect(bytes)).unwrap_or(Err(UNREADABLE)) {
        Ok(binary) => PythonFile::Yes(Arc::new(binary)),
        Err(Refusal::NotPython) => PythonFile::No,
        Err(refusal) => PythonFile::Refused(refusal),
    }
}

struct Job {
    id: FileId,
    file: Arc<File>,
    pid: u32,
}

/// What was found in a file.
pub struct Answer {
    pub id: FileId,
    /// Of the file that was looked at: another may have its id by now.
    pub serial: u64,
    pub inspected: Inspected,
}

/// A thread that looks into files.
#[derive(Debug)]
pub struct Inspector {
    jobs: SyncSender<Job>,
    done: Receiver<Answer>,
    /// Asked for, but not taken yet.
    waiting: usize,
}

impl Inspector {
    pub fn start() -> io::Result<Self> {
        let (jobs, to_do) = sync_channel::<Job>(MOST_WAITING);
        let (answers, done) = channel();
        // It ends when the other ends of the channels are dropped.
        thread::Builder::new().name("inspector".to_owned()).spawn(move || {
            for Job { id, file, pid } in to_do {
                let answer = Answer {
                    id,
                    serial: file.serial,
                    inspected: Inspected::of(&file, pid),
                };
                // Before anybody hears of it: with the last who has it goes its descriptor.
                drop(file);
                if answers.send(answer).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, done, waiting: 0 })
    }

    /// `false` if too many wait.
    pub fn ask(&mut self, id: FileId, file: Arc<File>, pid: u32) -> bool {
        match self.jobs.try_send(Job { id, file, pid }) {
            Ok(()) => {
                self.waiting += 1;
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// The next answer that is there.
    pub fn take_next(&mut self) -> Option<Answer> {
        match self.done.try_recv() {
            Ok(answer) => {
                self.waiting -= 1;
                Some(answer)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.waiting = 0;
                None
            }
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }
}
