//! What waits to be sent: a directory with a file for each message, in order of their numbers. It survives us, and is no
//! larger than was said: the oldest goes first.
//!
//! Nothing is flushed to the disk by force. A process that is killed loses nothing; a machine that loses its power may lose
//! the last seconds, and what is damaged then is left out and counted. Flushing every window would wake a sleeping disk.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};

/// What a message's file is called: its number in twenty digits, and this.
const ENDING: &str = ".message";
/// While it is written.
const PARTIAL: &str = ".partial";

#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    most_bytes: u64,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Held as long as we are there: two that count each other's messages would remove each other's.
    _lock: File,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Oldest first.
    messages: VecDeque<Message>,
    bytes: u64,
    next: u64,
    /// Messages that went because there was no room for them.
    dropped: u64,
    closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    number: u64,
    bytes: u64,
}

impl Spool {
    /// Makes the directory if it is not there; what is in it waits again.
    pub fn open(directory: &Path, most_bytes: u64) -> anyhow::Result<Self> {
        let lock = only_one(directory)?;
        let how = || told(directory);
        let mut messages = Vec::new();
        for entry in fs::read_dir(directory).with_context(how)? {
            let entry = entry.with_context(how)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(PARTIAL) {
                // Of somebody who was killed while writing it.
                fs::remove_file(entry.path()).with_context(how)?;
            } else if let Some(number) = number(name) {
                let bytes = entry.metadata().with_context(how)?.len();
                messages.push(Message { number, bytes });
            }
        }
        messages.sort_unstable_by_key(|message| message.number);
        let waiting = Waiting {
            bytes: messages.iter().map(|message| message.bytes).sum(),
            next: messages.last().map_or(0, |message| message.number.saturating_add(1)),
            messages: messages.into(),
            ..Waiting::default()
        };
        let spool = Self {
            directory: directory.to_owned(),
            most_bytes,
            waiting: Mutex::new(waiting),
            changed: Condvar::new(),
            _lock: lock,
        };
        // Only trying tells whether a file can be made.
        let probe = spool.directory.join(format!("probe{PARTIAL}"));
        spool.write(&probe, b"").with_context(how)?;
        fs::remove_file(&probe).with_context(how)?;
        Ok(spool)
    }

    /// Keeps a message until it is sent.
    pub fn put(&self, message: &[u8]) -> anyhow::Result<()> {
        let bytes = message.len() as u64;
        let number = {
            let mut waiting = self.lock();
            if bytes > self.most_bytes {
                waiting.dropped += 1;
                return Ok(());
            }
            self.make_room(&mut waiting, bytes);
            let number = waiting.next;
            waiting.next = number.saturating_add(1);
            number
        };
        let path = self.path(number);
        let partial = path.with_extension("partial");
        let written = self.write(&partial, message).and_then(|()| fs::rename(&partial, &path));
        if let Err(error) = written {
            // It may be half there.
            let _ = fs::remove_file(&partial);
            self.lock().dropped += 1;
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
        let mut waiting = self.lock();
        waiting.messages.push_back(Message { number, bytes });
        waiting.bytes = waiting.bytes.saturating_add(bytes);
        drop(waiting);
        self.changed.notify_all();
        Ok(())
    }

    /// The oldest message, once there is one; `None` when nothing came in that time, or nothing will come any more. What
    /// cannot be read is left out, and counted as dropped.
    pub fn first(&self, patience: Duration) -> Option<(u64, Vec<u8>)> {
        loop {
            let message = {
                let waiting = self.lock();
                let (waiting, _) = self
                    .changed
                    .wait_timeout_while(waiting, patience, |waiting| {
                        waiting.messages.is_empty() && !waiting.closed
                    })
                    .unwrap_or_else(PoisonError::into_inner);
                *waiting.messages.front()?
            };
            match self.read(message) {
                Ok(bytes) => return Some((message.number, bytes)),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {
                    let mut waiting = self.lock();
                    // Unless it has made room for another meanwhile.
                    if self.take_off(&mut waiting, message.number) {
                        waiting.dropped += 1;
                    }
                }
                // For want of descriptors, say: it is there, and can be read later.
                Err(_) => {
                    self.pause(Duration::from_secs(1));
                    return None;
                }
            }
        }
    }

    /// It has been sent, or never will be.
    pub fn done(&self, number: u64) {
        let mut waiting = self.lock();
        self.take_off(&mut waiting, number);
    }

    /// No more messages will come, and nobody is to wait for any.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits for so long, or until nothing more will come.
    pub fn pause(&self, length: Duration) {
        let waiting = self.lock();
        let _ = self
            .changed
            .wait_timeout_while(waiting, length, |waiting| !waiting.closed);
    }

    /// How many wait, and how large they are; and how many went because there was no room.
    pub fn counts(&self) -> (u64, u64, u64) {
        let waiting = self.lock();
        (waiting.messages.len() as u64, waiting.bytes, waiting.dropped)
    }

    fn make_room(&self, waiting: &mut Waiting, bytes: u64) {
        while waiting.bytes.saturating_add(bytes) > self.most_bytes {
            let Some(oldest) = waiting.messages.front().copied() else {
                return;
            };
            self.take_off(waiting, oldest.number);
            waiting.dropped += 1;
        }
    }

    /// Whether it was there.
    fn take_off(&self, waiting: &mut Waiting, number: u64) -> bool {
        let Some(at) = waiting.messages.iter().position(|message| message.number == number) else {
            return false;
        };
        if let Some(message) = waiting.messages.remove(at) {
            waiting.bytes = waiting.bytes.saturating_sub(message.bytes);
        }
        // What cannot be removed is sent once more by the next agent.
        let _ = fs::remove_file(self.path(number));
        true
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        file.write_all(bytes)
    }

    fn read(&self, message: Message) -> io::Result<Vec<u8>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.path(message.number))?;
        let mut bytes = Vec::new();
        file.take(message.bytes.saturating_add(1)).read_to_end(&mut bytes)?;
        match bytes.len() as u64 == message.bytes && !bytes.is_empty() {
            true => Ok(bytes),
            false => Err(ErrorKind::InvalidData.into()),
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:020}{ENDING}"))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(directory: &Path) -> String {
    let shown = directory.display();
    format!("cannot keep messages in {shown}; name another directory with --spool")
}

