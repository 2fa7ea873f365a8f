//! The kernel half: loading, attaching, maps and the ring buffer. The one place that names aya.

mod attach;
mod births;
pub mod btf;
mod log;
mod multi;
mod orders;
mod shared;
mod tables;
mod waits;
mod watch;

use std::{
    collections::BTreeMap,
    fs, io, mem,
    ops::Range,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::PoisonError,
    thread::JoinHandle,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, PerCpuArray, RingBuf},
    programs::{
        PerfEvent, ProgramError, RawTracePoint, UProbe, raw_trace_point::RawTracePointLink, tp_btf::BtfTracePointLink,
        uprobe::UProbeLink,
    },
};
use profiler_common::{
    config::{Config, FEATURE_PID_NAMESPACE},
    group::{ALL_GROUPS, Group},
    limits::CONTEXTS,
    mark::Unwinding,
    names,
    python::{
        CallCount, CallFacts, CodeKey, ExpectedPython, GilFacts, MemoryErrors, PoolFacts, PythonProcess, Start,
        StartKey, Watch, WatchKey,
    },
    record::{KnownStack, StackKey},
    stats::{COUNTERS, Counter},
};

use self::{births::BirthWatch, multi::Multi, waits::WaitMaps};
pub use self::{births::stop_ns, tables::Tables};
use crate::{
    bpf::btf::{Btf, KERNEL_BTF, field_offset},
    config::Probe,
    instruments::Needs,
    orders::Orders as _,
    shown,
    unwind::store::Sizes,
};

/// The object, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/profiler-ebpf"));

/// What the programs are loaded with.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The offsets of kernel fields are filled in by [`Kernel::load`].
    pub config: Config,
    /// Size of the ring buffer: a power of two.
    pub ring_bytes: u32,
    /// Print what the programs log (cold paths only). Off, the logging is not even loaded.
    pub log: bool,
    /// Load `track_fork`: children of targets are targets, and are known from their first instruction on.
    pub follow_forks: bool,
    /// Of all instruments together.
    pub needs: Needs,
    /// Load `sample_probe`.
    pub probe: bool,
    /// Of the unwind tables.
    pub unwind: Sizes,
}

/// Programs at allocators, as [`Hook`](crate::orders::Hook) numbers them.
const HOOKS: [&str; 4] = [
    names::PROGRAM_ALLOC_ENTRY,
    names::PROGRAM_ALLOC_RETURN,
    names::PROGRAM_FREE,
    names::PROGRAM_SAMPLED,
];

/// Maps of what counts calls.
const CALL_MAPS: [&str; 7] = [
    names::MAP_CALL_FACTS,
    names::MAP_CALLS,
    names::MAP_EXPECTED,
    names::MAP_BEGINNING,
    names::MAP_TAKEN_UP,
    names::MAP_CHOSEN,
    names::MAP_STARTS,
];

/// Programs that see memory, and their tracepoints: what is unmapped before what is touched, because the other way round
/// memory would seem to stay.
const MEMORY: [(&str, &str); 4] = [
    (names::PROGRAM_THREAD_END, "sched_process_exit"),
    (names::PROGRAM_CALL, "sys_exit"),
    (names::PROGRAM_USER_FAULT, "page_fault_user"),
    (names::PROGRAM_KERNEL_FAULT, "page_fault_kernel"),
];

