//! Which line an instruction belongs to.
//!
//! The tables come from another process, possibly while it was changing them: every byte is an allegation, and a table
//! that makes no sense gives no line.

/// How a code object's line table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LineTableFormat {
    /// `co_lnotab`: pairs (bytes of code: u8, lines: i8). 3.8 and 3.9.
    Lnotab,
    /// `co_linetable`: pairs (bytes of code: u8, lines: i8, or -128 for "no line"). 3.10.
    Ranges,
    /// `co_linetable`: entries of varying length. 3.11 and later.
    Locations,
}

/// The line of the instruction at byte `offset` of a code object's bytecode, as CPython's `PyCode_Addr2Line` says it.
///
/// Before the first instruction (a negative offset: a frame that has not started, `f_lasti` -1) that is the first
/// line, in every version. None means that CPython itself gives the instruction no line, or that the table is torn.
pub fn line(format: LineTableFormat, table: &[u8], first_line: i32, offset: i64) -> Option<u32> {
    let first_line = i64::from(first_line);
    let line = if offset < 0 {
        first_line
    } else {
        match format {
            LineTableFormat::Lnotab => line_in_lnotab(table, first_line, offset),
            LineTableFormat::Ranges => line_in_ranges(table, first_line, offset)?,
            LineTableFormat::Locations => line_in_locations(table, first_line, offset)?,
        }
    };
    u32::try_from(line).ok()
}

/// The line of the last pair that begins at or before `offset`; there is always one (the first line).
fn line_in_lnotab(table: &[u8], first_line: i64, offset: i64) -> i64 {
    let mut line = first_line;
    let mut start = 0;
    for &[bytes, lines] in table.as_chunks().0 {
        start += i64::from(bytes);
        if start > offset {
            break;
        }
        line += i64::from(lines.cast_signed());
    }
    line
}

/// The line of the pair that `offset` lies in. A pair without a line leaves the running line alone.
fn line_in_ranges(table: &[u8], first_line: i64, offset: i64) -> Option<i64> {
    const NO_LINE: i8 = -128;
    let mut line = first_line;
    let mut end = 0;
    for &[bytes, lines] in table.as_chunks().0 {
        let lines = lines.cast_signed();
        if lines != NO_LINE {
            line += i64::from(lines);
        }
        end += i64::from(bytes);
        if end > offset {
            return (lines != NO_LINE).then_some(line);
        }
    }
    None
}

/// The line of the entry that `offset` lies in. An entry is a byte `1kkkklll`, the kind `k` and the length `l` + 1 in
/// code units of two bytes, and what the kind asks for. An entry without a line leaves the running line alone.
fn line_in_locations(table: &[u8], first_line: i64, offset: i64) -> Option<i64> {
    let mut bytes = table.iter().copied();
    let mut line = first_line;
    let mut end = 0;
    while let Some(head) = bytes.next() {
        if head & 0x80 == 0 {
            return None;
        }
        let mut has_line = true;
        match (head >> 3) & 0xf {
            // Columns only, in one byte.
            0..=9 => {
                bytes.next()?;
            }
            // One of the next three lines, columns in two bytes.
            kind @ 10..=12 => {
                line += i64::from(kind - 10);
                bytes.nth(1)?;
            }
            // A line, no columns.
            13 => line += signed(&mut bytes)?,
            // A line, the last line, two columns.
            14 => {
                line += signed(&mut bytes)?;
                for _ in 0..3 {
                    unsigned(&mut bytes)?;
                }
            }
            _ => has_line = false,
        }
        end += (i64::from(head & 7) + 1) * 2;
        if end > offset {
            return has_line.then_some(line);
        }
    }
    None
}

/// Six bits a byte, least significant first; bit 6 says that there are more. None if it does not fit CPython's `int`.
fn unsigned(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let mut value = 0;
    for shift in (0..=30).step_by(6) {
        let byte = bytes.next()?;
        value |= i64::from(byte & 0x3f) << shift;
        if byte & 0x40 == 0 {
            return Some(value);
        }
    }
    None
}

/// The sign is in bit 0.
fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let value = unsigned(bytes)?;
    Some(if value & 1 == 0 { value >> 1 } else { -(value >> 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits
            .as_chunks()
            .0
            .iter()
            .map(|[high, low]| (high << 4 | low) as u8)
            .collect()
    }

    fn format_of(version: &str) -> LineTableFormat {
        match version.split('.').nth(1).unwrap() {
            "8" | "9" => LineTableFormat::Lnotab,
            "10" => LineTableFormat::Ranges,
            _ => LineTableFormat::Locations,
        }
    }

    #[test]
    fn every_instruction_has_the_line_that_cpython_gives_it() {
        let mut checked = 0;
        for truth in include_str!("linetable_truth.txt")
            .lines()
            .filter(|line| !line.starts_with('#'))
        {
            let [version, first_line, table, lines] = truth.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{truth}");
            };
            let first_line = first_line.parse().unwrap();
            let table = bytes(table);
            let mut offset = 0;
            for run in lines.split(',') {
                let (expected, times) = run.split_once('x').unwrap();
                for _ in 0..times.parse().unwrap() {
                    assert_eq!(
                        line(format_of(version), &table, first_line, offset),
                        expected.parse().ok(),
                        "{version}, offset {offset} of {table:x?}"
                    );
                    offset += 2;
                    checked += 1;
                }
            }
        }
        assert!(checked > 1500, "{checked}");
    }

    const FORMATS: [LineTableFormat; 3] = [
        LineTableFormat::Lnotab,
        LineTableFormat::Ranges,
        LineTableFormat::Locations,
    ];

    #[test]
    fn a_frame_that_has_not_started_is_at_its_first_line() {
        for format in FORMATS {
            for offset in [-1, -2] {
                assert_eq!(line(format, &[], 7, offset), Some(7), "{format:?}");
            }
        }
    }

    #[test]
    fn a_torn_table_gives_no_line() {
        for torn in [
            &[][..],
            &[0x80],
            &[0xd0],
            &[0xd0, 1],
            &[0xe8],
            &[0xe8, 0x40],
            &[0xf0, 0, 0],
            &[0x00, 0x00],
        ] {
            assert_eq!(line(LineTableFormat::Locations, torn, 7, 0), None, "{torn:x?}");
        }
        assert_eq!(line(LineTableFormat::Ranges, &[4], 7, 0), None);
    }

    #[test]
    fn a_number_too_long_for_an_int_gives_no_line() {
        assert_eq!(
            line(
                LineTableFormat::Locations,
                &[0xe8, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0],
                7,
                0
            ),
            None
        );
    }

    #[test]
    fn an_instruction_behind_the_table_has_no_line() {
        assert_eq!(line(LineTableFormat::Ranges, &[4, 1], 7, 4), None);
        assert_eq!(line(LineTableFormat::Locations, &[0x80, 0], 7, 2), None);
        // Up to 3.9 a table does not say where the code ends.
        assert_eq!(line(LineTableFormat::Lnotab, &[4, 1], 7, 1000), Some(8));
    }

    #[test]
    fn a_line_below_zero_is_none() {
        assert_eq!(line(LineTableFormat::Lnotab, &[0, 0xff], 0, 0), None);
        assert_eq!(line(LineTableFormat::Lnotab, &[], -3, 0), None);
    }

    proptest::proptest! {
        #[test]
        fn no_table_panics(table: Vec<u8>, first_line: i32, offset in -4_i64..1 << 33) {
            for format in FORMATS {
                let _ = line(format, &table, first_line, offset);
                let _ = line(format, &table, first_line, offset % 64);
            }
        }
    }
}
