//! How much one address may send.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// A minute's worth can come at once: agents send a window at a time.
pub const SECONDS: f64 = 60.0;
/// Addresses that are remembered. When there are more, those with a full minute are forgotten: for them it is the same.
const ADDRESSES: usize = 16 << 10;

pub struct Quota {
    per_second: f64,
    left: Mutex<HashMap<IpAddr, (f64, Instant)>>,
}

impl Quota {
    pub fn new(kib_per_second: u32) -> Self {
        Self {
            per_second: f64::from(kib_per_second) * 1024.0,
            left: Mutex::default(),
        }
    }

    /// Whether so many bytes could come from there now; none are counted.
    pub fn has(&self, address: IpAddr, bytes: usize) -> bool {
        let all = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let left = all
            .get(&address)
            .map_or(self.full(), |of| self.refilled(*of, Instant::now()));
        bytes as f64 <= left
    }

    fn full(&self) -> f64 {
        self.per_second * SECONDS
    }

    fn refilled(&self, (left, since): (f64, Instant), now: Instant) -> f64 {
        (left + now.saturating_duration_since(since).as_secs_f64() * self.per_second).min(self.full())
    }

    /// Whether so many bytes may come from there now; they are counted.
    pub fn allows(&self, address: IpAddr, bytes: usize) -> bool {
        self.allows_at(address, bytes, Instant::now())
    }

    fn allows_at(&self, address: IpAddr, bytes: usize, now: Instant) -> bool {
        let full = self.full();
        let refilled = |of| self.refilled(of, now);
        let mut all = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= ADDRESSES && !all.contains_key(&address) {
            all.retain(|_, of| refilled(*of) < full);
            if all.len() >= ADDRESSES {
                return false;
            }
        }
        let left = all.get(&address).map_or(full, |of| refilled(*of));
        let bytes = bytes as f64;
        let allowed = bytes <= left;
        all.insert(address, (if allowed { left - bytes } else { left }, now));
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;

    #[test]
    fn an_address_has_a_minute_at_once_and_then_what_comes_back() {
        let quota = Quota::new(1);
        let (one, other) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from([10, 0, 0, 1]));
        let start = Instant::now();
        assert!(quota.allows_at(one, 60 * 1024, start));
        assert!(!quota.allows_at(one, 1024, start));
        assert!(quota.allows_at(other, 1024, start));
        assert!(quota.allows_at(one, 1024, start + Duration::from_secs(1)));
        assert!(!quota.allows_at(one, 1024, start + Duration::from_secs(1)));
    }

    #[test]
    fn addresses_are_bounded() {
        let quota = Quota::new(1);
        let start = Instant::now();
        for number in 0..20_000_u32 {
            quota.allows_at(IpAddr::from(number.to_be_bytes()), 1, start);
        }
        assert!(quota.left.lock().unwrap().len() <= ADDRESSES);
    }
}
