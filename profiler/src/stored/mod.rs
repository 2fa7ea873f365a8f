//! A recording in a file, whoever made it: `profiler report`, `convert`, `diff` and `memory --base` begin here.
//!
//! What a file is, its bytes say and not its name. Everything becomes a [`Profile`]; of formats that know less, what they
//! do not know is empty. Files are foreign bytes: what is read of one is bounded, and so is what it unpacks to.

use std::{
    borrow::Cow,
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use thiserror::Error;

use crate::{
    profile::{Labels, Profile},
    report::pprof,
};

mod folded;
mod foreign;
mod speedscope;

/// A minute of a busy machine is a few megabytes. Nothing larger is read, nor unpacked.
pub const MAX_BYTES: u64 = 256 << 20;

/// What is told to whoever has a file that we cannot read.
const KNOWN: &str = "pprof (.pb.gz), folded text (a;b;c 12) and speedscope JSON";

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Pprof,
    Folded,
    Speedscope,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pprof => "pprof",
            Self::Folded => "folded text",
            Self::Speedscope => "speedscope JSON",
        })
    }
}

#[derive(Debug, Error)]
pub enum ReadError {
    #[error("cannot read {}", Named(path))]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is a directory; name a recording in it", Named(path))]
    Directory { path: PathBuf },
    #[error("{} is empty: its writer has not finished, or has failed", Named(path))]
    Empty { path: PathBuf },
    #[error(
        "{} is larger than {} MiB{}; record for a shorter time, or in windows (--every)",
        Named(path),
        MAX_BYTES >> 20,
        if *unpacked { " when unpacked" } else { "" },
    )]
    TooLarge { path: PathBuf, unpacked: bool },
    #[error(
        "{} is torn: its compressed data end too early or are damaged; copy it again",
        Named(path)
    )]
    Torn { path: PathBuf, source: io::Error },
    #[error("{} is {what}, which has not what a profile needs; {remedy}", Named(path))]
    Foreign {
        path: PathBuf,
        what: &'static str,
        remedy: &'static str,
    },
    #[error("{} is in no format that is known; those are {KNOWN}", Named(path))]
    Unknown { path: PathBuf },
    /// It begins like this format, and contradicts it later.
    #[error("{} looks like {format}, but cannot be read as it", Named(path))]
    Damaged {
        path: PathBuf,
        format: Format,
        source: anyhow::Error,
    },
}

/// How a file is called in messages.
struct Named<'a>(&'a Path);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_stdin(self.0) {
            f.write_str("standard input")
        } else {
            self.0.display().fmt(f)
        }
    }
}

/// Reads the recording in `path`; `-` is standard input.
pub fn read(path: &Path) -> Result<Profile, ReadError> {
    let bytes = bytes(path)?;
    parse(&bytes, path)
}

/// The same of bytes that are there already; `path` is what they are called in errors.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Profile, ReadError> {
    let named = || path.to_owned();
    if bytes.is_empty() {
        return Err(ReadError::Empty { path: named() });
    }
    let bytes = unpacked(bytes, path)?;
    if bytes.is_empty() {
        return Err(ReadError::Empty { path: named() });
    }
    if let Some((what, remedy)) = foreign::recognize(&bytes) {
        return Err(ReadError::Foreign {
            path: named(),
            what,
            remedy,
        });
    }
    let format = recognize(&bytes).ok_or_else(|| ReadError::Unknown { path: named() })?;
    let profile = match format {
        Format::Pprof => pprof::read(&bytes),
        Format::Folded => folded::read(&bytes),
        Format::Speedscope => speedscope::read(&bytes),
    };
    profile.map_err(|source| match (format, first_line(&bytes)) {
        // Anything that is no text may be pprof: it has no mark of its own.
        (Format::Pprof, _) if !pprof::looks_like(&bytes) => ReadError::Unknown { path: named() },
        (_, _) => ReadError::Damaged {
            path: named(),
            format,
            source,
        },
    })
}

/// What the format of these bytes is, if they look like any.
fn recognize(bytes: &[u8]) -> Option<Format> {
    if !is_text(bytes) {
        return Some(Format::Pprof);
    }
    let line = first_line(bytes)?;
    if line.starts_with(b"{") || line.starts_with(b"[") {
        return Some(Format::Speedscope);
    }
    folded::is_line(&String::from_utf8_lossy(line)).then_some(Format::Folded)
}

/// Whether they begin like text. A pprof file never does: each of its fields has a number for its key or its length.
fn is_text(bytes: &[u8]) -> bool {
    const LOOKED_AT: usize = 4096;
    let start = &bytes[..bytes.len().min(LOOKED_AT)];
    !start
        .iter()
        .any(|byte| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\r' | b'\t'))
}

/// The first line that is neither empty nor a comment, without spaces around it.
fn first_line(bytes: &[u8]) -> Option<&[u8]> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty() && !line.starts_with(b"# "))
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn bytes(path: &Path) -> Result<Vec<u8>, ReadError> {
    let failed = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let too_large = || ReadError::TooLarge {
        path: path.to_owned(),
        unpacked: false,
    };
    let mut bytes = Vec::new();
    let mut source: Box<dyn Read> = if is_stdin(path) {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(ReadError::Directory { path: path.to_owned() });
        }
        if metadata.is_file() && metadata.len() > MAX_BYTES {
            return Err(too_large());
        }
        Box::new(file)
    };
    (&mut source)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(too_large()),
        false => Ok(bytes),
    }
}

fn unpacked<'a>(bytes: &'a [u8], path: &Path) -> Result<Cow<'a, [u8]>, ReadError> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    if !bytes.starts_with(&GZIP) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut plain = Vec::new();
    MultiGzDecoder::new(bytes)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut plain)
        .map_err(|source| ReadError::Torn {
            path: path.to_owned(),
            source,
        })?;
    match plain.len() as u64 > MAX_BYTES {
        true => Err(ReadError::TooLarge {
            path: path.to_owned(),
            unpacked: true,
        }),
        false => Ok(Cow::Owned(plain)),
    }
}

/// Who was sampled, where nothing is known of it.
fn nobody() -> Labels {
    Labels {
        pid: 0,
        tid: 0,
        comm: Profile::EMPTY,
        command: Profile::EMPTY,
        thread: Profile::EMPTY,
        cgroup: Profile::EMPTY,
        container: Profile::EMPTY,
        task: Profile::EMPTY,
    }
}

#[cfg(test)]
mod tests;
