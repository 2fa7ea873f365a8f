//! The account of one thread: on a CPU or away, and why. What was measured adds up to the time it has existed.

use core::ptr::read_volatile;

use profiler_common::wait::{WAIT_CLASSES, WAIT_READY, WaitControl, WaitSlot, WaitSum};

/// What is known of a thread as it leaves its CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leaving {
    pub now_ns: u64,
    /// The kernel's counts of how long it has waited for CPUs so far, and been on them.
    pub run_delay_ns: u64,
    pub ran_ns: u64,
    /// Its queue, whose that is and its clock, as in [`WaitSlot`], and by how much that has gone on since it left before.
    pub queue: u64,
    pub group: u64,
    pub throttled_ns: u64,
    pub held_back_ns: u64,
    pub class: u32,
    pub task_state: u32,
    pub call: u32,
    pub arguments: [u64; 2],
    pub pc: u64,
    pub sp: u64,
}

/// The thread leaves its CPU. `false` if it had not been seen to get it: then the wait before is counted now, without a stack.
#[inline(always)]
pub fn leave(slot: &mut WaitSlot, leaving: &Leaving) -> bool {
    let was_seen = slot.out_ns == 0;
    if !was_seen {
        let passed = leaving.now_ns.saturating_sub(slot.out_ns);
        let ran = leaving.ran_ns.wrapping_sub(slot.ran_ns).min(passed);
        slot.in_ns = leaving.now_ns - ran;
        let waited = passed - ran;
        let sum = count(slot, waited);
        sum.drawn_ns = sum.drawn_ns.wrapping_add(waited);
    }
    split(slot, leaving.run_delay_ns, leaving.held_back_ns);
    if slot.in_ns != 0 {
        slot.on_cpu_ns = slot.on_cpu_ns.wrapping_add(leaving.now_ns.wrapping_sub(slot.in_ns));
    }
    slot.in_ns = 0;
    slot.out_ns = leaving.now_ns;
    slot.run_delay_ns = leaving.run_delay_ns;
    slot.ran_ns = leaving.ran_ns;
    slot.queue = leaving.queue;
    slot.group = leaving.group;
    slot.throttled_ns = leaving.throttled_ns;
    slot.class = leaving.class;
    slot.task_state = leaving.task_state;
    slot.call = leaving.call;
    slot.arguments = leaving.arguments;
    slot.pc = leaving.pc;
    slot.sp = leaving.sp;
    was_seen
}

/// What a wait that has ended comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Counted,
    /// It is to be sent.
    Drawn,
    /// It is to be sent, and takes the place of one that has not been.
    DrawnOver,
}

/// Whether a wait is drawn: with probability length/`target_ns`, which is below 2³², so the product fits.
#[inline(always)]
pub fn is_drawn(length_ns: u64, target_ns: u64, random: u32) -> bool {
    length_ns >= target_ns || (u64::from(random) * target_ns) >> 32 < length_ns
}

/// The thread gets a CPU. Of whether its wait is drawn, `random` decides.
#[inline(always)]
pub fn enter(slot: &mut WaitSlot, now_ns: u64, control: WaitControl, random: impl FnOnce() -> u32) -> Outcome {
    let WaitControl { target_ns, min_ns, .. } = control;
    let mut out_ns = slot.out_ns;
    if out_ns == 0 {
        // User space took it for running when it made the slot: it could have.
        out_ns = slot.in_ns;
        slot.class = WAIT_READY;
    }
    slot.out_ns = 0;
    slot.in_ns = now_ns;
    if out_ns == 0 {
        return Outcome::Counted;
    }
    // Clocks of two CPUs may differ by some nanoseconds.
    let length = now_ns.saturating_sub(out_ns);
    let class = slot.class;
    let sum = count(slot, length);
    let weight = if length < target_ns { target_ns } else { length };
    if length < min_ns {
        sum.ignored = sum.ignored.wrapping_add(1);
        sum.ignored_ns = sum.ignored_ns.wrapping_add(length);
        return Outcome::Counted;
    }
    if length >= target_ns || is_drawn(length, target_ns, random()) {
        sum.drawn_ns = sum.drawn_ns.wrapping_add(weight);
    } else {
        return Outcome::Counted;
    }
    let before = slot.drawn_ns;
    // Not 0, which is none.
    slot.drawn_ns = length.wrapping_add(u64::from(length == 0));
    slot.drawn_weight_ns = weight;
    slot.drawn_class = class;
    slot.drawn_state = slot.task_state;
    if before == 0 {
        Outcome::Drawn
    } else {
        Outcome::DrawnOver
    }
}

