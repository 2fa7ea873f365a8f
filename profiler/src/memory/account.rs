//! What each site allocated, and what of it lives: the one account that reports read, whatever the source was.
//!
//! Everything is *weighted*: an event that was sampled with probability 1/w is entered w times, which keeps the sums
//! unbiased, and adds `size² · w · (w - 1)` to the variance (Horvitz and Thompson, for samples drawn independently of
//! each other). With weight 1 the sums are exact and the variance is 0.

use std::{
    collections::hash_map::Entry,
    ops::{Add, AddAssign, Sub, SubAssign},
};

use rustc_hash::FxHashMap;

use super::event::SiteId;
use super::loan::{Loan, Moved, settle};

/// Memory, as an estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amount {
    pub bytes: u64,
    /// Of what the source counts: pages of 4 KiB in growth mode, blocks in exact mode.
    pub count: u64,
    /// Of `bytes`, in bytes². Sums of whole numbers far below 2^53, or of multiples of 2^24 (pages), so what is added
    /// and taken away again leaves 0.
    pub variance: f64,
}

impl Amount {
    /// One event of `bytes` bytes and `count` blocks that stands for `weight` such events.
    pub fn sampled(bytes: u64, count: u64, weight: u32) -> Self {
        let (size, times) = (bytes as f64, f64::from(weight));
        Self {
            bytes: bytes.saturating_mul(weight.into()),
            count: count.saturating_mul(weight.into()),
            variance: if weight > 1 {
                size * size * times * (times - 1.0)
            } else {
                0.0
            },
        }
    }

    /// Half the width of the 95 % confidence interval of `bytes`, in bytes; 0 if it is exact.
    pub fn error_bytes(&self) -> f64 {
        1.96 * self.variance.max(0.0).sqrt()
    }
}

impl Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            count: self.count.saturating_add(other.count),
            variance: self.variance + other.variance,
        }
    }
}

/// Never below nothing: a source that reports the end of what never began must not make an account enormous.
impl Sub for Amount {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            count: self.count.saturating_sub(other.count),
            variance: (self.variance - other.variance).max(0.0),
        }
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

/// What one site comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// What came in the recording.
    pub allocated: Amount,
    /// Of that, what is still there.
    pub live: Amount,
    /// What of it was there when all sites together had most.
    pub at_peak: Amount,
    /// Of what came in the recording, what went in it.
    pub temporary: Amount,
    /// How long that was there, on average over its bytes; 0 if nothing went.
    pub mean_lifetime_ns: u64,
    /// 0 if nothing ever came.
    pub first_birth_ns: u64,
    pub last_birth_ns: u64,
}

/// The state of all sites at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub time_ns: u64,
    /// Of all sites.
    pub live_bytes: u64,
    /// Live bytes of the largest sites, largest first: the `SNAPSHOT_SITES` largest, and whatever has a thousandth.
    pub sites: Vec<(SiteId, u64)>,
}

const SNAPSHOT_SITES: usize = 50;
/// Even if all of them have a thousandth. 16 bytes each: 1,000 snapshots take up 4 MiB at most.
const MOST_SNAPSHOT_SITES: usize = 250;
/// When there are more, every other one goes. So a recording of hours has 500 to 1,000, evenly spaced.
const MOST_SNAPSHOTS: usize = 1000;

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    allocated: Amount,
    live: Amount,
    /// Not in `live`: see `loan`.
    moved: Moved,
    /// As of `epoch`; see `Accounts::account`.
    at_peak: Amount,
    moved_at_peak: Moved,
    epoch: u64,
    temporary: Amount,
    /// Of what went, byte by byte. A float, because bytes times nanoseconds leave 64 bits in no time.
    lifetime_byte_ns: f64,
    first_birth_ns: u64,
    last_birth_ns: u64,
    /// Of `allocated`, what windows had that are cut.
    told: Amount,
}

/// The accounts of all sites.
#[derive(Debug, Default)]
pub struct Accounts {
    sites: FxHashMap<SiteId, Account>,
    live: Amount,
    peak: Amount,
    peak_ns: u64,
    /// Counts the moments at which `live` was higher than ever before.
    epoch: u64,
    snapshots: Snapshots,
}

impl Accounts {
    /// `bytes` bytes in `count` blocks came from `site`, seen with probability 1/`weight`. Bytes and count are those
    /// of the one event that was seen.
    pub fn born(&mut self, site: SiteId, bytes: u64, count: u64, weight: u32, now_ns: u64) {
        self.born_amount(site, Amount::sampled(bytes, count, weight), now_ns);
    }

