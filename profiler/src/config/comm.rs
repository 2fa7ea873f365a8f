//! A thread's name, as the kernel keeps it.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use super::ConfigError;

/// The kernel keeps so many bytes of a thread's name (`TASK_COMM_LEN` less its NUL).
pub(super) const MAX_COMM_BYTES: usize = 15;

pub(super) fn check_comm(comm: &OsStr) -> Result<(), ConfigError> {
    if comm.is_empty() {
        return Err(ConfigError::EmptyComm);
    }
    match comm.as_bytes().get(..MAX_COMM_BYTES) {
        Some(kept) if kept.len() < comm.len() => Err(ConfigError::LongComm { kept: shell_word(kept) }),
        _ => Ok(()),
    }
}

/// Bytes as a shell takes them: in quotes, and as bash and zsh write it (`$'…'`) what is no text. The kernel cuts names
/// in the middle of a character.
pub(super) fn shell_word(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if !text.contains(|c: char| c.is_control() || c == '\'') => format!("'{text}'"),
        _ => {
            let mut word = "$'".to_owned();
            for chunk in bytes.utf8_chunks() {
                for c in chunk.valid().chars() {
                    match c {
                        '\'' | '\\' => word.extend(['\\', c]),
                        _ if c.is_ascii_control() => word.push_str(&format!("\\x{:02x}", u32::from(c))),
                        _ => word.push(c),
                    }
                }
                for byte in chunk.invalid() {
                    word.push_str(&format!("\\x{byte:02x}"));
                }
            }
            word.push('\'');
            word
        }
    }
}
