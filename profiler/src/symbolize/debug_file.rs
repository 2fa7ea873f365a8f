//! Debug information that was split off a file: where it is, and whether it belongs to the file.
//!
//! blazesym looks for it as well, but it opens whatever lies at a path, a pipe included, and reads a file's build id by
//! a path that in our mount namespace may lead to another. So it is given the file that was found here.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use flate2::Crc;
use memmap2::Mmap;
use object::{Object as _, ObjectSection as _};

use crate::process::root::{LastLink, Root, open_regular};

/// What a file says about its debug information.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) build_id: Vec<u8>,
    /// Name and CRC-32 of the file that `.gnu_debuglink` names.
    pub(super) link: Option<(PathBuf, u32)>,
}

impl Wanted {
    pub(super) fn of(file: &object::File<'_>) -> Self {
        Self {
            build_id: file.build_id().ok().flatten().unwrap_or_default().to_vec(),
            link: file
                .gnu_debuglink()
                .ok()
                .flatten()
                // A name, and not a path that leads somewhere.
                .filter(|(name, _)| !name.is_empty() && !name.contains(&b'/') && !matches!(*name, b"." | b".."))
                .map(|(name, crc)| (OsStr::from_bytes(name).into(), crc)),
        }
    }

    /// Where gdb would look: by build id in the directories for debug files, then by the link beside the file (`path`,
    /// if known), in `.debug` there, and at the same place below the directories for debug files.
    pub(super) fn places(&self, path: Option<&Path>, debug_dirs: &[PathBuf]) -> Vec<Place> {
        let mut places = Vec::new();
        if let Some((first, rest)) = self.build_id.split_first()
            && !rest.is_empty()
        {
            let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
            let name = format!(".build-id/{first:02x}/{rest}.debug");
            places.extend(debug_dirs.iter().map(|directory| Place {
                path: directory.join(&name),
                is_installed: true,
            }));
        }
        let Some((name, _)) = &self.link else { return places };
        let mut add = |path: PathBuf, is_installed| places.push(Place { path, is_installed });
        let parent = path.and_then(Path::parent);
        if let Some(parent) = parent {
            add(parent.join(name), false);
            add(parent.join(".debug").join(name), false);
        }
        for directory in debug_dirs {
            if let Some(parent) = parent {
                add(
                    directory.join(parent.strip_prefix("/").unwrap_or(parent)).join(name),
                    true,
                );
            }
            add(directory.join(name), true);
        }
        places
    }

    /// Whether a debug file is that of the file. With build ids in both, these decide. Otherwise the checksum does, for
    /// which the debug file is read whole.
    pub(super) fn matches(&self, found: &Self, bytes: &[u8]) -> bool {
        if !self.build_id.is_empty() && !found.build_id.is_empty() {
            return self.build_id == found.build_id;
        }
        /// Two seconds' worth.
        const MOST_CHECKED_BYTES: usize = 2 << 30;
        if self.link.is_none() || bytes.len() > MOST_CHECKED_BYTES {
            return false;
        }
        let mut crc = Crc::new();
        crc.update(bytes);
        self.link.as_ref().is_some_and(|(_, expected)| *expected == crc.sum())
    }
}

/// Where a debug file may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// In a directory for debug files, where only root can put one. What lies beside a file is its owner's.
    pub(super) is_installed: bool,
}

/// Finds the debug file of `file`, the one that process `pid` calls `path`, in the mount namespace of the process:
/// below its own `/usr/lib/debug`, or beside the file. For a process that has our root there is nothing to do: its
/// files can be found when they are needed.
///
/// To be called while the process lives. Whether it really is the file's is only checked when it is used.
pub fn in_container(pid: u32, path: &Path, file: &File, debug_dirs: &[PathBuf]) -> Option<File> {
    let root = Root::of(pid).ok().filter(|root| !root.is_ours())?;
    // SAFETY: as in `Facts::read`.
    let bytes = unsafe { Mmap::map(file) }.ok()?;
    let wanted = Wanted::of(&object::File::parse(&*bytes).ok()?);
    wanted
        .places(Some(path), debug_dirs)
        .into_iter()
        .find_map(|place| root.open(&place.path, LastLink::Follow).ok())
}

/// Whether debug information refers to yet another file, whose place it chooses itself: blazesym would open that.
pub(super) fn refers_to_others(file: &object::File<'_>) -> bool {
    [".gnu_debuglink", ".gnu_debugaltlink", ".debug_sup"]
        .iter()
        .any(|name| file.section_by_name(name).is_some())
}

/// MiniDebugInfo: a symbol table in an ELF file, compressed by xz, in `.gnu_debugdata` (Fedora and its relatives).
/// Whether it can be unpacked to at most `most_bytes`; blazesym unpacks it without asking how large it becomes.
pub(super) fn mini_debug_info_fits(file: &object::File<'_>, most_bytes: u64) -> bool {
    /// Of the decoder itself: xz -9 makes it take 65 MiB.
    const MOST_DECODER_BYTES: u64 = 100 << 20;

    let Some(section) = file.section_by_name(".gnu_debugdata") else {
        return true;
    };
    let Ok(bytes) = section.data() else { return false };
    let Ok(stream) = xz2::stream::Stream::new_stream_decoder(MOST_DECODER_BYTES, 0) else {
        return false;
    };
    let mut decoder = io::Read::take(xz2::read::XzDecoder::new_stream(bytes, stream), most_bytes + 1);
    io::copy(&mut decoder, &mut io::sink()).is_ok_and(|unpacked| unpacked <= most_bytes)
}

/// Opens the first of `places` that `is_right`.
pub(super) fn first<T>(places: Vec<Place>, is_right: impl Fn(&Place, File) -> Option<T>) -> Option<T> {
    places.into_iter().find_map(|place| {
        let file = open_regular(&place.path, LastLink::Follow).ok()?;
        is_right(&place, file)
    })
}