    /// As `born`, of what is weighted already.
    pub fn born_amount(&mut self, site: SiteId, amount: Amount, now_ns: u64) {
        let account = self.account(site);
        if account.allocated.count == 0 {
            account.first_birth_ns = now_ns;
        }
        account.last_birth_ns = now_ns;
        account.allocated += amount;
        account.live += amount;
        self.live += amount;
        if self.live.bytes > self.peak.bytes {
            self.peak = self.live;
            self.peak_ns = now_ns;
            // From here on, what each site has now is what it had at the peak: see `account`.
            self.epoch += 1;
        }
    }

    /// What was born at `born_ns` is gone; the other arguments are those with which it was born.
    pub fn died(&mut self, site: SiteId, bytes: u64, count: u64, weight: u32, born_ns: u64, now_ns: u64) {
        self.died_amount(site, Amount::sampled(bytes, count, weight), born_ns, now_ns);
    }

    /// As `died`, of what is weighted already.
    pub fn died_amount(&mut self, site: SiteId, amount: Amount, born_ns: u64, now_ns: u64) {
        let account = self.account(site);
        account.live -= amount;
        account.temporary += amount;
        account.lifetime_byte_ns += amount.bytes as f64 * now_ns.saturating_sub(born_ns) as f64;
        self.live -= amount;
    }

    /// It turns out that what `from` is said to have allocated at `born_ns`, and what lives, is `to`'s.
    pub fn reassign(&mut self, from: SiteId, to: SiteId, amount: Amount, born_ns: u64) {
        if from == to {
            return;
        }
        let account = self.account(from);
        account.allocated -= amount;
        account.live -= amount;
        let account = self.account(to);
        if account.allocated.count == 0 || born_ns < account.first_birth_ns {
            account.first_birth_ns = born_ns;
        }
        account.last_birth_ns = account.last_birth_ns.max(born_ns);
        account.allocated += amount;
        account.live += amount;
    }

    /// What `site` allocated, and what lives, can be followed no longer: it counts as never seen.
    pub fn withdraw(&mut self, site: SiteId, amount: Amount) {
        let account = self.account(site);
        account.allocated -= amount;
        account.live -= amount;
        self.live -= amount;
    }

    /// What `from` allocated is not in use any more, but was not given back either: `keeper` (a pseudo-site) has it. It
    /// counts as live there, and as allocated still where it was.
    pub fn kept(&mut self, from: SiteId, keeper: SiteId, amount: Amount, born_ns: u64, now_ns: u64) {
        let account = self.account(from);
        account.live -= amount;
        account.temporary += amount;
        account.lifetime_byte_ns += amount.bytes as f64 * now_ns.saturating_sub(born_ns) as f64;
        self.account(keeper).live += amount;
    }

    /// A sampled birth says that `loan.weight` times these pages of `from`'s are `to`'s now, who allocated them, unless
    /// it is a pseudo-site (`kept`).
    pub(super) fn lend(&mut self, from: SiteId, to: SiteId, loan: &Loan, kept: bool, now_ns: u64) {
        self.account(from).moved.add(loan.lent());
        let account = self.account(to);
        account.moved.add(loan.borrowed());
        if !kept {
            if account.allocated.count == 0 {
                account.first_birth_ns = now_ns;
            }
            account.last_birth_ns = now_ns;
            account.allocated += Amount {
                bytes: loan.bytes(),
                count: loan.count(),
                variance: loan.borrowed().variance,
            };
        }
    }

    /// What was lent at `born_ns` is `from`'s again, as far as is known.
    pub(super) fn give_back(&mut self, from: SiteId, to: SiteId, loan: &Loan, born_ns: u64, now_ns: u64) {
        self.account(from).moved.take_away(loan.lent());
        let account = self.account(to);
        account.moved.take_away(loan.borrowed());
        account.temporary += Amount {
            bytes: loan.bytes(),
            count: loan.count(),
            variance: loan.borrowed().variance,
        };
        account.lifetime_byte_ns += loan.bytes() as f64 * now_ns.saturating_sub(born_ns) as f64;
    }

    /// As `lend`, of what was lent before and is in all sums but those of who has what.
    pub(super) fn lend_again(&mut self, from: SiteId, to: SiteId, loan: &Loan) {
        self.account(from).moved.add(loan.lent());
        self.account(to).moved.add(loan.borrowed());
    }

    /// The other way round: what was lent is not said any more, until it is lent again.
    pub(super) fn set_aside(&mut self, from: SiteId, to: SiteId, loan: &Loan) {
        self.account(from).moved.take_away(loan.lent());
        self.account(to).moved.take_away(loan.borrowed());
    }

