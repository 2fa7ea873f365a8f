//! Samples out of many events: each stands for as many as it was drawn from.
//!
//! The gaps between samples are drawn at random, because a fixed gap would meet a program that does everything in turns
//! always at the same place. An event is taken with probability 1/`interval` and stands for `interval`, which makes sums
//! unbiased.

use profiler_common::limits::GATE_MOST;

/// Where the drawing stands, made of integers: all zeroes to begin with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Draw {
    /// Samples since the interval was last set or doubled.
    sampled: u32,
    /// 0 stands for 1.
    interval: u32,
    /// Events to let pass before the next sample.
    gap: u32,
    /// The interval from which `gap` was drawn: what the next sample stands for. 0 stands for 1.
    weight: u32,
}

impl Draw {
    /// How many events this one stands for, or 0 if it is to be left alone. After so many samples the interval doubles;
    /// `random`: asked for rarely.
    #[inline(always)]
    pub fn pass(&mut self, doubled_after: u32, random: impl FnOnce() -> u32) -> u32 {
        if self.gap > 0 {
            self.gap -= 1;
            return 0;
        }
        let weight = self.weight.max(1);
        let mut interval = self.interval.max(1);
        self.sampled += 1;
        if self.sampled >= doubled_after {
            self.sampled = 0;
            if interval < GATE_MOST {
                interval *= 2;
            }
        }
        self.interval = interval;
        // From 0 to 2 (interval - 1), each as likely: interval - 1 on average.
        self.gap = if interval > 1 { random() % (2 * interval - 1) } else { 0 };
        self.weight = interval;
        weight
    }

    #[inline(always)]
    pub fn interval(&self) -> u32 {
        self.interval
    }

    /// From the next sample on. The one whose gap has been drawn keeps what it stands for.
    #[inline(always)]
    pub fn set_interval(&mut self, interval: u32) {
        self.interval = interval;
        self.sampled = 0;
    }
}
