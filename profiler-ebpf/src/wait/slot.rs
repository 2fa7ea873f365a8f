//! The account of one thread: on a CPU or away, and why. What was measured adds up to the time it has existed.

use core::ptr::read_volatile;

use profiler_common::wait::{WAIT_CLASSES, WAIT_READY, WaitSlot, WaitSum};

/// What is known of a thread as it leaves its CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leaving {
    pub now_ns: u64,
    /// The kernel's count of how long it has waited for CPUs so far.
    pub run_delay_ns: u64,
    pub class: u32,
    pub task_state: u32,
    pub call: u32,
    pub arguments: [u64; 2],
    pub pc: u64,
    pub sp: u64,
}

/// The thread leaves its CPU. `false` if it had not been seen to get it.
#[inline(always)]
pub fn leave(slot: &mut WaitSlot, leaving: &Leaving) -> bool {
    split(slot, leaving.run_delay_ns);
    if slot.in_ns != 0 {
        slot.on_cpu_ns = slot.on_cpu_ns.wrapping_add(leaving.now_ns.wrapping_sub(slot.in_ns));
    }
    let was_seen = slot.out_ns == 0;
    if !was_seen {
        slot.unseen_ns = slot.unseen_ns.wrapping_add(leaving.now_ns.wrapping_sub(slot.out_ns));
    }
    slot.in_ns = 0;
    slot.out_ns = leaving.now_ns;
    slot.run_delay_ns = leaving.run_delay_ns;
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

/// The thread gets a CPU. A wait is drawn with probability length/`target_ns`, of which `random` decides.
#[inline(always)]
pub fn enter(slot: &mut WaitSlot, now_ns: u64, target_ns: u64, random: impl FnOnce() -> u32) -> Outcome {
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
    let sum = sum(slot, class);
    sum.count = sum.count.wrapping_add(1);
    sum.ns = sum.ns.wrapping_add(length);
    if length > sum.longest_ns {
        sum.longest_ns = length;
    }
    let mut weight = length;
    let drawn = if length >= target_ns {
        true
    } else {
        weight = target_ns;
        // `target_ns` is below 2³², so the product fits.
        (u64::from(random()) * target_ns) >> 32 < length
    };
    if drawn {
        sum.drawn_ns = sum.drawn_ns.wrapping_add(weight);
    }
    slot.unsplit = 1;
    if !drawn {
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

/// Takes from the last wait what was only waiting for a CPU: the kernel counts that when the thread runs again.
#[inline(always)]
pub fn split(slot: &mut WaitSlot, run_delay_ns: u64) {
    if slot.unsplit == 0 {
        return;
    }
    slot.unsplit = 0;
    let ready = run_delay_ns.wrapping_sub(slot.run_delay_ns);
    let class = slot.class;
    let sum = sum(slot, class);
    sum.ready_ns = sum.ready_ns.wrapping_add(ready);
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
            enter(&mut slot, now, T, || u32::MAX);
        }
        assert_eq!(slot.on_cpu_ns, 20);
        let lock = slot.sums[WAIT_LOCK as usize];
        assert_eq!((lock.count, lock.ns, lock.longest_ns), (2, 3_000, 2_000));
        assert_eq!(slot.sums[WAIT_READY as usize].ns, 50);
        let waited: u64 = slot.sums.iter().map(|sum| sum.ns).sum();
        assert_eq!(slot.on_cpu_ns + waited, now - 100);
    }

    #[test]
    fn time_in_which_a_switch_was_not_seen_is_told_apart() {
        let mut slot = WaitSlot {
            in_ns: 100,
            ..WaitSlot::default()
        };
        away(&mut slot, WAIT_LOCK, 110, 0);
        let leaving = Leaving {
            now_ns: 150,
            ..Leaving::default()
        };
        assert!(!leave(&mut slot, &leaving));
        enter(&mut slot, 170, T, || u32::MAX);
        let waited: u64 = slot.sums.iter().map(|sum| sum.ns).sum();
        assert_eq!((slot.on_cpu_ns, slot.unseen_ns, waited), (10, 40, 20));
    }

    #[test]
    fn waiting_for_a_cpu_is_taken_from_the_wait_before_it() {
        let mut slot = WaitSlot::default();
        away(&mut slot, WAIT_SOCKET, 1_000, 70);
        enter(&mut slot, 2_000, T, || u32::MAX);
        away(&mut slot, WAIT_LOCK, 2_100, 470);
        assert_eq!(slot.sums[WAIT_SOCKET as usize].ready_ns, 400);
        // What user space splits at the end is not split again.
        enter(&mut slot, 2_500, T, || u32::MAX);
        split(&mut slot, 480);
        split(&mut slot, 990);
        assert_eq!(slot.sums[WAIT_LOCK as usize].ready_ns, 10);
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
            enter(&mut slot, now, T, &mut next);
        }
        let sum = slot.sums[WAIT_LOCK as usize];
        let error = sum.drawn_ns as f64 / sum.ns as f64 - 1.0;
        assert!(error.abs() < 0.03, "{error}");
        slot.drawn_ns = 0;
        away(&mut slot, WAIT_SOCKET, now, 0);
        assert_eq!(
            enter(&mut slot, now + T, T, || unreachable!("no chance")),
            Outcome::Drawn
        );
        assert_eq!((slot.drawn_ns, slot.drawn_weight_ns), (T, T));
    }

    #[test]
    fn a_wait_that_is_drawn_before_the_last_one_was_sent_says_so() {
        let mut slot = WaitSlot::default();
        away(&mut slot, WAIT_LOCK, 10, 0);
        assert_eq!(enter(&mut slot, 10 + T, T, || 0), Outcome::Drawn);
        away(&mut slot, WAIT_READY, 20 + T, 0);
        // One that is not drawn leaves it alone.
        assert_eq!(enter(&mut slot, 21 + T, T, || u32::MAX), Outcome::Counted);
        assert_eq!((slot.drawn_ns, slot.drawn_class), (T, WAIT_LOCK));
        away(&mut slot, WAIT_SOCKET, 30 + T, 0);
        assert_eq!(enter(&mut slot, 30 + 2 * T, T, || 0), Outcome::DrawnOver);
    }
}
