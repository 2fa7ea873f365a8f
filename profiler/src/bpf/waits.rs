//! What `waits` needs of the kernel side: its programs, and the accounts of threads in memory that both share.

use std::fs;

use anyhow::Context as _;
use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, Queue},
    programs::{BtfTracePoint, RawTracePoint, tp_btf::BtfTracePointLink},
};
use profiler_common::{
    names,
    wait::{
        CALLS, IoKey, IoTotal, LoopNote, MOST_SLOTS, PLACE_LEFT, PLACES, SLOT_ENDED, SLOT_FREE, SLOT_LIVE, WAITS_LAZY,
        WAITS_RUN_DELAY, WAITS_STALLS, WAITS_STATE_ARGUMENT, WAITS_THROTTLED, WAITS_WAKERS, WaitConfig, WaitControl,
        WaitSlot, second_place,
    },
};
use profiler_ebpf::wait::class;

use super::{
    btf::{Btf, KERNEL_BTF, field_offset},
    loaded, program,
    shared::SharedArray,
    tables::shared,
    take_map,
};
use crate::{
    instruments::WaitNeeds,
    orders::{Away, ThreadAccounts},
};

/// Where a drawn wait is told. By preference: the end of the scheduler's work, which costs others nothing.
const RESUME: (&str, &str) = (names::PROGRAM_WAIT_RESUME, "sched_exit_tp");
const CALL: (&str, &str) = (names::PROGRAM_WAIT_CALL, "sys_exit");
const FORK: (&str, &str) = (names::PROGRAM_WAIT_FORK, "sched_process_fork");
const EXEC: (&str, &str) = (names::PROGRAM_WAIT_EXEC, "sched_process_exec");
const SWITCH: (&str, &str) = (names::PROGRAM_SWITCH, "sched_switch");
const WAKING: (&str, &str) = (names::PROGRAM_WAKING, "sched_waking");
pub(super) const POLL: (&str, &str) = (names::PROGRAM_POLL, "sys_enter");
/// The end first: what has no beginning is nothing.
pub(super) const IO: [(&str, &str); 2] = [
    (names::PROGRAM_IO_END, "sys_exit"),
    (names::PROGRAM_IO_BEGIN, "sys_enter"),
];

/// Makes the maps as large as they are needed, and finds out where this kernel keeps what the programs read.
pub(super) fn size(loader: &mut EbpfLoader<'_>, needs: Option<WaitNeeds>) -> anyhow::Result<WaitConfig> {
    let Some(needs) = needs else {
        loader
            .map_max_entries(names::MAP_WAIT_PLACES, 1)
            .map_max_entries(names::MAP_WAIT_SLOTS, 1)
            .map_max_entries(names::MAP_WAIT_FREE, 1)
            .map_max_entries(names::MAP_IO_TOTALS, 1)
            .map_max_entries(names::MAP_IO_COARSE, 1);
        return Ok(WaitConfig::default());
    };
    let threads = |wanted: bool| if wanted { needs.threads } else { 1 };
    if !needs.io {
        loader
            .map_max_entries(names::MAP_IO_TOTALS, 1)
            .map_max_entries(names::MAP_IO_COARSE, 1);
    }
    loader
        .map_max_entries(names::MAP_WAIT_SLOTS, needs.threads)
        .map_max_entries(names::MAP_WAIT_FREE, needs.threads)
        .map_max_entries(names::MAP_WAIT_WAKERS, threads(needs.wakers))
        .map_max_entries(names::MAP_WAIT_LOOPS, threads(needs.stalls))
        .map_max_entries(names::MAP_IO_STARTS, threads(needs.io));
    let bytes = fs::read(KERNEL_BTF).with_context(|| format!("failed to read {KERNEL_BTF}"))?;
    config(&Btf::parse(&bytes)?, needs)
}

fn config(btf: &Btf<'_>, needs: WaitNeeds) -> anyhow::Result<WaitConfig> {
    let field = |structure, path| field_offset(btf, structure, path);
    // What a kernel is built without, or has in a module: nothing is said of those.
    let optional = |structure, path| field(structure, path).unwrap_or(0);
    let mut features = if needs.lazy { WAITS_LAZY } else { 0 };
    if needs.wakers {
        features |= WAITS_WAKERS;
    }
    if needs.stalls {
        features |= WAITS_STALLS;
    }
    if btf
        .tracepoint_arguments(SWITCH.1)
        .is_some_and(|arguments| arguments >= 4)
    {
        features |= WAITS_STATE_ARGUMENT;
    }
    let run_delay = field("task_struct", "sched_info.run_delay");
    if run_delay.is_ok() {
        features |= WAITS_RUN_DELAY;
    }
    let quota = quota(btf);
    if quota.is_some() && features & WAITS_RUN_DELAY != 0 {
        features |= WAITS_THROTTLED;
    }
    let [queue_offset, queue_throttled_offset, queue_group_offset] = quota.unwrap_or_default();
    Ok(WaitConfig {
        features,
        task_state_offset: field("task_struct", "__state").or_else(|_| field("task_struct", "state"))?,
        run_delay_offset: run_delay.unwrap_or(0),
        exec_runtime_offset: field("task_struct", "se.sum_exec_runtime")?,
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
        queue_offset,
        queue_throttled_offset,
        queue_group_offset,
    })
}

