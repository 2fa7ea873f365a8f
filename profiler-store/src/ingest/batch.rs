//! Messages that wait for their set: bounded by memory and time, and answered when it is written.
//!
//! One thread unpacks, another writes: while a set is compressed and synced, the next is filled.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use profiler_parquet::{Limits, Rows, Store, Taken};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{body::Held, metrics::Metrics};
use crate::{cli::Ingest, times};

/// What became of a message.
#[derive(Clone, Debug)]
pub enum Became {
    Stored(Taken),
    /// Sending it again does not help.
    Refused(String),
    /// Sending it again may help.
    Failed(String),
}

/// Where messages go.
#[derive(Clone)]
pub struct Batches {
    messages: mpsc::Sender<Message>,
    /// Of KiB that messages may have that are not yet unpacked.
    pub room: Arc<Semaphore>,
}

struct Message {
    held: Held,
    answer: oneshot::Sender<Became>,
}

/// Messages of one set. Who waits for them is in `Known`.
#[derive(Default)]
struct Batch {
    rows: Rows,
    hash: Sha256,
    hashes: Vec<[u8; 32]>,
    since: Option<Instant>,
}

/// How long a message is remembered, so that it is not stored twice when its sender saw no answer.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Rows of a set, at most: a message more may come on top.
const ROWS_PER_SET: usize = 2 << 20;
/// How much a sender's clock may be ahead.
const AHEAD_US: i64 = 3_600_000_000;

/// Messages that came, by their hashes.
type Known = Arc<Mutex<HashMap<[u8; 32], Seen>>>;

/// A message that was taken. Copies of it that come before it is written wait for the same write, and are told what became
/// of that: an answer about a copy is an answer about the samples.
struct Seen {
    since: Instant,
    taken: Taken,
    /// Nobody, once it is on disk.
    waiting: Option<Vec<oneshot::Sender<Became>>>,
}

/// Starts both threads. They end when all senders are gone, after what came is written.
pub fn begin(store: Store, options: &Ingest, metrics: Arc<Metrics>) -> Result<(Batches, tokio::task::JoinHandle<()>)> {
    let (messages, received) = mpsc::channel(4096);
    let (batches, full) = std::sync::mpsc::sync_channel(0);
    let known = Known::default();
    let filler = Filler {
        limits: Limits {
            message_bytes: most_of_a_message(options),
            unpacked_bytes: parts(options, 14),
            ..Limits::default()
        },
        every: options.every,
        most: parts(options, 7),
        oldest_us: i64::try_from(options.oldest.as_micros()).unwrap_or(i64::MAX),
        known: Arc::clone(&known),
        metrics: Arc::clone(&metrics),
    };
    let name = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let fill = name("unpack").spawn(move || filler.run(received, &batches));
    fill.context("cannot start a thread")?;
    let writer = tokio::task::spawn_blocking(move || {
        for batch in full {
            write(&store, batch, &known, &metrics);
        }
    });
    let room = Arc::new(Semaphore::new(parts(options, 8) / 1024));
    Ok((Batches { messages, room }, writer))
}

/// What `--memory` is for, in 64 parts: messages as they came (8), the one that is unpacked (14), and two batches of rows, one of
/// which is being written (7 each, and each may have a message on top, whose rows are not more than it was unpacked).
fn parts(options: &Ingest, parts: usize) -> usize {
    ((options.memory as usize) << 20) / 64 * parts
}

/// Bytes of a message, at most: it must have room.
pub fn most_of_a_message(options: &Ingest) -> usize {
    ((options.message as usize) << 20).min(parts(options, 8))
}

impl Batches {
    /// Room, and nobody who takes messages.
    #[cfg(test)]
    pub fn without_writer(kib: usize) -> Self {
        Self {
            messages: mpsc::channel(1).0,
            room: Arc::new(Semaphore::new(kib)),
        }
    }

