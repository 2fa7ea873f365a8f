//! The directory that an output goes into, and the file that is being written there.
//!
//! The directory is looked up once and then held: a link that is put in its place during a recording leads nowhere. What
//! is done in it is done with the rights of whoever asked for the recording.

use std::{
    ffi::{CStr, CString, OsStr},
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{self, ErrorKind},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, RawFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{OpenOptionsExt as _, fchown},
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use crate::invoker::{Invoker, acting};

#[derive(Debug)]
pub(super) struct Directory {
    held: File,
    pub(super) shown: PathBuf,
    invoker: Option<Invoker>,
}

/// A file under a name of its own, which goes with it unless the file is given its real one.
#[derive(Debug)]
pub(super) struct Partial {
    directory: Arc<Directory>,
    name: CString,
    file: File,
    /// It is not to be removed any more.
    kept: bool,
}

/// The one that is being written.
static PARTIAL: Mutex<Option<(Arc<Directory>, CString)>> = Mutex::new(None);

/// Removes a file that is half written, before the program ends without having finished it.
pub fn remove_partial() {
    if let Ok(mut partial) = PARTIAL.lock()
        && let Some((directory, name)) = partial.take()
    {
        // It may just have been finished and renamed.
        let _ = directory.remove(&name);
    }
}

impl Directory {
    /// # Errors
    /// If there is none, or the invoker may not search it.
    pub(super) fn open(path: &Path, invoker: Option<&Invoker>) -> io::Result<Self> {
        let held = acting(invoker, || {
            let options = libc::O_PATH | libc::O_DIRECTORY;
            File::options().read(true).custom_flags(options).open(path)
        })??;
        Ok(Self {
            held,
            shown: path.to_owned(),
            invoker: invoker.cloned(),
        })
    }

    /// Makes a file in it. It has this mode, less the umask.
    pub(super) fn make(self: &Arc<Self>, mode: u32) -> io::Result<Partial> {
        /// Names are drawn, so even the first is taken only if somebody guesses it.
        const MOST_TRIES: u32 = 16;
        acting(self.invoker.as_ref(), || {
            let random = RandomState::new();
            for attempt in 0..MOST_TRIES {
                let name = CString::new(format!(".profiler-{:016x}.partial", random.hash_one(attempt)))?;
                match open_new(self.held.as_raw_fd(), &name, mode) {
                    Ok(file) => {
                        return Ok(Partial {
                            directory: Arc::clone(self),
                            name,
                            file,
                            kept: false,
                        });
                    }
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
            }
            Err(ErrorKind::AlreadyExists.into())
        })?
    }

    fn remove(&self, name: &CStr) -> io::Result<()> {
        acting(self.invoker.as_ref(), || {
            // SAFETY: the descriptor is open and the name ends with NUL.
            check(unsafe { libc::unlinkat(self.held.as_raw_fd(), name.as_ptr(), 0) })
        })?
    }

    fn rename(&self, from: &CStr, to: &CStr, replace: bool) -> io::Result<()> {
        let directory = self.held.as_raw_fd();
        acting(self.invoker.as_ref(), || {
            if replace {
                // SAFETY: the descriptor is open and the names end with NUL.
                return check(unsafe { libc::renameat(directory, from.as_ptr(), directory, to.as_ptr()) });
            }
            // SAFETY: as above.
            let renamed = check(unsafe {
                libc::renameat2(directory, from.as_ptr(), directory, to.as_ptr(), libc::RENAME_NOREPLACE)
            });
            match renamed {
                // Some file systems know no such renaming (NFS), but links, which replace nothing either.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                    // SAFETY: as above.
                    check(unsafe { libc::linkat(directory, from.as_ptr(), directory, to.as_ptr(), 0) })?;
                    // SAFETY: as above.
                    check(unsafe { libc::unlinkat(directory, from.as_ptr(), 0) })
                }
                renamed => renamed,
            }
        })?
    }
}

impl Partial {
    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// From here on it goes if the program is given up.
    pub(super) fn announce(&self) -> Announced {
        if let Ok(mut partial) = PARTIAL.lock() {
            *partial = Some((Arc::clone(&self.directory), self.name.clone()));
        }
        Announced
    }

    /// Gives it the mode of the file that it replaces.
    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        acting(self.directory.invoker.as_ref(), || {
            // SAFETY: the descriptor is open.
            check(unsafe { libc::fchmod(self.file.as_raw_fd(), mode) })
        })?
    }

    /// Gives it to who had the file that it replaces, as far as that is allowed: root may, except on some file systems
    /// (NFS, FAT), and others may choose among their groups.
    pub(super) fn give_to(&self, uid: u32, gid: u32) {
        // A courtesy: the profile matters more.
        let _ = acting(self.directory.invoker.as_ref(), || {
            fchown(&self.file, Some(uid), Some(gid)).or_else(|_| fchown(&self.file, None, Some(gid)))
        });
    }

    /// Gives it its real name. If that fails, it stays where it is, and that path is returned with the reason.
    pub(super) fn rename(mut self, to: &OsStr, replace: bool) -> Result<(), (io::Error, PathBuf)> {
        let renamed = CString::new(to.as_bytes())
            .map_err(io::Error::from)
            .and_then(|to| self.directory.rename(&self.name, &to, replace));
        self.kept = true;
        let path = || self.directory.shown.join(OsStr::from_bytes(self.name.as_bytes()));
        renamed.map_err(|error| (error, path()))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // Somebody may have tidied up.
            let _ = self.directory.remove(&self.name);
        }
    }
}

/// While this lives, [`remove_partial`] knows the file.
pub(super) struct Announced;

impl Drop for Announced {
    fn drop(&mut self) {
        if let Ok(mut partial) = PARTIAL.lock() {
            *partial = None;
        }
    }
}

fn open_new(directory: RawFd, name: &CStr, mode: u32) -> io::Result<File> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the descriptor is open and the name ends with NUL.
    let descriptor = unsafe { libc::openat(directory, name.as_ptr(), flags, mode) };
    check(descriptor)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
