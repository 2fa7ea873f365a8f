//! Writing a cpio archive of the kind that the kernel unpacks as its first root: `newc`, as in
//! Documentation/driver-api/early-userspace/buffer-format.rst.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// An archive in the making.
pub struct Archive<W> {
    out: W,
    written: u64,
    inode: u32,
    names: BTreeSet<PathBuf>,
}

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;

/// Headers and contents begin at multiples of this.
const ALIGNMENT: u64 = 4;

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            inode: 0,
            names: BTreeSet::new(),
        }
    }

    /// Adds a directory and those above it. The kernel makes none by itself.
    pub fn directory(&mut self, path: &Path) -> Result<()> {
        let path = relative(path)?;
        let mut above: Vec<&Path> = path.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        above.reverse();
        for path in above {
            if self.names.insert(path.to_owned()) {
                self.entry(path, DIRECTORY, &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file and the directories above it. A path that is there already is left as it is.
    pub fn file(&mut self, path: &Path, is_executable: bool, bytes: &[u8]) -> Result<()> {
        let path = relative(path)?;
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        if self.names.insert(path.clone()) {
            self.entry(&path, if is_executable { EXECUTABLE } else { FILE }, bytes)?;
        }
        Ok(())
    }

    /// Ends the archive and tells its size.
    pub fn finish(mut self) -> Result<u64> {
        // A name that cannot be a file's, and the mark of the end.
        self.entry(Path::new("TRAILER!!!"), 0, &[])?;
        self.out.flush().context("cannot write")?;
        Ok(self.written)
    }

    fn entry(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
        let name = path.as_os_str().as_encoded_bytes();
        let size = u32::try_from(bytes.len()).with_context(|| format!("{} is too large", path.display()))?;
        self.inode += 1;
        // Thirteen numbers: inode, mode, owner and group (root), links, time, size, four numbers of devices, the length
        // of the name with its final zero, and a checksum that this format does not use. One link only: files with
        // several would be looked up by inode.
        let numbers = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            u32::try_from(name.len() + 1)?,
            0,
        ];
        let mut header = String::from("070701");
        for number in numbers {
            header.push_str(&format!("{number:08X}"));
        }
        let io: io::Result<()> = (|| {
            self.write(header.as_bytes())?;
            self.write(name)?;
            self.write(&[0])?;
            self.pad()?;
            self.write(bytes)?;
            self.pad()
        })();
        io.with_context(|| format!("cannot write {} into the archive", path.display()))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        while !self.written.is_multiple_of(ALIGNMENT) {
            self.write(&[0])?;
        }
        Ok(())
    }
}

/// A path below the root, without what could lead out of it.
fn relative(path: &Path) -> Result<PathBuf> {
    path.components()
        .filter_map(|component| match component {
            Component::RootDir | Component::CurDir => None,
            Component::Normal(name) => Some(Ok(name)),
            Component::ParentDir | Component::Prefix(_) => Some(Err(path)),
        })
        .collect::<Result<PathBuf, _>>()
        .or_else(|path| bail!("{} is no path for an archive", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode and bytes of each entry, as the kernel's init/initramfs.c reads them.
    fn entries(mut archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let whole = archive.len();
        let mut entries = Vec::new();
        loop {
            let number = |at: usize| {
                let digits = std::str::from_utf8(&archive[6 + at * 8..14 + at * 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            assert_eq!(&archive[..6], b"070701");
            let (mode, size, length) = (number(1), number(6) as usize, number(11) as usize);
            let name = String::from_utf8(archive[110..110 + length - 1].to_vec()).unwrap();
            assert_eq!(archive[110 + length - 1], 0);
            let body = (110 + length).next_multiple_of(4);
            let bytes = archive[body..body + size].to_vec();
            if name == "TRAILER!!!" {
                assert_eq!(body, archive.len());
                assert_eq!(whole % 4, 0);
                return entries;
            }
            entries.push((name, mode, bytes));
            archive = &archive[(body + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn a_reader_finds_what_was_written_at_aligned_places() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file(Path::new("/init"), true, b"#!/bin/sh\n").unwrap();
        archive.file(Path::new("/a/b/c.py"), false, b"").unwrap();
        archive.file(Path::new("/a/b/d"), false, b"12345").unwrap();
        archive.directory(Path::new("/proc")).unwrap();
        let size = archive.finish().unwrap();
        assert_eq!(size, bytes.len() as u64);
        let expected = [
            ("init", EXECUTABLE, &b"#!/bin/sh\n"[..]),
            ("a", DIRECTORY, b""),
            ("a/b", DIRECTORY, b""),
            ("a/b/c.py", FILE, b""),
            ("a/b/d", FILE, b"12345"),
            ("proc", DIRECTORY, b""),
        ];
        let expected = expected.map(|(name, mode, bytes)| (name.to_owned(), mode, bytes.to_vec()));
        assert_eq!(entries(&bytes), expected);
    }

    #[test]
    fn the_first_file_of_a_path_stays() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file(Path::new("/a"), false, b"1").unwrap();
        archive.file(Path::new("/./a"), false, b"2").unwrap();
        archive.finish().unwrap();
        assert_eq!(entries(&bytes), [("a".to_owned(), FILE, b"1".to_vec())]);
    }

    #[test]
    fn a_path_that_leads_out_of_the_root_is_refused() {
        assert!(Archive::new(Vec::new()).directory(Path::new("/a/../../b")).is_err());
    }

    #[test]
    fn the_program_cpio_agrees() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file(Path::new("/a/b"), true, b"x").unwrap();
        archive.finish().unwrap();
        let mut command = std::process::Command::new("cpio");
        command.args(["--list", "--quiet"]);
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        // Not on every machine, and the reader above is the kernel's view.
        let Ok(mut cpio) = command.spawn() else { return };
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert_eq!(cpio.wait_with_output().unwrap().stdout, b"a\na/b\n");
    }
}