    /// The account of a site that is about to change.
    ///
    /// Its live amount has been the same since it was last touched. So if there was a higher peak since then, it had at
    /// that peak what it has now. That makes `at_peak` cost nothing while memory grows, when every birth is a new peak.
    fn account(&mut self, site: SiteId) -> &mut Account {
        let account = self.sites.entry(site).or_default();
        account.catch_up(self.epoch);
        account
    }

    /// All but what was moved.
    fn totals_of(&self, account: &Account) -> (Totals, Moved, Moved) {
        let Account {
            allocated,
            live,
            moved,
            at_peak,
            moved_at_peak,
            epoch,
            temporary,
            lifetime_byte_ns,
            first_birth_ns,
            last_birth_ns,
            told: _,
        } = *account;
        let (at_peak, moved_at_peak) = if epoch == self.epoch {
            (at_peak, moved_at_peak)
        } else {
            (live, moved)
        };
        let totals = Totals {
            allocated,
            live,
            at_peak,
            temporary,
            mean_lifetime_ns: match temporary.bytes {
                0 => 0,
                bytes => (lifetime_byte_ns / bytes as f64) as u64,
            },
            first_birth_ns,
            last_birth_ns,
        };
        (totals, moved, moved_at_peak)
    }

    /// Of one site; all 0 if it never had anything.
    #[cfg(test)]
    pub fn totals(&self, site: SiteId) -> Totals {
        self.all()
            .into_iter()
            .find(|&(of, _)| of == site)
            .map_or_else(Totals::default, |(_, totals)| totals)
    }

    /// All sites that ever had something, in no order.
    pub fn all(&self) -> Vec<(SiteId, Totals)> {
        let mut sites: Vec<_> = self
            .sites
            .iter()
            .map(|(&site, account)| (site, self.totals_of(account)))
            .collect();
        settle(
            sites
                .iter_mut()
                .map(|(_, (totals, moved, _))| (&mut totals.live, *moved)),
        );
        settle(
            sites
                .iter_mut()
                .map(|(_, (totals, _, moved))| (&mut totals.at_peak, *moved)),
        );
        for (_, (totals, moved, _)) in &mut sites {
            // What others have of it came and went.
            let bytes = moved
                .lent
                .min(totals.allocated.bytes.saturating_sub(totals.temporary.bytes));
            totals.temporary.bytes += bytes;
            totals.temporary.count += bytes / 4096;
        }
        sites.into_iter().map(|(site, (totals, ..))| (site, totals)).collect()
    }

    /// All sites, with what came since the last cut as what they allocated. What a window was told, and what turned out to
    /// be another's after it (`reassign`), is made up for by what comes later: the windows have no less than the whole.
    pub fn cut(&mut self) -> Vec<(SiteId, Totals)> {
        let mut all = self.all();
        for (site, totals) in &mut all {
            if let Some(account) = self.sites.get_mut(site) {
                let since = totals.allocated - account.told;
                account.told += since;
                totals.allocated = since;
            }
        }
        all
    }

    /// Gives sites other numbers. What two had that get the same is one's from then on.
    pub fn renumber(&mut self, number: impl Fn(SiteId) -> SiteId) {
        let epoch = self.epoch;
        for (site, mut account) in std::mem::take(&mut self.sites) {
            account.catch_up(epoch);
            match self.sites.entry(number(site)) {
                Entry::Vacant(entry) => {
                    entry.insert(account);
                }
                Entry::Occupied(mut entry) => entry.get_mut().join(&account),
            }
        }
    }

    /// Lets go of sites that have nothing, but for these.
    pub fn let_go(&mut self, kept: impl Fn(SiteId) -> bool) {
        self.sites
            .retain(|&site, account| account.has_something() || kept(site));
        if self.sites.capacity() > 4 * self.sites.len().max(1024) {
            self.sites.shrink_to_fit();
        }
    }

    pub fn has(&self, site: SiteId) -> bool {
        self.sites.contains_key(&site)
    }

    /// Whether anything of a site's lives.
    pub fn has_something(&self, site: SiteId) -> bool {
        self.sites.get(&site).is_some_and(Account::has_something)
    }

    /// What is there now, of all sites.
    pub fn live(&self) -> Amount {
        self.live
    }

    /// The most there ever was of all sites at once, and when.
    pub fn peak(&self) -> (Amount, u64) {
        (self.peak, self.peak_ns)
    }

