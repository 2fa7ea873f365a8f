//! Which windows are kept from being removed: those around a moment that somebody pointed at.
//!
//! What is asked for is the window that runs, the one before it (what led there) and the one after it (what became of
//! it).

use std::collections::VecDeque;

#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// The window that runs. Windows are numbered from 1 on.
    current: u64,
    /// First and last of what is to be kept, in order, none touching another.
    asked: VecDeque<(u64, u64)>,
}

impl Keep {
    /// This window runs from now on.
    pub fn begin(&mut self, number: u64) {
        self.current = number;
    }

    /// Keeps the windows around now.
    pub fn ask(&mut self) {
        let (first, last) = (self.current.saturating_sub(1), self.current + 1);
        match self.asked.back_mut() {
            Some((_, until)) if *until + 1 >= first => *until = last,
            Some(_) | None => self.asked.push_back((first, last)),
        }
    }

    pub fn is_kept(&self, number: u64) -> bool {
        self.asked.iter().any(|&(first, last)| (first..=last).contains(&number))
    }

    /// Nobody will ask about windows before this one any more.
    pub fn forget_before(&mut self, number: u64) {
        while self.asked.front().is_some_and(|&(_, last)| last < number) {
            self.asked.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(keep: &Keep) -> Vec<u64> {
        (0..100).filter(|&number| keep.is_kept(number)).collect()
    }

    #[test]
    fn the_window_before_this_one_and_the_next_are_kept() {
        let mut keep = Keep::default();
        keep.begin(7);
        assert_eq!(kept(&keep), [0; 0]);
        keep.ask();
        assert_eq!(kept(&keep), [6, 7, 8]);
        keep.begin(8);
        keep.ask();
        keep.ask();
        assert_eq!(kept(&keep), [6, 7, 8, 9]);
        keep.begin(20);
        keep.ask();
        assert_eq!(kept(&keep), [6, 7, 8, 9, 19, 20, 21]);
    }

    #[test]
    fn who_asks_for_weeks_takes_up_no_memory() {
        let mut keep = Keep::default();
        for number in 1..10_000 {
            keep.begin(number);
            if number % 5 == 0 {
                keep.ask();
            }
            keep.forget_before(number.saturating_sub(60));
            assert!(keep.asked.len() <= 14, "{:?}", keep.asked);
        }
        assert!(keep.is_kept(9994) && keep.is_kept(9996) && !keep.is_kept(9998));
    }
}
