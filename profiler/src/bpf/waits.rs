//! What `waits` needs of the kernel side: its programs, and the accounts of threads in memory that both share.

use std::fs;

use anyhow::Context as _;
use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, Queue},
    programs::{BtfTracePoint, RawTracePoint, tp_btf::BtfTracePointLink},
};
use profiler_common::{
    names,
    wait::{
        CALLS, PLACE_LEFT, PLACES, SLOT_ENDED, SLOT_FREE, SLOT_LIVE, WAITS_LAZY, WAITS_RUN_DELAY, WAITS_STATE_ARGUMENT,
        WaitConfig, WaitControl, WaitSlot, second_place,
    },
};
use profiler_ebpf::wait::class;

use super::{
    btf::{Btf, KERNEL_BTF, field_offset},
    program,
    shared::SharedArray,
    tables::shared,
    take_map, verifier_error,
};
use crate::{instruments::WaitNeeds, orders::ThreadAccounts};

/// Where a drawn wait is told. By preference: the end of the scheduler's work, which costs others nothing.
const RESUME: (&str, &str) = (names::PROGRAM_WAIT_RESUME, "sched_exit_tp");
const CALL: (&str, &str) = (names::PROGRAM_WAIT_CALL, "sys_exit");
const FORK: (&str, &str) = (names::PROGRAM_WAIT_FORK, "sched_process_fork");
const SWITCH: &str = "sched_switch";

/// Makes the maps as large as they are needed, and finds out where this kernel keeps what the programs read.
pub(super) fn size(loader: &mut EbpfLoader<'_>, needs: Option<WaitNeeds>) -> anyhow::Result<WaitConfig> {
    let Some(WaitNeeds { threads, lazy }) = needs else {
        loader
            .map_max_entries(names::MAP_WAIT_PLACES, 1)
            .map_max_entries(names::MAP_WAIT_SLOTS, 1)
            .map_max_entries(names::MAP_WAIT_FREE, 1);
        return Ok(WaitConfig::default());
    };
    loader
        .map_max_entries(names::MAP_WAIT_SLOTS, threads)
        .map_max_entries(names::MAP_WAIT_FREE, threads);
    let bytes = fs::read(KERNEL_BTF).with_context(|| format!("failed to read {KERNEL_BTF}"))?;
    config(&Btf::parse(&bytes)?, lazy)
}

fn config(btf: &Btf<'_>, lazy: bool) -> anyhow::Result<WaitConfig> {
    let field = |structure, path| field_offset(btf, structure, path);
    // What a kernel is built without, or has in a module: nothing is said of those.
    let optional = |structure, path| field(structure, path).unwrap_or(0);
    let mut features = if lazy { WAITS_LAZY } else { 0 };
    if btf.tracepoint_arguments(SWITCH).is_some_and(|arguments| arguments >= 4) {
        features |= WAITS_STATE_ARGUMENT;
    }
    let run_delay = field("task_struct", "sched_info.run_delay");
    if run_delay.is_ok() {
        features |= WAITS_RUN_DELAY;
    }
    Ok(WaitConfig {
        features,
        task_state_offset: field("task_struct", "__state").or_else(|_| field("task_struct", "state"))?,
        run_delay_offset: run_delay.unwrap_or(0),
        task_files_offset: field("task_struct", "files")?,
        files_table_offset: field("files_struct", "fdt")?,
        table_size_offset: field("fdtable", "max_fds")?,
        table_files_offset: field("fdtable", "fd")?,
        file_inode_offset: field("file", "f_inode")?,
        file_dentry_offset: field("file", "f_path.dentry")?,
        file_private_offset: field("file", "private_data")?,
        inode_mode_offset: field("inode", "i_mode")?,
        inode_number_offset: field("inode", "i_ino")?,
        inode_super_offset: field("inode", "i_sb")?,
        super_device_offset: field("super_block", "s_dev")?,
        dentry_name_offset: field("dentry", "d_name.name")?,
        socket_sock_offset: field("socket", "sk")?,
        sock_protocol_offset: field("sock", "sk_protocol")?,
        sock_family_offset: field("sock_common", "skc_family")?,
        sock_num_offset: field("sock_common", "skc_num")?,
        sock_dport_offset: field("sock_common", "skc_dport")?,
        sock_daddr_offset: field("sock_common", "skc_daddr")?,
        sock_saddr_offset: field("sock_common", "skc_rcv_saddr")?,
        sock_v6_daddr_offset: optional("sock_common", "skc_v6_daddr"),
        sock_v6_saddr_offset: optional("sock_common", "skc_v6_rcv_saddr"),
        unix_peer_offset: optional("unix_sock", "peer"),
        unix_address_offset: optional("unix_sock", "addr"),
        unix_name_offset: optional("unix_address", "name"),
        unix_length_offset: optional("unix_address", "len"),
    })
}