    /// Remembers what lives now, for the curve. Called in even intervals.
    pub fn snapshot(&mut self, now_ns: u64) {
        let mut all: Vec<_> = self
            .sites
            .iter()
            .map(|(&site, account)| (site, account.live, account.moved))
            .collect();
        settle(all.iter_mut().map(|(_, live, moved)| (live, *moved)));
        let mut sites: Vec<_> = all
            .into_iter()
            .map(|(site, live, _)| (site, live.bytes))
            .filter(|&(_, bytes)| bytes > 0)
            .collect();
        sites.sort_unstable_by_key(|&(site, bytes)| (std::cmp::Reverse(bytes), site));
        let thousandth = self.live.bytes / 1000;
        let large = sites.partition_point(|&(_, bytes)| bytes >= thousandth);
        sites.truncate(large.clamp(SNAPSHOT_SITES, MOST_SNAPSHOT_SITES));
        sites.shrink_to_fit();
        self.snapshots.push(Snapshot {
            time_ns: now_ns,
            live_bytes: self.live.bytes,
            sites,
        });
    }

    /// In order of time; the latest is always there.
    pub fn snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.kept.iter().chain(&self.snapshots.latest)
    }
}

impl Account {
    fn has_something(&self) -> bool {
        self.live.bytes > 0 || !self.moved.is_nothing()
    }

    fn catch_up(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.at_peak = self.live;
            self.moved_at_peak = self.moved;
        }
    }

    /// Both are of the same epoch.
    fn join(&mut self, other: &Self) {
        // Every field is named, so that a new one cannot be forgotten here.
        let &Self {
            allocated,
            live,
            moved,
            at_peak,
            moved_at_peak,
            epoch: _,
            temporary,
            lifetime_byte_ns,
            first_birth_ns,
            last_birth_ns,
            told,
        } = other;
        self.first_birth_ns = match (self.allocated.count, allocated.count) {
            (0, _) => first_birth_ns,
            (_, 0) => self.first_birth_ns,
            _ => self.first_birth_ns.min(first_birth_ns),
        };
        self.last_birth_ns = self.last_birth_ns.max(last_birth_ns);
        self.allocated += allocated;
        self.live += live;
        self.moved.add(moved);
        self.at_peak += at_peak;
        self.moved_at_peak.add(moved_at_peak);
        self.temporary += temporary;
        self.lifetime_byte_ns += lifetime_byte_ns;
        self.told += told;
    }
}

/// One of `stride` snapshots, and the latest.
#[derive(Debug)]
struct Snapshots {
    kept: Vec<Snapshot>,
    latest: Option<Snapshot>,
    stride: u64,
    taken: u64,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            latest: None,
            stride: 1,
            taken: 0,
        }
    }
}

