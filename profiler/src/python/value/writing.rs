//! Text as `repr` writes it, in bounds.

use std::fmt::Write as _;

use crate::shown;

/// Text in the making.
pub(super) struct Told {
    pub(super) text: String,
    /// Characters that may still come; at 0 it ends in `…`.
    pub(super) left: usize,
    /// What is being told of, outermost first.
    pub(super) above: Vec<u64>,
}

impl Told {
    /// Never `None`: for `?` and tail positions.
    pub(super) fn push(&mut self, text: &str) -> Option<()> {
        if self.left == 0 {
            return Some(());
        }
        // Names of types are any bytes at all.
        let text = &*shown::line(text);
        let count = text.chars().count();
        if count <= self.left {
            self.left -= count;
            self.text.push_str(text);
        } else {
            self.text.extend(text.chars().take(self.left));
            self.text.push('…');
            self.left = 0;
        }
        Some(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.left == 0
    }
}

/// As `repr` writes a string; what acts on a terminal is escaped, too.
pub(super) fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut told = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => told.push_str("\\\\"),
            '\n' => told.push_str("\\n"),
            '\r' => told.push_str("\\r"),
            '\t' => told.push_str("\\t"),
            c if c == quote => {
                told.push('\\');
                told.push(c);
            }
            c if shown::acts(c) => {
                let code = u32::from(c);
                let _ = match code {
                    0..0x100 => write!(told, "\\x{code:02x}"),
                    0x100..0x1_0000 => write!(told, "\\u{code:04x}"),
                    _ => write!(told, "\\U{code:08x}"),
                };
            }
            c => told.push(c),
        }
    }
    told.push(quote);
    told
}

pub(super) fn quoted_bytes(bytes: &[u8]) -> String {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') {
        '"'
    } else {
        '\''
    };
    let mut told = format!("b{quote}");
    for &byte in bytes {
        match byte {
            b'\\' => told.push_str("\\\\"),
            b'\n' => told.push_str("\\n"),
            b'\r' => told.push_str("\\r"),
            b'\t' => told.push_str("\\t"),
            byte if char::from(byte) == quote => {
                told.push('\\');
                told.push(quote);
            }
            b' '..=b'~' => told.push(byte.into()),
            byte => {
                let _ = write!(told, "\\x{byte:02x}");
            }
        }
    }
    told.push(quote);
    told
}

/// As `repr` writes a float: the shortest digits that are the same number, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(value: f64) -> String {
    if !value.is_finite() {
        return match value {
            value if value.is_nan() => "nan".to_owned(),
            value if value > 0.0 => "inf".to_owned(),
            _ => "-inf".to_owned(),
        };
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) || value == 0.0 {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

pub(super) fn complex(real: f64, imaginary: f64) -> String {
    let part = |value: f64| {
        let text = float(value);
        text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
    };
    if real == 0.0 && real.is_sign_positive() {
        return format!("{}j", part(imaginary));
    }
    let sign = if imaginary.is_sign_negative() || imaginary.is_nan() {
        ""
    } else {
        "+"
    };
    let sign = if imaginary.is_nan() { "+" } else { sign };
    format!("({}{sign}{}j)", part(real), part(imaginary))
}

/// Digits of 30 bits, the lowest first, as decimal ones.
pub(super) fn integer(is_negative: bool, digits: &[u32]) -> String {
    const BILLION: u64 = 1_000_000_000;
    let mut left: Vec<u32> = digits.to_vec();
    let mut groups: Vec<u64> = Vec::new();
    while left.iter().any(|&digit| digit != 0) {
        let mut rest = 0;
        for digit in left.iter_mut().rev() {
            let value = rest << 30 | u64::from(*digit & 0x3fff_ffff);
            *digit = (value / BILLION) as u32;
            rest = value % BILLION;
        }
        groups.push(rest);
    }
    let mut text = String::from(if is_negative { "-" } else { "" });
    match groups.pop() {
        None => return "0".to_owned(),
        Some(first) => text.push_str(&first.to_string()),
    }
    for group in groups.iter().rev() {
        let _ = write!(text, "{group:09}");
    }
    text
}
