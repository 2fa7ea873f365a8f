//! How long a thread had no CPU because the quota of its cgroup (`cpu.max`) was used up.
//!
//! No tracepoint tells of it. But the queue in which the threads of a cgroup stand for a CPU has a clock that goes while it
//! is held back, be that for its own cgroup's quota or for one above, and somebody stands in it
//! (`throttled_clock_self_time`; it is brought up to date when the queue goes on, which is before any of them runs).

use profiler_common::wait::{WAITS_THROTTLED, WaitSlot};

use super::{
    config::{has, read, setting},
    switch::field,
};

/// A thread's queue, its group, and its clock. A queue of none is 0.
#[derive(Clone, Copy, Default)]
pub struct Quota {
    pub queue: u64,
    pub group: u64,
    pub throttled_ns: u64,
}

impl Quota {
    /// As it was when the thread of a slot left its CPU.
    #[inline(always)]
    pub fn of_slot(slot: &WaitSlot) -> Self {
        Self {
            queue: slot.queue,
            group: slot.group,
            throttled_ns: slot.throttled_ns,
        }
    }
}

/// Of a task, which must be a typed pointer.
#[inline(always)]
pub fn of(task: *const u8) -> Quota {
    if !has(WAITS_THROTTLED) {
        return Quota::default();
    }
    let queue: *const u8 = field(task, setting!(queue_offset));
    Quota {
        queue: queue as u64,
        group: field(queue, setting!(queue_group_offset)),
        throttled_ns: field(queue, setting!(queue_throttled_offset)),
    }
}

/// How long it was held back since it was like that. It may have come to another CPU meanwhile, and so to another queue: then
/// it was held back in the old one, for it is put into the new one when it may run. The old one still exists, as the queues of
/// a group do for as long as that does.
#[inline(always)]
pub fn since(before: Quota, now: Quota) -> u64 {
    if before.queue == 0 || now.queue == 0 {
        return 0;
    }
    if before.queue == now.queue {
        return now.throttled_ns.saturating_sub(before.throttled_ns);
    }
    if before.group != now.group {
        return 0;
    }
    let later = read::<u64>(before.queue, setting!(queue_throttled_offset)).unwrap_or(0);
    later.saturating_sub(before.throttled_ns)
}