/// The loaded programs and their maps. Dropping it detaches everything.
pub struct Kernel {
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
    pythons: HashMap<MapData, u32, PythonProcess>,
    stacks: HashMap<MapData, StackKey, KnownStack>,
    codes: HashMap<MapData, CodeKey, u32>,
    target_pids: HashMap<MapData, u32, u32>,
    target_tids: HashMap<MapData, u32, u32>,
    tables: Option<Tables>,
    stats: PerCpuArray<MapData, u64>,
    /// Rows of counters, as many as there are slots of working memory.
    contexts: u32,
    /// The sampling event of each CPU.
    events: BTreeMap<u32, OwnedFd>,
    needs: Needs,
    /// Programs that see what happens to memory, or who waits.
    memory: Vec<RawTracePointLink>,
    waits: Option<WaitMaps>,
    births: Option<BirthWatch>,
    /// Programs that see who gets which CPU, and who wakes whom.
    switches: Vec<BtfTracePointLink>,
    gils: HashMap<MapData, u32, GilFacts>,
    pool_facts: HashMap<MapData, u32, PoolFacts>,
    memory_errors: HashMap<MapData, u32, MemoryErrors>,
    call_facts: HashMap<MapData, u32, CallFacts>,
    taken_up: HashMap<MapData, u32, u32>,
    expected: HashMap<MapData, u32, ExpectedPython>,
    calls: HashMap<MapData, CodeKey, CallCount>,
    chosen: HashMap<MapData, CodeKey, u32>,
    starts: HashMap<MapData, StartKey, Start>,
    watches: HashMap<MapData, WatchKey, Watch>,
    unwinding: HashMap<MapData, u32, Unwinding>,
    /// Where `sample_probe` and `pool_birth` hang.
    probes: Vec<UProbeLink>,
    /// How several probes are put in at once, where that is possible, and those that were.
    multi: Option<[Multi; 2]>,
    together: Vec<OwnedFd>,
    /// Probes that are being taken away.
    leaving: Vec<JoinHandle<()>>,
    leaving_apart: orders::LeavingApart,
    logger: Option<aya_log::EbpfLogger<log::StandardError>>,
    map_bytes: u64,
}

impl Kernel {
    pub fn load(options: &LoadOptions) -> anyhow::Result<Self> {
        if OBJECT.is_empty() {
            return Err(anyhow!(
                "this binary was built without its eBPF object; build it with `cargo xtask build`"
            ));
        }
        let config = with_offsets(options.config, options.needs.memory)?;
        let log_level: u8 = if options.log { u8::MAX } else { 0 };
        // 40 KiB for each, on every CPU. Only programs that interrupt each other need several.
        let needs = &options.needs;
        let contexts = if options.probe || needs.interrupts_itself() {
            CONTEXTS
        } else {
            1
        };
        let mut loader = EbpfLoader::new();
        loader
            .override_global(names::GLOBAL_CONFIG, &config, true)
            // With the level fixed to 0 the verifier prunes every logging branch.
            .override_global(aya_log::LEVEL, &log_level, false)
            .map_max_entries(names::MAP_EVENTS, options.ring_bytes)
            .map_max_entries(names::MAP_STATS, contexts * COUNTERS as u32)
            .map_max_entries(names::MAP_SCRATCH, contexts)
            .map_max_entries(names::MAP_CODE_SCRATCH, contexts)
            .map_max_entries(names::MAP_UNWIND_ROWS, options.unwind.row_shards)
            .map_max_entries(names::MAP_UNWIND_PAGES, options.unwind.pages)
            .map_max_entries(names::MAP_UNWIND_FILES, options.unwind.files)
            .map_max_entries(names::MAP_MAPPINGS, options.unwind.mappings);
        // Maps of instruments that are not there take up no room.
        let unused = |loader: &mut EbpfLoader<'_>, maps: &[&'static str]| {
            for map in maps {
                loader.map_max_entries(map, 1);
            }
        };
        if !needs.gil {
            unused(&mut loader, &[names::MAP_GILS]);
        }
        if !needs.memory {
            unused(
                &mut loader,
                &[names::MAP_POOL_FACTS, names::MAP_POOLS, names::MAP_MEMORY_ERRORS],
            );
        }
        match needs.blocks {
            Some(blocks) => {
                loader.map_max_entries(names::MAP_BLOCKS, blocks.max(1));
            }
            None => unused(&mut loader, &[names::MAP_BLOCKS, names::MAP_SITES, names::MAP_PENDING]),
        }
        if needs.calls.is_none() {
            unused(&mut loader, &CALL_MAPS);
        }
        let watched = needs.calls.is_some_and(|calls| calls.watched);
        if !watched {
            unused(&mut loader, &[names::MAP_WATCHES]);
        }
        if !needs.births {
            unused(&mut loader, &[names::MAP_BIRTHS]);
        }
        if !needs.marks {
            unused(&mut loader, &[names::MAP_UNWINDING]);
        }
        let wait_config = waits::size(&mut loader, needs.waits)?;
        loader.override_global(names::GLOBAL_WAIT_CONFIG, &wait_config, true);
        let mut ebpf = loader.load(OBJECT).context("failed to load the eBPF object")?;
        let mut multi = None;