    /// Nothing if there is no room: the sender shall come again.
    pub async fn send(&self, held: Held) -> Option<Became> {
        let (answer, became) = oneshot::channel();
        let message = Message { held, answer };
        self.messages.try_send(message).ok()?;
        Some(
            became
                .await
                .unwrap_or_else(|_| Became::Failed("the store is closing".to_owned())),
        )
    }
}

struct Filler {
    limits: Limits,
    every: Duration,
    /// Bytes of rows.
    most: usize,
    oldest_us: i64,
    known: Known,
    metrics: Arc<Metrics>,
}

impl Filler {
    fn run(&self, mut messages: mpsc::Receiver<Message>, batches: &std::sync::mpsc::SyncSender<Batch>) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
            // Every sender is told that the store is closing.
            return;
        };
        let mut batch = Batch::default();
        loop {
            let wait = batch.since.map(|since| self.every.saturating_sub(since.elapsed()));
            let message = runtime.block_on(async {
                match wait {
                    None => Ok(messages.recv().await),
                    Some(wait) => tokio::time::timeout(wait, messages.recv()).await,
                }
            });
            let ended = matches!(message, Ok(None));
            if let Ok(Some(message)) = message {
                self.take(&mut batch, message);
            }
            let full = batch.rows.bytes() > self.most || batch.rows.samples() > ROWS_PER_SET;
            let due = batch.since.is_some_and(|since| since.elapsed() >= self.every);
            if (full || due || ended) && !batch.hashes.is_empty() && batches.send(std::mem::take(&mut batch)).is_err() {
                return;
            }
            if ended {
                return;
            }
        }
    }

    fn take(&self, batch: &mut Batch, message: Message) {
        let hash: [u8; 32] = Sha256::digest(&message.held.bytes).into();
        if let Some(seen) = lock(&self.known).get_mut(&hash)
            && (seen.waiting.is_some() || seen.since.elapsed() < REMEMBERED)
        {
            Metrics::add(&self.metrics.repeated, 1);
            match &mut seen.waiting {
                Some(waiting) => waiting.push(message.answer),
                // A sender that is gone needs no answer.
                None => _ = message.answer.send(Became::Stored(seen.taken)),
            }
            return;
        }
        let now = times::now_us();
        let limits = Limits {
            from_us: now.saturating_sub(self.oldest_us),
            to_us: now.saturating_add(AHEAD_US),
            ..self.limits
        };
        match batch.rows.add(&message.held.bytes, &limits) {
            Ok(taken) => {
                Metrics::add(&self.metrics.messages, 1);
                Metrics::add(&self.metrics.message_bytes, message.held.bytes.len() as u64);
                self.metrics.lost(&taken.lost);
                batch.hash.update(hash);
                batch.hashes.push(hash);
                let since = *batch.since.get_or_insert_with(Instant::now);
                let waiting = Some(vec![message.answer]);
                lock(&self.known).insert(hash, Seen { since, taken, waiting });
            }
            Err(refused) => {
                Metrics::add(&self.metrics.refused, 1);
                // A sender that is gone needs no answer.
                let _ = message.answer.send(Became::Refused(refused.to_string()));
            }
        }
    }
}

fn write(store: &Store, batch: Batch, known: &Known, metrics: &Metrics) {
    let start = Instant::now();
    let became = match batch.rows.is_empty() {
        true => Ok(()),
        false => store.write(&batch.rows, batch.hash.finalize().into()).map(|appended| {
            Metrics::add(&metrics.samples, appended.samples);
            Metrics::add(&metrics.bytes, appended.bytes);
            Metrics::add(&metrics.sets, appended.files.len() as u64);
        }),
    };
    Metrics::add(
        &metrics.write_ms,
        u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
    );
    if let Err(error) = &became {
        Metrics::add(&metrics.failed, 1);
        eprintln!("profiler-store: {error}");
    }
    let mut known = lock(known);
    for hash in &batch.hashes {
        let (waiting, answer) = match &became {
            Ok(()) => {
                let Some(seen) = known.get_mut(hash) else { continue };
                seen.since = Instant::now();
                (seen.waiting.take(), Became::Stored(seen.taken))
            }
            // Forgotten, so that it is taken when it comes again.
            Err(error) => {
                let waiting = known.remove(hash).and_then(|seen| seen.waiting);
                (waiting, Became::Failed(error.to_string()))
            }
        };
        for waiting in waiting.into_iter().flatten() {
            // A sender that is gone needs no answer.
            let _ = waiting.send(answer.clone());
        }
    }
    known.retain(|_, seen| seen.waiting.is_some() || seen.since.elapsed() < REMEMBERED);
}

