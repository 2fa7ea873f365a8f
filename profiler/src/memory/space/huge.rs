//! Transparent huge pages: one fault brings 2 MiB instead of 4 KiB.
//!
//! Not a corner case: numpy asks for them (`MADV_HUGEPAGE`) from 4 MiB on, and on many machines everything gets them
//! unasked. Whether a fault really brought one depends on the kernel having 2 MiB in one piece, so it is looked up.

use std::fs;

/// What madvise has said about a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugeAdvice {
    #[default]
    None,
    Wanted,
    Refused,
}

/// When the kernel gives anonymous memory huge pages of 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thp {
    Always,
    /// Where madvise asked for them.
    Madvise,
    Never,
}

impl Thp {
    /// What this machine is set to; `Never` if it has no huge pages.
    pub fn read() -> Self {
        const DIRECTORY: &str = "/sys/kernel/mm/transparent_hugepage";
        let read = |file: &str| fs::read(format!("{DIRECTORY}/{file}")).unwrap_or_default();
        // From 6.8 on each size has a setting, which may be to inherit the common one.
        Self::parse(&read("hugepages-2048kB/enabled"))
            .or_else(|| Self::parse(&read("enabled")))
            .unwrap_or(Self::Never)
    }

    /// `always [madvise] never`; None if it says something else, like `always [inherit] madvise never`.
    fn parse(text: &[u8]) -> Option<Self> {
        let chosen = text
            .split(|&byte| byte == b' ' || byte == b'\n')
            .find_map(|word| word.strip_prefix(b"[")?.strip_suffix(b"]"))?;
        match chosen {
            b"always" => Some(Self::Always),
            b"madvise" => Some(Self::Madvise),
            b"never" => Some(Self::Never),
            _ => None,
        }
    }

    pub(super) fn allows(self, advice: HugeAdvice) -> bool {
        match advice {
            HugeAdvice::Refused => false,
            HugeAdvice::Wanted => self != Self::Never,
            HugeAdvice::None => self == Self::Always,
        }
    }
}

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    Small,
    /// 2 MiB, be it memory or zeros.
    Huge,
    /// Nothing any more, or it cannot be said.
    Unknown,
}

/// Looks at the pages of a process, soon after the fault that brought them.
pub trait PageProbe {
    fn size(&mut self, pid: u32, address: u64) -> PageSize;

    /// The process has another address space now, or none.
    fn forget(&mut self, pid: u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_in_brackets_is_the_one() {
        assert_eq!(Thp::parse(b"always [madvise] never\n"), Some(Thp::Madvise));
        assert_eq!(Thp::parse(b"[always] madvise never\n"), Some(Thp::Always));
        assert_eq!(Thp::parse(b"always inherit madvise [never]\n"), Some(Thp::Never));
        assert_eq!(Thp::parse(b"always [inherit] madvise never\n"), None);
        assert_eq!(Thp::parse(b""), None);
    }

    #[test]
    fn advice_decides_within_what_the_machine_allows() {
        assert!(Thp::Always.allows(HugeAdvice::None));
        assert!(!Thp::Always.allows(HugeAdvice::Refused));
        assert!(Thp::Madvise.allows(HugeAdvice::Wanted));
        assert!(!Thp::Madvise.allows(HugeAdvice::None));
        assert!(!Thp::Never.allows(HugeAdvice::Wanted));
    }
}
