//! Python's marshal format, as much of it as a file of `pstats` takes.
//!
//! Written as version 4, which CPython 3.4 and all later ones read (3.14 has a version 5 and reads the older ones). No
//! crate is used: of those that know the format (November 2026), `python_marshal` 0.4 reads and writes it for the `.pyc`
//! files of 3.10 and later through an object model of its own, `py-marshal` and `marshal-parser` only read. Six types
//! of objects are less than a bridge to either.

use std::io::{self, Write};

use rustc_hash::FxHashMap;

/// Set in an object's type if the reader is to remember it for references.
const REMEMBER: u8 = 0x80;
/// The digits of an integer that is too long for four bytes.
const DIGIT_BITS: u32 = 15;

pub(in crate::report) struct Marshal<'a, W> {
    out: W,
    /// Strings written before, by when they were. Names come often, as callers.
    strings: FxHashMap<&'a str, u32>,
}

impl<'a, W: Write> Marshal<'a, W> {
    pub(in crate::report) fn new(out: W) -> Self {
        Self {
            out,
            strings: FxHashMap::default(),
        }
    }

    /// Begins a dictionary. Keys and values follow in turns, and [`Self::end_dict`].
    pub(in crate::report) fn begin_dict(&mut self) -> io::Result<()> {
        self.out.write_all(b"{")
    }

    pub(in crate::report) fn end_dict(&mut self) -> io::Result<()> {
        self.out.write_all(b"0")
    }

    /// Begins a tuple of as many objects as are to follow.
    pub(in crate::report) fn begin_tuple(&mut self, length: u8) -> io::Result<()> {
        self.out.write_all(&[b')', length])
    }

    pub(in crate::report) fn string(&mut self, text: &'a str) -> io::Result<()> {
        if let Some(number) = self.strings.get(text) {
            self.out.write_all(b"r")?;
            return self.out.write_all(&number.to_le_bytes());
        }
        // The reader takes lengths as signed.
        let Ok(length) = i32::try_from(text.len()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a name of 2 GiB or more"));
        };
        // Nothing else is remembered, so strings alone count.
        match u32::try_from(self.strings.len()) {
            Ok(number) if number < i32::MAX as u32 => {
                self.strings.insert(text, number);
                self.out.write_all(&[b'u' | REMEMBER])?;
            }
            _ => self.out.write_all(b"u")?,
        }
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(text.as_bytes())
    }

    pub(in crate::report) fn integer(&mut self, number: u64) -> io::Result<()> {
        if let Ok(number) = i32::try_from(number) {
            self.out.write_all(b"i")?;
            return self.out.write_all(&number.to_le_bytes());
        }
        let digits = number.ilog2() / DIGIT_BITS + 1;
        self.out.write_all(b"l")?;
        self.out.write_all(&digits.to_le_bytes())?;
        for digit in 0..digits {
            let digit = (number >> (digit * DIGIT_BITS)) as u16 & ((1 << DIGIT_BITS) - 1);
            self.out.write_all(&digit.to_le_bytes())?;
        }
        Ok(())
    }

    pub(in crate::report) fn float(&mut self, number: f64) -> io::Result<()> {
        self.out.write_all(b"g")?;
        self.out.write_all(&number.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Marshal<'static, &mut Vec<u8>>) -> io::Result<()>) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut Marshal::new(&mut bytes)).unwrap();
        bytes
    }

    /// The expected bytes are what `marshal.dumps(…, 4)` of CPython 3.11 gives, but for [`REMEMBER`].
    #[test]
    fn integers_are_as_cpython_writes_them() {
        assert_eq!(written(|m| m.integer(0)), b"i\0\0\0\0");
        assert_eq!(written(|m| m.integer((1 << 31) - 1)), b"i\xff\xff\xff\x7f");
        assert_eq!(written(|m| m.integer(1 << 31)), b"l\x03\0\0\0\0\0\0\0\x02\0");
        assert_eq!(
            written(|m| m.integer(u64::MAX)),
            b"l\x05\0\0\0\xff\x7f\xff\x7f\xff\x7f\xff\x7f\x0f\0"
        );
    }

    #[test]
    fn a_string_is_written_once() {
        let bytes = written(|m| {
            m.begin_tuple(3)?;
            m.string("ä")?;
            m.string("b")?;
            m.string("ä")
        });
        assert_eq!(bytes, b")\x03\xf5\x02\0\0\0\xc3\xa4\xf5\x01\0\0\0br\0\0\0\0");
    }

    #[test]
    fn a_float_is_its_bytes() {
        assert_eq!(written(|m| m.float(1.5)), b"g\0\0\0\0\0\0\xf8\x3f");
    }

    proptest! {
        #[test]
        fn an_integer_has_no_leading_zeros_and_all_its_bits(shift in 0_u32..64, bits in any::<u64>()) {
            let number = bits >> shift;
            let bytes = written(|m| m.integer(number));
            let digits: Vec<u64> = match bytes[0] {
                b'i' => return Ok(()),
                _ => bytes[5..].chunks(2).map(|digit| u64::from(digit[0]) | u64::from(digit[1]) << 8).collect(),
            };
            prop_assert_eq!(digits.len() as u8, bytes[1]);
            prop_assert_ne!(digits.last(), Some(&0));
            prop_assert!(digits.iter().all(|digit| *digit < 1 << 15));
            let read = digits.iter().rev().fold(0_u128, |sum, digit| sum << 15 | u128::from(*digit));
            prop_assert_eq!(read, u128::from(number));
        }
    }
}