/// Adds a wait to the sum of its class.
#[inline(always)]
fn count(slot: &mut WaitSlot, length: u64) -> &mut WaitSum {
    slot.unsplit = 1;
    let class = slot.class;
    let sum = sum(slot, class);
    sum.count = sum.count.wrapping_add(1);
    sum.ns = sum.ns.wrapping_add(length);
    if length > sum.longest_ns {
        sum.longest_ns = length;
    }
    sum
}

/// The wait that is under way is shorter than what is asked for: it counts as if it were over.
#[inline(always)]
pub fn ignore(slot: &mut WaitSlot, length: u64) {
    let sum = count(slot, length);
    sum.ignored = sum.ignored.wrapping_add(1);
    sum.ignored_ns = sum.ignored_ns.wrapping_add(length);
}

/// Takes from the last wait what was only waiting for a CPU: the kernel counts that when the thread runs again. Its queue was
/// held back for `held_back_ns` since it left, which was its affair only as long as it stood there.
#[inline(always)]
pub fn split(slot: &mut WaitSlot, run_delay_ns: u64, held_back_ns: u64) {
    if slot.unsplit == 0 {
        return;
    }
    slot.unsplit = 0;
    let ready = run_delay_ns.wrapping_sub(slot.run_delay_ns);
    let class = slot.class;
    let sum = sum(slot, class);
    sum.ready_ns = sum.ready_ns.wrapping_add(ready);
    sum.throttled_ns = sum
        .throttled_ns
        .wrapping_add(if held_back_ns < ready { held_back_ns } else { ready });
}

#[inline(always)]
fn sum(slot: &mut WaitSlot, class: u32) -> &mut WaitSum {
    // SAFETY: a local is valid for reads. Volatile: see the crate's documentation.
    let class = unsafe { read_volatile(&raw const class) } as usize & (WAIT_CLASSES - 1);
    // SAFETY: the mask keeps it below the array's length.
    unsafe { &mut *slot.sums.as_mut_ptr().add(class) }
}

#[cfg(test)]
mod tests {
    use profiler_common::wait::{WAIT_LOCK, WAIT_READY, WAIT_SOCKET};

    use super::*;

    const T: u64 = 5_000_000;
    const ALL: WaitControl = WaitControl {
        target_ns: T,
        min_ns: 0,
        stall_ns: 0,
        io_target: 0,
        io_from_ns: 0,
        io_until_ns: 0,
    };

    fn away(slot: &mut WaitSlot, class: u32, now_ns: u64, run_delay_ns: u64) {
        let leaving = Leaving {
            now_ns,
            run_delay_ns,
            class,
            ..Leaving::default()
        };
        leave(slot, &leaving);
    }

    #[test]
    fn time_on_a_cpu_and_away_is_the_time_that_passed() {
        let mut slot = WaitSlot {
            in_ns: 100,
            ..WaitSlot::default()
        };
        let mut now = 100;
        for (class, on, off) in [(WAIT_LOCK, 10, 1_000), (WAIT_READY, 7, 50), (WAIT_LOCK, 3, 2_000)] {
            now += on;
            away(&mut slot, class, now, 0);
            now += off;
            enter(&mut slot, now, ALL, || u32::MAX);
        }
        assert_eq!(slot.on_cpu_ns, 20);
        let lock = slot.sums[WAIT_LOCK as usize];
        assert_eq!((lock.count, lock.ns, lock.longest_ns), (2, 3_000, 2_000));
        assert_eq!(slot.sums[WAIT_READY as usize].ns, 50);
        let waited: u64 = slot.sums.iter().map(|sum| sum.ns).sum();
        assert_eq!(slot.on_cpu_ns + waited, now - 100);
    }

    #[test]
    fn where_a_switch_was_not_seen_the_kernel_says_how_long_the_thread_ran() {
        let mut slot = WaitSlot {
            in_ns: 100,
            ..WaitSlot::default()
        };
        away(&mut slot, WAIT_LOCK, 110, 70);
        // Of 40 ns it ran 15, and could have run for 5 more.
        let leaving = Leaving {
            now_ns: 150,
            ran_ns: 15,
            run_delay_ns: 75,
            class: WAIT_SOCKET,
            ..Leaving::default()
        };
        assert!(!leave(&mut slot, &leaving));
        enter(&mut slot, 170, ALL, || u32::MAX);
        let lock = slot.sums[WAIT_LOCK as usize];
        assert_eq!((lock.count, lock.ns, lock.ready_ns, lock.drawn_ns), (1, 25, 5, 25));
        assert_eq!((slot.on_cpu_ns, slot.sums[WAIT_SOCKET as usize].ns), (25, 20));
        // More than passed is not possible.
        let leaving = Leaving {
            now_ns: 190,
            ran_ns: 1_000,
            ..Leaving::default()
        };
        away(&mut slot, WAIT_LOCK, 180, 75);
        leave(&mut slot, &leaving);
        assert_eq!((slot.on_cpu_ns, slot.sums[WAIT_LOCK as usize].ns), (45, 25));
    }

