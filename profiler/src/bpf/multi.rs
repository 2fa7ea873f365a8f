//! Several probes in one link, where the kernel has such links (`uprobe_multi`, Linux 6.6 and later): they come at once, and
//! go at once.
//!
//! Probes with a perf event each are taken away one after another, and the kernel waits a tenth of a second after each. In a
//! program that calls much, the last of five would be hit ten thousand times more, by which time nobody counts what that
//! costs. The programs have to be loaded for such links, for which aya has no means, so here they are loaded once more, from
//! the same object and with the same maps.

use std::{
    collections::HashMap,
    ffi::CString,
    fs, io, mem,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStringExt as _,
    },
};

use anyhow::Context as _;
use aya::{Ebpf, maps::Map};
use aya_obj::{
    Object,
    generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type},
};

use super::{attach::with_remedy, is_again, undisturbed};
use crate::process::file::MappedFile;

/// From here on taking a link away waits once for all of its probes, and its filter for a process is right (fixed in 6.10).
const SINCE: (u32, u32) = (6, 12);
/// `BPF_F_UPROBE_MULTI_RETURN` (include/uapi/linux/bpf.h).
const RETURN: u32 = 1;

/// A program that can be attached to several places at once.
pub(super) struct Multi {
    program: OwnedFd,
    returns: bool,
}

impl Multi {
    /// Loads programs for such links; `None` where the kernel does not have them.
    pub fn load(object: &[u8], ebpf: &Ebpf, names: [&str; 2]) -> anyhow::Result<Option<[Self; 2]>> {
        if !kernel_is_since(SINCE) {
            return Ok(None);
        }
        let mut object = Object::parse(object)?;
        let btf = match aya::features().btf() {
            Some(features) => match object.fixup_and_sanitize_btf(features)? {
                Some(btf) => Some(load_btf(&btf.to_bytes())?),
                None => None,
            },
            None => None,
        };
        let fds = fds(ebpf);
        let maps: Vec<_> = mem::take(&mut object.maps).into_iter().collect();
        let text: std::collections::HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        // Aya relocates what it does not find to something else, or panics.
        if let Some((name, _)) = maps.iter().find(|(name, _)| !fds.contains_key(name.as_str())) {
            anyhow::bail!("the map `{name}` is not of a known kind");
        }
        let known = maps
            .iter()
            .filter_map(|(name, map)| Some((name.as_str(), *fds.get(name.as_str())?, map)));
        object.relocate_maps(known, &text)?;
        object.relocate_calls(&text)?;
        object.sanitize_functions(aya::features());
        let [first, second] = names.map(|name| Self::load_one(&object, name, btf.as_ref()));
        Ok(Some([first?, second?]))
    }