pub(super) fn load(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let btf = AyaBtf::from_sys_fs().with_context(|| format!("failed to read {KERNEL_BTF}"))?;
    let switch: &mut BtfTracePoint = program(ebpf, names::PROGRAM_SWITCH)?;
    switch
        .load(SWITCH, &btf)
        .map_err(verifier_error)
        .with_context(|| format!("failed to load program `{}`", names::PROGRAM_SWITCH))?;
    let mut load = |name: &str| -> anyhow::Result<()> {
        let raw: &mut RawTracePoint = program(ebpf, name)?;
        raw.load()
            .map_err(verifier_error)
            .with_context(|| format!("failed to load program `{name}`"))
    };
    load(FORK.0)?;
    match has_resume() {
        true => load(RESUME.0),
        false => load(CALL.0),
    }
}

/// Whether this kernel has the better of the two places where a drawn wait can be told (6.16 and later).
pub fn has_resume() -> bool {
    let bytes = fs::read(KERNEL_BTF).unwrap_or_default();
    Btf::parse(&bytes).is_ok_and(|btf| btf.tracepoint_arguments(RESUME.1).is_some())
}

/// Programs at raw tracepoints, in the order in which they are put there.
pub(super) fn tracepoints(ebpf: &Ebpf) -> [(&'static str, &'static str); 2] {
    let is_loaded = |name| ebpf.program(name).is_some_and(|program| program.fd().is_ok());
    match is_loaded(RESUME.0) {
        true => [RESUME, FORK],
        false => [CALL, FORK],
    }
}

pub(super) fn attach_switches(ebpf: &mut Ebpf) -> anyhow::Result<BtfTracePointLink> {
    let program: &mut BtfTracePoint = program(ebpf, names::PROGRAM_SWITCH)?;
    let link = program
        .attach()
        .with_context(|| format!("failed to attach to the tracepoint {SWITCH}"))?;
    Ok(program.take_link(link)?)
}

/// The accounts of threads.
pub struct WaitMaps {
    places: SharedArray<u64>,
    slots: SharedArray<WaitSlot>,
    control: SharedArray<WaitControl>,
    resumes: bool,
    free: Queue<MapData, u32>,
}

impl WaitMaps {
    pub(super) fn take(ebpf: &mut Ebpf, threads: u32) -> anyhow::Result<Self> {
        let mut calls: Array<MapData, u32> = Array::try_from(take_map(ebpf, names::MAP_WAIT_CALLS)?)?;
        for call in 0..CALLS {
            let entry = class::of_call(call);
            if entry != 0 {
                calls.set(call, entry, 0).context("failed to write map WAIT_CALLS")?;
            }
        }
        let mut free: Queue<MapData, u32> = match take_map(ebpf, names::MAP_WAIT_FREE)? {
            map @ Map::Queue(_) => Queue::try_from(map)?,
            _ => anyhow::bail!("map `{}` is no queue", names::MAP_WAIT_FREE),
        };
        for slot in 1..threads {
            free.push(slot, 0).context("failed to write map WAIT_FREE")?;
        }
        Ok(Self {
            places: shared(ebpf, names::MAP_WAIT_PLACES, PLACES as usize)?,
            slots: shared(ebpf, names::MAP_WAIT_SLOTS, threads as usize)?,
            control: shared(ebpf, names::MAP_WAIT_CONTROL, 1)?,
            resumes: tracepoints(ebpf)[0] == RESUME,
            free,
        })
    }

