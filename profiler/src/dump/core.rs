//! A process that has died, by its core file: memory and registers as they were.
//!
//! The kernel leaves out what can be read elsewhere: pages of files that nobody wrote to (core(5), `coredump_filter`). The
//! files are taken where they were, or the program where `-e` says it is; one whose first page is not the one that was
//! mapped is another file, and refused. All of a core file is an allegation, as a living process's memory is.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use memmap2::Mmap;
use object::{
    Endianness,
    elf::{FileHeader64, PF_X, PT_LOAD, PT_NOTE},
    read::elf::{FileHeader as _, ProgramHeader as _},
};
use rustc_hash::FxHashMap;

use super::look::Look;
use crate::{
    process::{
        file::MappedFile,
        files::{FileId, Files, PythonFile},
        maps::{MapEntry, MapName},
        pythons::PythonIn,
    },
    python::memory::ReadMemory,
    report::path,
};

type Elf = FileHeader64<Endianness>;

/// Threads and mapped files that are looked at.
const MOST_THREADS: usize = 16 * 1024;
const MOST_MAPPINGS: usize = 65_536;
const PAGE_BYTES: usize = 4096;

/// Types of notes (include/uapi/linux/elf.h).
const NT_PRSTATUS: u32 = 1;
const NT_PRPSINFO: u32 = 3;
const NT_FILE: u32 = 0x4649_4c45;

/// A core file.
pub struct Core {
    bytes: Mmap,
    segments: Vec<Segment>,
    mapped: Vec<Piece>,
    /// Files that were mapped, by where they were; those that cannot be had are not here.
    files: FxHashMap<PathBuf, Mmap>,
    pub pid: u32,
    /// What was run, as the kernel has it: 80 bytes at most.
    pub command: String,
    pub threads: Vec<CoreThread>,
}

/// A thread, and what it was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreThread {
    pub tid: u32,
    /// The signal that it got; the first thread's is what the process died of.
    pub signal: u32,
    pub look: Look,
    /// The frame pointer, which a living thread does not tell.
    pub fp: u64,
}

#[derive(Clone, Debug)]
struct Segment {
    range: Range<u64>,
    /// Where in the core file its beginning is; the rest was left out.
    bytes: Range<usize>,
    executable: bool,
}

/// A part of a file that was mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    range: Range<u64>,
    offset: u64,
    path: PathBuf,
}

impl Core {
    /// # Errors
    /// If it is no core file of an x86-64 process, or cannot be read.
    pub fn open(file: &Path) -> Result<Self> {
        let opened = MappedFile::open_path(file).with_context(|| format!("cannot read {}", file.display()))?;
        let bytes = opened
            .map()
            .with_context(|| format!("cannot read {}", file.display()))?;
        let Some(parts) = Parts::parse(&bytes) else {
            bail!(
                "{} is not a core file of an x86-64 process; expected what the kernel or gcore writes",
                file.display()
            );
        };
        let Parts {
            segments,
            mapped,
            threads,
            pid,
            command,
        } = parts;
        Ok(Self {
            bytes,
            segments,
            mapped,
            files: FxHashMap::default(),
            pid,
            command,
            threads,
        })
    }

    /// Opens the files that were mapped. `executable` stands for the program.
    ///
    /// # Errors
    /// If the file that is given is not the one that ran.
    pub fn open_files(&mut self, executable: Option<&Path>) -> Result<()> {
        let program = self.mapped.first().map(|piece| piece.path.clone());
        let mut paths: Vec<PathBuf> = self.mapped.iter().map(|piece| piece.path.clone()).collect();
        paths.sort_unstable();
        paths.dedup();
        for path in paths {
            let is_program = Some(&path) == program.as_ref();
            let place = executable.filter(|_| is_program).unwrap_or(&path);
            let Some(map) = MappedFile::open_path(place).ok().and_then(|file| file.map().ok()) else {
                continue;
            };
            match self.is_what_was_mapped(&path, &map) {
                true => {
                    self.files.insert(path, map);
                }
                false if executable.is_some() && is_program => bail!(
                    "{} is not the program that the core file is of ({})",
                    place.display(),
                    path.display()
                ),
                false => {}
            }
        }
        Ok(())
    }

