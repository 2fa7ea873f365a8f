//! The thread that sends what waits for one receiver, oldest first, and again later what it did not take.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::spool::Spool;

/// After a failure, how long to wait: twice as long after each that follows, up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// When a receiver says how long.
const LONGEST_TOLD_PAUSE: Duration = Duration::from_secs(3600);
/// How long to go on sending when the agent ends. What is left waits for the next one.
const LAST_TRIES: Duration = Duration::from_secs(5);
/// How long to wait for a message at a time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Where messages go.
pub trait Receiver: Send + 'static {
    fn deliver(&mut self, message: &[u8]) -> Result<(), Refusal>;
}

/// Why a receiver did not take a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It may, later; perhaps it said when.
    Later { why: String, after: Option<Duration> },
    /// It never will.
    Never { why: String },
}

/// What became of messages.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    pub messages: u64,
    pub bytes: u64,
    /// Tries that failed, after which there was or will be another.
    pub failed: u64,
    /// Messages that the receiver will never take.
    pub refused: u64,
    /// Why the last try failed, while none has succeeded since.
    pub trouble: Option<String>,
}

#[derive(Debug)]
pub struct Courier {
    pub spool: Arc<Spool>,
    sent: Arc<Mutex<Sent>>,
    thread: Option<JoinHandle<()>>,
}

impl Courier {
    pub fn start(name: &str, spool: Spool, mut receiver: Box<dyn Receiver>) -> anyhow::Result<Self> {
        let spool = Arc::new(spool);
        let sent = Arc::new(Mutex::new(Sent::default()));
        let work = {
            let (spool, sent) = (Arc::clone(&spool), Arc::clone(&sent));
            move || work(&spool, &sent, &mut *receiver)
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .context("failed to start a thread that sends")?;
        Ok(Self {
            spool,
            sent,
            thread: Some(thread),
        })
    }

    pub fn sent(&self) -> Sent {
        lock(&self.sent).clone()
    }

    /// Sends what can be sent soon, and leaves the rest for the next agent.
    pub fn finish(&mut self) {
        self.spool.close();
        if let Some(thread) = self.thread.take() {
            // One that has panicked has left its messages in the spool.
            let _ = thread.join();
        }
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        self.finish();
    }
}

fn lock(sent: &Mutex<Sent>) -> std::sync::MutexGuard<'_, Sent> {
    sent.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(spool: &Spool, sent: &Mutex<Sent>, receiver: &mut dyn Receiver) {
    let mut pause = SHORTEST_PAUSE;
    let mut last_try = None;
    loop {
        let closed = spool.is_closed();
        if closed && Instant::now() >= *last_try.get_or_insert_with(|| Instant::now() + LAST_TRIES) {
            return;
        }
        let Some((number, message)) = spool.first(PATIENCE) else {
            if spool.is_closed() {
                return;
            }
            continue;
        };
        match receiver.deliver(&message) {
            Ok(()) => {
                spool.done(number);
                let mut sent = lock(sent);
                sent.messages += 1;
                sent.bytes += message.len() as u64;
                sent.trouble = None;
                pause = SHORTEST_PAUSE;
            }
            Err(Refusal::Never { why }) => {
                spool.done(number);
                let mut sent = lock(sent);
                sent.refused += 1;
                sent.trouble = Some(why);
            }
            Err(Refusal::Later { why, after }) => {
                {
                    let mut sent = lock(sent);
                    sent.failed += 1;
                    sent.trouble = Some(why);
                }
                if closed || spool.is_closed() {
                    return;
                }
                // Agents of a fleet that lost one receiver at one time must not all come back at one time, and none before it
                // was told to.
                let spread = 1.0 + fastrand::f64();
                let told = after.map(|after| after.min(LONGEST_TOLD_PAUSE));
                spool.pause(told.unwrap_or(pause).mul_f64(spread));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver as Answers, Sender, channel};

    use super::*;

    struct Scripted {
        answers: Answers<Result<(), Refusal>>,
        got: Sender<Vec<u8>>,
    }

    impl Receiver for Scripted {
        fn deliver(&mut self, message: &[u8]) -> Result<(), Refusal> {
            let answer = self.answers.recv().unwrap_or(Ok(()));
            let _ = self.got.send(message.to_vec());
            answer
        }
    }

    #[test]
    fn what_a_receiver_did_not_take_is_sent_again_first_and_what_it_never_will_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path(), 1000).unwrap();
        let (answer, answers) = channel();
        let (got, messages) = channel();
        let later = Refusal::Later {
            why: "busy".to_owned(),
            after: Some(Duration::from_millis(1)),
        };
        let never = Refusal::Never {
            why: "what is this?".to_owned(),
        };
        for this in [Err(later), Ok(()), Err(never), Ok(())] {
            answer.send(this).unwrap();
        }
        let mut courier = Courier::start("test", spool, Box::new(Scripted { answers, got })).unwrap();
        for text in ["one", "two", "three"] {
            courier.spool.put(text.as_bytes()).unwrap();
        }
        let seen: Vec<_> = (0..4).map(|_| messages.recv().unwrap()).collect();
        assert_eq!(seen, [&b"one"[..], b"one", b"two", b"three"]);
        drop(answer);
        courier.finish();
        let sent = courier.sent();
        assert_eq!((sent.messages, sent.failed, sent.refused), (2, 1, 1));
        assert_eq!(sent.trouble, None);
        assert_eq!(courier.spool.counts(), (0, 0, 0));
    }

    #[test]
    fn an_agent_that_ends_leaves_what_could_not_be_sent() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path(), 1000).unwrap();
        let (answer, answers) = channel();
        let (got, messages) = channel();
        let mut courier = Courier::start("test", spool, Box::new(Scripted { answers, got })).unwrap();
        courier.spool.put(b"one").unwrap();
        let later = |after| {
            Err(Refusal::Later {
                why: "away".to_owned(),
                after,
            })
        };
        answer.send(later(Some(Duration::from_secs(300)))).unwrap();
        messages.recv().unwrap();
        // It waits for minutes now, and is not waited for.
        answer.send(later(None)).unwrap();
        courier.finish();
        assert_eq!(courier.spool.counts().0, 1);
        assert_eq!(courier.sent().trouble.as_deref(), Some("away"));
    }
}
