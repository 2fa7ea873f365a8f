//! Hardware watchpoints on the collector's lists: opened once on each CPU, closed until a window is opened.
//!
//! Each register stops processes a limited number of times in a window, whatever becomes of us meanwhile: the kernel takes
//! the event away itself when the limit is used up (`PERF_EVENT_IOC_REFRESH`). Should we be stopped or starved in the middle
//! of a window, nobody is slowed down by more than that. When we end, by whatever, the descriptors go, and events with them.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    sync::atomic::{Ordering, compiler_fence},
};

use anyhow::{Context as _, bail};
use aya::{Ebpf, programs::PerfEvent};
use perf_event_open_sys as sys;
use profiler_common::{
    birth::{Birth, BirthControl, ENDED_NOT, FOLLOWED, LINK_OFFSET, MAX_BIRTHS},
    names,
};

use super::{program, shared::SharedArray, tables::shared};
use crate::{
    cost,
    orders::{FOLLOWED_HITS, WINDOW_HITS, Watchpoints},
    source::online_cpus,
};

/// A register of one CPU.
struct Register {
    event: File,
    /// What it had counted when it was closed last, and what the kernel has taken off its limit since it was opened.
    counted: u64,
    used: u64,
}

/// The same register of all CPUs.
struct Registers {
    cpus: Vec<Register>,
    attributes: sys::bindings::perf_event_attr,
    limit: u64,
}

pub(super) struct BirthWatch {
    program: OwnedFd,
    control: SharedArray<BirthControl>,
    births: SharedArray<Birth>,
    registers: Vec<Registers>,
}

/// A field of the control word that both sides write.
macro_rules! field {
    ($control:expr, $($field:tt)+) => {
        // SAFETY: the pointer is into the map.
        unsafe { &raw mut (*$control).$($field)+ }
    };
}

impl BirthWatch {
    /// The program is loaded.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let program: &mut PerfEvent = program(ebpf, names::PROGRAM_BIRTH)?;
        let program = program.fd()?.as_fd().try_clone_to_owned()?;
        Ok(Self {
            program,
            control: shared(ebpf, names::MAP_BIRTH_CONTROL, 1)?,
            births: shared(ebpf, names::MAP_BIRTHS, MAX_BIRTHS)?,
            registers: Vec::new(),
        })
    }

    fn set<T>(&self, field: impl FnOnce(*mut BirthControl) -> *mut T, value: T) {
        if let Some(control) = self.control.pointer(0) {
            // SAFETY: the pointer is into the map. Volatile: the kernel side reads it meanwhile.
            unsafe { field(control).write_volatile(value) };
        }
        // In the order in which it is written here; x86 keeps that.
        compiler_fence(Ordering::SeqCst);
    }
}

impl Watchpoints for BirthWatch {
    fn open(&mut self, pid: u32, head: u64) -> anyhow::Result<usize> {
        self.set(|control| field!(control, pid), pid);
        self.set(|control| field!(control, head), head);
        for number in 0..=FOLLOWED {
            let (address, limit) = match number {
                0 => (head + LINK_OFFSET, WINDOW_HITS),
                // Nobody has memory there.
                _ => (0x1000 + 64 * number as u64, FOLLOWED_HITS),
            };
            match Registers::open(self.program.as_fd(), address, limit) {
                Ok(registers) => self.registers.push(registers),
                // Others have some.
                Err(error) if number > 1 && error.raw_os_error() == Some(libc::ENOSPC) => break,
                Err(error) => {
                    self.registers.clear();
                    let why = match error.raw_os_error() {
                        Some(libc::ENOSPC) => {
                            "fewer than two of the four debug registers are free: a debugger or another profiler has them"
                        }
                        Some(libc::EACCES | libc::EPERM) => "hardware breakpoints need CAP_PERFMON, which root has",
                        Some(libc::EOPNOTSUPP | libc::ENODEV | libc::ENOENT | libc::EINVAL) => {
                            "this machine, or its kernel, has no hardware breakpoints to give"
                        }
                        _ => "hardware breakpoints cannot be had",
                    };
                    return Err(error).context(why);
                }
            }
        }
        Ok(self.registers.len() - 1)
    }

    fn begin(&mut self, last: u64, length_ns: u64, hit_ns: u64) -> io::Result<()> {
        self.set(|control| field!(control, is_open), 0);
        self.set(|control| field!(control, last), last);
        self.set(|control| field!(control, hits), 0);
        self.set(|control| field!(control, births), 0);
        self.set(|control| field!(control, length_ns), length_ns);
        self.set(|control| field!(control, hit_ns), hit_ns);
        let Some(births) = self.registers.first_mut() else {
            return Ok(());
        };
        births.enable()?;
        self.set(|control| field!(control, opened_ns), cost::monotonic_ns());
        self.set(|control| field!(control, is_open), 1);
        Ok(())
    }

    fn end(&mut self) -> io::Result<bool> {
        self.set(|control| field!(control, is_open), 0);
        match self.registers.first_mut() {
            Some(births) => births.disable(),
            None => Ok(true),
        }
    }

    fn control(&self) -> BirthControl {
        self.control.read(0).unwrap_or_default()
    }

    fn births(&self, from: usize, to: usize) -> Vec<Birth> {
        (from..to.min(MAX_BIRTHS))
            .filter_map(|at| self.births.read(at as u32))
            .collect()
    }

