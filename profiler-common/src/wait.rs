//! Waits of threads: what both halves know of them.
//!
//! A thread's time is cut at its switches: it is on a CPU, or it is away, and then for a reason, its *class*. The kernel
//! side has a slot for each thread, with exact sums by class. Of single waits it sends a drawn part, each with its stack:
//! a wait of length L is drawn with probability min(1, L/T) and stands for max(L, T) of waiting.

use crate::record::SampleHeader;

/// Why a thread is away, as far as state, system call and arguments say. The first are causes as they are told.
pub const WAIT_OTHER: u32 = 0;
/// For CPython's global interpreter lock.
pub const WAIT_GIL: u32 = 1;
/// For another futex, or a System V semaphore.
pub const WAIT_LOCK: u32 = 2;
/// For a time.
pub const WAIT_SLEEP: u32 = 3;
pub const WAIT_SOCKET: u32 = 4;
/// For a file: its lock, or what lies behind it.
pub const WAIT_FILE: u32 = 5;
/// For a device with files on it.
pub const WAIT_DISK: u32 = 6;
/// For any of several descriptors.
pub const WAIT_POLL: u32 = 7;
/// For another process to end.
pub const WAIT_CHILD: u32 = 8;
/// For a page of memory.
pub const WAIT_FAULT: u32 = 9;
/// For nothing: a CPU was not to be had.
pub const WAIT_READY: u32 = 10;
/// It was stopped, traced or frozen.
pub const WAIT_STOPPED: u32 = 11;
/// For one descriptor; which kind it is of is looked up when the wait is drawn.
pub const WAIT_DESCRIPTOR: u32 = 12;
/// For us: it is a command that has not begun. No part of its time.
pub const WAIT_GATE: u32 = 13;
/// Room for as many: a power of two, to make the index maskable.
pub const WAIT_CLASSES: usize = 16;

/// Entries of the map `WAIT_CALLS`: what a system call waits for, by its number.
pub const CALLS: u32 = 512;
/// The class is in the low bits …
pub const CALL_CLASS: u32 = 0xff;
/// … and these say that arguments decide further.
pub const CALL_FUTEX: u32 = 1 << 8;
/// `poll(descriptors, number, …)`: one descriptor is that one's wait, and none is a sleep.
pub const CALL_POLL: u32 = 1 << 9;
/// `select(number, …)`: of no descriptors, it is a sleep.
pub const CALL_SELECT: u32 = 1 << 10;
/// The first argument is a descriptor.
pub const CALL_DESCRIPTOR: u32 = 1 << 11;
/// In uninterruptible sleep it is the disk that it waits for.
pub const CALL_ON_DISK: u32 = 1 << 12;

/// [`WaitEvent::call`] outside of system calls.
pub const NO_CALL: u32 = u32::MAX;

/// Bytes of CPython's `struct _gil_runtime_state`: 208 in 3.8 – 3.13, 216 without the GIL (`sizeof`).
pub const GIL_BYTES: u64 = 208;

/// Places of the map `WAIT_PLACES`: where a thread's slot is, by its number.
pub const PLACES: u32 = 1 << 16;
/// Nobody is here any more; whoever had no room here is at his second place.
pub const PLACE_LEFT: u32 = u32::MAX;

/// More slots than these there never are.
pub const MOST_SLOTS: usize = 16 * 1024;

/// Where a thread that has no room at its first place is.
pub const fn second_place(tid: u32) -> u32 {
    (tid.wrapping_mul(0x9e37_79b1) >> 16) & (PLACES - 1)
}

/// Sums of one thread and class.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitSum {
    pub count: u64,
    pub ns: u64,
    /// Of that, how long it only waited for a CPU.
    pub ready_ns: u64,
    /// Of that, or of waiting for a CPU, how long none was to be had because the cgroup's quota was used up.
    pub throttled_ns: u64,
    /// What drawn waits stand for.
    pub drawn_ns: u64,
    pub longest_ns: u64,
    /// Of `count` and `ns`, those that are shorter than what is asked for, and never drawn.
    pub ignored: u64,
    pub ignored_ns: u64,
}

/// Nobody's.
pub const SLOT_FREE: u32 = 0;
pub const SLOT_LIVE: u32 = 1;
/// Its thread has ended. User space reads it and gives it back.
pub const SLOT_ENDED: u32 = 2;