        if needs.clock.is_some() {
            load_perf_event(&mut ebpf, names::PROGRAM_SAMPLE_CPU)?;
        }
        if needs.memory {
            load_memory(&mut ebpf)?;
        }
        if needs.births {
            load_perf_event(&mut ebpf, names::PROGRAM_BIRTH)?;
        }
        if needs.blocks.is_some() {
            for name in HOOKS {
                load_probe(&mut ebpf, name)?;
            }
        }
        if let Some(needs) = needs.waits {
            waits::load(&mut ebpf, needs)?;
        }
        if needs.has_budget() {
            load_probe(&mut ebpf, names::PROGRAM_NOTHING)?;
        }
        if needs.marks {
            for name in [names::PROGRAM_MARK, names::PROGRAM_MARK_RETURN] {
                load_probe(&mut ebpf, name)?;
            }
        }
        if needs.calls.is_some() {
            // Before the maps are taken from it.
            multi = Multi::load(OBJECT, &ebpf, [names::PROGRAM_CALL_PROBE, names::PROGRAM_CALL_RETURN]).unwrap_or_else(
                |error| {
                    // One by one they work as well.
                    if options.log {
                        shown::say(&format!("probes cannot be put in together: {error:#}"));
                    }
                    None
                },
            );
            if watched {
                load_perf_event(&mut ebpf, names::PROGRAM_WATCH)?;
            }
            // Not both: a map of programs takes those of one kind of link only.
            if multi.is_none() {
                for name in [names::PROGRAM_CALL_PROBE, names::PROGRAM_CALL_RETURN] {
                    load_probe(&mut ebpf, name)?;
                }
            }
        }
        if options.follow_forks {
            follow(&mut ebpf, names::PROGRAM_TRACK_FORK, "sched_process_fork")?;
        }
        if needs.calls.is_some() {
            follow(&mut ebpf, names::PROGRAM_TRACK_EXEC, "sched_process_exec")?;
        }
        if options.probe {
            load_probe(&mut ebpf, names::PROGRAM_SAMPLE_PROBE)?;
        }
        Ok(Self {
            map_bytes: map_bytes(&ebpf),
            ring: RingBuf::try_from(take_map(&mut ebpf, names::MAP_EVENTS)?)?,
            pythons: HashMap::try_from(take_map(&mut ebpf, names::MAP_PYTHONS)?)?,
            stacks: HashMap::try_from(take_map(&mut ebpf, names::MAP_STACKS)?)?,
            codes: HashMap::try_from(take_map(&mut ebpf, names::MAP_CODES)?)?,
            target_pids: HashMap::try_from(take_map(&mut ebpf, names::MAP_TARGET_PIDS)?)?,
            target_tids: HashMap::try_from(take_map(&mut ebpf, names::MAP_TARGET_TIDS)?)?,
            tables: Some(Tables::take(&mut ebpf, options.unwind)?),
            stats: PerCpuArray::try_from(take_map(&mut ebpf, names::MAP_STATS)?)?,
            contexts,
            events: BTreeMap::new(),
            needs: *needs,
            memory: Vec::new(),
            waits: match needs.waits {
                Some(needs) => Some(WaitMaps::take(&mut ebpf, needs)?),
                None => None,
            },
            births: match needs.births {
                true => Some(BirthWatch::take(&mut ebpf)?),
                false => None,
            },
            switches: Vec::new(),
            gils: HashMap::try_from(take_map(&mut ebpf, names::MAP_GILS)?)?,
            pool_facts: HashMap::try_from(take_map(&mut ebpf, names::MAP_POOL_FACTS)?)?,
            memory_errors: HashMap::try_from(take_map(&mut ebpf, names::MAP_MEMORY_ERRORS)?)?,
            call_facts: HashMap::try_from(take_map(&mut ebpf, names::MAP_CALL_FACTS)?)?,
            taken_up: HashMap::try_from(take_map(&mut ebpf, names::MAP_TAKEN_UP)?)?,
            calls: HashMap::try_from(take_map(&mut ebpf, names::MAP_CALLS)?)?,
            expected: HashMap::try_from(take_map(&mut ebpf, names::MAP_EXPECTED)?)?,
            chosen: HashMap::try_from(take_map(&mut ebpf, names::MAP_CHOSEN)?)?,
            starts: HashMap::try_from(take_map(&mut ebpf, names::MAP_STARTS)?)?,
            watches: HashMap::try_from(take_map(&mut ebpf, names::MAP_WATCHES)?)?,
            unwinding: HashMap::try_from(take_map(&mut ebpf, names::MAP_UNWINDING)?)?,
            probes: Vec::new(),
            multi,
            together: Vec::new(),
            leaving: Vec::new(),
            leaving_apart: orders::LeavingApart::default(),
            logger: logger(options.log, &mut ebpf),
            ebpf,
        })
    }

    /// The memory of the unwind tables: once.
    pub fn take_tables(&mut self) -> Option<Tables> {
        self.tables.take()
    }

    /// Starts sampling on one CPU; nothing happens if it is being sampled already, or if no samples are taken by the clock.
    pub fn attach_cpu(&mut self, cpu: u32) -> anyhow::Result<()> {
        let Some(period_ns) = self.needs.clock else {
            return Ok(());
        };
        if self.events.contains_key(&cpu) {
            return Ok(());
        }
        let program: &mut PerfEvent = program(&mut self.ebpf, names::PROGRAM_SAMPLE_CPU)?;
        let event = attach::cpu_clock(program.fd()?.as_fd(), cpu, period_ns)?;
        self.events.insert(cpu, event);
        Ok(())
    }

    /// Starts to look at what is not on one CPU: nothing, or memory.
    pub fn attach_events(&mut self) -> anyhow::Result<()> {
        let mut tracepoints = Vec::new();
        if self.needs.memory {
            tracepoints.extend(MEMORY);
        }
        if let Some(needs) = self.needs.waits {
            tracepoints.extend(waits::tracepoints(&self.ebpf, needs));
        }
        for (name, tracepoint) in tracepoints {
            let program: &mut RawTracePoint = program(&mut self.ebpf, name)?;
            let link = program
                .attach(tracepoint)
                .with_context(|| format!("failed to attach `{name}` to the tracepoint {tracepoint}"))?;
            self.memory.push(program.take_link(link)?);
        }
        if self.needs.waits.is_some() {
            self.switches = waits::attach_switches(&mut self.ebpf)?;
        }
        Ok(())
    }

    /// They count no more of its calls: it has ended, or runs no CPython.
    pub fn remove_call_facts(&mut self, pid: u32) {
        if self.needs.calls.is_none() {
            return;
        }
        // Not there: that is what was wanted.
        let _ = self.taken_up.remove(&pid);
        let _ = self.call_facts.remove(&pid);
    }

    /// Forgets them. They need not be known.
    pub fn remove_pool_facts(&mut self, pid: u32) {
        let _ = self.pool_facts.remove(&pid);
        let _ = self.memory_errors.remove(&pid);
    }

    /// Starts sampling at an instruction: in these processes, or in all if there are none.
    pub fn attach_probe(&mut self, probe: &Probe, pids: &[u32]) -> anyhow::Result<()> {
        let program: &mut UProbe = program(&mut self.ebpf, names::PROGRAM_SAMPLE_PROBE)?;
        self.probes.extend(attach::probe(program, probe, pids)?);
        Ok(())
    }

    /// Stops sampling on one CPU.
    pub fn detach_cpu(&mut self, cpu: u32) {
        self.events.remove(&cpu);
    }

    /// Stops sampling everywhere. What is in the ring buffer stays.
    pub fn detach_all(&mut self) {
        self.events.clear();
        // Before what tells of the waits it draws.
        self.switches.clear();
        self.memory.clear();
        self.detach_probes();
        let apart = mem::take(&mut *self.leaving_apart.lock().unwrap_or_else(PoisonError::into_inner));
        for leaving in self.leaving.drain(..).chain(apart) {
            let _ = leaving.join();
        }
    }

    /// Tells the programs how to walk a process's Python stacks.
    pub fn set_python(&mut self, pid: u32, process: &PythonProcess) -> anyhow::Result<()> {
        self.pythons
            .insert(pid, process, 0)
            .context("failed to write map PYTHONS")
    }

    /// Forgets a process. It need not be known.
    pub fn remove_python(&mut self, pid: u32) {
        // Not there: that is what was wanted.
        let _ = self.pythons.remove(&pid);
    }

    /// Forgets stacks and code objects: the next sample of each brings it again.
    pub fn forget(&mut self, stacks: &[StackKey], codes: &[CodeKey]) {
        // The kernel side may have forgotten some before us.
        for stack in stacks {
            let _ = self.stacks.remove(stack);
        }
        for code in codes {
            let _ = self.codes.remove(code);
        }
    }

    /// A process that all groups of programs look at.
    pub fn add_target(&mut self, pid: u32) -> anyhow::Result<()> {
        self.target_pids
            .insert(pid, ALL_GROUPS, 0)
            .context("failed to write map TARGET_PIDS")
    }

    pub fn add_target_tid(&mut self, tid: u32) -> anyhow::Result<()> {
        self.target_tids
            .insert(tid, 1, 0)
            .context("failed to write map TARGET_TIDS")
    }

    /// Hands every waiting record to `visit`, oldest first.
    pub fn drain(&mut self, mut visit: impl FnMut(&[u8])) {
        while let Some(record) = self.ring.next() {
            visit(&record);
        }
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Becomes readable when much is waiting; otherwise look every now and then.
    pub fn ring_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// The kernel side's counters of all CPUs and groups of programs together.
    pub fn counters(&self) -> anyhow::Result<[u64; COUNTERS]> {
        self.counters_of(Counter::ALL)
    }

    /// The same of these only, and 0 of the others: each is read by itself, in a system call for each row.
    pub fn counters_of(&self, wanted: &[Counter]) -> anyhow::Result<[u64; COUNTERS]> {
        let mut sums = [0; COUNTERS];
        for counter in wanted {
            sums[*counter as usize] = self.counted(0..self.contexts, *counter)?;
        }
        Ok(sums)
    }

    /// What each group of programs has counted that is loaded.
    pub fn counters_by_group(&self) -> anyhow::Result<Vec<(Group, [u64; COUNTERS])>> {
        let groups = Group::ALL
            .into_iter()
            .filter(|group| group.slots().end <= self.contexts);
        groups
            .map(|group| {
                let mut sums = [0; COUNTERS];
                for counter in Counter::ALL {
                    sums[*counter as usize] = self.counted(group.slots(), *counter)?;
                }
                Ok((group, sums))
            })
            .collect()
    }

    /// Of these rows and all CPUs together.
    fn counted(&self, rows: Range<u32>, counter: Counter) -> anyhow::Result<u64> {
        let mut sum = 0u64;
        for row in rows {
            let index = row * COUNTERS as u32 + counter as u32;
            let values = self.stats.get(&index, 0).context("failed to read map STATS")?;
            sum = match counter {
                Counter::LongestNs => values.iter().copied().fold(sum, u64::max),
                _ => values.iter().fold(sum, |sum, value| sum.wrapping_add(*value)),
            };
        }
        Ok(sum)
    }

    /// Bytes the kernel holds for the maps, as it accounts for them itself.
    pub fn map_bytes(&self) -> u64 {
        self.map_bytes
    }

    /// The name of every program and the instructions the verifier looked at, where the kernel tells (5.16).
    pub fn verified_instructions(&self) -> Vec<(String, Option<u32>)> {
        self.ebpf
            .programs()
            .filter_map(|(name, program)| {
                let info = program.info().ok()?;
                Some((name.to_owned(), info.verified_instruction_count()))
            })
            .collect()
    }
}

