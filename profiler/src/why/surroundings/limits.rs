//! What a process's cgroups let it have: CPUs, and memory.

use std::path::{Path, PathBuf};

use super::text;

#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub quota: Option<f64>,
    pub memory_left: Option<u64>,
    pub memory_limit: Option<u64>,
}

impl Limits {
    /// Of a cgroup and those above it: the least.
    pub fn of(root: &Path, path: &str) -> Self {
        let mut limits = Self::default();
        let Some(mut at) = below(root, path) else { return limits };
        loop {
            let number = |file: &str| {
                let text = text(&at.join(file))?;
                str::from_utf8(&text).ok()?.trim().parse::<u64>().ok()
            };
            // `max` is no number.
            if let Some(limit) = number("memory.max") {
                let left = limit.saturating_sub(number("memory.current").unwrap_or(0));
                if limits.memory_left.is_none_or(|least| left < least) {
                    (limits.memory_left, limits.memory_limit) = (Some(left), Some(limit));
                }
            }
            let quota = text(&at.join("cpu.max")).and_then(|text| quota(&text));
            limits.quota = match (limits.quota, quota) {
                (Some(least), Some(other)) => Some(least.min(other)),
                (least, other) => least.or(other),
            };
            if at == root || !at.pop() || !at.starts_with(root) {
                return limits;
            }
        }
    }
}

/// `50000 100000` is half a CPU; `max 100000` is none.
fn quota(text: &[u8]) -> Option<f64> {
    let mut words = str::from_utf8(text).ok()?.split_ascii_whitespace();
    let (quota, period): (f64, f64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (period > 0.0).then(|| quota / period)
}

/// A cgroup's directory. Nothing of one that lies outside ours.
pub fn below(root: &Path, path: &str) -> Option<PathBuf> {
    let path = path.trim_start_matches('/');
    (!path.split('/').any(|part| part == "..")).then(|| root.join(path))
}

/// `0-3,8` is five.
pub fn cpus_in(list: &str) -> Option<usize> {
    let mut all = 0usize;
    for part in list.trim().split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        all = all.checked_add(to.checked_sub(from)? as usize + 1)?;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotas_and_lists_of_cpus_are_read() {
        assert_eq!(quota(b"50000 100000\n"), Some(0.5));
        assert_eq!(quota(b"max 100000\n"), None);
        assert_eq!(cpus_in("\t0-3,8\n"), Some(5));
        assert_eq!(cpus_in("3-0"), None);
        assert_eq!(below(Path::new("/sys/fs/cgroup"), "/../x"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[0-9A-F: ,-]{0,80}") {
            quota(&bytes);
            cpus_in(&text);
        }
    }
}