/// What is kept of a thread. Times are CLOCK_MONOTONIC.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitSlot {
    /// The thread as the kernel numbers it.
    pub tid: u32,
    /// `SLOT_…`.
    pub state: u32,
    /// The numbers user space knows.
    pub shown_pid: u32,
    pub shown_tid: u32,
    /// From when on its time is counted, and until when if it has ended.
    pub first_ns: u64,
    pub ended_ns: u64,
    /// Since when it is on a CPU, or away: one of them is 0.
    pub in_ns: u64,
    pub out_ns: u64,
    pub on_cpu_ns: u64,
    /// The kernel's counts of its waiting for CPUs and of its time on them, when it went away last.
    pub run_delay_ns: u64,
    pub ran_ns: u64,
    /// Where it queued for a CPU, whose queue that is, and how long it had stood still for want of quota, when it went away
    /// last.
    pub queue: u64,
    pub group: u64,
    pub throttled_ns: u64,
    /// Where the process's GIL is; 0 if it is not known to have one.
    pub gil: u64,
    /// The wait that is under way, or was the last one.
    pub class: u32,
    /// The task's state; 0 if it could run.
    pub task_state: u32,
    pub call: u32,
    /// Its last wait is not split yet: the kernel counts waiting for CPUs only when the thread runs.
    pub unsplit: u32,
    pub arguments: [u64; 2],
    /// Registers with which it left user space.
    pub pc: u64,
    pub sp: u64,
    /// A drawn wait that is to be sent: its length and what it stands for.
    pub drawn_ns: u64,
    pub drawn_weight_ns: u64,
    pub drawn_class: u32,
    pub drawn_state: u32,
    pub sums: [WaitSum; WAIT_CLASSES],
}

const _: () = assert!(size_of::<WaitSlot>() == 176 + 64 * WAIT_CLASSES && WAIT_CLASSES.is_power_of_two());

#[cfg(feature = "user")]
// SAFETY: `WaitSlot` is `repr(C)`, made of integers, and has no padding (asserted above).
unsafe impl aya::Pod for WaitSlot {}

/// What user space says to the kernel side while it runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitControl {
    /// T: from this length on, every wait is drawn.
    pub target_ns: u64,
    /// No shorter wait is.
    pub min_ns: u64,
    /// An event loop that does not poll for as long has stalled.
    pub stall_ns: u64,
    /// From this size on ([`IoEvent::size`]), every call is drawn.
    pub io_target: u64,
    /// Calls that began in this time count: no earlier ones, as those were not all seen to end, and none from then on.
    pub io_from_ns: u64,
    pub io_until_ns: u64,
}

/// Where this kernel keeps what is read of tasks and descriptors, from its BTF. A global of the object.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitConfig {
    /// `WAIT_…` bits below.
    pub features: u32,
    /// `task_struct.__state`, before 5.14 `.state`.
    pub task_state_offset: u32,
    /// `task_struct.sched_info.run_delay`, `.se.sum_exec_runtime`.
    pub run_delay_offset: u32,
    pub exec_runtime_offset: u32,
    /// `task_struct.files`, `files_struct.fdt`, `fdtable.max_fds`, `fdtable.fd`.
    pub task_files_offset: u32,
    pub files_table_offset: u32,
    pub table_size_offset: u32,
    pub table_files_offset: u32,
    /// `file.f_inode`, `.f_path.dentry`, `.private_data`.
    pub file_inode_offset: u32,
    pub file_dentry_offset: u32,
    pub file_private_offset: u32,
    /// `inode.i_mode`, `.i_ino`, `.i_sb`, `super_block.s_dev`, `dentry.d_name.name`.
    pub inode_mode_offset: u32,
    pub inode_number_offset: u32,
    pub inode_super_offset: u32,
    pub super_device_offset: u32,
    pub dentry_name_offset: u32,
    /// `socket.sk`, `sock.sk_protocol`.
    pub socket_sock_offset: u32,
    pub sock_protocol_offset: u32,
    /// `sock_common.skc_family`, `.skc_num`, `.skc_dport`, `.skc_daddr`, `.skc_rcv_saddr`, `.skc_v6_daddr`,
    /// `.skc_v6_rcv_saddr`, `.skc_state`.
    pub sock_family_offset: u32,
    pub sock_num_offset: u32,
    pub sock_dport_offset: u32,
    pub sock_daddr_offset: u32,
    pub sock_saddr_offset: u32,
    pub sock_v6_daddr_offset: u32,
    pub sock_v6_saddr_offset: u32,
    /// `unix_sock.peer`, `.addr`, `unix_address.name`, `.len`.
    pub unix_peer_offset: u32,
    pub unix_address_offset: u32,
    pub unix_name_offset: u32,
    pub unix_length_offset: u32,
    /// `task_struct.se.cfs_rq`, `cfs_rq.throttled_clock_self_time`, `.tg`.
    pub queue_offset: u32,
    pub queue_throttled_offset: u32,
    pub queue_group_offset: u32,
}