/// Loads what sees memory being touched, mapped and unmapped.
fn load_memory(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    for (name, _) in MEMORY {
        let program: &mut RawTracePoint = program(ebpf, name)?;
        loaded(name, || program.load())?;
    }
    for name in [
        names::PROGRAM_POOL,
        names::PROGRAM_NO_MEMORY,
        names::PROGRAM_MEMORY_ERROR,
    ] {
        load_probe(ebpf, name)?;
    }
    Ok(())
}

/// What happens to processes.
fn follow(ebpf: &mut Ebpf, name: &str, tracepoint: &str) -> anyhow::Result<()> {
    let program: &mut RawTracePoint = program(ebpf, name)?;
    loaded(name, || program.load())?;
    program
        .attach(tracepoint)
        .with_context(|| format!("failed to attach `{name}`"))?;
    Ok(())
}

fn load_perf_event(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<()> {
    let program: &mut PerfEvent = program(ebpf, name)?;
    loaded(name, || program.load())
}

fn load_probe(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<()> {
    let program: &mut UProbe = program(ebpf, name)?;
    loaded(name, || program.load())
}

/// The reader of the programs' log. Not having one is not worth failing for.
fn logger(wanted: bool, ebpf: &mut Ebpf) -> Option<aya_log::EbpfLogger<log::StandardError>> {
    if !wanted {
        return None;
    }
    aya_log::EbpfLogger::init_with_logger(ebpf, log::StandardError)
        .inspect_err(|error| shown::say(&format!("warning: the kernel side's log cannot be read: {error}")))
        .ok()
}

/// What the kernel says it holds for all maps (`memlock` in their fdinfo). All of them are preallocated.
fn map_bytes(ebpf: &Ebpf) -> u64 {
    use aya::maps::Map;
    let of = |data: &MapData| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd())).ok()?;
        info.lines()
            .find_map(|line| line.strip_prefix("memlock:"))?
            .trim()
            .parse::<u64>()
            .ok()
    };
    ebpf.maps()
        .filter_map(|(_, map)| match map {
            Map::Array(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::PerCpuArray(data)
            | Map::Queue(data)
            | Map::RingBuf(data) => of(data),
            _ => None,
        })
        .sum()
}

