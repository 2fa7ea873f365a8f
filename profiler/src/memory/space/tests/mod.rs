mod claims;
mod loans;
mod naive;
mod size;

use super::*;
use crate::memory::event::{MapKind, Populated};

const PAGE: u64 = 4096;
const HUGE_PAGE: u64 = 512 * PAGE;
/// Where the tests' memory is; aligned like a huge page.
const BASE: u64 = 1 << 30;
const PID: u32 = 42;
const SECOND: u64 = 1_000_000_000;

/// Of every three huge pages' worth of addresses, one is huge, one is not, and one is gone.
struct EveryThird;

impl EveryThird {
    fn at(address: u64) -> PageSize {
        match (address / HUGE_PAGE) % 3 {
            0 => PageSize::Small,
            1 => PageSize::Huge,
            _ => PageSize::Unknown,
        }
    }
}

impl PageProbe for EveryThird {
    fn size(&mut self, _: u32, address: u64) -> PageSize {
        Self::at(address)
    }

    fn forget(&mut self, _: u32) {}
}

/// A model under test, with its accounts and a clock.
struct Fixture {
    growth: Growth,
    accounts: Accounts,
    now_ns: u64,
}

impl Fixture {
    fn new(limits: Limits, thp: Thp) -> Self {
        Self {
            growth: Growth::new(limits, thp, 0, Box::new(EveryThird)),
            accounts: Accounts::default(),
            now_ns: 0,
        }
    }

    fn take(&mut self, pid: u32, what: What) {
        let time_ns = self.now_ns;
        self.growth.take(&Event { pid, time_ns, what }, &mut self.accounts);
    }

    fn map(&mut self, pages: std::ops::Range<u64>, kind: MapKind) {
        self.take(
            PID,
            What::Map {
                start: BASE + pages.start * PAGE,
                bytes: (pages.end - pages.start) * PAGE,
                kind,
                mapped: Mapped::default(),
                populated: None,
                reserved: false,
                site: 0,
            },
        );
    }

    fn fault(&mut self, page: u64, write: bool, present: bool, site: SiteId) {
        self.fault_of(PID, page, write, present, 1, site);
    }

    fn fault_of(&mut self, pid: u32, page: u64, write: bool, present: bool, weight: u32, site: SiteId) {
        self.take(
            pid,
            What::Fault {
                address: BASE + page * PAGE + 123,
                write,
                present,
                weight,
                site,
            },
        );
    }

    fn write(&mut self, page: u64, site: SiteId) {
        self.fault(page, true, false, site);
    }

    fn unmap(&mut self, pages: std::ops::Range<u64>) {
        self.take(
            PID,
            What::Unmap {
                start: BASE + pages.start * PAGE,
                bytes: (pages.end - pages.start) * PAGE,
            },
        );
    }

    fn pool(&mut self, page: u64, site: SiteId) {
        self.take(
            PID,
            What::Pool {
                address: BASE + page * PAGE,
                bytes: 4 * PAGE as u32,
                object_bytes: 64,
                weight: 1,
                site,
            },
        );
    }

    /// Live pages of a site.
    fn live(&self, site: SiteId) -> u64 {
        let live = self.accounts.totals(site).live;
        assert_eq!(live.bytes, live.count * PAGE);
        live.count
    }

    fn allocated(&self, site: SiteId) -> u64 {
        self.accounts.totals(site).allocated.count
    }
}
