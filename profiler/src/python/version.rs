//! Which CPython.

use std::fmt;

/// A CPython release, as `PY_VERSION_HEX` and `PY_VERSION` name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u8,
    pub minor: u8,
    pub micro: u8,
    /// `PY_VERSION_HEX`: major, minor, micro in a byte each, then release level and serial in four bits each.
    pub hex: u32,
}

/// Release levels of `PY_VERSION_HEX` (`Include/patchlevel.h`, the same in 3.8 – 3.13).
const ALPHA: u32 = 0xA;
const BETA: u32 = 0xB;
const CANDIDATE: u32 = 0xC;
const FINAL: u32 = 0xF;

impl Version {
    pub fn from_hex(hex: u32) -> Self {
        let [major, minor, micro, _] = hex.to_be_bytes();
        Self {
            major,
            minor,
            micro,
            hex,
        }
    }

    /// Reads `PY_VERSION`: `3.8.18`, `3.14.0rc2`, or `3.12.1+` for a build from between two releases.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('+').unwrap_or(text);
        let (major, rest) = number(text)?;
        let (minor, rest) = number(rest.strip_prefix('.')?)?;
        let (micro, rest) = number(rest.strip_prefix('.')?)?;
        let (level, serial) = if rest.is_empty() {
            (FINAL, "0")
        } else if let Some(serial) = rest.strip_prefix("rc") {
            (CANDIDATE, serial)
        } else if let Some(serial) = rest.strip_prefix('b') {
            (BETA, serial)
        } else {
            (ALPHA, rest.strip_prefix('a')?)
        };
        let (serial, rest) = number(serial)?;
        if serial > 0xF || !rest.is_empty() {
            return None;
        }
        let hex = u32::from_be_bytes([major, minor, micro, 0]) | level << 4 | u32::from(serial);
        Some(Self {
            major,
            minor,
            micro,
            hex,
        })
    }

    /// Alphas and betas still move struct fields; from the first release candidate on they stay.
    pub fn is_alpha_or_beta(self) -> bool {
        (self.hex >> 4) & 0xF < CANDIDATE
    }

    /// For `match` on the release series.
    pub fn series(self) -> (u8, u8) {
        (self.major, self.minor)
    }
}

/// A decimal number of at most three digits at the start of `text`, and what follows it.
fn number(text: &str) -> Option<(u8, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, rest))
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)?;
        let serial = self.hex & 0xF;
        match (self.hex >> 4) & 0xF {
            ALPHA => write!(f, "a{serial}"),
            BETA => write!(f, "b{serial}"),
            CANDIDATE => write!(f, "rc{serial}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:#010x})", self.hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_hex_name_the_same_release() {
        for (text, hex) in [
            ("3.8.18", 0x0308_12f0),
            ("3.12.1", 0x030c_01f0),
            ("3.14.0rc2", 0x030e_00c2),
            ("3.15.0a7", 0x030f_00a7),
            ("2.7.18", 0x0207_12f0),
        ] {
            let version = Version::parse(text).unwrap();
            assert_eq!(version.hex, hex);
            assert_eq!(version, Version::from_hex(hex));
            assert_eq!(version.to_string(), text);
        }
    }

    #[test]
    fn a_build_between_releases_counts_as_the_earlier_one() {
        assert_eq!(Version::parse("3.11.4+"), Version::parse("3.11.4"));
    }

    #[test]
    fn what_is_not_a_version_is_not_read_as_one() {
        for text in [
            "",
            "3",
            "3.8",
            "3.8.",
            "3.8.x",
            "3.8.1rc",
            "3.8.1rc16",
            "3.8.1 (main)",
            "3.8.300",
            ".3.8",
            "٣.8.1",
        ] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_alphas_and_betas_may_still_move_fields() {
        for (text, moving) in [
            ("3.14.0a1", true),
            ("3.14.0b4", true),
            ("3.14.0rc1", false),
            ("3.14.0", false),
        ] {
            assert_eq!(Version::parse(text).unwrap().is_alpha_or_beta(), moving, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = Version::parse(&text);
        }
    }
}
