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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::metrics::Metrics;
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
    room: Arc<Semaphore>,
}

struct Message {
    bytes: Vec<u8>,
    answer: oneshot::Sender<Became>,
    _room: OwnedSemaphorePermit,
}

/// Messages of one set, and who waits for it.
#[derive(Default)]
struct Batch {
    rows: Rows,
    hash: Sha256,
    hashes: Vec<[u8; 32]>,
    waiting: Vec<(oneshot::Sender<Became>, Taken)>,
    since: Option<Instant>,
}

/// How long a message is remembered, so that it is not stored twice when its sender saw no answer.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Rows of a set, at most: a message more may come on top.
const ROWS_PER_SET: usize = 2 << 20;
/// How much a sender's clock may be ahead.
const AHEAD_US: i64 = 3_600_000_000;

type Known = Arc<Mutex<HashMap<[u8; 32], (Instant, Taken)>>>;

/// Starts both threads. They end when all senders are gone, after what came is written.
pub fn begin(store: Store, options: &Ingest, metrics: Arc<Metrics>) -> Result<(Batches, tokio::task::JoinHandle<()>)> {
    let (messages, received) = mpsc::channel(4096);
    let (batches, full) = std::sync::mpsc::sync_channel(0);
    let known = Known::default();
    // A third for messages as they came; of rows there are two batches, one of which is being written.
    let third = options.memory as usize * 1024 / 3;
    let filler = Filler {
        limits: Limits {
            message_bytes: (options.message as usize) << 20,
            ..Limits::default()
        },
        every: options.every,
        most: third * 1024 / 2,
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
    let room = Arc::new(Semaphore::new(third));
    Ok((Batches { messages, room }, writer))
}

impl Batches {
    /// Nothing if there is no room: the sender shall come again.
    pub async fn send(&self, bytes: Vec<u8>) -> Option<Became> {
        let size = u32::try_from(bytes.len().div_ceil(1024).max(1)).ok()?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(size).ok()?;
        let (answer, became) = oneshot::channel();
        let message = Message {
            bytes,
            answer,
            _room: room,
        };
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
            if (full || due || ended) && !batch.waiting.is_empty() && batches.send(std::mem::take(&mut batch)).is_err()
            {
                return;
            }
            if ended {
                return;
            }
        }
    }

    fn take(&self, batch: &mut Batch, message: Message) {
        let hash: [u8; 32] = Sha256::digest(&message.bytes).into();
        let already = lock(&self.known).get(&hash).copied();
        if let Some((since, taken)) = already
            && since.elapsed() < REMEMBERED
        {
            Metrics::add(&self.metrics.repeated, 1);
            // With the batch that is filled now: the one it is in is written before.
            batch.waiting.push((message.answer, taken));
            batch.since.get_or_insert_with(Instant::now);
            return;
        }
        let now = times::now_us();
        let limits = Limits {
            from_us: now.saturating_sub(self.oldest_us),
            to_us: now.saturating_add(AHEAD_US),
            ..self.limits
        };
        match batch.rows.add(&message.bytes, &limits) {
            Ok(taken) => {
                Metrics::add(&self.metrics.messages, 1);
                Metrics::add(&self.metrics.message_bytes, message.bytes.len() as u64);
                self.metrics.lost(&taken.lost);
                batch.hash.update(hash);
                batch.hashes.push(hash);
                batch.waiting.push((message.answer, taken));
                batch.since.get_or_insert_with(Instant::now);
                lock(&self.known).insert(hash, (Instant::now(), taken));
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
    let mut known = lock(known);
    match &became {
        Ok(()) => known.retain(|_, (since, _)| since.elapsed() < REMEMBERED),
        Err(error) => {
            Metrics::add(&metrics.failed, 1);
            eprintln!("profiler-store: {error}");
            for hash in &batch.hashes {
                known.remove(hash);
            }
        }
    }
    drop(known);
    for (answer, taken) in batch.waiting {
        // A sender that is gone needs no answer.
        let _ = answer.send(match &became {
            Ok(()) => Became::Stored(taken),
            Err(error) => Became::Failed(error.to_string()),
        });
    }
}

fn lock(known: &Known) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], (Instant, Taken)>> {
    // Whoever panicked left a map that is one.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
