//! The file behind a mapping: making sure it is the right one, keeping it, and what its ELF headers say.
//!
//! A path is only a hint. The process may live in another mount namespace, the file may have been replaced by an
//! upgrade or deleted, and a hostile process may have put a pipe or a device there. So a file is looked at before it is
//! opened (`O_PATH` has no effect on it), compared with what the kernel says is mapped, and then kept by its
//! descriptor.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapOptions};
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader as _};
use object::{Endianness, FileKind};
use thiserror::Error;

use super::maps::{self, MapEntry};
use super::root::{LastLink, Root};

/// Tells mapped files apart, as the kernel numbers them in a [`MapEntry`]: two mappings with the same key are of the
/// same file, as long as somebody keeps it (otherwise its inode can be given to another).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    pub device: (u32, u32),
    pub inode: u64,
}

impl FileKey {
    /// None if no file is mapped.
    pub fn of(entry: &MapEntry) -> Option<Self> {
        entry.path()?;
        (entry.inode != 0).then_some(Self {
            device: entry.device,
            inode: entry.inode,
        })
    }
}

/// Why there is no file for a mapping.
#[derive(Debug, Error)]
pub enum MappedFileError {
    #[error("not a file")]
    NotAFile,
    /// The process is gone and its path leads nowhere or to something else.
    #[error("{path:?} of process {pid} is no longer there")]
    Gone { pid: u32, path: PathBuf },
    #[error("cannot read {path:?} of process {pid}: {source}")]
    Unreadable { pid: u32, path: PathBuf, source: io::Error },
}

/// A file that is or was mapped into a process. It stays readable when the process and the file's name are gone.
#[derive(Debug)]
pub struct MappedFile {
    file: File,
    version: Version,
    path: PathBuf,
}

impl MappedFile {
    /// Opens the file that `entry` of process `pid` maps: as the process has it if it still lives, otherwise by its
    /// path if that leads to the same inode.
    ///
    /// # Errors
    /// If nothing is mapped there, or the file cannot be had, or only a different one.
    pub fn open(pid: u32, entry: &MapEntry) -> Result<Self, MappedFileError> {
        let path = entry.path().ok_or(MappedFileError::NotAFile)?;
        let key = FileKey::of(entry).ok_or(MappedFileError::NotAFile)?;
        let unreadable = |source| MappedFileError::Unreadable {
            pid,
            path: path.into(),
            source,
        };

        match look_up(pid, entry, key, path).map_err(unreadable)? {
            Some((_, version)) if !version.regular => Err(MappedFileError::NotAFile),
            Some((file, version)) => Ok(Self {
                file,
                version,
                path: path.into(),
            }),
            None => Err(MappedFileError::Gone { pid, path: path.into() }),
        }
    }

    /// Opens a file by its path in our own mount namespace.
    ///
    /// # Errors
    /// If it cannot be opened or is not a regular file.
    pub fn open_path(path: &Path) -> io::Result<Self> {
        let (handle, version) = look_at(path)?;
        if !version.regular {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self {
            file: File::open(descriptor_path(&handle))?,
            version,
            path: path.into(),
        })
    }

    /// The path as the process sees it: a name to show, not one to open.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn size(&self) -> u64 {
        self.version.size
    }

    /// The open file, to be read from.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether the content is still what it was when this was opened, going by size and time of modification.
    pub fn is_unchanged(&self) -> bool {
        self.file
            .metadata()
            .is_ok_and(|metadata| Version::from(&metadata) == self.version)
    }

    /// A path under which the kernel finds the very file that was inspected, to put probes into it. A name will not do,
    /// however lately it was looked at: the kernel looks again, and whoever may change the name decides what it finds.
    /// Works as long as `self` lives.
    ///
    /// # Errors
    /// If the file was written to meanwhile: what was found in it can be anywhere now, and a probe within an instruction
    /// ends the program that runs it.
    pub fn path_to_probe(&self) -> io::Result<PathBuf> {
        if self.is_unchanged() {
            Ok(descriptor_path(&self.file))
        } else {
            Err(io::Error::other("the file was written to after it was inspected"))
        }
    }

    /// A path that leads to this very file, to look for names: its own if it still does, so that debug files beside it
    /// are found, and otherwise `/proc/self/fd/N`, which works as long as `self` lives. What opens it looks again at
    /// what is there.
    pub fn path_to_open(&self) -> PathBuf {
        let same = look_at(&self.path).is_ok_and(|(_, version)| version == self.version);
        if same {
            self.path.clone()
        } else {
            descriptor_path(&self.file)
        }
    }

    /// The whole file as memory.
    ///
    /// What is cut off the file meanwhile reads as zeroes, after [`crate::truncated::survive`]; without, it kills the
    /// reader (SIGBUS).
    ///
    /// # Errors
    /// As mmap.
    pub fn map(&self) -> io::Result<Mmap> {
        // SAFETY: others can change the bytes under the map, as they can with any program's file. Every parser of these
        // bytes takes them for foreign: it checks what it has read, not what it could read again.
        unsafe { Mmap::map(&self.file) }
    }

    /// The ELF headers; none if the file is not ELF, or one that cannot be read.
    pub fn elf_headers(&self) -> Option<ElfHeaders> {
        ElfHeaders::read(|offset, buffer| self.file.read_exact_at(buffer, offset).ok())
    }
}

