//! Which processes exist and who started whom, from /proc.

use std::{fs, path::Path};

use anyhow::Context as _;
use rustc_hash::{FxHashMap, FxHashSet};

/// The pids of all processes.
pub fn pids(proc: &Path) -> anyhow::Result<Vec<u32>> {
    let entries = fs::read_dir(proc).with_context(|| format!("failed to list {}", proc.display()))?;
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// The processes that `ancestors` have started, and those that these have started, and so on.
pub fn descendants(proc: &Path, ancestors: &[u32]) -> anyhow::Result<Vec<u32>> {
    let mut children: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
    for pid in pids(proc)? {
        // One that has ended since it was listed has no children to look for.
        let stat = fs::read(proc.join(pid.to_string()).join("stat")).unwrap_or_default();
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut seen: FxHashSet<u32> = ancestors.iter().copied().collect();
    let mut open: Vec<u32> = ancestors.to_vec();
    while let Some(pid) = open.pop() {
        for &child in children.get(&pid).into_iter().flatten() {
            if seen.insert(child) {
                found.push(child);
                open.push(child);
            }
        }
    }
    Ok(found)
}

/// The same processes, those that have started others of them last: a launcher waits while they work.
pub fn workers_first(proc: &Path, pids: &[u32]) -> Vec<u32> {
    let stats = pids
        .iter()
        .map(|pid| fs::read(proc.join(pid.to_string()).join("stat")).unwrap_or_default());
    let parents: FxHashSet<u32> = stats.filter_map(|stat| parent(&stat)).collect();
    let mut sorted = pids.to_vec();
    sorted.sort_by_key(|pid| parents.contains(pid));
    sorted
}

/// The fourth field of /proc/PID/stat. The second is the name in parentheses, which may hold any bytes; behind it there
/// are numbers only.
fn parent(stat: &[u8]) -> Option<u32> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let fields = str::from_utf8(&stat[after_name..]).ok()?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_has_started_others_of_them_comes_last_and_the_rest_stay_in_order() -> anyhow::Result<()> {
        let proc = tempfile::tempdir()?;
        for (pid, parent) in [(4, 1), (5, 4), (6, 4), (7, 6)] {
            let directory = proc.path().join(pid.to_string());
            fs::create_dir(&directory)?;
            fs::write(directory.join("stat"), format!("{pid} (x) S {parent} 0 0"))?;
        }
        assert_eq!(workers_first(proc.path(), &[4, 6, 5, 7, 9]), [5, 7, 9, 4, 6]);
        // Who is not among them counts for nobody.
        assert_eq!(workers_first(proc.path(), &[6, 4]), [6, 4]);
        Ok(())
    }

    #[test]
    fn a_name_that_looks_like_fields_does_not_confuse() {
        assert_eq!(parent(b"7 (a) S 1 (b) S 42 7 7 0"), Some(42));
        assert_eq!(parent(b"7 (python3) R 6 7 7 0 -1"), Some(6));
        assert_eq!(parent(b"7 (\xd0\xbe\xd0\xb1\xd1) R 6 7 7 0 -1"), Some(6));
        assert_eq!(parent(b"7 (a\nb) R 6\n) S 42 7"), Some(42));
        assert_eq!(parent(b"no parentheses"), None);
        assert_eq!(parent(b"7 (a) S"), None);
    }

    proptest! {
        #[test]
        fn no_name_hides_a_parent(name in prop::collection::vec(1u8.., 0..16), parent_pid: u32) {
            let stat = [b"7 (", &*name, format!(") S {parent_pid} 7 7 0").as_bytes()].concat();
            prop_assert_eq!(parent(&stat), Some(parent_pid));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            parent(&bytes);
        }
    }

    #[test]
    fn descendants_of_descendants_are_found() {
        let proc = tempfile::tempdir().expect("a folder");
        for (pid, parent) in [(10, 1), (11, 10), (12, 11), (13, 1)] {
            let folder = proc.path().join(pid.to_string());
            fs::create_dir(&folder).expect("a folder");
            fs::write(folder.join("stat"), format!("{pid} (x) S {parent} 0")).expect("a file");
        }
        let mut found = descendants(proc.path(), &[10]).expect("a list");
        found.sort_unstable();
        assert_eq!(found, [11, 12]);
    }
}