fn lock(known: &Known) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Seen>> {
    // Whoever panicked left a map that is one.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// A message of one sample without a stack.
    fn message() -> Vec<u8> {
        let strings = ["", "cpu", "nanoseconds"].map(str::to_owned).to_vec();
        let profile = profiler_otlp::Profile {
            sample_type: Some(profiler_otlp::ValueType {
                type_strindex: 1,
                unit_strindex: 2,
            }),
            samples: vec![profiler_otlp::Sample {
                values: vec![7],
                ..Default::default()
            }],
            time_unix_nano: times::now_us().cast_unsigned() * 1000,
            ..Default::default()
        };
        profiler_otlp::ProfilesData {
            resource_profiles: vec![profiler_otlp::ResourceProfiles {
                resource: None,
                scope_profiles: vec![profiler_otlp::ScopeProfiles {
                    scope: None,
                    profiles: vec![profile],
                }],
            }],
            dictionary: Some(profiler_otlp::Dictionary {
                string_table: strings,
                stack_table: vec![profiler_otlp::Stack::default()],
                ..Default::default()
            }),
        }
        .encode_to_vec()
    }

    fn filler() -> Filler {
        Filler {
            limits: Limits::default(),
            every: Duration::ZERO,
            most: usize::MAX,
            oldest_us: AHEAD_US,
            known: Known::default(),
            metrics: Arc::default(),
        }
    }

    fn take(filler: &Filler, batch: &mut Batch, bytes: &[u8]) -> oneshot::Receiver<Became> {
        let (answer, became) = oneshot::channel();
        let held = Held {
            bytes: bytes.to_vec(),
            room: None,
        };
        let message = Message { held, answer };
        filler.take(batch, message);
        became
    }

    #[test]
    fn a_copy_of_a_message_that_could_not_be_stored_is_not_called_stored() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let filler = filler();
        let bytes = message();
        let hour = profiler_parquet::Hour::of(times::now_us()).unwrap();
        // In the place of the day's directory, and of the next day's at midnight.
        let days = [hour.day(), hour.next().day()].map(|day| store.root().join(day));
        days.iter().for_each(|day| std::fs::write(day, "").unwrap());

        let mut full = Batch::default();
        let first = take(&filler, &mut full, &bytes);
        // The batch is being written when the sender, who saw no answer, sends again.
        let mut next = Batch::default();
        let mut copy = take(&filler, &mut next, &bytes);
        assert!(copy.try_recv().is_err(), "nothing is known of it yet");
        write(&store, full, &filler.known, &filler.metrics);
        for answer in [first, copy] {
            assert!(matches!(answer.blocking_recv().unwrap(), Became::Failed(_)));
        }
        assert!(next.hashes.is_empty());

        days.iter().for_each(|day| _ = std::fs::remove_file(day));
        let mut again = Batch::default();
        let third = take(&filler, &mut again, &bytes);
        assert_eq!(again.rows.samples(), 1);
        write(&store, again, &filler.known, &filler.metrics);
        assert!(matches!(third.blocking_recv().unwrap(), Became::Stored(_)));
        let fourth = take(&filler, &mut next, &bytes);
        assert!(matches!(fourth.blocking_recv().unwrap(), Became::Stored(_)));
        assert!(next.rows.is_empty());
    }
}