impl Snapshots {
    fn push(&mut self, snapshot: Snapshot) {
        let due = self.taken.is_multiple_of(self.stride);
        self.taken += 1;
        if !due {
            self.latest = Some(snapshot);
            return;
        }
        self.latest = None;
        self.kept.push(snapshot);
        if self.kept.len() > MOST_SNAPSHOTS {
            // The first stays, and so does the one just pushed: their number is odd.
            let mut index = 0;
            self.kept.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: u64 = 4096;

    #[test]
    fn what_comes_lives_until_it_goes_and_is_temporary_then() {
        let mut accounts = Accounts::default();
        accounts.born(7, PAGE, 1, 1, 100);
        accounts.born(7, 2 * PAGE, 2, 1, 200);
        accounts.died(7, PAGE, 1, 1, 100, 400);
        let totals = accounts.totals(7);
        assert_eq!((totals.allocated.bytes, totals.allocated.count), (3 * PAGE, 3));
        assert_eq!((totals.live.bytes, totals.live.count), (2 * PAGE, 2));
        assert_eq!((totals.temporary.bytes, totals.temporary.count), (PAGE, 1));
        assert_eq!(totals.mean_lifetime_ns, 300);
        assert_eq!((totals.first_birth_ns, totals.last_birth_ns), (100, 200));
        assert_eq!(totals.live.error_bytes(), 0.0);
        assert_eq!(accounts.totals(8), Totals::default());
    }

    #[test]
    fn a_sample_stands_for_its_weight_and_carries_an_error_until_it_is_gone() {
        let mut accounts = Accounts::default();
        for time in 0..100 {
            accounts.born(1, PAGE, 1, 64, time);
        }
        let live = accounts.totals(1).live;
        assert_eq!((live.bytes, live.count), (6400 * PAGE, 6400));
        // Variance in pages² is the sum of w (w - 1).
        let pages: f64 = 100.0 * 64.0 * 63.0;
        assert_eq!(live.variance, pages * (PAGE * PAGE) as f64);
        assert!((live.error_bytes() / PAGE as f64 - 1.96 * pages.sqrt()).abs() < 1e-6);
        for time in 0..100 {
            accounts.died(1, PAGE, 1, 64, time, 100);
        }
        assert_eq!(accounts.totals(1).live, Amount::default());
        assert_eq!(accounts.live(), Amount::default());
    }

    #[test]
    fn reassigned_memory_was_never_the_first_sites() {
        let mut accounts = Accounts::default();
        accounts.born(1, PAGE, 1, 1, 10);
        accounts.reassign(1, 2, Amount::sampled(PAGE, 1, 1), 20);
        assert_eq!(accounts.totals(1).allocated, Amount::default());
        assert_eq!(accounts.totals(2).allocated.bytes, PAGE);
        assert_eq!(accounts.totals(2).first_birth_ns, 20);
        assert_eq!(accounts.live().bytes, PAGE);
    }

    #[test]
    fn kept_memory_lives_at_its_keeper_and_was_allocated_by_its_site() {
        let mut accounts = Accounts::default();
        accounts.born(1, PAGE, 1, 1, 10);
        accounts.kept(1, 9, Amount::sampled(PAGE, 1, 1), 10, 20);
        let (site, keeper) = (accounts.totals(1), accounts.totals(9));
        assert_eq!(
            (site.allocated.bytes, site.live.bytes, site.temporary.bytes),
            (PAGE, 0, PAGE)
        );
        assert_eq!((keeper.allocated.bytes, keeper.live.bytes), (0, PAGE));
        assert_eq!(accounts.live().bytes, PAGE);
    }

    #[test]
    fn what_never_came_cannot_take_an_account_below_nothing() {
        let mut accounts = Accounts::default();
        accounts.died(1, PAGE, 1, 3, 0, 10);
        accounts.born(1, u64::MAX, 1, u32::MAX, 20);
        assert_eq!(accounts.totals(1).live.bytes, u64::MAX);
    }

    #[test]
    fn snapshots_stay_bounded_evenly_spaced_and_up_to_date() {
        let mut accounts = Accounts::default();
        for time in 0..10_000_u64 {
            accounts.born(0, 10, 1, 1, time);
            accounts.snapshot(time);
            assert!(accounts.snapshots().count() <= MOST_SNAPSHOTS + 1);
            assert_eq!(accounts.snapshots().last().map(|last| last.time_ns), Some(time));
        }
        let times: Vec<_> = accounts.snapshots().map(|snapshot| snapshot.time_ns).collect();
        assert_eq!(times[0], 0);
        assert!(times.len() >= MOST_SNAPSHOTS / 2);
        let even = &times[..times.len() - 1];
        assert!(even.windows(2).all(|pair| pair[1] - pair[0] == times[1]));
    }

    #[test]
    fn a_snapshot_has_the_largest_sites_and_those_with_a_thousandth() {
        let mut accounts = Accounts::default();
        for site in 0..1000 {
            accounts.born(site, if site < 60 { 1000 } else { 1 }, 1, 1, 0);
        }
        accounts.snapshot(1);
        accounts.born(5000, 1_000_000_000, 1, 1, 2);
        accounts.snapshot(3);
        let snapshots: Vec<_> = accounts.snapshots().collect();
        assert_eq!(snapshots[0].sites.len(), 60);
        assert_eq!(snapshots[1].sites.len(), SNAPSHOT_SITES);
        assert_eq!(snapshots[1].sites[0], (5000, 1_000_000_000));
    }

    proptest! {
        #[test]
        fn the_peak_is_what_each_site_had_when_all_had_most(
            events in prop::collection::vec((0..5_u32, 1..100_u64, 0..3_u8), 1..200),
        ) {
            let mut accounts = Accounts::default();
            let mut blocks: Vec<(u32, u64, u64)> = Vec::new();
            let (mut most, mut at_most) = (0, [0; 5]);
            for (time, (site, bytes, kind)) in events.into_iter().enumerate() {
                let time = time as u64;
                if kind == 0 && !blocks.is_empty() {
                    let (site, bytes, born) = blocks.swap_remove(bytes as usize % blocks.len());
                    accounts.died(site, bytes, 1, 1, born, time);
                } else {
                    accounts.born(site, bytes, 1, 1, time);
                    blocks.push((site, bytes, time));
                }
                let total: u64 = blocks.iter().map(|block| block.1).sum();
                if total > most {
                    most = total;
                    at_most = [0; 5];
                    for block in &blocks {
                        at_most[block.0 as usize] += block.1;
                    }
                }
            }
            prop_assert_eq!(accounts.peak().0.bytes, most);
            for site in 0..5 {
                prop_assert_eq!(accounts.totals(site).at_peak.bytes, at_most[site as usize]);
            }
        }
    }
}
