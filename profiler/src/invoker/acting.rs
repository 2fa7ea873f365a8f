//! Doing with files what the user behind sudo may do, and no more.
//!
//! The kernel asks a thread's file system ids, its groups and its capabilities whether it may open, rename or remove a
//! file. Those are changed, for one thread and for a moment; the others, and what the recording needs of root, stay as
//! they are. The C library's functions would change all threads, so the calls are made directly.

use std::{ffi::c_long, io};

use super::Invoker;
use crate::rights::{self, Capabilities};

/// Does `work` with the invoker's rights to files; with our own if there is none.
///
/// # Errors
/// If those rights cannot be had, in which case nothing is done.
pub fn acting<T>(invoker: Option<&Invoker>, work: impl FnOnce() -> T) -> io::Result<T> {
    let _until_then = match invoker.map(Acting::begin).transpose() {
        Ok(acting) => acting,
        Err(error) => {
            let why = format!("cannot act as the user behind sudo ({error}); unset SUDO_UID to act as root");
            return Err(io::Error::other(why));
        }
    };
    Ok(work())
}

/// Rights to files as they were before.
struct Acting {
    uid: u32,
    gid: u32,
    groups: Vec<libc::gid_t>,
    capabilities: Capabilities,
}

impl Acting {
    fn begin(invoker: &Invoker) -> io::Result<Self> {
        // SAFETY: neither has preconditions, and both only tell.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        // What fails half way is undone when this goes.
        let acting = Self {
            uid,
            gid,
            groups: groups()?,
            capabilities: Capabilities::read()?,
        };
        set_groups(&invoker.groups)?;
        set_file_id(libc::SYS_setfsgid, invoker.gid)?;
        set_file_id(libc::SYS_setfsuid, invoker.uid)?;
        // The kernel has dropped them with the uid, unless the process was started in a mode in which it does not.
        acting.capabilities.suspending(rights::FILES).set()?;
        Ok(acting)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        // Who was allowed to take these away is allowed to take them back. Would it fail, the thread could do less than
        // before, and what it tries next would say so.
        let _ = set_file_id(libc::SYS_setfsuid, self.uid);
        let _ = set_file_id(libc::SYS_setfsgid, self.gid);
        let _ = set_groups(&self.groups);
        let _ = self.capabilities.set();
    }
}

fn groups() -> io::Result<Vec<libc::gid_t>> {
    // SAFETY: with no room given, the number is all that is asked for.
    let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
    let mut groups = vec![0; usize::try_from(count).map_err(|_| io::Error::last_os_error())?];
    // SAFETY: there is room for as many as is said.
    let count = unsafe { libc::getgroups(count, groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(count).map_err(|_| io::Error::last_os_error())?);
    Ok(groups)
}

fn set_groups(groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: as many as is said are there to be read.
    match unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// These calls tell of no failure, only what the id was: no id is -1, so asking for that one changes nothing.
fn set_file_id(call: c_long, id: u32) -> io::Result<()> {
    // SAFETY: plain integers.
    let is = unsafe {
        libc::syscall(call, c_long::from(id));
        libc::syscall(call, c_long::from(u32::MAX))
    };
    if is == c_long::from(id) {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
        panic,
    };

    use super::*;

    fn nobody() -> Invoker {
        Invoker {
            uid: 65534,
            gid: 65533,
            groups: vec![65533],
            account: None,
        }
    }

    /// The kernel's lines on who this thread is, and what it may do.
    fn rights() -> Vec<String> {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let kept = ["Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:"];
        let lines = status
            .lines()
            .filter(|line| kept.iter().any(|kept| line.starts_with(kept)));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn rights_come_back_however_the_work_ends() {
        let before = rights();
        let invoker = nobody();
        if acting(Some(&invoker), || ()).is_err() {
            eprintln!("skipping: only root can act for others");
            return;
        }
        assert_eq!(rights(), before);
        let work = || acting(Some(&invoker), || panic!("work panics"));
        assert!(panic::catch_unwind(panic::AssertUnwindSafe(work)).is_err());
        assert_eq!(rights(), before);
    }

    #[test]
    fn work_is_done_with_the_users_rights_and_only_by_this_thread() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        fs::write(&secret, "").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let other = || std::thread::scope(|scope| scope.spawn(|| fs::read(&secret).is_ok()).join().unwrap());
        let done = acting(Some(&nobody()), || {
            assert!(fs::read(&secret).is_err());
            let seen = rights();
            assert!(seen.iter().any(|line| line == "Groups:\t65533 "), "{seen:?}");
            seen
        });
        let Ok(seen) = done else {
            eprintln!("skipping: only root can act for others");
            return;
        };
        assert_ne!(seen, rights());
        assert!(fs::read(&secret).is_ok() && other());
        assert_eq!(fs::metadata(&secret).unwrap().uid(), 0);
    }
}