const _: () = assert!(size_of::<WaitConfig>() == 4 * 32);

/// `sched_switch` says the state of who goes: its fourth argument (5.18 and later).
pub const WAITS_STATE_ARGUMENT: u32 = 1 << 0;
/// The kernel counts the time a task waits for a CPU (`CONFIG_SCHED_INFO`).
pub const WAITS_RUN_DELAY: u32 = 1 << 1;
/// Whoever is switched out and has no slot is looked at, and given one if it is wanted. Otherwise slots are made for
/// threads that exist, and at forks.
pub const WAITS_LAZY: u32 = 1 << 2;
/// It is noted who wakes threads.
pub const WAITS_WAKERS: u32 = 1 << 3;
/// It is looked at how long event loops take to come back.
pub const WAITS_STALLS: u32 = 1 << 4;
/// The kernel says of each queue for a CPU how long it stood still because a cgroup's quota was used up (6.7 and later, and
/// `CONFIG_CFS_BANDWIDTH`).
pub const WAITS_THROTTLED: u32 = 1 << 5;

#[cfg(feature = "user")]
// SAFETY: `WaitConfig` is `repr(C)`, made of integers, and has no padding (asserted above).
unsafe impl aya::Pod for WaitConfig {}

/// Bytes kept of a file's or socket's name.
pub const NAME_BYTES: usize = 48;

/// What lies behind a descriptor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// `inode.i_mode`; 0 if the descriptor could not be looked up.
    pub mode: u32,
    /// `major << 20 | minor`.
    pub device: u32,
    pub inode: u64,
    pub number: u32,
    /// `AF_…` of a socket, and its protocol.
    pub family: u16,
    pub protocol: u16,
    /// Of an internet socket, in the host's byte order.
    pub local_port: u16,
    pub remote_port: u16,
    pub reserved: u32,
    /// As they lie in memory; of version 4 the first four bytes.
    pub local: [u8; 16],
    pub remote: [u8; 16],
}

const _: () = assert!(size_of::<Descriptor>() == 64);

/// [`Waker::kind`]: not known.
pub const WAKER_NONE: u32 = 0;
/// A thread that made a system call.
pub const WAKER_TASK: u32 = 1;
/// One of the kernel's own.
pub const WAKER_KERNEL: u32 = 2;
/// An interrupt: a timer, or a device.
pub const WAKER_INTERRUPT: u32 = 3;

/// Who woke a thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waker {
    /// `WAKER_…`.
    pub kind: u32,
    pub pid: u32,
    pub tid: u32,
    /// As in [`SampleHeader`], which this is for the stack.
    pub instance: u32,
    pub comm: [u64; 2],
    /// A stack that was sent before; 0 if none was taken.
    pub stack: [u64; 2],
    pub python: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<Waker>() == 56);

/// Who has woken the thread of a slot, kept until its wait is told.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WakerNote {
    /// When the thread went away: which wait this ends.
    pub out_ns: u64,
    /// The chance by which that wait is drawn.
    pub random: u32,
    pub reserved: u32,
    pub waker: Waker,
}

/// [`WaitEvent::flags`]: the thread had the GIL all the while.
pub const EVENT_HOLDS_GIL: u32 = 1 << 0;

