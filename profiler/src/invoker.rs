//! The user behind `sudo`.
//!
//! A profiler that was started with sudo is root because it must read other processes, not because its user wants the
//! command after `--` to run as root, or the profile to belong to root. sudo says who asked in `SUDO_UID` and
//! `SUDO_GID` (sudo(8), "ENVIRONMENT"); the user database has the rest.

mod acting;

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    fmt,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    ptr,
};

use anyhow::{Context as _, Result};

pub use self::acting::acting;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoker {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, `gid` included.
    pub groups: Vec<u32>,
    /// `None` where the user database does not know the uid.
    pub account: Option<Account>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: OsString,
    pub home: OsString,
    pub shell: OsString,
}

impl Invoker {
    /// Who asked for this run, if that is somebody else than we are.
    pub fn of_this_process() -> Result<Option<Self>> {
        // SAFETY: geteuid(2) has no preconditions and cannot fail.
        let effective_uid = unsafe { libc::geteuid() };
        Self::from_environment(|name| std::env::var_os(name), effective_uid)
    }

    /// Reads the variables through `variable`. Only root can become somebody else, so for any other user, and for
    /// root's own sudo, there is no invoker.
    ///
    /// A `SUDO_UID` that makes no sense is an error: what follows would otherwise run as root in silence.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>, effective_uid: u32) -> Result<Option<Self>> {
        let (0, Some(uid)) = (effective_uid, variable("SUDO_UID")) else {
            return Ok(None);
        };
        let uid = parse_id(&uid).with_context(|| {
            format!("SUDO_UID is not a user id: {uid:?}; unset it to run as root, or set it to the uid to run as")
        })?;
        if uid == 0 {
            return Ok(None);
        }
        let found = look_up(uid);
        let gid = match (variable("SUDO_GID"), &found) {
            (Some(gid), _) => parse_id(&gid).with_context(|| {
                format!("SUDO_GID is not a group id: {gid:?}; unset it to take the group of user {uid}")
            })?,
            (None, Some((_, primary))) => *primary,
            (None, None) => anyhow::bail!(
                "user {uid} (SUDO_UID) is not in the user database and SUDO_GID is not set; set SUDO_GID to its group"
            ),
        };
        let account = found.map(|(account, _)| account);
        let groups = account
            .as_ref()
            .map_or_else(|| vec![gid], |account| groups_of(&account.name, gid));
        Ok(Some(Self {
            uid,
            gid,
            groups,
            account,
        }))
    }
}

impl fmt::Display for Invoker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.account {
            Some(account) => write!(f, "{}", account.name.display()),
            None => write!(f, "user {}", self.uid),
        }
    }
}

/// Ids are 32 bits, and the last one means "no change" to setresuid(2), which must not be let through.
fn parse_id(text: &OsStr) -> Option<u32> {
    text.to_str()?.parse().ok().filter(|&id| id != u32::MAX)
}

/// The account of a uid and its primary group.
fn look_up(uid: u32) -> Option<(Account, u32)> {
    // SAFETY: `passwd` is made of integers and pointers, for which zero is a value.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    // 16 KiB hold any sane entry; a directory service with longer ones gets more, up to a bound.
    let mut buffer = vec![0; 16 << 10];
    loop {
        let mut found = ptr::null_mut();
        // SAFETY: `entry`, `buffer` (with its true length) and `found` are ours, live and writable for the whole call.
        let error = unsafe { libc::getpwuid_r(uid, &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
        match error {
            0 if !found.is_null() => break,
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 2, 0),
            libc::EINTR => {}
            _ => return None,
        }
    }
    let text = |pointer: *const libc::c_char| {
        if pointer.is_null() {
            return OsString::new();
        }
        // SAFETY: getpwuid_r succeeded, so its strings are NUL-terminated and lie in `buffer`, which is still alive.
        let text = unsafe { CStr::from_ptr(pointer) };
        OsString::from_vec(text.to_bytes().to_vec())
    };
    let account = Account {
        name: text(entry.pw_name),
        home: text(entry.pw_dir),
        shell: text(entry.pw_shell),
    };
    Some((account, entry.pw_gid))
}

/// The groups login would give to `name`; `gid` alone when they cannot be had, which grants less and never more.
fn groups_of(name: &OsStr, gid: u32) -> Vec<u32> {
    let Ok(name) = CString::new(name.as_bytes()) else {
        return vec![gid];
    };
    // NGROUPS_MAX is 65536 (Linux 2.6.4 and later).
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    while groups.len() <= 65_536 {
        let mut count = groups.len() as libc::c_int;
        // SAFETY: `name` is NUL-terminated, and `groups` has room for the `count` entries the call may write.
        let answer = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        if answer >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            return groups;
        }
        groups.resize(groups.len() * 4, 0);
    }
    vec![gid]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)], effective_uid: u32) -> Result<Option<Invoker>> {
        Invoker::from_environment(
            |name| {
                variables
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| OsString::from(value))
            },
            effective_uid,
        )
    }

    #[test]
    fn without_sudo_there_is_no_invoker() {
        assert_eq!(from(&[], 0).unwrap(), None);
    }

    #[test]
    fn who_is_not_root_cannot_become_another() {
        assert_eq!(from(&[("SUDO_UID", "1000"), ("SUDO_GID", "1000")], 1000).unwrap(), None);
    }

    #[test]
    fn roots_own_sudo_drops_nothing() {
        assert_eq!(from(&[("SUDO_UID", "0"), ("SUDO_GID", "0")], 0).unwrap(), None);
    }

    #[test]
    fn an_account_is_read_from_the_user_database() {
        // `nobody` and `nogroup` are 65534 on every Debian (base-passwd) and every systemd machine.
        let invoker = from(&[("SUDO_UID", "65534"), ("SUDO_GID", "65534")], 0)
            .unwrap()
            .unwrap();
        assert_eq!((invoker.uid, invoker.gid), (65534, 65534));
        assert!(invoker.groups.contains(&65534), "{invoker:?}");
        assert!(!invoker.groups.contains(&0), "{invoker:?}");
        assert_eq!(invoker.account.unwrap().name, "nobody");
    }

    #[test]
    fn a_uid_without_an_account_needs_a_gid() {
        let uid = ("SUDO_UID", "3999999999");
        let invoker = from(&[uid, ("SUDO_GID", "3999999998")], 0).unwrap().unwrap();
        assert_eq!((invoker.groups, invoker.account), (vec![3_999_999_998], None));
        assert!(from(&[uid], 0).is_err());
    }

    #[test]
    fn nonsense_is_refused_instead_of_running_as_root() {
        for uid in ["", "-1", "root", "4294967295", "4294967296"] {
            let error = format!("{:#}", from(&[("SUDO_UID", uid), ("SUDO_GID", "1")], 0).unwrap_err());
            assert!(error.contains("SUDO_UID is not a user id"), "{error}");
        }
        assert!(from(&[("SUDO_UID", "65534"), ("SUDO_GID", "wheel")], 0).is_err());
    }
}