    /// The first page of an ELF file is dumped with the process, and has its build id in most.
    fn is_what_was_mapped(&self, path: &Path, file: &[u8]) -> bool {
        let first = self.mapped.iter().find(|piece| piece.path == path && piece.offset == 0);
        let dumped = first.and_then(|piece| self.dumped(piece.range.start));
        match dumped {
            Some(dumped) => {
                let len = dumped.len().min(file.len()).min(PAGE_BYTES);
                dumped[..len] == file[..len]
            }
            None => true,
        }
    }

    /// What the core file has from an address on.
    fn dumped(&self, address: u64) -> Option<&[u8]> {
        let after = self.segments.partition_point(|segment| segment.range.start <= address);
        let segment = self.segments[..after]
            .last()
            .filter(|segment| segment.range.contains(&address))?;
        let at = usize::try_from(address - segment.range.start).ok()?;
        let bytes = self.bytes.get(segment.bytes.clone())?;
        bytes.get(at..).filter(|bytes| !bytes.is_empty())
    }

    /// What the file that was mapped there has.
    fn mapped_there(&self, address: u64) -> Option<&[u8]> {
        let after = self.mapped.partition_point(|piece| piece.range.start <= address);
        let piece = self.mapped[..after]
            .last()
            .filter(|piece| piece.range.contains(&address))?;
        let from = usize::try_from(piece.offset.checked_add(address - piece.range.start)?).ok()?;
        let len = usize::try_from(piece.range.end - address).ok()?;
        let bytes = self.files.get(&piece.path)?.get(from..)?;
        Some(&bytes[..len.min(bytes.len())]).filter(|bytes| !bytes.is_empty())
    }

    /// Its mappings of files, as /proc had them.
    pub fn entries(&self) -> Vec<MapEntry> {
        let entry = |piece: &Piece| {
            let is_here = |segment: &&Segment| segment.range.contains(&piece.range.start);
            MapEntry {
                start: piece.range.start,
                end: piece.range.end,
                offset: piece.offset,
                executable: self
                    .segments
                    .iter()
                    .find(is_here)
                    .is_some_and(|segment| segment.executable),
                device: (0, 0),
                inode: 1,
                name: MapName::File {
                    path: piece.path.clone(),
                    deleted: false,
                },
            }
        };
        self.mapped.iter().map(entry).collect()
    }

    /// Finds its CPython. `executable` stands for the program.
    ///
    /// # Errors
    /// If there is none that is known: why.
    pub fn python(&self, files: &mut Files, executable: Option<&Path>) -> Result<PythonIn> {
        let mut problem = None;
        for entry in self.entries().iter().filter(|entry| entry.executable) {
            let Some(path) = entry.path().filter(|path| self.files.contains_key(*path)) else {
                continue;
            };
            let is_program = self.mapped.first().is_some_and(|first| first.path == path);
            if !is_program && !path::is_interpreter(&path.to_string_lossy()) {
                continue;
            }
            let place = executable.filter(|_| is_program).unwrap_or(path);
            let Some(id) = files.foresee(place) else { continue };
            let file = files.get(id);
            match (
                file.python(),
                file.headers.as_ref().and_then(|headers| headers.load_bias(entry)),
            ) {
                (PythonFile::Yes(binary), Some(bias)) => {
                    let python = PythonIn::new(id, binary, bias, 1);
                    if python.is_in_use(self) != Some(false) {
                        return Ok(python);
                    }
                }
                (PythonFile::Refused(refusal), _) => problem = Some(refusal.to_string()),
                _ => {}
            }
        }
        match problem {
            Some(problem) => bail!("process {} ran {problem}", self.pid),
            None => {
                let program = self.mapped.first().map(|piece| piece.path.display().to_string());
                bail!(
                    "no CPython can be found in the core file: its program was {}; name the file with -e",
                    program.unwrap_or_else(|| "not told".to_owned())
                )
            }
        }
    }

