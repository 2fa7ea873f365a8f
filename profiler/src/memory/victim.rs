//! Processes that ended for want of memory, and which limit it was.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::rss::Resident;
pub use crate::report::memory::victim::{Against, Victim};

/// Where the kernel shows its cgroups.
const ROOT: &str = "/sys/fs/cgroup";

/// The directory that accounts for a process's memory. A process that ends is in none any more, so it is found out before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounted {
    root: PathBuf,
    directory: PathBuf,
    files: &'static Files,
}

/// How a hierarchy calls what is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    limit: &'static str,
    /// The most that was in use; 5.19 and later in the unified hierarchy.
    peak: &'static str,
    current: &'static str,
}

/// Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of the kernel.
const V2: Files = Files {
    limit: "memory.max",
    peak: "memory.peak",
    current: "memory.current",
};
const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    peak: "memory.max_usage_in_bytes",
    current: "memory.usage_in_bytes",
};

impl Accounted {
    /// Of a process that is there; nothing of one without cgroups, or in one that cannot be seen from here.
    pub fn of(pid: u32) -> Option<Self> {
        let text = text(Path::new(&format!("/proc/{pid}/cgroup")))?;
        // One that has ended is in the root of version 1, whichever it was in.
        let is_there = Resident::glance(pid).is_ok_and(|now| now.rss > 0);
        is_there.then(|| Self::parse(&text, Path::new(ROOT)))?
    }

    /// By the text of `/proc/PID/cgroup`: the hierarchy that has the memory controller, be it one of its own (v1) or the
    /// unified one.
    fn parse(text: &str, root: &Path) -> Option<Self> {
        let fields = |line: &'_ str| {
            let mut fields = line.splitn(3, ':').skip(1).map(str::to_owned);
            Some((fields.next()?, fields.next()?))
        };
        let lines: Vec<(String, String)> = text.lines().filter_map(fields).collect();
        let own = lines
            .iter()
            .find(|(controllers, _)| controllers.split(',').any(|controller| controller == "memory"));
        let (root, files, path) = match own {
            Some((_, path)) => (root.join("memory"), &V1, path),
            None => {
                let (_, path) = lines.iter().find(|(controllers, _)| controllers.is_empty())?;
                (root.to_owned(), &V2, path)
            }
        };
        let below = path.trim_start_matches('/');
        // Outside of our namespace.
        (!below.split('/').any(|part| part == "..")).then(|| Self {
            directory: root.join(below),
            root,
            files,
        })
    }

    /// Which limit was reached, now that the kernel ended somebody: the least of those that were used up.
    pub fn against(&self, machine: impl FnOnce() -> Option<u64>) -> Option<Against> {
        let number = |directory: &Path, file: &str| text(&directory.join(file))?.trim().parse::<u64>().ok();
        if !self.directory.is_dir() {
            return None;
        }
        let mut reached: Option<(u64, &Path)> = None;
        for directory in self.directory.ancestors() {
            // `max` is no number; where there is no limit, version 1 says the largest number of pages.
            let limit = number(directory, self.files.limit).filter(|&limit| limit < 1 << 60);
            let most = number(directory, self.files.peak).or_else(|| number(directory, self.files.current));
            if let (Some(limit), Some(most)) = (limit, most)
                && most as f64 >= USED_UP * limit as f64
                && reached.is_none_or(|(least, _)| limit < least)
            {
                reached = Some((limit, directory));
            }
            if directory == self.root {
                break;
            }
        }
        match reached {
            Some((limit, directory)) => {
                let below = directory.strip_prefix(&self.root).unwrap_or(directory);
                Some(Against::Cgroup {
                    path: format!("/{}", below.display()),
                    limit,
                })
            }
            None => machine().map(|total| Against::Machine { total }),
        }
    }
}

/// The kernel charges ahead, up to 64 pages for each CPU (`MEMCG_CHARGE_BATCH`): a limit is reached a little before its
/// account says so.
const USED_UP: f64 = 0.95;

/// The memory of the machine.
pub fn of_the_machine() -> Option<u64> {
    let text = text(Path::new("/proc/meminfo"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

fn text(path: &Path) -> Option<String> {
    const MOST_BYTES: u64 = 256 << 10;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const MACHINE: u64 = 16 << 30;

    fn against(root: &Path, cgroup: &str) -> Option<Against> {
        Accounted::parse(cgroup, root)?.against(|| Some(MACHINE))
    }

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn the_limit_that_was_used_up_is_named_whichever_cgroup_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(
            root,
            &[
                ("pod/memory.max", "268435456\n"),
                ("pod/memory.peak", "268431360\n"),
                ("pod/app/memory.max", "1073741824\n"),
                ("pod/app/memory.peak", "200000000\n"),
                ("free/memory.max", "max\n"),
                ("free/memory.peak", "900000000\n"),
                ("old/memory.max", "1000000\n"),
                ("old/memory.current", "999000\n"),
            ],
        );
        let cgroup = |path: &str, limit| {
            Some(Against::Cgroup {
                path: path.to_owned(),
                limit,
            })
        };
        assert_eq!(against(root, "0::/pod/app\n"), cgroup("/pod", 256 << 20));
        assert_eq!(against(root, "0::/old\n"), cgroup("/old", 1_000_000));
        assert_eq!(against(root, "0::/free\n"), Some(Against::Machine { total: MACHINE }));
        assert_eq!(against(root, "0::/gone\n"), None);
        assert_eq!(against(root, "0::/../other\n"), None);
    }

    #[test]
    fn a_hierarchy_of_its_own_goes_before_the_unified_one() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(
            root,
            &[
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/memory.max_usage_in_bytes", "800000000\n"),
                ("memory/job/memory.limit_in_bytes", "67108864\n"),
                ("memory/job/memory.max_usage_in_bytes", "67108864\n"),
            ],
        );
        let text = "4:cpu,cpuacct:/\n5:memory:/job\n0::/\n";
        let expected = Against::Cgroup {
            path: "/job".to_owned(),
            limit: 64 << 20,
        };
        assert_eq!(against(root, text), Some(expected));
        let text = "5:memory:/\n0::/\n";
        assert_eq!(against(root, text), Some(Against::Machine { total: MACHINE }));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[0-9:a-z/.,\n]{0,80}") {
            let _ = against(Path::new("/nonexistent"), &text);
        }
    }
}
