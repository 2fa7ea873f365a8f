//! What was counted besides samples: how they went, and what is missing.

use profiler_common::record::{
    NATIVE_COMPLETE, NATIVE_STATUSES, PYTHON_COMPLETE, PYTHON_NO_THREAD_STATE, PYTHON_NOT_INITIALIZED,
};

use crate::decode::RawStack;

/// What was counted besides samples, under names the summary shows.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Samples received.
    pub samples: u64,
    /// Of those, at ticks of the CPU clock: the others are stacks that other instruments took.
    pub ticks: u64,
    /// When the first was taken (CLOCK_MONOTONIC).
    pub first_sample_ns: Option<u64>,
    /// Of those, by how the Python stack was read. Not in a Python process: in none of them.
    pub python_complete: u64,
    pub python_truncated: u64,
    pub python_torn: u64,
    pub python_bad_state: u64,
    /// The interpreter was starting or finalizing.
    pub python_not_initialized: u64,
    /// A thread of a Python process that never ran Python, or does not now.
    pub python_no_frames: u64,
    /// The process turned out to be a CPython, but was not known to be at the time.
    pub python_unrecognized: u64,
    /// Samples by how their native stack ends (`NATIVE_…`).
    pub native: [u64; NATIVE_STATUSES],
    /// Samples of CPython whose evaluation loops and Python frames do not add up.
    pub not_interleaved: u64,
    /// Of those, the samples of compiled Python functions.
    pub compiled: u64,
    /// Samples in which a Python function has no name.
    pub unknown_functions: u64,
    /// Samples with frames of others that are not shown: beside frames that are, and without any.
    pub python_unseen_beside: u64,
    pub python_unseen: u64,
    /// Samples that refer to a stack that never arrived.
    pub lost_stacks: u64,
    /// Samples of a process that had execed or ended since.
    pub stale: u64,
    /// Records that could not be decoded.
    pub malformed: u64,
    /// CPython processes the kernel side had no room for.
    pub not_walked: u64,
    /// Processes whose mappings, and files whose unwind tables it had no room for.
    pub not_unwound: u64,
    pub tables_without_room: u64,
    /// Unwind rules it had no number left for.
    pub rules_refused: u64,
    /// Side-band events the kernel had no room for: processes or mappings may be missing.
    pub lost_events: u64,
    /// Different stacks under one key: should never be seen.
    pub collisions: u64,
    /// Processes whose perf map was not read whole.
    pub perf_maps_cut: u64,
}

impl Tally {
    /// Adds what was counted after.
    pub fn add(&mut self, after: &Self) {
        // Every field is named, so that a new one cannot be forgotten here.
        let Self {
            samples,
            ticks,
            first_sample_ns,
            native,
            python_complete,
            python_truncated,
            python_torn,
            python_bad_state,
            python_not_initialized,
            python_no_frames,
            python_unrecognized,
            not_interleaved,
            compiled,
            unknown_functions,
            python_unseen_beside,
            python_unseen,
            lost_stacks,
            stale,
            malformed,
            not_walked,
            not_unwound,
            tables_without_room,
            rules_refused,
            lost_events,
            collisions,
            perf_maps_cut,
        } = after;
        self.first_sample_ns = self.first_sample_ns.or(*first_sample_ns);
        for (sum, more) in self.native.iter_mut().zip(native) {
            *sum += more;
        }
        self.samples += samples;
        self.ticks += ticks;
        self.python_complete += python_complete;
        self.python_truncated += python_truncated;
        self.python_torn += python_torn;
        self.python_bad_state += python_bad_state;
        self.python_not_initialized += python_not_initialized;
        self.python_no_frames += python_no_frames;
        self.python_unrecognized += python_unrecognized;
        self.not_interleaved += not_interleaved;
        self.compiled += compiled;
        self.unknown_functions += unknown_functions;
        self.python_unseen_beside += python_unseen_beside;
        self.python_unseen += python_unseen;
        self.lost_stacks += lost_stacks;
        self.stale += stale;
        self.malformed += malformed;
        self.not_walked += not_walked;
        self.not_unwound += not_unwound;
        self.tables_without_room += tables_without_room;
        self.rules_refused += rules_refused;
        self.lost_events += lost_events;
        self.collisions += collisions;
        self.perf_maps_cut += perf_maps_cut;
    }

    /// Samples of a stack whose native part is whole, wherever the unwinder stopped beyond it.
    pub fn whole_after_all(&mut self, stack: &RawStack, count: u64) {
        if let Some(ended) = self.native.get_mut(stack.native_status as usize) {
            *ended = ended.saturating_sub(count);
            self.native[NATIVE_COMPLETE as usize] += count;
        }
    }

    /// Samples of a stack with a marker for frames of others, which were counted as if there were none.
    pub fn unseen(&mut self, stack: &RawStack, count: u64) {
        let counted_as = match stack.python_status {
            PYTHON_COMPLETE if stack.python.is_empty() => &mut self.python_no_frames,
            PYTHON_COMPLETE => {
                self.python_unseen_beside += count;
                return;
            }
            PYTHON_NO_THREAD_STATE => &mut self.python_no_frames,
            PYTHON_NOT_INITIALIZED => &mut self.python_not_initialized,
            _ => return,
        };
        *counted_as = counted_as.saturating_sub(count);
        self.python_unseen += count;
    }
}