    /// The file of a mapping, among files that are known.
    pub fn file(&self, files: &mut Files, entry: &MapEntry, executable: Option<&Path>) -> Option<FileId> {
        let path = entry.path().filter(|path| self.files.contains_key(*path))?;
        let is_program = self.mapped.first().is_some_and(|first| first.path == path);
        files.foresee(executable.filter(|_| is_program).unwrap_or(path))
    }
}

impl ReadMemory for Core {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let mut done = 0;
        while done < into.len() {
            let Some(at) = address.checked_add(done as u64) else {
                return false;
            };
            let Some(bytes) = self.dumped(at).or_else(|| self.mapped_there(at)) else {
                return false;
            };
            let len = bytes.len().min(into.len() - done);
            into[done..done + len].copy_from_slice(&bytes[..len]);
            done += len;
        }
        true
    }
}

/// What a core file consists of.
#[derive(Debug, Default)]
struct Parts {
    segments: Vec<Segment>,
    mapped: Vec<Piece>,
    threads: Vec<CoreThread>,
    pid: u32,
    command: String,
}

impl Parts {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let header = Elf::parse(bytes).ok()?;
        let endian = header.endian().ok()?;
        if header.e_type(endian) != object::elf::ET_CORE || header.e_machine(endian) != object::elf::EM_X86_64 {
            return None;
        }
        let mut parts = Self::default();
        for segment in header.program_headers(endian, bytes).ok()? {
            match segment.p_type(endian) {
                PT_LOAD => {
                    let start = segment.p_vaddr(endian);
                    let (Some(end), Ok(from), Ok(len)) = (
                        start.checked_add(segment.p_memsz(endian)),
                        usize::try_from(segment.p_offset(endian)),
                        usize::try_from(segment.p_filesz(endian)),
                    ) else {
                        continue;
                    };
                    // A core file that was cut short has less than it says.
                    let to = from.saturating_add(len).min(bytes.len());
                    parts.segments.push(Segment {
                        range: start..end,
                        bytes: from.min(to)..to,
                        executable: segment.p_flags(endian) & PF_X != 0,
                    });
                }
                PT_NOTE => {
                    let mut notes = segment.notes(endian, bytes).ok()??;
                    while let Ok(Some(note)) = notes.next() {
                        parts.note(note.n_type(endian), note.desc());
                    }
                }
                _ => {}
            }
        }
        parts.segments.sort_by_key(|segment| segment.range.start);
        parts.mapped.sort_by_key(|piece| piece.range.start);
        (!parts.threads.is_empty()).then_some(parts)
    }

    fn note(&mut self, kind: u32, description: &[u8]) {
        match kind {
            NT_PRSTATUS if self.threads.len() < MOST_THREADS => self.threads.extend(thread(description)),
            NT_PRPSINFO => {
                // `struct elf_prpsinfo`, x86-64: pr_pid at 24, pr_psargs at 56, 80 bytes.
                self.pid = word(description, 24) as u32;
                let typed = description.get(56..136).unwrap_or_default();
                let end = typed.iter().position(|&byte| byte == 0).unwrap_or(typed.len());
                self.command = String::from_utf8_lossy(&typed[..end]).trim().to_owned();
            }
            NT_FILE => self.mapped.extend(mapped(description)),
            _ => {}
        }
    }
}