    #[test]
    fn waiting_for_a_cpu_is_taken_from_the_wait_before_it() {
        let mut slot = WaitSlot::default();
        away(&mut slot, WAIT_SOCKET, 1_000, 70);
        enter(&mut slot, 2_000, ALL, || u32::MAX);
        away(&mut slot, WAIT_LOCK, 2_100, 470);
        assert_eq!(slot.sums[WAIT_SOCKET as usize].ready_ns, 400);
        // What user space splits at the end is not split again.
        enter(&mut slot, 2_500, ALL, || u32::MAX);
        split(&mut slot, 480, 0);
        split(&mut slot, 990, 0);
        assert_eq!(slot.sums[WAIT_LOCK as usize].ready_ns, 10);
    }

    #[test]
    fn a_quota_that_was_used_up_holds_a_thread_back_no_longer_than_it_waited_for_a_cpu() {
        let mut slot = WaitSlot::default();
        let leaves = |slot: &mut WaitSlot, class, now_ns, run_delay_ns, held_back_ns| {
            let leaving = Leaving {
                now_ns,
                run_delay_ns,
                held_back_ns,
                class,
                ..Leaving::default()
            };
            leave(slot, &leaving);
        };
        leaves(&mut slot, WAIT_READY, 1_000, 0, 0);
        enter(&mut slot, 2_000, ALL, || u32::MAX);
        // It waited 1000 for a CPU, 900 of which its queue stood still.
        leaves(&mut slot, WAIT_SOCKET, 2_100, 1_000, 900);
        enter(&mut slot, 4_000, ALL, || u32::MAX);
        // Others were held back while it waited for the socket.
        leaves(&mut slot, WAIT_READY, 4_100, 1_050, 700);
        assert_eq!(slot.sums[WAIT_READY as usize].throttled_ns, 900);
        assert_eq!(slot.sums[WAIT_SOCKET as usize].throttled_ns, 50);
    }

    #[test]
    fn long_waits_are_all_drawn_and_short_ones_stand_for_as_much_as_there_was() {
        let mut slot = WaitSlot::default();
        let mut random = 1u32;
        let mut next = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random
        };
        let mut now = 0;
        for round in 0..200_000u64 {
            let length = match round % 2 {
                0 => 20_000,
                _ => 400_000,
            };
            away(&mut slot, WAIT_LOCK, now, 0);
            now += length;
            slot.drawn_ns = 0;
            enter(&mut slot, now, ALL, &mut next);
        }
        let sum = slot.sums[WAIT_LOCK as usize];
        let error = sum.drawn_ns as f64 / sum.ns as f64 - 1.0;
        assert!(error.abs() < 0.03, "{error}");
        slot.drawn_ns = 0;
        away(&mut slot, WAIT_SOCKET, now, 0);
        assert_eq!(
            enter(&mut slot, now + T, ALL, || unreachable!("no chance")),
            Outcome::Drawn
        );
        assert_eq!((slot.drawn_ns, slot.drawn_weight_ns), (T, T));
    }

    #[test]
    fn what_is_too_short_to_matter_is_never_drawn_and_how_much_it_was_is_known() {
        let control = WaitControl {
            target_ns: T,
            min_ns: T / 2,
            ..WaitControl::default()
        };
        let mut slot = WaitSlot::default();
        away(&mut slot, WAIT_LOCK, 10, 0);
        assert_eq!(
            enter(&mut slot, 10 + T / 2 - 1, control, || unreachable!("no chance")),
            Outcome::Counted
        );
        away(&mut slot, WAIT_LOCK, T, 0);
        assert_eq!(enter(&mut slot, T + T / 2, control, || 0), Outcome::Drawn);
        let sum = slot.sums[WAIT_LOCK as usize];
        assert_eq!((sum.count, sum.ns), (2, T - 1));
        assert_eq!((sum.ignored, sum.ignored_ns), (1, T / 2 - 1));
    }

    #[test]
    fn a_wait_that_is_drawn_before_the_last_one_was_sent_says_so() {
        let mut slot = WaitSlot::default();
        away(&mut slot, WAIT_LOCK, 10, 0);
        assert_eq!(enter(&mut slot, 10 + T, ALL, || 0), Outcome::Drawn);
        away(&mut slot, WAIT_READY, 20 + T, 0);
        // One that is not drawn leaves it alone.
        assert_eq!(enter(&mut slot, 21 + T, ALL, || u32::MAX), Outcome::Counted);
        assert_eq!((slot.drawn_ns, slot.drawn_class), (T, WAIT_LOCK));
        away(&mut slot, WAIT_SOCKET, 30 + T, 0);
        assert_eq!(enter(&mut slot, 30 + 2 * T, ALL, || 0), Outcome::DrawnOver);
    }
}
