//! The cgroup that the user named, as the kernel side knows it.

use std::{
    ffi::OsStr,
    fs,
    mem::MaybeUninit,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::MetadataExt as _,
    },
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::Roots;

/// A cgroup as `bpf_get_current_ancestor_cgroup_id` knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// The inode of its directory, which is its id on 64-bit kernels since 5.5.
    pub id: u64,
    /// Depth below the root, which is 0. Counted from the root of the machine, not of a cgroup namespace.
    pub level: u32,
}

/// Finds the cgroup that `path` means: a directory of a cgroup version 2 file system, or a path below its root as
/// /proc/PID/cgroup shows it.
pub(super) fn resolve(path: &Path, roots: &Roots) -> Result<Cgroup> {
    let mountinfo = fs::read(roots.proc.join("self/mountinfo")).context("cannot read the list of mounts")?;
    let mounts = cgroup2_mounts(&mountinfo);
    if mounts.is_empty() {
        bail!("no cgroup version 2 file system is mounted; mount one with mount -t cgroup2 none /sys/fs/cgroup");
    }
    let wanted = existing_cgroup(path, &mounts)?;
    let metadata = fs::metadata(&wanted).with_context(|| format!("cannot look at {}", wanted.display()))?;
    // The mount that shows it: the longest that it lies below.
    let mount = mounts
        .iter()
        .filter(|mount| wanted.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
        .with_context(|| {
            format!(
                "{} lies below no cgroup version 2 mount; name it below one",
                wanted.display()
            )
        })?;
    let below_mount = wanted.strip_prefix(&mount.point).unwrap_or(Path::new(""));
    let level = namespace_depth(roots) + depth(&mount.root) + depth(below_mount);
    let level = u32::try_from(level).ok().with_context(|| {
        format!(
            "cannot tell how deep {} lies; run in the machine's cgroup namespace (--cgroupns=host)",
            wanted.display()
        )
    })?;
    Ok(Cgroup {
        id: metadata.ino(),
        level,
    })
}

/// A mounted cgroup version 2 file system.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The cgroup that is mounted, as seen from our cgroup namespace: `/` but for bind mounts and foreign namespaces.
    root: PathBuf,
    point: PathBuf,
}

/// Lines are `36 35 98:0 /root /point options [optional…] - fstype source options` (proc_pid_mountinfo(5)).
fn cgroup2_mounts(mountinfo: &[u8]) -> Vec<Mount> {
    let mount_of = |line: &[u8]| {
        let mut fields = line.split(|&byte| byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        fields.find(|&field| field == b"-")?;
        (fields.next()? == b"cgroup2").then(|| Mount {
            root: unescape(root),
            point: unescape(point),
        })
    };
    mountinfo.split(|&byte| byte == b'\n').filter_map(mount_of).collect()
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let (byte, after) = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after)
            }
            _ => (*first, after),
        };
        path.push(byte);
        rest = after;
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

/// The directory that `path` means, canonical, on a cgroup version 2 file system.
fn existing_cgroup(path: &Path, mounts: &[Mount]) -> Result<PathBuf> {
    let below_root = path.strip_prefix("/").unwrap_or(path);
    let candidates = std::iter::once(path.to_owned()).chain(mounts.iter().map(|mount| mount.point.join(below_root)));
    let mut version_1 = false;
    for candidate in candidates {
        let Ok(real) = fs::canonicalize(&candidate) else {
            continue;
        };
        match file_system_of(&real) {
            Some(libc::CGROUP2_SUPER_MAGIC) if real.is_dir() => return Ok(real),
            Some(libc::CGROUP_SUPER_MAGIC) => version_1 = true,
            _ => {}
        }
    }
    let root = mounts
        .first()
        .map_or(Path::new("/sys/fs/cgroup"), |mount| &mount.point)
        .display();
    let path = path.display();
    if version_1 {
        bail!("{path} is a cgroup of version 1, which BPF does not know; name one below {root}");
    }
    bail!("{path} is not a cgroup (version 2); name a directory below {root}, systemd-cgls shows them")
}