/// A word; 0 beyond the end.
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// `struct elf_prstatus`, x86-64: pr_cursig at 12, pr_pid at 32, pr_reg (27 words) at 112.
fn thread(status: &[u8]) -> Option<CoreThread> {
    const REGISTERS: usize = 112;
    /// `struct user_regs_struct`, in words.
    const RBP: usize = 4;
    /// Those of a system call.
    const ARGUMENTS: [usize; 6] = [14, 13, 12, 7, 9, 8];
    const ORIG_RAX: usize = 15;
    const RIP: usize = 16;
    const RSP: usize = 19;
    if status.len() < REGISTERS + 27 * 8 {
        return None;
    }
    let register = |at: usize| word(status, REGISTERS + 8 * at);
    let call = register(ORIG_RAX).cast_signed();
    // In a system call its number, outside of one -1.
    let call = u32::try_from(call).ok();
    Some(CoreThread {
        tid: u32::try_from(word(status, 32) & 0xffff_ffff)
            .ok()
            .filter(|&tid| tid != 0)?,
        signal: (word(status, 12) & 0xffff) as u32,
        look: Look {
            letter: if call.is_some() { b'S' } else { b'R' },
            call: call.unwrap_or(profiler_common::wait::NO_CALL),
            arguments: ARGUMENTS.map(register),
            sp: register(RSP),
            pc: register(RIP),
            ..Look::default()
        },
        fp: register(RBP),
    })
}

/// `count, page size, count × (start, end, offset in pages), names`, each name with its NUL (fs/binfmt_elf.c).
fn mapped(note: &[u8]) -> Vec<Piece> {
    const HEADER: usize = 16;
    const ENTRY: usize = 24;
    let count = usize::try_from(word(note, 0)).unwrap_or(usize::MAX).min(MOST_MAPPINGS);
    let page = word(note, 8);
    let Some(names) = note.get(HEADER + ENTRY * count..) else {
        return Vec::new();
    };
    let names = names.split(|&byte| byte == 0);
    let piece = |(at, name): (usize, &[u8])| {
        use std::os::unix::ffi::OsStrExt as _;
        let [start, end, offset] = [0, 8, 16].map(|field| word(note, HEADER + ENTRY * at + field));
        Some(Piece {
            range: (start < end).then_some(start..end)?,
            offset: offset.checked_mul(page)?,
            path: std::ffi::OsStr::from_bytes(name).into(),
        })
    };
    names.take(count).enumerate().filter_map(piece).collect()
}

/// For `fuzzed`.
#[doc(hidden)]
pub fn parse(bytes: &[u8]) {
    Parts::parse(bytes);
    mapped(bytes);
    thread(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn the_list_of_mapped_files_is_read() {
        let note = [
            words(&[2, 4096, 0x1000, 0x3000, 0, 0x3000, 0x4000, 2]),
            b"/usr/bin/python3\0/usr/bin/python3\0".to_vec(),
        ]
        .concat();
        let pieces = mapped(&note);
        assert_eq!(pieces.len(), 2);
        assert_eq!((pieces[1].range.clone(), pieces[1].offset), (0x3000..0x4000, 8192));
        assert_eq!(pieces[0].path, Path::new("/usr/bin/python3"));
        assert!(mapped(&words(&[u64::MAX, 4096])).is_empty());
    }

    #[test]
    fn a_thread_in_a_system_call_has_its_number_and_one_outside_has_none() {
        let mut status = vec![0; 336];
        status[12] = 11;
        status[32] = 7;
        status[112 + 8 * 15] = 202;
        status[112 + 8 * 14] = 0x55;
        let found = thread(&status).expect("a thread");
        assert_eq!((found.tid, found.signal, found.look.call), (7, 11, 202));
        assert_eq!((found.look.arguments[0], found.look.letter), (0x55, b'S'));
        status[112 + 8 * 15..][..8].fill(0xff);
        let found = thread(&status).expect("a thread");
        assert_eq!(
            (found.look.call, found.look.letter),
            (profiler_common::wait::NO_CALL, b'R')
        );
        assert_eq!(thread(&status[..300]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, numbers in proptest::collection::vec(0..64_u64, 0..64)) {
            parse(&bytes);
            parse(&words(&numbers));
        }
    }
}