/// What identifies the content of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    device: (u32, u32),
    inode: u64,
    size: u64,
    modified: (i64, i64),
    regular: bool,
}

impl From<&std::fs::Metadata> for Version {
    fn from(metadata: &std::fs::Metadata) -> Self {
        let device = metadata.dev();
        Self {
            device: (libc::major(device), libc::minor(device)),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            regular: metadata.is_file(),
        }
    }
}

/// Finds the file of a mapping, and opens it if it is a regular one. None if there is no such file any more.
///
/// Whoever maps a file may map another in its place at any moment, and choose what its path leads to. So nothing is
/// believed for having been found in the right place: only what the kernel numbers alike is the file.
fn look_up(pid: u32, entry: &MapEntry, key: FileKey, path: &Path) -> io::Result<Option<(File, Version)>> {
    // The link leads to the mapped file itself, whatever became of its path. It needs CAP_CHECKPOINT_RESTORE or
    // CAP_SYS_ADMIN; without, the paths below may do.
    let link = |entry: &MapEntry| look_at(format!("/proc/{pid}/map_files/{:x}-{:x}", entry.start, entry.end).as_ref());
    let mut refused = None;
    let mut note = |error: io::Error| {
        if error.kind() == io::ErrorKind::PermissionDenied {
            refused = Some(error);
        }
    };
    match link(entry).and_then(|found| open_if(found, key)) {
        Ok(Some(found)) => return Ok(Some(found)),
        Ok(None) => {}
        Err(error) => note(error),
    }
    // Either the mapping was split or merged since (its link has another name), or something else is mapped there by
    // now. The process's maps tell which.
    if let Ok(maps) = maps::read(pid)
        && let Some(now) = maps.find(entry.start).filter(|now| FileKey::of(now) == Some(key))
        && (now.start, now.end) != (entry.start, entry.end)
    {
        match link(now).and_then(|found| open_if(found, key)) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(error) => note(error),
        }
    }
    // Inside the process's mount namespace, then in ours: for a process that is gone the same path is all there is.
    let inside = || look(Root::of(pid)?.hold(path, LastLink::Follow)?);
    let ours = || look_at(path);
    for candidate in [&inside as &dyn Fn() -> io::Result<(File, Version)>, &ours] {
        let is_alike = |(_, version): &(File, Version)| version.inode == key.inode;
        match candidate().map(|found| is_alike(&found).then_some(found)) {
            Ok(None) => {}
            Ok(Some(found)) => match open_if(found, key) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => note(error),
            },
            Err(error) => note(error),
        }
    }
    refused.map_or(Ok(None), Err)
}

/// Opens a file that is held, if the kernel numbers it like this where it is mapped. What is no regular file is passed on
/// as it is.
fn open_if((handle, version): (File, Version), key: FileKey) -> io::Result<Option<(File, Version)>> {
    let is_exactly = (version.device, version.inode) == (key.device, key.inode);
    // Opening a device has effects that are up to its driver, and opening a pipe waits for a writer.
    if !version.regular {
        return Ok(is_exactly.then_some((handle, version)));
    }
    let file = File::open(descriptor_path(&handle))?;
    // btrfs and overlayfs show other numbers in `stat` than in maps. Inode numbers alone say nothing: whoever makes files
    // enough on a tmpfs has any of them.
    let is_right = is_exactly || key_where_mapped(&file)? == Some(key);
    Ok(is_right.then_some((file, version)))
}

