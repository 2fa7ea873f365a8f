//! Whose the pages of pools are where births of pools are sampled.
//!
//! A pool that is used again has pages that its first toucher is told to have (the *lender*). A birth that was followed
//! with probability 1/w says whose its pool is now, and stands for w births of which the others are not known, but had
//! lenders just like this one. So as long as it is the latest birth at its address, w times its pages are the borrower's
//! and no longer the lender's. (The kernel side tells of the next birth there, followed or not; then that is over.)
//!
//! That is Horvitz and Thompson's estimator: what the borrower has is the sum of the weights of its pools. What the
//! lender has follows, since all together have what faults have told. A lender may come out below nothing by chance; then
//! borrowers have so much less.

use super::account::Amount;

/// What one site has of others, and others of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Moved {
    pub borrowed: u64,
    pub lent: u64,
    /// What that adds to the site's variance; negative where the lender's own samples are more than what is left to it.
    pub variance: f64,
}

/// Pages of a lender with a pool that stands for `weight`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Loan {
    /// Of this pool alone.
    pub pages: Amount,
    pub weight: u32,
}

impl Loan {
    pub fn bytes(&self) -> u64 {
        self.pages.bytes.saturating_mul(self.weight.into())
    }

    pub fn count(&self) -> u64 {
        self.pages.count.saturating_mul(self.weight.into())
    }

    /// Of the pages themselves, which are a sample where faults are sampled.
    fn variance_of_pages(&self) -> f64 {
        self.pages.variance * f64::from(self.weight)
    }

    /// Of the birth: all pages of a pool are one draw.
    fn variance_of_birth(&self) -> f64 {
        let (size, weight) = (self.pages.bytes as f64, f64::from(self.weight));
        size * size * weight * (weight - 1.0)
    }

    pub fn borrowed(&self) -> Moved {
        Moved {
            borrowed: self.bytes(),
            lent: 0,
            variance: self.variance_of_birth() + self.variance_of_pages(),
        }
    }

    pub fn lent(&self) -> Moved {
        Moved {
            borrowed: 0,
            lent: self.bytes(),
            variance: self.variance_of_birth() - self.variance_of_pages(),
        }
    }
}

impl Moved {
    pub fn add(&mut self, other: Self) {
        self.borrowed = self.borrowed.saturating_add(other.borrowed);
        self.lent = self.lent.saturating_add(other.lent);
        self.variance += other.variance;
    }

    pub fn take_away(&mut self, other: Self) {
        self.borrowed = self.borrowed.saturating_sub(other.borrowed);
        self.lent = self.lent.saturating_sub(other.lent);
        self.variance -= other.variance;
    }

    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Bytes that came from others beyond what went to them.
    fn net(&self) -> i128 {
        i128::from(self.borrowed) - i128::from(self.lent)
    }
}

const PAGE: u64 = 4096;

/// Puts what was moved into what each site has. The sum stays as it is if all that was moved is in it.
pub(super) fn settle<'a>(sites: impl Iterator<Item = (&'a mut Amount, Moved)>) {
    let sites: Vec<_> = sites.filter(|(_, moved)| !moved.is_nothing()).collect();
    let after = |amount: &Amount, moved: &Moved| i128::from(amount.bytes) + moved.net();
    let missing: i128 = sites.iter().map(|(amount, moved)| (-after(amount, moved)).max(0)).sum();
    let gained: i128 = sites.iter().map(|(_, moved)| moved.net().max(0)).sum();
    let missing = missing.min(gained);
    // Rounded so that the parts are the whole.
    let part = |gained_so_far: i128| match gained {
        0 => 0,
        _ => missing * gained_so_far / gained,
    };
    let mut so_far = 0;
    for (amount, moved) in sites {
        let gain = moved.net().max(0);
        let less = part(so_far + gain) - part(so_far);
        so_far += gain;
        amount.bytes = u64::try_from((after(amount, &moved) - less).max(0)).unwrap_or(u64::MAX);
        amount.count = amount.bytes.div_ceil(PAGE);
        amount.variance = (amount.variance + moved.variance).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pages(pages: u64) -> Amount {
        Amount::sampled(pages * PAGE, pages, 1)
    }

    fn moved(borrowed: u64, lent: u64) -> Moved {
        Moved {
            borrowed: borrowed * PAGE,
            lent: lent * PAGE,
            variance: 0.0,
        }
    }

    #[test]
    fn who_lent_more_than_it_had_has_nothing_and_borrowers_that_much_less() {
        let mut amounts = [pages(10), pages(0), pages(5), pages(7)];
        let moves = [moved(0, 12), moved(8, 0), moved(4, 0), moved(0, 0)];
        settle(amounts.iter_mut().zip(moves));
        let have: Vec<_> = amounts.iter().map(|amount| amount.bytes).collect();
        assert_eq!(have[0], 0);
        // Two thirds and one third of the two that were not there.
        assert_eq!(have[1] + have[2], 15 * PAGE);
        assert!(have[1].abs_diff(8 * PAGE - 4 * PAGE / 3) <= 1, "{have:?}");
        assert_eq!(have[3], 7 * PAGE);
    }

    #[test]
    fn a_loan_is_one_draw_and_gone_without_a_trace() {
        let loan = Loan {
            pages: pages(4),
            weight: 3,
        };
        let mut site = Moved::default();
        site.add(loan.borrowed());
        assert_eq!((site.borrowed, site.lent), (12 * PAGE, 0));
        assert_eq!(site.variance, (16 * PAGE * PAGE * 6) as f64);
        site.take_away(loan.borrowed());
        assert!(site.is_nothing());
    }

    proptest! {
        #[test]
        fn nothing_comes_and_nothing_goes(
            sites in prop::collection::vec(0..50_u64, 2..8),
            loans in prop::collection::vec((0..8_usize, 0..8_usize, 0..30_u64), 0..20),
        ) {
            let mut amounts: Vec<_> = sites.iter().map(|&n| pages(n)).collect();
            let mut moves = vec![Moved::default(); amounts.len()];
            for (from, to, n) in loans {
                let (from, to) = (from % amounts.len(), to % amounts.len());
                moves[from].add(moved(0, n));
                moves[to].add(moved(n, 0));
            }
            settle(amounts.iter_mut().zip(moves));
            let sum: u64 = amounts.iter().map(|amount| amount.bytes).sum();
            prop_assert_eq!(sum, sites.iter().sum::<u64>() * PAGE);
        }
    }
}