    fn load_one(object: &Object, name: &str, btf: Option<&OwnedFd>) -> anyhow::Result<Self> {
        let program = object
            .programs
            .get(name)
            .with_context(|| format!("the eBPF object has no program `{name}`"))?;
        let function = object
            .functions
            .get(&program.function_key())
            .with_context(|| format!("the eBPF object has no code of `{name}`"))?;
        let (functions, lines) = (
            function.func_info.func_info_bytes(),
            function.line_info.line_info_bytes(),
        );
        // SAFETY: a union of integers and arrays of them, of which all bits may be zero.
        let mut attributes: bpf_attr = unsafe { mem::zeroed() };
        // SAFETY: the kernel reads it as this member, too, of this command.
        let load = unsafe { &mut attributes.__bindgen_anon_3 };
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
        load.expected_attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
        load.insns = function.instructions.as_ptr() as u64;
        load.insn_cnt = u32::try_from(function.instructions.len())?;
        load.license = program.license.as_ptr() as u64;
        for (to, from) in load.prog_name.iter_mut().zip(name.bytes().take(15)) {
            *to = from as _;
        }
        if let Some(btf) = btf {
            load.prog_btf_fd = btf.as_raw_fd() as u32;
            load.func_info = functions.as_ptr() as u64;
            load.func_info_cnt = u32::try_from(function.func_info.len())?;
            load.func_info_rec_size = u32::try_from(function.func_info_rec_size)?;
            load.line_info = lines.as_ptr() as u64;
            load.line_info_cnt = u32::try_from(function.line_info.len())?;
            load.line_info_rec_size = u32::try_from(function.line_info_rec_size)?;
        }
        // SAFETY: what it points to is live: instructions, license, information about functions and lines.
        let program_fd = undisturbed(is_again, || unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes) });
        Ok(Self {
            program: program_fd.with_context(|| format!("failed to load program `{name}` for several places"))?,
            returns: matches!(program.section, aya_obj::ProgramSection::URetProbe { .. }),
        })
    }

    /// Runs the program at these places of a file, of which each has its cookie, in one process or in all.
    pub fn attach(&self, file: &MappedFile, places: &[(u64, u64)], pid: Option<u32>) -> anyhow::Result<OwnedFd> {
        let failed = || format!("failed to put {} probes into {}", places.len(), file.path().display());
        let path = CString::new(file.path_to_probe().with_context(failed)?.into_os_string().into_vec())?;
        let (offsets, cookies): (Vec<u64>, Vec<u64>) = places.iter().copied().unzip();
        // SAFETY: as above.
        let mut attributes: bpf_attr = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let create = unsafe { &mut attributes.link_create };
        create.__bindgen_anon_1.prog_fd = self.program.as_raw_fd() as u32;
        create.attach_type = bpf_attach_type::BPF_TRACE_UPROBE_MULTI as u32;
        // Field by field: what is assigned as a whole brings its padding, and the kernel refuses anything behind the last field
        // that is not zero. Without optimization there was.
        // SAFETY: as above.
        let multi = unsafe { &mut create.__bindgen_anon_3.uprobe_multi };
        multi.path = path.as_ptr() as u64;
        multi.offsets = offsets.as_ptr() as u64;
        multi.cookies = cookies.as_ptr() as u64;
        multi.cnt = u32::try_from(places.len())?;
        multi.flags = if self.returns { RETURN } else { 0 };
        multi.pid = pid.unwrap_or(0);
        // SAFETY: what it points to is live: a path that ends with a zero byte, and as many offsets and cookies as it says.
        let link = unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attributes) };
        link.map_err(|error| with_remedy(error.into())).with_context(failed)
    }
}

fn fds(ebpf: &Ebpf) -> HashMap<&str, RawFd> {
    ebpf.maps()
        .filter_map(|(name, map)| match map {
            Map::Array(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::PerCpuArray(data)
            | Map::PerfEventArray(data)
            | Map::ProgramArray(data)
            | Map::Queue(data)
            | Map::RingBuf(data) => Some((name, data.fd().as_fd().as_raw_fd())),
            _ => None,
        })
        .collect()
}

fn load_btf(bytes: &[u8]) -> anyhow::Result<OwnedFd> {
    // SAFETY: as above.
    let mut attributes: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let load = unsafe { &mut attributes.__bindgen_anon_7 };
    load.btf = bytes.as_ptr() as u64;
    load.btf_size = u32::try_from(bytes.len())?;
    // SAFETY: it points to so many bytes.
    unsafe { bpf(bpf_cmd::BPF_BTF_LOAD, &mut attributes) }.context("failed to load the object's BTF")
}

/// A command that makes a file descriptor.
///
/// # Safety
/// What the attributes point to must be what the command expects there.
unsafe fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are live and as long as is said; by contract, so is what they point to.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            &raw mut *attributes,
            size_of::<bpf_attr>(),
        )
    };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn kernel_is_since(since: (u32, u32)) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    version(&release).is_some_and(|version| version >= since)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|at: char| !at.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_its_version() {
        assert_eq!(version("6.18.5-fc\n"), Some((6, 18)));
        assert_eq!(version("6.12+deb13-amd64"), Some((6, 12)));
        assert_eq!(version("7.2.0"), Some((7, 2)));
        assert_eq!(version(""), None);
    }
}