/// A wait that was drawn.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitEvent {
    pub length_ns: u64,
    /// For how much waiting it stands.
    pub weight_ns: u64,
    /// Of its length, how long it only waited for a CPU.
    pub ready_ns: u64,
    /// Of that, how long because the cgroup's quota was used up.
    pub throttled_ns: u64,
    /// `WAIT_…`.
    pub class: u32,
    pub task_state: u32,
    /// The system call's number, or [`NO_CALL`].
    pub call: u32,
    /// `EVENT_…`.
    pub flags: u32,
    pub arguments: [u64; 2],
    /// Who had the GIL last when the wait for it was over: a stack that was sent before, and the address of the thread's
    /// state. 0 if that made no sense.
    pub holder_stack: [u64; 2],
    pub holder_state: u64,
    pub waker: Waker,
    pub descriptor: Descriptor,
    /// A file's name, a unix socket's path; NUL padded. An abstract path begins with a NUL, and has `@` in its place.
    pub name: [[u8; 8]; NAME_BYTES / 8],
}

/// A wait that was drawn, and whose. Its stack was sent before.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WaitRecord {
    pub header: SampleHeader,
    pub event: WaitEvent,
}

const _: () = assert!(size_of::<WaitEvent>() == 88 + 56 + 64 + NAME_BYTES);
const _: () = assert!(size_of::<WaitRecord>() == 64 + size_of::<WaitEvent>());

/// What is known of the event loop that a slot's thread runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopNote {
    /// Since when it is back from polling; 0 if it was never seen to poll.
    pub back_ns: u64,
    /// Whose loop it is: slots are used again.
    pub tid: u32,
    pub reserved: u32,
}

#[cfg(feature = "user")]
// SAFETY: `LoopNote` is `repr(C)`, made of integers, and has no padding.
unsafe impl aya::Pod for LoopNote {}

/// A thread that polls an event loop, and did not for long.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StallRecord {
    /// [`RECORD_STALL`](crate::record::RECORD_STALL).
    pub kind: u32,
    pub pid: u32,
    pub tid: u32,
    pub reserved: u32,
    pub from_ns: u64,
    pub to_ns: u64,
}

const _: () = assert!(size_of::<StallRecord>() == 32);

/// Families of system calls that move data, or make it safe, as `IO_CALLS` has them by number; 0 is no such call.
pub const IO_READ: u32 = 1;
pub const IO_WRITE: u32 = 2;
pub const IO_SEND: u32 = 3;
pub const IO_RECEIVE: u32 = 4;
pub const IO_CONNECT: u32 = 5;
pub const IO_ACCEPT: u32 = 6;
pub const IO_SYNC: u32 = 7;

/// What calls are summed up by: a thread, a family, and what lies behind the descriptor. All 0 but the first two where there
/// are too many of those.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IoKey {
    pub pid: u32,
    pub tid: u32,
    pub family: u32,
    /// The descriptor's number.
    pub number: u32,
    pub inode: u64,
    pub device: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<IoKey>() == 32);

#[cfg(feature = "user")]
// SAFETY: `IoKey` is `repr(C)`, made of integers, and has no padding (asserted above).
unsafe impl aya::Pod for IoKey {}

/// Of calls that have ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoTotal {
    pub calls: u64,
    /// Those that failed, "would have to wait" among them.
    pub errors: u64,
    pub bytes: u64,
    pub ns: u64,
    pub longest_ns: u64,
}

#[cfg(feature = "user")]
// SAFETY: five u64, no padding.
unsafe impl aya::Pod for IoTotal {}

/// A call under way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStart {
    /// 0: none.
    pub began_ns: u64,
    pub family: u32,
    /// The descriptor's number.
    pub number: u32,
    /// Whose it is: a thread may end in a call, and its slot be used again.
    pub tid: u32,
    pub reserved: u32,
}

/// A call that was drawn.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoEvent {
    pub key: IoKey,
    pub length_ns: u64,
    /// What it returned: a number of bytes, or the negated number of an error.
    pub result: i64,
    /// How much it matters, in nanoseconds and bytes, and the size from which on all are drawn: it was drawn with a
    /// probability of one by the other, or 1.
    pub size: u64,
    pub target: u64,
    pub descriptor: Descriptor,
    /// As in [`WaitEvent`].
    pub name: [[u8; 8]; NAME_BYTES / 8],
}

/// A call that was drawn, and whose. Its stack was sent before.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IoRecord {
    pub header: SampleHeader,
    pub event: IoEvent,
}

const _: () = assert!(size_of::<IoEvent>() == 32 + 32 + 64 + NAME_BYTES);
const _: () = assert!(size_of::<IoRecord>() == 64 + size_of::<IoEvent>());
