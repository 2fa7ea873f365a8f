//! Which BPF programs, maps and links a process holds, and whether they still exist: what `bpftool` would say.

use std::{collections::BTreeSet, fmt, fs, time::Duration};

use anyhow::{Context as _, Result};

use crate::process::until;

/// bpf(2) commands and the program type of the kernel's include/uapi/linux/bpf.h.
const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
const BPF_MAP_GET_NEXT_ID: libc::c_int = 12;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;

/// Ids of BPF objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    pub programs: BTreeSet<u32>,
    pub maps: BTreeSet<u32>,
    /// Probes that come several at once, among others: a link of theirs is all that holds them.
    pub links: BTreeSet<u32>,
}

impl Objects {
    /// Those that a process has descriptors of.
    pub fn of(pid: u32) -> Result<Self> {
        let mut objects = Self::default();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // A descriptor may be closed while we look.
            let Ok(info) = fs::read_to_string(entry?.path()) else {
                continue;
            };
            for line in info.lines() {
                let Some((name, value)) = line.split_once(':') else {
                    continue;
                };
                let Ok(id) = value.trim().parse() else { continue };
                match name {
                    "prog_id" => _ = objects.programs.insert(id),
                    "map_id" => _ = objects.maps.insert(id),
                    "link_id" => _ = objects.links.insert(id),
                    _ => {}
                }
            }
        }
        Ok(objects)
    }

    /// Those of them that the kernel still knows.
    pub fn left(&self) -> Self {
        let left = |ids: &BTreeSet<u32>, command| ids.iter().copied().filter(|&id| exists(command, id)).collect();
        Self {
            programs: left(&self.programs, BPF_PROG_GET_NEXT_ID),
            maps: left(&self.maps, BPF_MAP_GET_NEXT_ID),
            links: left(&self.links, BPF_LINK_GET_NEXT_ID),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty() && self.links.is_empty()
    }

    /// Waits until the kernel knows none of them any more: it lets go of programs some time after who held them has ended.
    /// `of`: whose they were, for who reads that some are left.
    pub fn until_gone(&self, of: impl fmt::Display) -> Result<()> {
        until(Duration::from_secs(60), "no programs and maps are left", || {
            self.left().is_empty()
        })
        .with_context(|| self.told_left(of))
    }

    /// What is left, and who has descriptors of it: if nobody has, it is the kernel that has not let go.
    fn told_left(&self, of: impl fmt::Display) -> String {
        let left = self.left();
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let holders: Vec<String> = pids
            .filter_map(|pid| {
                let held = Self::of(pid).ok()?;
                let holds = !held.programs.is_disjoint(&left.programs)
                    || !held.maps.is_disjoint(&left.maps)
                    || !held.links.is_disjoint(&left.links);
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                holds.then(|| format!("{pid} ({})", name.trim()))
            })
            .collect();
        format!(
            "{of}: of {} programs, {} maps and {} links are left: {left:?}; descriptors of them: {}",
            self.programs.len(),
            self.maps.len(),
            self.links.len(),
            if holders.is_empty() {
                "nobody's".to_owned()
            } else {
                holders.join(", ")
            }
        )
    }
}

/// Whether an object is there: it is the next one after the number before its own.
///
/// No descriptor of it is asked for. The last one of a map of programs that is closed has the kernel empty the map later,
/// with a reference to it; if another is made and closed until then, as whoever looks again and again does on a busy machine,
/// there are two references and one that is given back (`prog_array_map_clear`, kernel/bpf/arraymap.c, up to 6.18), and the
/// map is there for good.
fn exists(command: libc::c_int, id: u32) -> bool {
    // `union bpf_attr` as this command reads it: after which, the next one, flags.
    let mut attribute = [id.saturating_sub(1), 0, 0];
    // SAFETY: the kernel reads and writes `attribute`, whose size is told.
    let failed = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_mut_ptr(), size_of_val(&attribute)) };
    failed == 0 && attribute[1] == id
}
