//! Opening the sampling event ourselves: aya's `PerfEvent::attach` fixes the attributes, and idle CPUs must not tick.
//! A probe is left to aya.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    num::NonZeroU32,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::Context as _;
use aya::programs::{
    UProbe,
    uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
};
use perf_event_open_sys as sys;

use crate::{
    config::{Place, Probe},
    process::file::MappedFile,
};

/// Opens the software CPU clock on `cpu` with `period_ns` and runs `program` at each tick. Closing it detaches.
///
/// A fixed period, not a frequency: the kernel's frequency estimator floods when a CPU wakes from idle (measured
/// elsewhere: 15 times too many samples on an idle 64-CPU machine).
pub(super) fn cpu_clock(program: BorrowedFd<'_>, cpu: u32, period_ns: u64) -> anyhow::Result<OwnedFd> {
    let mut attributes = sys::bindings::perf_event_attr {
        type_: sys::bindings::PERF_TYPE_SOFTWARE,
        size: size_of::<sys::bindings::perf_event_attr>() as u32,
        config: sys::bindings::PERF_COUNT_SW_CPU_CLOCK.into(),
        ..Default::default()
    };
    attributes.__bindgen_anon_1.sample_period = period_ns;
    attributes.set_exclude_idle(1);
    on_cpu(program, cpu, attributes, "the CPU clock")
}

/// Runs `program` whenever a program in user space reads or writes the byte at this address of its memory, on `cpu`,
/// whichever program it is. Closing it detaches.
pub(super) fn watch(program: BorrowedFd<'_>, cpu: u32, address: u64) -> anyhow::Result<OwnedFd> {
    let mut attributes = sys::bindings::perf_event_attr {
        type_: sys::bindings::PERF_TYPE_BREAKPOINT,
        size: size_of::<sys::bindings::perf_event_attr>() as u32,
        // x86 has none that only reads trigger.
        bp_type: sys::bindings::HW_BREAKPOINT_RW,
        ..Default::default()
    };
    attributes.__bindgen_anon_1.sample_period = 1;
    attributes.__bindgen_anon_3.bp_addr = address;
    attributes.__bindgen_anon_4.bp_len = sys::bindings::HW_BREAKPOINT_LEN_1.into();
    attributes.set_exclude_kernel(1);
    on_cpu(program, cpu, attributes, "a hardware breakpoint")
}

/// Ends such an event. How often it has happened, whether or not the program was run: the kernel skips it where another
/// program is in the way.
pub(super) fn end(event: OwnedFd) -> anyhow::Result<u64> {
    // SAFETY: the file descriptor is open.
    check(unsafe { sys::ioctls::DISABLE(event.as_raw_fd(), 0) }).context("failed to stop an event")?;
    let mut count = [0; size_of::<u64>()];
    File::from(event)
        .read_exact(&mut count)
        .context("failed to read an event")?;
    Ok(u64::from_ne_bytes(count))
}

fn on_cpu(
    program: BorrowedFd<'_>,
    cpu: u32,
    mut attributes: sys::bindings::perf_event_attr,
    what: &str,
) -> anyhow::Result<OwnedFd> {
    attributes.set_disabled(1);
    let flags = sys::bindings::PERF_FLAG_FD_CLOEXEC;
    // SAFETY: `attributes` is a valid, initialised perf_event_attr.
    let fd = unsafe { sys::perf_event_open(&raw mut attributes, -1, cpu as i32, -1, flags.into()) };
    let event = owned(fd).with_context(|| format!("failed to open {what} on CPU {cpu}"))?;

    // SAFETY: both file descriptors are open.
    let set = unsafe { sys::ioctls::SET_BPF(event.as_raw_fd(), program.as_raw_fd() as u32) };
    check(set).with_context(|| format!("failed to attach a program to {what} on CPU {cpu}"))?;
    // SAFETY: the file descriptor is open.
    let enabled = unsafe { sys::ioctls::ENABLE(event.as_raw_fd(), 0) };
    check(enabled).with_context(|| format!("failed to start {what} on CPU {cpu}"))?;
    Ok(event)
}

/// Runs `program` whenever one of these processes, or any if there are none, comes to an instruction. Dropping a link
/// takes the probe away.
///
/// A process each, so that others that have the file mapped do not stop there for nothing. What a process starts later
/// is not probed then.
pub(super) fn probe(program: &mut UProbe, probe: &Probe, pids: &[u32]) -> anyhow::Result<Vec<UProbeLink>> {
    let mut scopes: Vec<UProbeScope> = pids
        .iter()
        .filter_map(|&pid| NonZeroU32::new(pid))
        .map(UProbeScope::OneProcess)
        .collect();
    if scopes.is_empty() {
        scopes.push(UProbeScope::AllProcesses);
    }
    let file = MappedFile::open_path(&probe.file).with_context(|| format!("cannot open {}", probe.file.display()))?;
    let path = file.path_to_probe()?;
    let mut attach = |scope| -> anyhow::Result<UProbeLink> {
        let location = match &probe.place {
            Place::Offset(offset) => UProbeAttachLocation::AbsoluteOffset(*offset),
            Place::Symbol(symbol) => UProbeAttachLocation::Symbol(symbol),
        };
        let link = program.attach(location, &path, scope)?;
        Ok(program.take_link(link)?)
    };
    scopes
        .into_iter()
        .map(|scope| attach(scope).with_context(|| format!("failed to attach `sample_probe` to {}", Shown(probe))))
        .collect()
}