/// The numbers that the kernel shows of a file where it is mapped: here.
fn key_where_mapped(file: &File) -> io::Result<Option<FileKey>> {
    // SAFETY: nothing is read through it.
    let map = unsafe { MmapOptions::new().len(1).map(file)? };
    let own = maps::read(std::process::id())?;
    Ok(own.find(map.as_ptr() as u64).and_then(FileKey::of))
}

/// Gets hold of a file without opening it: no driver is called, no access time changes, nothing blocks on a pipe.
fn look_at(path: &Path) -> io::Result<(File, Version)> {
    look(File::options().read(true).custom_flags(libc::O_PATH).open(path)?)
}

fn look(handle: File) -> io::Result<(File, Version)> {
    let version = Version::from(&handle.metadata()?);
    Ok((handle, version))
}

fn descriptor_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// What the headers of an ELF file say about its place in memory and its identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ElfHeaders {
    segments: Vec<Segment>,
    /// The GNU build id in lower-case hex; empty if there is none.
    pub build_id: String,
}

/// A PT_LOAD program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    file_bytes: u64,
    address: u64,
    executable: bool,
}

impl ElfHeaders {
    /// Parses a file that is in memory.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Self::read(|offset, buffer| {
            let part = bytes.get(usize::try_from(offset).ok()?..)?.get(..buffer.len())?;
            buffer.copy_from_slice(part);
            Some(())
        })
    }

    /// The ELF virtual address (what `addr2line` takes) of the byte at `offset` of the file.
    ///
    /// The end of one segment and the start of the next can share a page of the file and then be mapped twice; for code
    /// the executable segment is meant, so it goes first.
    pub fn virtual_address(&self, offset: u64) -> Option<u64> {
        let holds = |segment: &&Segment| {
            offset
                .checked_sub(segment.offset)
                .is_some_and(|at| at < segment.file_bytes)
        };
        let executable = self.segments.iter().filter(|segment| segment.executable).find(holds);
        let segment = executable.or_else(|| self.segments.iter().find(holds))?;
        segment.address.checked_add(offset - segment.offset)
    }

    /// What to add to an ELF virtual address to get an address in the process that has `entry` as a mapping of this
    /// file.
    ///
    /// Wraps around: a file linked at a high address may lie at a low one.
    pub fn load_bias(&self, entry: &MapEntry) -> Option<u64> {
        let holds = |segment: &&Segment| {
            // The kernel maps whole pages, so a mapping starts up to a page before its segment.
            let first = segment.offset & !(page_bytes() - 1);
            let end = segment.offset.saturating_add(segment.file_bytes);
            (first..end).contains(&entry.offset)
        };
        let alike = |segment: &&Segment| segment.executable == entry.executable;
        let segment = self
            .segments
            .iter()
            .filter(alike)
            .find(holds)
            .or_else(|| self.segments.iter().find(holds))?;
        let address = segment.address.wrapping_add(entry.offset.wrapping_sub(segment.offset));
        Some(entry.start.wrapping_sub(address))
    }

    /// Reads through `read_at`, which fills a buffer from an offset, and asks for little: a file is not to be loaded
    /// for its build id.
    fn read(read_at: impl Fn(u64, &mut [u8]) -> Option<()>) -> Option<Self> {
        let mut start = [0; size_of::<FileHeader64<Endianness>>()];
        // A 32-bit header is shorter, but every real file is longer than either.
        read_at(0, &mut start)?;
        match FileKind::parse(&start[..]).ok()? {
            FileKind::Elf64 => Self::read_class::<FileHeader64<Endianness>>(&start, read_at),
            FileKind::Elf32 => Self::read_class::<FileHeader32<Endianness>>(&start, read_at),
            _ => None,
        }
    }

    fn read_class<Header: FileHeader<Endian = Endianness>>(
        start: &[u8],
        read_at: impl Fn(u64, &mut [u8]) -> Option<()>,
    ) -> Option<Self> {
        /// Real files have a dozen program headers.
        const MOST_HEADERS: u16 = 1024;
        /// A build id note has 36 bytes; others beside it hold properties and versions.
        const MOST_NOTE_BYTES: u64 = 64 << 10;

        let header = Header::parse(start).ok()?;
        let endian = header.endian().ok()?;
        let count = header.e_phnum(endian);
        if usize::from(header.e_phentsize(endian)) != size_of::<Header::ProgramHeader>() || count > MOST_HEADERS {
            return None;
        }
        let mut table = vec![0; usize::from(count) * size_of::<Header::ProgramHeader>()];
        read_at(header.e_phoff(endian).into(), &mut table)?;
        let (headers, _) = object::slice_from_bytes::<Header::ProgramHeader>(&table, count.into()).ok()?;

        let mut found = Self::default();
        for header in headers {
            let (offset, file_bytes) = (header.p_offset(endian).into(), header.p_filesz(endian).into());
            match header.p_type(endian) {
                elf::PT_LOAD => found.segments.push(Segment {
                    offset,
                    file_bytes,
                    address: header.p_vaddr(endian).into(),
                    executable: header.p_flags(endian) & elf::PF_X != 0,
                }),
                elf::PT_NOTE if found.build_id.is_empty() && file_bytes <= MOST_NOTE_BYTES => {
                    let mut notes = vec![0; usize::try_from(file_bytes).ok()?];
                    if read_at(offset, &mut notes).is_some() {
                        found.build_id = build_id::<Header>(endian, header.p_align(endian), &notes).unwrap_or_default();
                    }
                }
                _ => {}
            }
        }
        Some(found)
    }
}