fn program<'ebpf, P>(ebpf: &'ebpf mut Ebpf, name: &str) -> anyhow::Result<&'ebpf mut P>
where
    &'ebpf mut P: TryFrom<&'ebpf mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the eBPF object has no program `{name}`"))?;
    Ok(program.try_into()?)
}

fn take_map(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<aya::maps::Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the eBPF object has no map `{name}`"))
}

/// The verifier gives up when a signal comes (`-EAGAIN`: `do_check`, kernel/bpf/verifier.c), whichever it is, and a resize of
/// the terminal is one. So often it is asked again.
const LOAD_ATTEMPTS: u32 = 10;

/// Asks for something until no signal has come meanwhile.
fn undisturbed<T, E>(is_disturbed: impl Fn(&E) -> bool, mut ask: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let mut attempt = 1;
    loop {
        match ask() {
            Err(error) if attempt < LOAD_ATTEMPTS && is_disturbed(&error) => attempt += 1,
            answer => return answer,
        }
    }
}

fn is_again(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Loads a program.
fn loaded(name: &str, load: impl FnMut() -> Result<(), ProgramError>) -> anyhow::Result<()> {
    let is_disturbed = |error: &ProgramError| match error {
        ProgramError::LoadError { io_error, .. } => is_again(io_error),
        _ => false,
    };
    undisturbed(is_disturbed, load)
        .map_err(verifier_error)
        .with_context(|| format!("failed to load program `{name}`"))
}

/// The verifier's log is thousands of lines; its last few say what it did not like.
fn verifier_error(error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(12)..].join("\n");
            anyhow!("{io_error}; the verifier's last words:\n{tail}")
        }
        other => other.into(),
    }
}