/// Makes a directory if it is not there, and keeps other agents from it while the file is open: two that count each
/// other's messages would remove each other's.
pub fn only_one(directory: &Path) -> anyhow::Result<File> {
    // Names of functions and files of every program are in it.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| told(directory))?;
    let lock = File::open(directory).with_context(|| told(directory))?;
    match lock.try_lock() {
        // A file system without locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another agent uses {}; one is enough on a host, or name another directory with --spool",
            directory.display()
        ),
    }
}

fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(ENDING)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    fn texts(spool: &Spool) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some((number, bytes)) = spool.first(AT_ONCE) {
            texts.push(String::from_utf8(bytes).unwrap());
            spool.done(number);
        }
        texts
    }

    #[test]
    fn messages_come_out_in_order_and_one_stays_until_it_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path(), 100).unwrap();
        for text in ["one", "two"] {
            spool.put(text.as_bytes()).unwrap();
        }
        let (first, _) = spool.first(AT_ONCE).unwrap();
        assert_eq!(spool.first(AT_ONCE).unwrap().0, first);
        assert_eq!(texts(&spool), ["one", "two"]);
        assert_eq!(spool.counts(), (0, 0, 0));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_waits_survives_and_numbers_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path(), 100).unwrap();
        spool.put(b"before").unwrap();
        let again = format!("{:#}", Spool::open(directory.path(), 100).unwrap_err());
        assert!(again.starts_with("another agent uses "), "{again}");
        drop(spool);
        fs::write(directory.path().join("00000000000000000009.partial"), "half").unwrap();
        fs::write(directory.path().join("notes.txt"), "mine").unwrap();
        let spool = Spool::open(directory.path(), 100).unwrap();
        spool.put(b"after").unwrap();
        assert_eq!(texts(&spool), ["before", "after"]);
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "only what is not ours: {left:?}");
    }

    #[test]
    fn where_there_is_no_room_the_oldest_goes_and_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path(), 10).unwrap();
        for text in ["aaaa", "bbbb", "cccc"] {
            spool.put(text.as_bytes()).unwrap();
        }
        spool.put(&[0; 11]).unwrap();
        assert_eq!(spool.counts(), (2, 8, 2));
        assert_eq!(texts(&spool), ["bbbb", "cccc"]);
    }

    #[test]
    fn what_was_damaged_is_left_out_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path(), 100).unwrap();
        for text in ["damaged", "removed", "whole"] {
            spool.put(text.as_bytes()).unwrap();
        }
        fs::write(spool.path(0), "").unwrap();
        fs::remove_file(spool.path(1)).unwrap();
        assert_eq!(texts(&spool), ["whole"]);
        assert_eq!(spool.counts().2, 2);
    }
}