fn build_id<Header: FileHeader<Endian = Endianness>>(
    endian: Endianness,
    align: Header::Word,
    notes: &[u8],
) -> Option<String> {
    let mut notes = NoteIterator::<Header>::new(endian, align, notes).ok()?;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
            return Some(note.desc().iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }
    None
}

fn page_bytes() -> u64 {
    // SAFETY: a plain query.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes)
        .ok()
        .filter(|bytes| bytes.is_power_of_two())
        .unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::LazyLock;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::super::maps::MapName;
    use super::*;

    fn own_executable() -> (MapEntry, u64) {
        let address = own_executable as fn() -> (MapEntry, u64) as usize as u64;
        let maps = maps::read(std::process::id()).expect("own maps");
        (
            maps.find(address).expect("a mapping for this function").clone(),
            address,
        )
    }

    fn system_tool() -> PathBuf {
        fs::canonicalize("/bin/true").expect("/bin/true")
    }

    /// An entry as the maps of some process would show the file at `path`.
    fn entry_of(path: &Path) -> MapEntry {
        let (handle, version) = look_at(path).expect("a file");
        // Of what cannot be mapped, `stat` has the numbers.
        let key = version
            .regular
            .then(|| File::open(descriptor_path(&handle)).expect("a file"))
            .and_then(|file| key_where_mapped(&file).expect("a mapping"))
            .unwrap_or(FileKey {
                device: version.device,
                inode: version.inode,
            });
        MapEntry {
            start: 0x1000,
            end: 0x2000,
            offset: 0,
            executable: true,
            device: key.device,
            inode: key.inode,
            name: MapName::File {
                path: path.into(),
                deleted: false,
            },
        }
    }

    const NOBODY: u32 = u32::MAX;

    #[test]
    fn a_mapped_file_leads_from_an_address_to_its_symbol() {
        let (entry, address) = own_executable();
        let file = MappedFile::open(std::process::id(), &entry).expect("own executable");
        let headers = file.elf_headers().expect("ELF");
        let offset = entry.file_offset(address).expect("inside");
        let virtual_address = headers.virtual_address(offset).expect("in a segment");
        assert_eq!(
            address.wrapping_sub(headers.load_bias(&entry).expect("in a segment")),
            virtual_address
        );
        // The executable is position independent and loaded as one piece: ask the auxiliary vector.
        // SAFETY: a plain query.
        let program_headers = unsafe { libc::getauxval(libc::AT_PHDR) };
        assert_eq!(
            program_headers.wrapping_sub(headers.load_bias(&entry).expect("in a segment")) % 4096,
            64
        );
        assert_eq!(file.path_to_open(), std::env::current_exe().expect("own path"));
        assert!(file.is_unchanged());
    }

    #[test]
    fn the_build_id_is_the_one_object_finds() {
        for path in [system_tool(), std::env::current_exe().expect("own path")] {
            let bytes = fs::read(&path).expect("read");
            let object = object::File::parse(&*bytes).expect("ELF");
            let expected: String = object::Object::build_id(&object)
                .expect("notes")
                .unwrap_or_default()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(ElfHeaders::parse(&bytes).expect("ELF").build_id, expected);
            let file = MappedFile::open_path(&path).expect("open");
            assert_eq!(file.elf_headers(), ElfHeaders::parse(&bytes));
            assert_eq!(file.map().expect("map")[..], bytes[..]);
        }
    }

    #[test]
    fn a_deleted_file_of_a_living_process_is_read_from_the_process() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("sleeper");
        // By a process of its own: a program cannot be started while some other test's fork has it open for writing.
        let copied = std::process::Command::new("cp")
            .arg("/bin/sleep")
            .arg(&path)
            .status()
            .expect("run cp");
        assert!(copied.success());
        let mut child = std::process::Command::new(&path).arg("60").spawn().expect("start");
        // As after vfork, the parent goes on when the child has let go of its old memory, a moment before it has the
        // new one.
        let deadline = Instant::now() + Duration::from_secs(10);
        let code = |path: &Path| {
            let maps = maps::read(child.id()).expect("maps");
            maps.entries
                .into_iter()
                .find(|entry| entry.executable && entry.path() == Some(path))
        };
        let executable = fs::canonicalize(&path).expect("path");
        while code(&executable).is_none() {
            assert!(Instant::now() < deadline, "started within ten seconds");
            std::thread::yield_now();
        }
        fs::remove_file(&path).expect("delete");
        // What stands at the path now is not what runs.
        fs::copy("/bin/true", &path).expect("copy");

        let entry = code(&executable).expect("code");
        assert!(matches!(entry.name, MapName::File { deleted: true, .. }));
        let opened = MappedFile::open(child.id(), &entry);
        child.kill().expect("kill");
        child.wait().expect("reap");
        let file = match opened {
            // Without CAP_CHECKPOINT_RESTORE there is no way to the file, and the right one is not mistaken for it.
            Err(MappedFileError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("skipped: {source}");
                return;
            }
            opened => opened.expect("open"),
        };
        let sleep = fs::read("/bin/sleep").expect("read");
        assert_eq!(file.map().expect("map")[..], sleep[..]);
        assert_eq!(fs::read(file.path_to_open()).expect("read"), sleep);
        assert!(file.path_to_open().starts_with("/proc/self/fd"));
        assert_eq!(fs::read(file.path_to_probe().expect("unchanged")).expect("read"), sleep);
    }

    #[test]
    fn a_link_of_another_name_is_found_by_the_address() {
        let (mut entry, _) = own_executable();
        // As if the mapping had been longer when it was told.
        entry.end += 0x1000;
        MappedFile::open(std::process::id(), &entry).expect("found");
    }

    #[test]
    fn the_file_of_a_dead_process_is_found_by_path_and_inode() {
        let entry = entry_of(&system_tool());
        MappedFile::open(NOBODY, &entry).expect("found");
        let other_inode = MapEntry {
            inode: entry.inode + 1,
            ..entry.clone()
        };
        assert!(matches!(
            MappedFile::open(NOBODY, &other_inode),
            Err(MappedFileError::Gone { .. })
        ));
        let other_disk = MapEntry {
            device: (entry.device.0 + 1, entry.device.1),
            ..entry.clone()
        };
        assert!(matches!(
            MappedFile::open(NOBODY, &other_disk),
            Err(MappedFileError::Gone { .. })
        ));
    }

    #[test]
    fn a_file_of_the_same_number_on_another_file_system_is_not_mistaken_for_it() {
        // Whoever fills a tmpfs with files has one of any number, and maps and path say what its owner likes.
        let entry = entry_of(&system_tool());
        let elsewhere = MapEntry {
            device: (0, 0xf_fff0),
            ..entry
        };
        for pid in [NOBODY, std::process::id()] {
            assert!(MappedFile::open(pid, &elsewhere).is_err());
        }
    }

    #[test]
    fn a_file_that_numbers_differently_where_it_is_mapped_is_found() {
        let (entry, _) = own_executable();
        let opened = MappedFile::open(std::process::id(), &entry).expect("own executable");
        assert_eq!(key_where_mapped(opened.file()).expect("mapped"), FileKey::of(&entry));
    }

    #[test]
    fn a_path_inside_a_process_is_not_led_out_of_its_root() {
        let root = Root::of(std::process::id()).expect("own root");
        assert!(root.hold(Path::new("/proc/self/exe"), LastLink::Follow).is_err());
    }

    #[test]
    fn pipes_and_devices_are_refused_without_being_opened() {
        let directory = tempfile::tempdir().expect("directory");
        let pipe = directory.path().join("pipe");
        let name = CString::new(pipe.to_str().expect("path")).expect("path");
        // SAFETY: a valid path.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let link = directory.path().join("link");
        symlink("/dev/zero", &link).expect("link");
        for path in [&pipe, &link] {
            assert!(matches!(
                MappedFile::open(NOBODY, &entry_of(path)),
                Err(MappedFileError::NotAFile)
            ));
            assert_eq!(
                MappedFile::open_path(path).expect_err("refused").kind(),
                io::ErrorKind::InvalidInput
            );
        }
    }

    #[test]
    fn a_file_that_was_written_to_is_changed() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let opened = MappedFile::open_path(file.path()).expect("open");
        assert!(opened.is_unchanged());
        assert!(opened.path_to_probe().is_ok());
        fs::write(file.path(), b"new").expect("write");
        assert!(!opened.is_unchanged());
        // What was found in it may be elsewhere now.
        assert!(opened.path_to_probe().is_err());
        assert!(opened.elf_headers().is_none());
    }

    #[test]
    fn probes_go_into_the_file_that_was_inspected_whatever_its_name_leads_to_by_then() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("python");
        fs::copy("/bin/true", &path).expect("copy");
        let inspected = fs::metadata(&path).expect("metadata").ino();
        let opened = MappedFile::open_path(&path).expect("open");
        let to_probe = opened.path_to_probe().expect("unchanged");
        // After the last look of ours and before the kernel's.
        fs::remove_file(&path).expect("delete");
        symlink("/bin/sleep", &path).expect("link");
        assert_eq!(fs::metadata(to_probe).expect("metadata").ino(), inspected);
    }

    #[test]
    fn the_executable_segment_answers_for_a_page_of_two() {
        let segment = |offset, address, executable| Segment {
            offset,
            file_bytes: 0x1000,
            address,
            executable,
        };
        let headers = ElfHeaders {
            segments: vec![segment(0x800, 0x5800, false), segment(0x1000, 0x9000, true)],
            build_id: String::new(),
        };
        assert_eq!(headers.virtual_address(0x1400), Some(0x9400));
        assert_eq!(headers.virtual_address(0x900), Some(0x5900));
        assert_eq!(headers.virtual_address(0x2000), None);
        let entry = |offset, executable| MapEntry {
            start: 0x7000_0000,
            end: 0x7000_1000,
            offset,
            executable,
            device: (0, 0),
            inode: 1,
            name: MapName::Anonymous,
        };
        // The data segment's first page starts before the segment.
        assert_eq!(headers.load_bias(&entry(0, false)), Some(0x7000_0000 - 0x5000));
        assert_eq!(headers.load_bias(&entry(0x1000, true)), Some(0x7000_0000 - 0x9000));
        assert_eq!(headers.load_bias(&entry(0x1000, false)), Some(0x7000_0000 - 0x6000));
        assert_eq!(headers.load_bias(&entry(0x9000, true)), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            ElfHeaders::parse(&bytes);
        }

        #[test]
        fn a_damaged_file_never_panics(
            damage in prop::collection::vec((0usize..1024, any::<u8>()), 1..40),
            length in 0usize..4096,
            offset: u64,
        ) {
            static TOOL: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read("/bin/true").expect("read"));
            let mut bytes = TOOL[..length.min(TOOL.len())].to_vec();
            for (at, byte) in damage {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            if let Some(headers) = ElfHeaders::parse(&bytes) {
                headers.virtual_address(offset);
                let start = offset & !0xfff;
                headers.load_bias(&MapEntry { start, offset: start, ..entry_of(Path::new("/bin/true")) });
            }
        }
    }
}
