//! What a process sees as `/`: files of its mount namespace, opened without being led out of it.
//!
//! A path below `/proc/PID/root` is not enough. An absolute symbolic link in a container would lead to our own files,
//! and `..` in one past its root; openat2's `RESOLVE_IN_ROOT` (Linux 5.6) stays inside, as the process itself would.
//! And what lies there is chosen by the process: it is looked at before it is opened (`O_PATH` has no effect on it),
//! because opening a pipe waits for a writer and opening a device is up to its driver.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, RawFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, OpenOptionsExt as _},
        },
    },
    path::{Path, PathBuf},
};

/// The root directory of a process. It stays reachable when the process is gone.
#[derive(Debug)]
pub struct Root {
    directory: File,
}

/// What to do about a symbolic link at the very end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    Follow,
    Refuse,
}

impl Root {
    /// # Errors
    /// If the process is gone (a zombie has no root either) or may not be looked into.
    pub fn of(pid: u32) -> io::Result<Self> {
        let directory = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(format!("/proc/{pid}/root"))?;
        Ok(Self { directory })
    }

    /// Whether it is our own root directory. Directories below can still be other ones: a service with `PrivateTmp=yes`
    /// has the machine's root and a `/tmp` of its own.
    pub fn is_ours(&self) -> bool {
        let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.directory.metadata(), std::fs::metadata("/")) {
            (Ok(theirs), Ok(ours)) => place(theirs) == place(ours),
            _ => false,
        }
    }

    /// Opens a regular file by its path as the process sees it.
    ///
    /// # Errors
    /// If there is none, or something else, or openat2 is not allowed (seccomp profiles older than it).
    pub fn open(&self, path: &Path, last: LastLink) -> io::Result<File> {
        reopen(&self.hold(path, last)?)
    }

    /// Gets hold of what is at a path as the process sees it, without opening it.
    ///
    /// # Errors
    /// If there is nothing, or openat2 is not allowed.
    pub fn hold(&self, path: &Path, last: LastLink) -> io::Result<File> {
        let nofollow = match last {
            LastLink::Follow => 0,
            LastLink::Refuse => libc::O_NOFOLLOW,
        };
        open_in_root(
            self.directory.as_raw_fd(),
            path,
            libc::O_PATH | libc::O_CLOEXEC | nofollow,
        )
    }
}

/// Opens a regular file by its path in our own mount namespace: never a pipe or a device.
///
/// # Errors
/// If there is none, or something else.
pub fn open_regular(path: &Path, last: LastLink) -> io::Result<File> {
    let nofollow = match last {
        LastLink::Follow => 0,
        LastLink::Refuse => libc::O_NOFOLLOW,
    };
    let handle = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | nofollow)
        .open(path)?;
    reopen(&handle)
}

/// A path that leads to an open file, whatever became of its name, as long as it is open.
pub fn descriptor_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Opens for reading what is only held so far, if it is a regular file.
fn reopen(handle: &File) -> io::Result<File> {
    if !handle.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    File::open(descriptor_path(handle))
}

fn open_in_root(directory: RawFd, path: &Path, flags: libc::c_int) -> io::Result<File> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: plain integers, for which zero is a value. The kernel may know more fields than libc, or fewer: it goes
    // by the size, and zero means "not used" for all of them.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = flags as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: the path ends with NUL and `how` is as large as is said; both live until the call returns.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory,
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just created and has no other owner; descriptors fit into 32 bits.
    Ok(unsafe { File::from_raw_fd(descriptor as RawFd) })
}

#[cfg(test)]
mod tests {
    use std::{ffi::CString, fs, io::Read as _, os::unix::fs::symlink};

    use super::*;

    /// A directory as somebody's root.
    fn root_at(path: &Path) -> Root {
        let directory = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(path)
            .expect("a directory");
        Root { directory }
    }

    fn text(mut file: File) -> String {
        let mut text = String::new();
        file.read_to_string(&mut text).expect("text");
        text
    }

    #[test]
    fn an_absolute_link_stays_inside_the_root() {
        let directory = tempfile::tempdir().expect("directory");
        fs::create_dir(directory.path().join("etc")).expect("create");
        fs::write(directory.path().join("etc/hostname"), "inside").expect("write");
        symlink("/etc/hostname", directory.path().join("absolute")).expect("link");
        symlink("../../../../etc/hostname", directory.path().join("upwards")).expect("link");
        symlink("/proc/self/exe", directory.path().join("magic")).expect("link");
        let root = root_at(directory.path());
        for path in [
            "/etc/hostname",
            "etc/hostname",
            "/absolute",
            "/upwards",
            "/../../etc/hostname",
        ] {
            assert_eq!(
                text(root.open(Path::new(path), LastLink::Follow).expect(path)),
                "inside"
            );
        }
        assert!(root.open(Path::new("/magic"), LastLink::Follow).is_err());
        assert!(root.open(Path::new("/absolute"), LastLink::Refuse).is_err());
    }

    #[test]
    fn a_pipe_a_device_and_a_directory_are_not_opened() {
        let directory = tempfile::tempdir().expect("directory");
        let pipe = directory.path().join("pipe");
        let name = CString::new(pipe.as_os_str().as_bytes()).expect("no NUL");
        // SAFETY: a valid path.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let root = root_at(directory.path());
        assert!(root.open(Path::new("/pipe"), LastLink::Follow).is_err());
        assert!(root.open(Path::new("/"), LastLink::Follow).is_err());
        assert!(open_regular(&pipe, LastLink::Follow).is_err());
        assert!(open_regular(Path::new("/dev/null"), LastLink::Follow).is_err());
        assert!(open_regular(Path::new("/proc/self/exe"), LastLink::Refuse).is_err());
        assert!(open_regular(Path::new("/proc/self/exe"), LastLink::Follow).is_ok());
    }

    #[test]
    fn our_own_root_is_recognized() {
        assert!(Root::of(std::process::id()).expect("own root").is_ours());
        let directory = tempfile::tempdir().expect("directory");
        assert!(!root_at(directory.path()).is_ours());
        assert!(Root::of(u32::MAX).is_err());
    }
}