/// Runs `program` whenever a process, or any, comes to this place of a file. Dropping the link takes the probe away.
/// `cookie`: what the program is told of the place.
pub(super) fn offset(
    program: &mut UProbe,
    file: &MappedFile,
    offset: u64,
    cookie: Option<u64>,
    pid: Option<u32>,
) -> anyhow::Result<UProbeLink> {
    let scope = match pid.and_then(NonZeroU32::new) {
        Some(pid) => UProbeScope::OneProcess(pid),
        None => UProbeScope::AllProcesses,
    };
    let point = UProbeAttachPoint {
        location: UProbeAttachLocation::AbsoluteOffset(offset),
        cookie,
    };
    let attached = file
        .path_to_probe()
        .map_err(anyhow::Error::new)
        .and_then(|path| Ok(program.attach(point, path, scope)?));
    let link = attached
        .map_err(with_remedy)
        .with_context(|| format!("failed to put a probe at {:#x} of {}", offset, file.path().display()))?;
    Ok(program.take_link(link)?)
}

/// Says what a probe needs, if that is what is missing: BPF and PERFMON, with which all else works, are not enough.
pub(super) fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    let is_denied = |cause: &(dyn std::error::Error + 'static)| {
        let error = cause.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    if error.chain().any(is_denied) {
        error.context("probes need CAP_SYS_ADMIN, which root has")
    } else {
        error
    }
}

/// As it is typed.
struct Shown<'a>(&'a Probe);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.0.file.display())?;
        match &self.0.place {
            Place::Offset(offset) => write!(f, "{offset:#x}"),
            Place::Symbol(symbol) => f.write_str(symbol),
        }
    }
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: a non-negative result of perf_event_open is a new file descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::CString,
        fs,
        os::unix::{ffi::OsStringExt as _, fs::symlink},
        path::Path,
        process::Command,
    };

    use object::Object as _;

    use super::*;
    use crate::source::online_cpus;

    /// Counts how often any process comes to this place of what `path` leads to; none where there are no such events.
    fn counters(path: &Path, offset: u64) -> Option<Vec<OwnedFd>> {
        let kind = fs::read_to_string("/sys/bus/event_source/devices/uprobe/type").ok()?;
        let path = CString::new(path.as_os_str().to_owned().into_vec()).expect("no NUL");
        let mut attributes = sys::bindings::perf_event_attr {
            type_: kind.trim().parse().expect("a number"),
            size: size_of::<sys::bindings::perf_event_attr>() as u32,
            ..Default::default()
        };
        attributes.__bindgen_anon_3.uprobe_path = path.as_ptr() as u64;
        attributes.__bindgen_anon_4.probe_offset = offset;
        let mut open = |cpu: u32| {
            // SAFETY: `attributes` is whole, and the path it points to ends with NUL.
            owned(unsafe { sys::perf_event_open(&raw mut attributes, -1, cpu as i32, -1, 0) })
        };
        online_cpus()
            .expect("CPUs")
            .into_iter()
            .map(|cpu| open(cpu).ok())
            .collect()
    }

    #[test]
    fn a_name_that_is_swapped_before_probes_go_in_does_not_get_them() {
        let directory = tempfile::tempdir().expect("directory");
        let (name, kept) = (directory.path().join("python"), directory.path().join("kept"));
        let elf = fs::read("/bin/true").expect("read");
        let copied = Command::new("cp").arg("/bin/true").arg(&name).status().expect("cp");
        assert!(copied.success());
        fs::hard_link(&name, &kept).expect("link");
        let inspected = MappedFile::open_path(&name).expect("open");
        let headers = inspected.elf_headers().expect("ELF");
        let entry = object::File::parse(&*elf).expect("ELF").entry();
        let offset = (0..elf.len() as u64).find(|&offset| headers.virtual_address(offset) == Some(entry));
        let path = inspected.path_to_probe().expect("unchanged");
        // What everybody runs.
        fs::remove_file(&name).expect("delete");
        symlink("/bin/true", &name).expect("link");
        let Some(counters) = counters(&path, offset.expect("an entry")) else {
            eprintln!("skipped: no probes without root");
            return;
        };
        let run = |program: &Path| assert!(Command::new(program).status().expect("run").success());
        run(&name);
        run(&kept);
        let hits: u64 = counters.into_iter().map(|counter| end(counter).expect("a count")).sum();
        assert_eq!(hits, 1);
    }
}