fn file_system_of(path: &Path) -> Option<libc::c_long> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut answer = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `path` is NUL-terminated and `answer` has room for the answer; zeroes are a value of `statfs`.
    unsafe { (libc::statfs(path.as_ptr(), answer.as_mut_ptr()) == 0).then(|| answer.assume_init().f_type) }
}

/// How deep the root of our cgroup namespace lies. /proc/PID/cgroup shows paths relative to it, and kthreadd (pid 2),
/// which cannot be moved, is in the machine's root cgroup: `/` seen from there, `/../..` seen from two levels below
/// (cgroup_namespaces(7)).
fn namespace_depth(roots: &Roots) -> i64 {
    let cgroups = fs::read(roots.proc.join("2/cgroup")).unwrap_or_default();
    let mut lines = cgroups.split(|&byte| byte == b'\n');
    let path = lines.find_map(|line| line.strip_prefix(b"0::")).unwrap_or_default();
    -depth(Path::new(OsStr::from_bytes(path)))
}

/// Steps down less steps up.
fn depth(path: &Path) -> i64 {
    path.components()
        .map(|component| match component {
            Component::Normal(_) => 1,
            Component::ParentDir => -1,
            Component::Prefix(_) | Component::RootDir | Component::CurDir => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HYBRID: &[u8] = b"\
        24 1 254:1 / / rw,relatime - ext4 /dev/root rw\n\
        30 24 0:26 / /sys/fs/cgroup rw shared:4 - tmpfs tmpfs rw\n\
        31 30 0:27 / /sys/fs/cgroup/memory rw shared:5 - cgroup cgroup rw,memory\n\
        32 30 0:28 / /sys/fs/cgroup/unified rw shared:6 master:1 - cgroup2 cgroup2 rw\n\
        33 24 0:28 /a/b /mnt/with\\040space rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn mounts_of_version_2_are_found_with_their_roots() {
        let mount = |root: &str, point: &str| Mount {
            root: root.into(),
            point: point.into(),
        };
        assert_eq!(
            cgroup2_mounts(HYBRID),
            [mount("/", "/sys/fs/cgroup/unified"), mount("/a/b", "/mnt/with space")]
        );
    }

    #[test]
    fn depth_is_counted_from_the_root_of_the_machine() {
        assert_eq!(depth(Path::new("/")), 0);
        assert_eq!(depth(Path::new("system.slice/docker.service")), 2);
        assert_eq!(depth(Path::new("/../x")), 0);
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots {
            proc: directory.path().to_owned(),
            ..Roots::default()
        };
        let write = |text| fs::write(directory.path().join("2/cgroup"), text).unwrap();
        assert_eq!(namespace_depth(&roots), 0);
        fs::create_dir(directory.path().join("2")).unwrap();
        write("9:memory:/\n0::/\n");
        assert_eq!(namespace_depth(&roots), 0);
        write("0::/../..\n");
        assert_eq!(namespace_depth(&roots), 2);
    }

    #[test]
    fn the_root_cgroup_has_id_1_and_level_0() {
        let roots = Roots::default();
        let mounts = cgroup2_mounts(&fs::read("/proc/self/mountinfo").unwrap());
        let Some(mount) = mounts.iter().find(|mount| mount.root == Path::new("/")) else {
            eprintln!("skipping: no cgroup version 2 file system is mounted");
            return;
        };
        let found = resolve(&mount.point, &roots).unwrap();
        if namespace_depth(&roots) == 0 {
            assert_eq!(found, Cgroup { id: 1, level: 0 });
        }
        assert_eq!(
            resolve(Path::new("/"), &roots).unwrap(),
            found,
            "paths as in /proc/PID/cgroup are taken, too"
        );
    }

    #[test]
    fn what_is_no_cgroup_is_refused_with_where_they_are() {
        let roots = Roots::default();
        for path in ["/tmp", "/no/such/path", "/proc/self/status"] {
            let error = resolve(Path::new(path), &roots).unwrap_err().to_string();
            assert!(error.contains("cgroup") && error.contains("version 2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_mountinfo_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            cgroup2_mounts(&bytes);
        }
    }
}
