//! Which BPF programs, maps and links a process holds, and whether they still exist: what `bpftool` would say.

use std::{collections::BTreeSet, fs};

use anyhow::Result;

/// bpf(2) commands and the program type of the kernel's include/uapi/linux/bpf.h.
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_MAP_GET_FD_BY_ID: libc::c_int = 14;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;

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
            programs: left(&self.programs, BPF_PROG_GET_FD_BY_ID),
            maps: left(&self.maps, BPF_MAP_GET_FD_BY_ID),
            links: left(&self.links, BPF_LINK_GET_FD_BY_ID),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty() && self.links.is_empty()
    }
}

fn exists(command: libc::c_int, id: u32) -> bool {
    // `union bpf_attr` as this command reads it: the id, where to go on, flags.
    let attribute = [id, 0, 0];
    // SAFETY: the kernel reads `attribute`, whose size is told, and writes nothing.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), size_of_val(&attribute)) };
    let Ok(fd @ 0..) = libc::c_int::try_from(fd) else {
        return false;
    };
    // SAFETY: the descriptor was just made, for us.
    unsafe { libc::close(fd) };
    true
}