/// Where the kernel keeps how long a cgroup's quota was used up: a task's queue, the queue's clock and its group.
fn quota(btf: &Btf<'_>) -> Option<[u32; 3]> {
    let queue = |path| field_offset(btf, "cfs_rq", path).ok();
    Some([
        field_offset(btf, "task_struct", "se.cfs_rq").ok()?,
        queue("throttled_clock_self_time")?,
        queue("tg")?,
    ])
}

pub(super) fn load(ebpf: &mut Ebpf, needs: WaitNeeds) -> anyhow::Result<()> {
    let btf = AyaBtf::from_sys_fs().with_context(|| format!("failed to read {KERNEL_BTF}"))?;
    for (name, tracepoint) in [Some(SWITCH), needs.wakers.then_some(WAKING)].into_iter().flatten() {
        let typed: &mut BtfTracePoint = program(ebpf, name)?;
        loaded(name, || typed.load(tracepoint, &btf))?;
    }
    let mut load = |name: &str| -> anyhow::Result<()> {
        let raw: &mut RawTracePoint = program(ebpf, name)?;
        loaded(name, || raw.load())
    };
    load(FORK.0)?;
    load(EXEC.0)?;
    if needs.stalls {
        load(POLL.0)?;
    }
    if needs.io {
        IO.iter().try_for_each(|(name, _)| load(name))?;
    }
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
pub(super) fn tracepoints(ebpf: &Ebpf, needs: WaitNeeds) -> Vec<(&'static str, &'static str)> {
    let by_order = [POLL].into_iter().chain(IO).filter(|_| !needs.sparing);
    let all = [RESUME, CALL, FORK, EXEC].into_iter().chain(by_order);
    all.filter(|(name, _)| is_loaded(ebpf, name)).collect()
}

fn is_loaded(ebpf: &Ebpf, name: &str) -> bool {
    ebpf.program(name).is_some_and(|program| program.fd().is_ok())
}

pub(super) fn attach_switches(ebpf: &mut Ebpf) -> anyhow::Result<Vec<BtfTracePointLink>> {
    let mut links = Vec::new();
    for (name, tracepoint) in [SWITCH, WAKING] {
        if !is_loaded(ebpf, name) {
            continue;
        }
        let program: &mut BtfTracePoint = program(ebpf, name)?;
        let link = program
            .attach()
            .with_context(|| format!("failed to attach to the tracepoint {tracepoint}"))?;
        links.push(program.take_link(link)?);
    }
    Ok(links)
}

/// The accounts of threads.
pub struct WaitMaps {
    places: SharedArray<u64>,
    slots: SharedArray<WaitSlot>,
    /// What each of them is (`SLOT_…`), a byte each: as words, most of which are nobody's.
    states: SharedArray<u64>,
    control: SharedArray<WaitControl>,
    resumes: bool,
    free: Queue<MapData, u32>,
    /// If event loops are looked at.
    loops: Option<SharedArray<LoopNote>>,
    totals: [HashMap<MapData, IoKey, IoTotal>; 2],
}

impl WaitMaps {
    pub(super) fn take(ebpf: &mut Ebpf, needs: WaitNeeds) -> anyhow::Result<Self> {
        let threads = needs.threads;
        let mut calls: Array<MapData, u32> = Array::try_from(take_map(ebpf, names::MAP_WAIT_CALLS)?)?;
        for call in 0..CALLS {
            let entry = class::of_call(call);
            if entry != 0 {
                calls.set(call, entry, 0).context("failed to write map WAIT_CALLS")?;
            }
        }
        let mut families: Array<MapData, u32> = Array::try_from(take_map(ebpf, names::MAP_IO_CALLS)?)?;
        for call in 0..CALLS {
            let family = class::of_io(call);
            if family != 0 {
                families.set(call, family, 0).context("failed to write map IO_CALLS")?;
            }
        }
        let mut totals = |name| -> anyhow::Result<_> { Ok(HashMap::try_from(take_map(ebpf, name)?)?) };
        let totals = [totals(names::MAP_IO_TOTALS)?, totals(names::MAP_IO_COARSE)?];
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
            states: shared(ebpf, names::MAP_WAIT_STATES, MOST_SLOTS / size_of::<u64>())?,
            control: shared(ebpf, names::MAP_WAIT_CONTROL, 1)?,
            resumes: is_loaded(ebpf, RESUME.0),
            free,
            loops: match needs.stalls {
                true => Some(shared(ebpf, names::MAP_WAIT_LOOPS, threads as usize)?),
                false => None,
            },
            totals,
        })
    }

    /// The numbers of slots that are somebody's, and what they are (`SLOT_…`).
    fn taken(&self) -> impl Iterator<Item = (u32, u32)> + use<'_> {
        (0..self.states.len() as u32)
            .filter_map(|word| Some((word, self.states.read(word).filter(|&states| states != 0)?)))
            .flat_map(|(word, states)| {
                let numbers = word * size_of::<u64>() as u32..;
                numbers.zip(states.to_ne_bytes().map(u32::from))
            })
            .filter(|&(_, state)| state != SLOT_FREE)
    }

    /// After its slot was written.
    fn set_state(&mut self, number: u32, state: u32) {
        let (word, byte) = (number / size_of::<u64>() as u32, number as usize % size_of::<u64>());
        if let Some(states) = self.states.pointer(word) {
            // SAFETY: a byte of a word that is in the map. Volatile: the kernel side writes others of that word.
            unsafe { states.cast::<u8>().add(byte).write_volatile(state as u8) };
        }
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

    fn tells_of_quotas(&self) -> bool {
        let bytes = fs::read(KERNEL_BTF).unwrap_or_default();
        Btf::parse(&bytes).is_ok_and(|btf| quota(&btf).is_some())
    }

    fn set_control(&mut self, control: WaitControl) {
        self.control.write(0, &[control]);
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
        self.set_state(number, SLOT_LIVE);
        self.places.write(place, &[number.into()]);
        true
    }

    fn begin_again(&mut self, as_it_was: &WaitSlot, as_it_is: &WaitSlot) -> bool {
        let Some(number) = self.find(as_it_was.tid) else {
            return false;
        };
        let times = |slot: &WaitSlot| (slot.in_ns, slot.out_ns);
        let is_as_it_was = self
            .slots
            .read(number)
            .is_some_and(|slot| times(&slot) == times(as_it_was));
        if is_as_it_was {
            self.slots.write(
                number,
                &[WaitSlot {
                    state: SLOT_LIVE,
                    ..*as_it_is
                }],
            );
        }
        is_as_it_was
    }

    fn set_gil(&mut self, gil_of: &dyn Fn(u32, u32) -> Option<u64>) {
        for (number, _) in self.taken() {
            let Some(slot) = self.slots.pointer(number) else {
                continue;
            };
            // SAFETY: the pointer is into the map. Volatile: the kernel side uses the slot meanwhile.
            unsafe {
                let (pid, tid) = (&raw const (*slot).shown_pid, &raw const (*slot).shown_tid);
                if let Some(gil) = gil_of(pid.read_volatile(), tid.read_volatile()) {
                    (&raw mut (*slot).gil).write_volatile(gil);
                }
            }
        }
    }

    fn take_ended(&mut self) -> Vec<WaitSlot> {
        let numbers: Vec<u32> = self
            .taken()
            .filter(|&(_, state)| state == SLOT_ENDED)
            .map(|(number, _)| number)
            .collect();
        let mut ended = Vec::with_capacity(numbers.len());
        for number in numbers {
            ended.extend(self.slots.read(number).filter(|slot| slot.state == SLOT_ENDED));
            self.slots.write(number, &[WaitSlot::default()]);
            self.set_state(number, SLOT_FREE);
            // A slot that cannot be given back is one less; it is marked as nobody's.
            let _ = self.free.push(number, 0);
        }
        ended
    }

    fn set_polling(&mut self, tid: u32, now_ns: u64) {
        if let (Some(number), Some(loops)) = (self.find(tid), &mut self.loops) {
            loops.write(
                number,
                &[LoopNote {
                    back_ns: now_ns,
                    tid,
                    reserved: 0,
                }],
            );
        }
    }

    fn back_from_poll(&self, tid: u32) -> Option<u64> {
        let note = self.loops.as_ref()?.read(self.find(tid)?)?;
        (note.tid == tid && note.back_ns != 0).then_some(note.back_ns)
    }

    fn away_from_poll(&self, before_ns: u64, most: usize) -> Vec<Away> {
        let Some(loops) = &self.loops else { return Vec::new() };
        (self.taken())
            .filter_map(|(number, _)| {
                let note = loops.read(number)?;
                if note.back_ns == 0 || note.back_ns >= before_ns {
                    return None;
                }
                let slot = self.slots.read(number)?;
                let is_polling = slot.out_ns != 0 && class::is_loop(slot.call);
                let is_its_own = slot.state == SLOT_LIVE && slot.tid == note.tid;
                (is_its_own && !is_polling).then_some(Away {
                    pid: slot.shown_pid,
                    tid: slot.shown_tid,
                    kernel_tid: slot.tid,
                    since_ns: note.back_ns,
                })
            })
            .take(most)
            .collect()
    }

    fn io_totals(&self) -> Vec<(IoKey, IoTotal)> {
        self.totals
            .iter()
            .flat_map(|totals| totals.iter().filter_map(Result::ok))
            .collect()
    }

    fn live(&self) -> Vec<WaitSlot> {
        (self.taken())
            .filter_map(|(number, _)| self.slots.read(number))
            .filter(|slot| slot.state != SLOT_FREE)
            .collect()
    }
}
