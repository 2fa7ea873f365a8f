//! Programs that do nothing, at raw tracepoints: what whoever hangs something there costs at the very least.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

/// `bpf(2)`'s commands (include/uapi/linux/bpf.h), the type of program, and two instructions: `r0 = 0`, `exit`.
const PROG_LOAD: libc::c_long = 5;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const RAW_TRACEPOINT: u64 = 17;
const NOTHING: [u64; 2] = [0xb7, 0x95];

/// Attached for as long as they live.
pub struct EmptyPrograms {
    _links: Vec<OwnedFd>,
}

impl EmptyPrograms {
    /// At all of these tracepoints that the kernel has.
    pub fn attach(tracepoints: &[&str]) -> Result<Self> {
        // The type and the number of instructions, these and the license; more is 0.
        let instructions = NOTHING.len() as u64;
        let mut load = [0u64; 15];
        load[..3].copy_from_slice(&[
            instructions << 32 | RAW_TRACEPOINT,
            NOTHING.as_ptr() as u64,
            c"GPL".as_ptr() as u64,
        ]);
        let program = bpf(PROG_LOAD, &load).context("cannot load an empty BPF program")?;
        let mut links = Vec::new();
        for tracepoint in tracepoints {
            let name = CString::new(*tracepoint)?;
            let open = [name.as_ptr() as u64, u64::from(program.as_raw_fd().unsigned_abs())];
            match bpf(RAW_TRACEPOINT_OPEN, &open) {
                Ok(link) => links.push(link),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("cannot attach to {tracepoint}")),
            }
        }
        Ok(Self { _links: links })
    }
}

fn bpf(command: libc::c_long, attributes: &[u64]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as much of the attributes as their size says, and what they point to lives.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