    fn follow(&mut self, slot: usize, head: u64) -> io::Result<()> {
        let address = head + LINK_OFFSET;
        self.set(|control| field!(control, ended[slot]), ENDED_NOT);
        self.set(|control| field!(control, followed_hits[slot]), 0);
        self.set(|control| field!(control, followed[slot]), address);
        match self.registers.get_mut(slot + 1) {
            Some(registers) => registers.move_to(address).and_then(|()| registers.enable()),
            None => Ok(()),
        }
    }

    fn leave(&mut self, slot: usize) -> io::Result<bool> {
        let is_whole = match self.registers.get_mut(slot + 1) {
            Some(registers) => registers.disable(),
            None => Ok(true),
        };
        self.set(|control| field!(control, followed[slot]), 0);
        is_whole
    }
}

impl Registers {
    fn open(program: BorrowedFd<'_>, address: u64, limit: u64) -> io::Result<Self> {
        let mut attributes = attributes(address);
        let mut cpus = Vec::new();
        for cpu in online_cpus().map_err(io::Error::other)? {
            let flags = sys::bindings::PERF_FLAG_FD_CLOEXEC;
            // SAFETY: `attributes` is a valid, initialised perf_event_attr.
            let fd = unsafe { sys::perf_event_open(&raw mut attributes, -1, cpu as i32, -1, flags.into()) };
            check(fd)?;
            // SAFETY: a non-negative result of perf_event_open is a new file descriptor that nobody else owns.
            let event = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
            // SAFETY: both file descriptors are open.
            check(unsafe { sys::ioctls::SET_BPF(event.as_raw_fd(), program.as_raw_fd() as u32) })?;
            cpus.push(Register {
                event,
                counted: 0,
                used: limit,
            });
        }
        Ok(Self {
            cpus,
            attributes,
            limit,
        })
    }

    fn enable(&mut self) -> io::Result<()> {
        for Register { event, used, .. } in &mut self.cpus {
            let fd = event.as_raw_fd();
            let enabled = match *used {
                // SAFETY: the file descriptor is open.
                0 => unsafe { sys::ioctls::ENABLE(fd, 0) },
                // Enables it as well.
                // SAFETY: as above.
                _ => unsafe { sys::ioctls::REFRESH(fd, *used as i32) },
            };
            check(enabled)?;
            *used = 0;
        }
        Ok(())
    }

    /// Whether no CPU had used up its limit.
    fn disable(&mut self) -> io::Result<bool> {
        let mut is_whole = true;
        for register in &mut self.cpus {
            // SAFETY: the file descriptor is open.
            check(unsafe { sys::ioctls::DISABLE(register.event.as_raw_fd(), 0) })?;
            let mut count = [0; size_of::<u64>()];
            register.event.read_exact(&mut count)?;
            let count = u64::from_ne_bytes(count);
            register.used += count.saturating_sub(register.counted);
            register.counted = count;
            is_whole &= register.used < self.limit;
            register.used = register.used.min(self.limit);
        }
        Ok(is_whole)
    }

    fn move_to(&mut self, address: u64) -> io::Result<()> {
        self.attributes.__bindgen_anon_3.bp_addr = address;
        for register in &self.cpus {
            let attributes = &raw mut self.attributes;
            // SAFETY: the file descriptor is open, and `attributes` whole.
            check(unsafe { sys::ioctls::MODIFY_ATTRIBUTES(register.event.as_raw_fd(), attributes) })?;
        }
        Ok(())
    }
}

/// Writes by programs to the four bytes at this address: the lower half of a word, which whoever writes the word writes.
/// (The list of 3.13 lies at a multiple of four.)
fn attributes(address: u64) -> sys::bindings::perf_event_attr {
    let mut attributes = sys::bindings::perf_event_attr {
        type_: sys::bindings::PERF_TYPE_BREAKPOINT,
        size: size_of::<sys::bindings::perf_event_attr>() as u32,
        bp_type: sys::bindings::HW_BREAKPOINT_W,
        ..Default::default()
    };
    attributes.__bindgen_anon_1.sample_period = 1;
    attributes.__bindgen_anon_3.bp_addr = address;
    attributes.__bindgen_anon_4.bp_len = sys::bindings::HW_BREAKPOINT_LEN_4.into();
    attributes.set_exclude_kernel(1);
    attributes.set_disabled(1);
    attributes
}

/// What it takes to stop at a watchpoint, measured on this thread: at least, and usually, of several rounds.
pub fn stop_ns() -> anyhow::Result<(u64, u64)> {
    const WRITES: u32 = 200;
    const ROUNDS: usize = 5;
    let mut word = 0_u64;
    let mut attributes = attributes((&raw const word) as u64);
    let flags = sys::bindings::PERF_FLAG_FD_CLOEXEC;
    // SAFETY: `attributes` is a valid, initialised perf_event_attr.
    let fd = unsafe { sys::perf_event_open(&raw mut attributes, 0, -1, -1, flags.into()) };
    check(fd).context("hardware breakpoints cannot be had")?;
    // SAFETY: as above.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the file descriptor is open.
    check(unsafe { sys::ioctls::ENABLE(event.as_raw_fd(), 0) })?;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let began = cost::monotonic_ns();
        for number in 0..WRITES {
            // SAFETY: a local. Volatile: every write is to be one.
            unsafe { (&raw mut word).write_volatile(number.into()) };
        }
        took.push((cost::monotonic_ns() - began) / u64::from(WRITES));
    }
    let count = super::attach::end(event)?;
    if count < u64::from(WRITES) {
        bail!("this machine takes hardware breakpoints, and does not stop at them");
    }
    took.sort_unstable();
    Ok((took[0], took[ROUNDS / 2]))
}

fn check(result: i32) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
