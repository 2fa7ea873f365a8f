//! What the receiver counts, as Prometheus reads it.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use profiler_parquet::Lost;

#[derive(Default)]
pub struct Metrics {
    pub messages: AtomicU64,
    pub message_bytes: AtomicU64,
    pub repeated: AtomicU64,
    pub refused: AtomicU64,
    pub too_fast: AtomicU64,
    pub no_room: AtomicU64,
    pub failed: AtomicU64,
    pub samples: AtomicU64,
    pub sets: AtomicU64,
    pub bytes: AtomicU64,
    pub write_ms: AtomicU64,
    lost: [AtomicU64; Lost::NAMES.len()],
}

impl Metrics {
    pub fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }

    pub fn lost(&self, lost: &Lost) {
        for (counter, (_, count)) in self.lost.iter().zip(lost.counts()) {
            Self::add(counter, count);
        }
    }

    /// The text that `/metrics` answers with.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut counter = |name: &str, help: &str, counter: &AtomicU64| {
            let value = counter.load(Ordering::Relaxed);
            let name = format!("profiler_store_{name}_total");
            // Writing to a String cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n");
        };
        counter("messages", "Messages that were taken.", &self.messages);
        counter("message_bytes", "Their bytes, unpacked.", &self.message_bytes);
        counter("repeated_messages", "Messages that had come before.", &self.repeated);
        counter(
            "refused_messages",
            "Messages that cannot be read or ask for too much.",
            &self.refused,
        );
        counter(
            "throttled_messages",
            "Messages of senders over their quota.",
            &self.too_fast,
        );
        counter(
            "unhoused_messages",
            "Messages for which there was no memory.",
            &self.no_room,
        );
        counter("failed_writes", "Sets that could not be written.", &self.failed);
        counter("samples", "Samples that were written.", &self.samples);
        counter("sets", "Sets that were written.", &self.sets);
        counter("bytes", "Bytes that were written.", &self.bytes);
        counter("write_milliseconds", "Time that writing took.", &self.write_ms);
        for (name, count) in Lost::NAMES.iter().zip(&self.lost) {
            counter(
                &format!("lost_{name}"),
                "What was left out or cut, see docs/store.md.",
                count,
            );
        }
        text
    }
}
