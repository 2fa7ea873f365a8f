use std::cell::Cell;

use profiler_common::python::PythonProcess;
use proptest::prelude::*;

use super::{
    writing::{complex, float, integer, quoted},
    *,
};
use crate::python::{memory::ReadMemory, object::ObjectLayout};

/// Memory of these words only, wherever it is read, and others each time: pointers into it, flags, sizes.
struct Changing {
    words: Vec<u64>,
    reads: Cell<usize>,
}

impl ReadMemory for Changing {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        for (at, part) in into.chunks_mut(8).enumerate() {
            let reads = self.reads.get();
            self.reads.set(reads + 1);
            let word = self.words[(reads / 3 + address as usize / 8 + at) % self.words.len()].to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
        true
    }
}

#[test]
fn numbers_read_as_python_writes_them() {
    for (value, expected) in [
        (1.25, "1.25"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (1e16, "1e+16"),
        (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
        (1e15, "1000000000000000.0"),
        (0.0001, "0.0001"),
        (0.000_01, "1e-05"),
        (1e300, "1e+300"),
        (f64::INFINITY, "inf"),
        (f64::NAN, "nan"),
    ] {
        assert_eq!(float(value), expected);
    }
    assert_eq!(complex(1.0, 2.0), "(1+2j)");
    assert_eq!(complex(0.0, -1.5), "-1.5j");
    assert_eq!(integer(true, &[0, 0, 4]), "-4611686018427387904");
    assert_eq!(integer(false, &[0, 0, 0, 1 << 10]), "1267650600228229401496703205376");
    assert_eq!(integer(false, &[]), "0");
}

#[test]
fn strings_read_as_python_writes_them_and_do_nothing_to_a_terminal() {
    assert_eq!(quoted("it's"), "\"it's\"");
    assert_eq!(quoted("a'\"\\\n"), "'a\\'\"\\\\\\n'");
    assert_eq!(quoted("\x1b[2J\u{202e}é😀"), "'\\x1b[2J\\u202eé😀'");
    assert_eq!(quoted_bytes(b"\0abc'\xff"), "b\"\\x00abc'\\xff\"");
}

#[test]
fn text_ends_where_there_is_no_more_room() {
    let mut told = Told {
        text: String::new(),
        left: 5,
        above: Vec::new(),
    };
    told.push("abcd");
    told.push("éfg");
    told.push("h");
    assert_eq!(told.text, "abcdé…");
}

proptest! {
    #[test]
    fn any_float_is_written_as_itself(bits: u64) {
        let value = f64::from_bits(bits);
        if value.is_finite() {
            prop_assert_eq!(float(value).parse::<f64>().ok(), Some(value));
        }
    }

    #[test]
    fn any_number_of_two_digits_is_written_right(low in 0..1_u32 << 30, high in 0..1_u32 << 30) {
        let value = u64::from(high) << 30 | u64::from(low);
        prop_assert_eq!(integer(false, &[low, high]), value.to_string());
    }

    #[test]
    fn memory_that_changes_while_it_is_read_is_told_in_bounds_and_does_nothing_to_a_terminal(
        words in prop::collection::vec(prop_oneof![
            (0x7000_u64..0x7100).prop_map(|address| address & !7),
            // What sorts of types say they are, sizes of a thousand million, characters.
            (12_u32..32).prop_map(|bit| 1 << bit | 1 << 12),
            Just(1_000_000_000_u64),
            Just(u64::from_le_bytes(*b"\x1b[2J\x07li\0")),
            any::<u64>(),
        ], 4..64),
        minor in 8_u32..16,
    ) {
        const READS: u32 = 20_000;
        let version = Version::from_hex(0x0300_02f0 | minor << 16);
        let memory = Changing { words, reads: Cell::new(0) };
        let process = PythonProcess::default();
        let layout = ObjectLayout::of(version, false).expect("a version that is known");
        let objects = Objects::new(&memory, &process, layout, READS);
        let text = Values::new(&objects, version, Limits::LONG, true).text(0x7000);
        prop_assert!(text.chars().count() <= Limits::LONG.whole + 16, "{}", text.len());
        prop_assert!(!text.contains(shown::acts), "{text:?}");
    }

    #[test]
    fn no_text_acts(text in ".*") {
        prop_assert!(!quoted(&text).contains(shown::acts));
    }
}
