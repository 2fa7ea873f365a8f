//! The dummy event of one CPU, and its ring.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

use anyhow::Context as _;
use perf_event_open_sys as sys;
use sys::bindings as abi;

use super::{super::perf_ring::PerfRing, record::SAMPLE_TYPE};

pub(super) struct Ring {
    pub(super) cpu: u32,
    pub(super) ring: PerfRing,
}

impl Ring {
    /// Opens the event; none if the CPU is offline.
    pub(super) fn open(cpu: u32, data_pages: usize) -> anyhow::Result<Option<Self>> {
        let mut attributes = attributes();
        let cpu_number = i32::try_from(cpu).with_context(|| format!("there is no cpu {cpu}"))?;
        // SAFETY: the attributes are initialized and outlive the call; the event changes nothing in any process.
        let event = unsafe {
            sys::perf_event_open(
                &raw mut attributes,
                -1,
                cpu_number,
                -1,
                abi::PERF_FLAG_FD_CLOEXEC.into(),
            )
        };
        if event < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENODEV) => Ok(None),
                Some(libc::EACCES | libc::EPERM) => Err(error)
                    .context("cannot follow processes: perf events are refused; run as root or grant CAP_PERFMON"),
                Some(libc::EMFILE) => {
                    Err(error).context("cannot follow processes: too many open files; raise `ulimit -n`")
                }
                Some(libc::ENOSYS) => {
                    Err(error).context("cannot follow processes: this kernel is built without perf events")
                }
                _ => Err(error).with_context(|| format!("cannot follow processes on cpu {cpu}")),
            };
        }
        // SAFETY: the descriptor was just created and has no other owner.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        let ring = PerfRing::map(event, data_pages, &format!("cpu {cpu}"))?;
        Ok(Some(Self { cpu, ring }))
    }
}

fn attributes() -> abi::perf_event_attr {
    let mut attributes = abi::perf_event_attr {
        type_: abi::PERF_TYPE_SOFTWARE,
        config: abi::PERF_COUNT_SW_DUMMY.into(),
        size: size_of::<abi::perf_event_attr>() as u32,
        sample_type: SAMPLE_TYPE,
        ..Default::default()
    };
    // Executable mappings only (`mmap_data` asks for the others), with device and inode (`mmap2`).
    attributes.set_mmap(1);
    attributes.set_mmap2(1);
    attributes.set_comm(1);
    attributes.set_comm_exec(1);
    attributes.set_task(1);
    attributes.set_sample_id_all(1);
    attributes.set_use_clockid(1);
    attributes.clockid = libc::CLOCK_MONOTONIC;
    // Wake on every record. `wakeup_events` counts samples only (perf_output_sample, kernel/events/core.c), and a dummy
    // event has none: with it a reader sleeps until the ring is half full (ring_buffer_init,
    // kernel/events/ring_buffer.c; on 6.18 that was seconds).
    attributes.set_watermark(1);
    attributes.__bindgen_anon_2.wakeup_watermark = 1;
    attributes
}
