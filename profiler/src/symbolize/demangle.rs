//! Names as their authors wrote them, out of what C++ and Rust compilers make of them.
//!
//! Not left to blazesym, because a mangled name is foreign and can stand for one of any length: its parts refer to
//! earlier parts. 228 bytes were seen to become 9.8 MB, and each further 37 make that twelve times as much
//! (cpp_demangle 0.5.1 as `Symbol::demangle` calls it). Here a name ends where nobody reads on.

use std::fmt::{self, Write as _};

use cpp_demangle::{BorrowedSymbol, DemangleOptions};

/// Templates of templates do reach this; nobody reads them to their ends.
const MOST_BYTES: usize = 4096;

/// The name a mangled one stands for; any other as it is. Names longer than 4 KiB are cut.
pub(super) fn demangle(name: &str) -> String {
    let mut text = Bounded::default();
    // `_R…` and, with a hash at its end that says nothing, `_ZN…17h0123456789abcdefE`.
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        let outcome = write!(text, "{rust:#}");
        if outcome.is_ok() || text.is_full() {
            return text.finish();
        }
    } else if is_cpp(name)
        && let Ok((symbol, tail)) = BorrowedSymbol::with_tail(name.as_bytes())
    {
        let outcome = symbol.structured_demangle(&mut text, &DemangleOptions::new());
        if text.is_full() {
            return text.finish();
        }
        // What follows is no part of the name, like the `@@VERS_1` of a versioned symbol.
        let tail = str::from_utf8(tail).unwrap_or_default();
        if outcome.is_ok() && text.write_str(tail).is_ok() || text.is_full() {
            return text.finish();
        }
    }
    let mut plain = Bounded::default();
    let _ = plain.write_str(name);
    plain.finish()
}

/// The parser takes more for a name than is one.
fn is_cpp(name: &str) -> bool {
    name.starts_with("_Z") || name.starts_with("__Z")
}

/// Text that takes no more than [`MOST_BYTES`], and tells who writes more to stop.
#[derive(Default)]
struct Bounded {
    text: String,
    is_full: bool,
}

impl Bounded {
    fn is_full(&self) -> bool {
        self.is_full
    }

    fn finish(mut self) -> String {
        if self.is_full {
            self.text.push('…');
        }
        self.text
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = MOST_BYTES - self.text.len();
        if more.len() > room {
            self.text.push_str(&more[..more.floor_char_boundary(room)]);
            self.is_full = true;
        }
        if self.is_full {
            return Err(fmt::Error);
        }
        self.text.push_str(more);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_cpp_and_rust_are_readable() {
        for (mangled, name) in [
            ("main", "main"),
            ("_init", "_init"),
            ("", ""),
            ("_ZN5space3addIiEET_S1_S1_", "int space::add<int>(int, int)"),
            (
                "_ZNSt6vectorIiSaIiEE9push_backERKi",
                "std::vector<int, std::allocator<int> >::push_back(int const&)",
            ),
            ("_Z3fooi.cold", "foo(int) [clone .cold]"),
            ("_Z3fooi@@VERS_1", "foo(int)@@VERS_1"),
            (
                "_ZN4core9panicking9panic_fmt17h5f1a6fd39197ad62E",
                "core::panicking::panic_fmt",
            ),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("_RINvNtC3std3mem8align_ofjE", "std::mem::align_of::<usize>"),
            ("_Znonsense", "_Znonsense"),
            ("_Rnonsense", "_Rnonsense"),
            ("zażółć", "zażółć"),
        ] {
            assert_eq!(demangle(mangled), name);
        }
    }

    /// `f(P<P<…>, …>)`: each level repeats the one below it eleven times.
    fn bomb(levels: usize) -> String {
        let mut name = format!("_Z1f1PI{}1a{}E", "S_I".repeat(levels - 1), "S0_".repeat(11));
        for level in 1..levels {
            name += &format!("S{level}_").repeat(11);
            name.push('E');
        }
        name
    }

    #[test]
    fn a_name_that_stands_for_an_endless_one_is_cut() {
        assert!(demangle(&bomb(2)).ends_with(')'));
        for levels in [4, 9] {
            let name = demangle(&bomb(levels));
            assert!(name.starts_with("f(P<P<") && name.ends_with('…'), "{name}");
            assert!(name.len() <= MOST_BYTES + '…'.len_utf8());
        }
        // Each of twelve levels is a pair of the one before it: 4096 leaves.
        let mut rust = "_RINvC1c1f".to_owned();
        let start = rust.len() - 2;
        let mut before = "h".to_owned();
        for _ in 0..40 {
            let at = rust.len() - 2;
            rust += &format!("T{before}{before}E");
            before = format!("B{}_", base_62(at - 1));
        }
        rust.push('E');
        assert!(start > 0 && demangle(&rust).len() <= MOST_BYTES + '…'.len_utf8());
        let long = "é".repeat(MOST_BYTES);
        assert_eq!(demangle(&long).len(), MOST_BYTES + '…'.len_utf8());
    }

    fn base_62(mut number: usize) -> String {
        const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut digits = Vec::new();
        loop {
            digits.push(DIGITS[number % 62] as char);
            number /= 62;
            if number == 0 {
                return digits.into_iter().rev().collect();
            }
        }
    }

    proptest! {
        #[test]
        fn any_name_is_survived(name in "(_Z|_R|_ZN)?[0-9A-Za-z_.$]{0,60}|\\PC{0,40}") {
            let text = demangle(&name);
            prop_assert!(text.len() <= MOST_BYTES + '…'.len_utf8());
        }
    }
}