    /// The number of a thread's slot.
    fn find(&self, tid: u32) -> Option<u32> {
        [tid & (PLACES - 1), second_place(tid)]
            .into_iter()
            .filter_map(|place| u32::try_from(self.places.read(place)?).ok())
            .find(|&number| number != 0 && self.slots.read(number).is_some_and(|slot| slot.tid == tid))
    }
}

impl ThreadAccounts for WaitMaps {
    fn resumes(&self) -> bool {
        self.resumes
    }

    fn set_target(&mut self, target_ns: u64) {
        self.control.write(0, &[WaitControl { target_ns }]);
    }

    fn add(&mut self, slot: WaitSlot) -> bool {
        if self.find(slot.tid).is_some() {
            return true;
        }
        let is_free = |place: &u32| {
            let slot = self.places.read(*place);
            slot.is_some_and(|slot| slot == 0 || slot == u64::from(PLACE_LEFT))
        };
        let Some(place) = [slot.tid & (PLACES - 1), second_place(slot.tid)]
            .into_iter()
            .find(is_free)
        else {
            return false;
        };
        let Ok(number) = self.free.pop(0) else { return false };
        self.slots.write(
            number,
            &[WaitSlot {
                state: SLOT_LIVE,
                ..slot
            }],
        );
        self.places.write(place, &[number.into()]);
        true
    }

    fn set_running(&mut self, as_it_was: &WaitSlot, now_ns: u64) {
        if let Some(slot) = self.find(as_it_was.tid).and_then(|number| self.slots.pointer(number)) {
            // SAFETY: the pointer is into the map. Volatile: the kernel side writes it, too.
            unsafe {
                if (&raw const (*slot).out_ns).read_volatile() == as_it_was.out_ns {
                    // What it did until now is not known: its time is counted from here on.
                    (&raw mut (*slot).first_ns).write_volatile(now_ns);
                    (&raw mut (*slot).in_ns).write_volatile(now_ns);
                    (&raw mut (*slot).out_ns).write_volatile(0);
                }
            }
        }
    }

    fn set_gil(&mut self, pid: u32, gil: u64) {
        for number in 1..self.slots.len() as u32 {
            let Some(slot) = self.slots.pointer(number) else {
                continue;
            };
            // SAFETY: the pointer is into the map. Volatile: the kernel side uses the slot meanwhile.
            unsafe {
                if (&raw const (*slot).shown_pid).read_volatile() == pid {
                    (&raw mut (*slot).gil).write_volatile(gil);
                }
            }
        }
    }

    fn take_ended(&mut self) -> Vec<WaitSlot> {
        let mut ended = Vec::new();
        for number in 1..self.slots.len() as u32 {
            let Some(slot) = self.slots.pointer(number) else {
                continue;
            };
            // SAFETY: as above.
            if unsafe { (&raw const (*slot).state).read_volatile() } != SLOT_ENDED {
                continue;
            }
            ended.extend(self.slots.read(number));
            self.slots.write(number, &[WaitSlot::default()]);
            // A slot that cannot be given back is one less; it is marked as nobody's.
            let _ = self.free.push(number, 0);
        }
        ended
    }

    fn live(&self) -> Vec<WaitSlot> {
        (1..self.slots.len() as u32)
            .filter_map(|number| self.slots.read(number))
            .filter(|slot| slot.state != SLOT_FREE)
            .collect()
    }
}