/// Fills in where this kernel keeps what the programs read; what mappings are of (`files`) only where they are followed.
fn with_offsets(config: Config, files: bool) -> anyhow::Result<Config> {
    let bytes = fs::read(KERNEL_BTF).with_context(|| {
        format!("failed to read {KERNEL_BTF}; the profiler needs a kernel built with CONFIG_DEBUG_INFO_BTF")
    })?;
    let btf = Btf::parse(&bytes)?;
    let in_namespace = |structure, path| match config.features & FEATURE_PID_NAMESPACE {
        0 => Ok(0),
        _ => field_offset(&btf, structure, path),
    };
    let of_files = |structure, path| match files {
        false => Ok(0),
        true => field_offset(&btf, structure, path),
    };
    Ok(Config {
        task_thread_pid_offset: in_namespace("task_struct", "thread_pid")?,
        task_signal_offset: field_offset(&btf, "task_struct", "signal")?,
        signal_oom_offset: field_offset(&btf, "signal_struct", "oom_mm")?,
        signal_peak_offset: field_offset(&btf, "signal_struct", "maxrss")?,
        signal_limits_offset: field_offset(&btf, "signal_struct", "rlim")?,
        task_exit_code_offset: field_offset(&btf, "task_struct", "exit_code")?,
        signal_pids_offset: in_namespace("signal_struct", "pids")?,
        pid_level_offset: in_namespace("pid", "level")?,
        pid_numbers_offset: in_namespace("pid", "numbers")?,
        namespace_inum_offset: in_namespace("pid_namespace", "ns.inum")?,
        fsbase_offset: field_offset(&btf, "task_struct", "thread.fsbase")?,
        task_tid_offset: field_offset(&btf, "task_struct", "pid")?,
        task_pid_offset: field_offset(&btf, "task_struct", "tgid")?,
        task_flags_offset: field_offset(&btf, "task_struct", "flags")?,
        task_stack_offset: field_offset(&btf, "task_struct", "stack")?,
        task_pagefault_disabled_offset: field_offset(&btf, "task_struct", "pagefault_disabled")?,
        task_runtime_offset: field_offset(&btf, "task_struct", "se.sum_exec_runtime")?,
        task_files_offset: of_files("task_struct", "files")?,
        files_table_offset: of_files("files_struct", "fdt")?,
        table_size_offset: of_files("fdtable", "max_fds")?,
        table_files_offset: of_files("fdtable", "fd")?,
        file_inode_offset: of_files("file", "f_inode")?,
        inode_number_offset: of_files("inode", "i_ino")?,
        inode_super_offset: of_files("inode", "i_sb")?,
        super_device_offset: of_files("super_block", "s_dev")?,
        super_magic_offset: of_files("super_block", "s_magic")?,
        ..config
    })
}

#[cfg(test)]
mod tests {
    use object::{Object as _, ObjectSymbol as _};

    use super::*;

    #[test]
    fn what_a_signal_has_broken_off_is_asked_for_again_but_not_for_ever() {
        let asked = |breaks: u32, kind: io::ErrorKind| {
            let mut times = 0;
            let answer = undisturbed(is_again, || {
                times += 1;
                if times <= breaks {
                    Err(io::Error::from(kind))
                } else {
                    Ok(())
                }
            });
            (answer.is_ok(), times)
        };
        assert_eq!(asked(0, io::ErrorKind::WouldBlock), (true, 1));
        assert_eq!(asked(3, io::ErrorKind::WouldBlock), (true, 4));
        assert_eq!(asked(u32::MAX, io::ErrorKind::WouldBlock), (false, LOAD_ATTEMPTS));
        // What the verifier does not like it will not like the next time.
        assert_eq!(asked(3, io::ErrorKind::PermissionDenied), (false, 1));
    }

    #[test]
    fn every_name_both_halves_share_is_in_the_object() {
        if OBJECT.is_empty() {
            eprintln!("skipping: built without the eBPF object (PROFILER_SKIP_EBPF)");
            return;
        }
        let object = object::File::parse(OBJECT).expect("an ELF file");
        let symbols: Vec<&str> = object.symbols().filter_map(|symbol| symbol.name().ok()).collect();
        for name in [
            names::PROGRAM_SAMPLE_CPU,
            names::PROGRAM_SAMPLE_PROBE,
            names::PROGRAM_TRACK_FORK,
            names::PROGRAM_TRACK_EXEC,
            names::PROGRAM_USER_FAULT,
            names::PROGRAM_KERNEL_FAULT,
            names::PROGRAM_CALL,
            names::PROGRAM_POOL,
            names::PROGRAM_NO_MEMORY,
            names::PROGRAM_MEMORY_ERROR,
            names::PROGRAM_ALLOC_ENTRY,
            names::PROGRAM_ALLOC_RETURN,
            names::PROGRAM_FREE,
            names::PROGRAM_SAMPLED,
            names::PROGRAM_NOTHING,
            names::PROGRAM_CALL_PROBE,
            names::PROGRAM_CALL_RETURN,
            names::MAP_CALL_FACTS,
            names::MAP_CALLS,
            names::MAP_EXPECTED,
            names::MAP_BEGINNING,
            names::MAP_TAKEN_UP,
            names::MAP_CHOSEN,
            names::MAP_STARTS,
            names::PROGRAM_WATCH,
            names::MAP_WATCHES,
            names::MAP_BLOCKS,
            names::MAP_SITES,
            names::MAP_PENDING,
            names::MAP_POOL_FACTS,
            names::MAP_POOLS,
            names::MAP_MEMORY_ERRORS,
            names::MAP_EVENTS,
            names::MAP_PYTHONS,
            names::MAP_CODES,
            names::MAP_STACKS,
            names::MAP_STATS,
            names::MAP_TARGET_PIDS,
            names::MAP_TARGET_TIDS,
            names::MAP_PROCESSES,
            names::MAP_MAPPINGS,
            names::MAP_UNWIND_FILES,
            names::MAP_UNWIND_PAGES,
            names::MAP_UNWIND_ROWS,
            names::MAP_UNWIND_RULES,
            names::MAP_SCRATCH,
            names::MAP_CODE_SCRATCH,
            names::PROGRAM_SWITCH,
            names::PROGRAM_WAIT_FORK,
            names::PROGRAM_WAIT_EXEC,
            names::PROGRAM_WAIT_RESUME,
            names::PROGRAM_WAIT_CALL,
            names::PROGRAM_WAKING,
            names::PROGRAM_POLL,
            names::PROGRAM_IO_BEGIN,
            names::PROGRAM_IO_END,
            names::MAP_WAIT_PLACES,
            names::MAP_WAIT_SLOTS,
            names::MAP_WAIT_STATES,
            names::MAP_WAIT_FREE,
            names::MAP_WAIT_CALLS,
            names::MAP_WAIT_CONTROL,
            names::MAP_WAIT_RECORDS,
            names::MAP_WAIT_WAKERS,
            names::MAP_WAIT_LOOPS,
            names::MAP_IO_CALLS,
            names::MAP_IO_STARTS,
            names::MAP_IO_TOTALS,
            names::MAP_IO_COARSE,
            names::PROGRAM_MARK,
            names::PROGRAM_MARK_RETURN,
            names::MAP_UNWINDING,
            names::PROGRAM_BIRTH,
            names::MAP_BIRTH_CONTROL,
            names::MAP_BIRTHS,
            names::GLOBAL_CONFIG,
            names::GLOBAL_WAIT_CONFIG,
        ] {
            assert!(symbols.contains(&name), "the object has no `{name}`");
        }
    }
}
