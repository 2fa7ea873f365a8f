//! From resolved locations to a profile with names: the last stage before the writers.
//!
//! Works file by file: symbol tables and debug information are large, and only one file's is needed at a time. Between
//! windows the names themselves are kept, by file and address.

use std::{collections::BTreeMap, path::Path};

use rustc_hash::FxHashMap;

use crate::{
    process::files::FileId,
    profile::{
        Frame, FrameId, FrameKind, Labels, Mapping, MappingId, Profile, SampleKey, StackId, StringId, ValueType,
    },
    resolve::Location,
    slices,
    symbolize::{Options, Symbol, Symbolizer, is_kernel_text},
    task::Tasks,
    window::{Ledger, Sampled, Window},
};

const SAMPLES: ValueType = ValueType {
    kind: "samples",
    unit: "count",
};
const CPU_TIME: ValueType = ValueType {
    kind: "cpu",
    unit: "nanoseconds",
};

/// A profile of the CPU time in `window`. The second value is what the user should know about missing names.
pub fn name(window: &Window, period_ns: u64) -> (Profile, Vec<String>) {
    Namer::default().name(window, period_ns)
}

/// Names all stacks in `window`: their ids by their indices, and what the user should know about missing names.
pub fn name_stacks(window: &Window, profile: &mut Profile) -> (Stacks, Vec<String>) {
    Namer::default().name_stacks(window, profile)
}

/// Windows after which a name is let go whose address was not met any more. Not those of a file together: the kernel is met
/// in every window, and each time at other addresses.
const REMEMBERED_WINDOWS: u64 = 30;

/// Addresses whose names are kept between windows: some tens of megabytes.
const MOST_KEPT: usize = 100_000;

/// Gives names, and keeps them for the next window if it is to.
#[derive(Debug, Default)]
pub struct Namer {
    symbolizer: Symbolizer,
    keeps: bool,
    /// Names are those of symbol tables, which are the same all over a function.
    only_tables: bool,
    /// All of the kernel's code has one name: reading all of its symbols in every window costs more than a look does.
    kernel_is_one: bool,
    /// Counts windows.
    window: u64,
    /// By [`File::serial`](crate::process::files::File::serial), of which 0 is the kernel, and address.
    kept: FxHashMap<u64, FxHashMap<u64, Kept>>,
    /// By the same, if symbol tables are all that is read: functions that were found, by where they begin.
    functions: FxHashMap<u64, Functions>,
}

/// The names of functions of a file, and where each ends, by where it begins.
type Functions = BTreeMap<u64, (u64, Vec<Symbol>)>;

/// Functions of a file that are kept: a symbol table is read once for each that is met, and not for each of its addresses.
const MOST_FUNCTIONS: usize = 20_000;

/// The names of an address.
#[derive(Debug, Default)]
struct Kept {
    /// The last window that met it.
    window: u64,
    symbols: Vec<Symbol>,
}

impl Namer {
    /// One that names many windows.
    pub fn keeping() -> Self {
        Self {
            keeps: true,
            ..Self::default()
        }
    }

    /// One that names many windows, in little time and memory: functions by symbol tables only, and the kernel as a whole.
    pub fn light() -> Self {
        Self {
            symbolizer: Symbolizer::new(Options {
                debug_info: false,
                ..Options::default()
            }),
            keeps: true,
            only_tables: true,
            kernel_is_one: true,
            ..Self::default()
        }
    }

    /// As [`name()`].
    pub fn name(&mut self, window: &Window, period_ns: u64) -> (Profile, Vec<String>) {
        let period = i64::try_from(period_ns).unwrap_or(i64::MAX);
        let mut profile = Profile::new(vec![SAMPLES, CPU_TIME], Some((CPU_TIME, period)));
        let sampled = window.ledger.samples.keys().map(|sampled| sampled.stack);
        let (stacks, warnings) = self.name_these(window, &mut profile, sampled);
        let times = &window.ledger.times;
        let doublings = times.doublings();
        if let Some(doublings) = doublings {
            profile.begin_timeline(slices::length_of(doublings));
        }
        let mut times = times.told(doublings.unwrap_or_default());
        for (sampled, &count) in &window.ledger.samples {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let key = key(&mut profile, &window.ledger, &stacks, sampled);
            let slices = times.next().unwrap_or_default();
            profile.add_in(key, &[count, count.saturating_mul(period)], &slices);
        }
        (profile, warnings)
    }

    /// As [`name_stacks()`].
    pub fn name_stacks(&mut self, window: &Window, profile: &mut Profile) -> (Stacks, Vec<String>) {
        let all = 0..window.ledger.resolved.stacks().len();
        self.name_these(window, profile, all.map(|stack| stack as u32))
    }

    /// Names these stacks only: the others, which are of waits or of memory, have no frames.
    fn name_these(
        &mut self,
        window: &Window,
        profile: &mut Profile,
        wanted: impl Iterator<Item = u32>,
    ) -> (Stacks, Vec<String>) {
        self.window += 1;
        let ledger = &window.ledger;
        let mut is_wanted = vec![false; ledger.resolved.stacks().len()];
        for stack in wanted {
            if let Some(is_wanted) = is_wanted.get_mut(stack as usize) {
                *is_wanted = true;
            }
        }
        let mut is_met = vec![false; ledger.resolved.locations().len()];
        let stacks_wanted = ledger.resolved.stacks().zip(&is_wanted).filter(|(_, wanted)| **wanted);
        for &location in stacks_wanted.flat_map(|(locations, _)| locations.iter()) {
            is_met[location as usize] = true;
        }
        let frames = name_locations(window, self, profile, &is_met);
        let tasks = Tasks::new(window);
        let mut stacks = Vec::with_capacity(is_wanted.len());
        let mut stack: Vec<FrameId> = Vec::new();
        for (locations, is_wanted) in ledger.resolved.stacks().zip(is_wanted) {
            stack.clear();
            if !is_wanted {
                stacks.push((profile.intern_stack(&stack), Profile::EMPTY));
                continue;
            }
            stack.extend(locations.iter().flat_map(|&location| &frames[location as usize]));
            let id = profile.intern_stack(&stack);
            stacks.push((id, tasks.of(locations, &frames, profile)));
        }
        self.let_go();
        (Stacks(stacks), self.symbolizer.take_warnings())
    }

    /// The names of `wanted` addresses in the file with this serial number, as `find` finds those that are not known.
    fn names(
        &mut self,
        serial: u64,
        wanted: &[(usize, u64)],
        lasting: impl Fn(u64) -> bool,
        find: impl FnOnce(&mut Symbolizer, &[(usize, u64)]) -> Vec<Vec<Symbol>>,
    ) -> Vec<Vec<Symbol>> {
        if !self.keeps {
            return find(&mut self.symbolizer, wanted);
        }
        let kept = self.kept.entry(serial).or_default();
        let mut functions = self.only_tables.then(|| self.functions.entry(serial).or_default());
        let mut new: Vec<(usize, u64)> = Vec::new();
        for &(index, address) in wanted {
            if kept.contains_key(&address) {
                continue;
            }
            match functions.as_ref().and_then(|functions| function_at(functions, address)) {
                Some(symbols) => _ = kept.insert(address, Kept { window: 0, symbols }),
                None => new.push((index, address)),
            }
        }
        if !new.is_empty() {
            let found = find(&mut self.symbolizer, &new);
            if let Some(functions) = &mut functions {
                learn(functions, &found);
            }
            let found = found.into_iter().map(|symbols| Kept { window: 0, symbols });
            kept.extend(new.iter().map(|&(_, address)| address).zip(found));
        }
        let named = wanted.iter().map(|(_, address)| {
            let kept = kept.get_mut(address)?;
            kept.window = self.window;
            Some(kept.symbols.clone())
        });
        let named = named.map(Option::unwrap_or_default).collect();
        kept.retain(|&address, _| lasting(address));
        named
    }

    /// Lets go of names that are not met any more, with the functions of their files, and of all but the last window's if there are too many.
    fn let_go(&mut self) {
        self.let_go_of_addresses();
        let kept = &self.kept;
        self.functions.retain(|serial, _| kept.contains_key(serial));
    }

    fn let_go_of_addresses(&mut self) {
        let mut remembered = REMEMBERED_WINDOWS;
        while remembered > 0 {
            let oldest = (self.window + 1).saturating_sub(remembered);
            let mut all = 0;
            self.kept.retain(|_, kept| {
                kept.retain(|_, kept| kept.window >= oldest);
                if kept.capacity() > 4 * kept.len().max(64) {
                    kept.shrink_to_fit();
                }
                all += kept.len();
                !kept.is_empty()
            });
            if all <= MOST_KEPT {
                return;
            }
            remembered /= 2;
        }
        self.kept.clear();
    }
}

/// What is known of the function that holds an address.
fn function_at(functions: &Functions, address: u64) -> Option<Vec<Symbol>> {
    let (_, (end, symbols)) = functions.range(..=address).next_back()?;
    (address < *end).then(|| symbols.clone())
}

/// Keeps the functions of addresses that were looked up.
fn learn(functions: &mut Functions, found: &[Vec<Symbol>]) {
    for symbols in found {
        let [
            Symbol {
                extent: Some((start, end)),
                ..
            },
        ] = symbols[..]
        else {
            continue;
        };
        if functions.len() >= MOST_FUNCTIONS {
            functions.clear();
        }
        let known = functions.entry(start).or_insert_with(|| (end, symbols.clone()));
        known.0 = known.0.max(end);
    }
}

/// All stacks of a window, by their indices there, with the task that each is of.
#[derive(Debug)]
pub struct Stacks(Vec<(StackId, StringId)>);

/// What a sample is counted under. `stacks` are those of [`name_stacks`].
pub fn key(profile: &mut Profile, ledger: &Ledger, stacks: &Stacks, sampled: &Sampled) -> SampleKey {
    let (stack, task) = stacks.0[sampled.stack as usize];
    let labels = Labels {
        pid: sampled.pid,
        tid: sampled.tid,
        comm: profile.intern_string(ledger.name(sampled.comm)),
        command: profile.intern_string(ledger.name(sampled.command)),
        thread: profile.intern_string(ledger.thread_name(sampled.thread)),
        cgroup: profile.intern_string(ledger.name(sampled.cgroup)),
        container: profile.intern_string(ledger.name(sampled.container)),
        task,
    };
    SampleKey { stack, labels }
}

/// The frames of each location, innermost first: more than one where functions were inlined.
fn name_locations(window: &Window, namer: &mut Namer, profile: &mut Profile, is_met: &[bool]) -> Vec<Vec<FrameId>> {
    let mut kernel = Vec::new();
    let mut vdso = Vec::new();
    let mut by_file: FxHashMap<FileId, Vec<(usize, u64)>> = FxHashMap::default();
    let ledger = &window.ledger;
    let mut frames = vec![Vec::new(); ledger.resolved.locations().len()];
    for (index, location) in ledger
        .resolved
        .locations()
        .enumerate()
        .filter(|(index, _)| is_met[*index])
    {
        match *location {
            Location::Kernel { address } => kernel.push((index, address)),
            Location::Vdso { address } => vdso.push((index, address)),
            Location::Native { file, address } => by_file.entry(file).or_default().push((index, address)),
            Location::Anonymous { address } => {
                let frame = Frame {
                    kind: FrameKind::Native,
                    // One name for all: its address says nothing, and a flame graph of addresses says less.
                    function: profile.intern_string("[anonymous]"),
                    address,
                    ..unnamed()
                };
                frames[index] = vec![profile.intern_frame(frame)];
            }
            Location::Generated { name } => {
                let mapping = Mapping {
                    path: profile.intern_string("[JIT]"),
                    build_id: Profile::EMPTY,
                };
                let frame = Frame {
                    kind: FrameKind::Native,
                    function: profile.intern_string(ledger.resolved.generated_name(name)),
                    mapping: Some(profile.intern_mapping(mapping)),
                    ..unnamed()
                };
                frames[index] = vec![profile.intern_frame(frame)];
            }
            Location::Marker(marker) => {
                let function = profile.intern_string(marker.text());
                frames[index] = vec![profile.intern_frame(Frame {
                    kind: FrameKind::Marker,
                    function,
                    ..unnamed()
                })];
            }
            Location::Python { code, line } => frames[index] = vec![python_frame(profile, ledger, code, line)],
        }
    }

    if namer.kernel_is_one && !kernel.is_empty() {
        let frame = Frame {
            kind: FrameKind::Kernel,
            function: profile.intern_string("kernel"),
            ..unnamed()
        };
        let frame = profile.intern_frame(frame);
        for (index, _) in kernel {
            frames[index] = vec![frame];
        }
    } else if !kernel.is_empty() {
        let symbols = namer.names(0, &kernel, is_kernel_text, |symbolizer, wanted| {
            symbolizer.kernel(&addresses(wanted))
        });
        add(
            profile,
            &mut frames,
            FrameKind::Kernel,
            ("[kernel.kallsyms]", ""),
            &kernel,
            &symbols,
        );
    }
    if !vdso.is_empty() {
        let symbols = namer.symbolizer.vdso(&addresses(&vdso));
        add(profile, &mut frames, FrameKind::Native, ("[vdso]", ""), &vdso, &symbols);
    }
    // In order, so that equal recordings give equal files.
    let mut by_file: Vec<_> = by_file.into_iter().collect();
    by_file.sort_unstable_by_key(|(file, _)| file.index());
    for (id, wanted) in by_file {
        let file = window.file(id);
        let build_id = file.headers.as_ref().map_or("", |headers| headers.build_id.as_str());
        let symbols = match &file.opened {
            Some(opened) => namer.names(
                file.serial,
                &wanted,
                |_| true,
                |symbolizer, wanted| {
                    let path = opened.path_to_open();
                    let mut symbols = symbolizer.native(&path, file.debug_file(), &addresses(wanted));
                    name_by_start(symbolizer, &path, &file.path, wanted, &mut symbols);
                    symbols
                },
            ),
            None => vec![Vec::new(); wanted.len()],
        };
        add(
            profile,
            &mut frames,
            FrameKind::Native,
            (&file.path.to_string_lossy(), build_id),
            &wanted,
            &symbols,
        );
    }
    frames
}

/// Gives code without symbols the name of where its function begins: `[libfoo.so+0x1234]`.
fn name_by_start(
    symbolizer: &Symbolizer,
    path_to_open: &Path,
    path: &Path,
    wanted: &[(usize, u64)],
    symbols: &mut [Vec<Symbol>],
) {
    let unnamed: Vec<usize> = (0..wanted.len()).filter(|&at| symbols[at].is_empty()).collect();
    if unnamed.is_empty() {
        return;
    }
    let inside: Vec<u64> = unnamed.iter().map(|&at| wanted[at].1).collect();
    let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    for (at, start) in unnamed
        .into_iter()
        .zip(symbolizer.function_starts(path_to_open, &inside))
    {
        if let Some(start) = start {
            let function = format!("[{file}+{start:#x}]");
            symbols[at] = vec![Symbol {
                function,
                file: None,
                line: None,
                inlined: false,
                // It goes on at least to here.
                extent: Some((start, wanted[at].1.saturating_add(1))),
            }];
        }
    }
}

fn addresses(wanted: &[(usize, u64)]) -> Vec<u64> {
    wanted.iter().map(|&(_, address)| address).collect()
}

/// Puts the frames of one file's addresses in their places. `file` is its path and its build id.
fn add(
    profile: &mut Profile,
    frames: &mut [Vec<FrameId>],
    kind: FrameKind,
    file: (&str, &str),
    wanted: &[(usize, u64)],
    symbols: &[Vec<Symbol>],
) {
    let mapping = Mapping {
        path: profile.intern_string(file.0),
        build_id: profile.intern_string(file.1),
    };
    let mapping = profile.intern_mapping(mapping);
    for (&(index, address), symbols) in wanted.iter().zip(symbols) {
        frames[index] = machine_frames(profile, kind, mapping, address, symbols);
    }
}

fn python_frame(profile: &mut Profile, ledger: &Ledger, code: crate::python::codes::CodeId, line: u32) -> FrameId {
    let code = ledger.codes.get(code);
    let frame = Frame {
        kind: FrameKind::Python,
        function: profile.intern_string(code.display_name()),
        file: profile.intern_string(&code.filename),
        line,
        first_line: code.first_line(),
        ..unnamed()
    };
    profile.intern_frame(frame)
}

fn machine_frames(
    profile: &mut Profile,
    kind: FrameKind,
    mapping: MappingId,
    address: u64,
    symbols: &[Symbol],
) -> Vec<FrameId> {
    let unnamed = Frame {
        kind,
        mapping: Some(mapping),
        address,
        ..unnamed()
    };
    if symbols.is_empty() {
        return vec![profile.intern_frame(unnamed)];
    }
    symbols
        .iter()
        .map(|symbol| {
            let frame = Frame {
                function: profile.intern_string(&symbol.function),
                file: optional(profile, symbol.file.as_deref()),
                line: symbol.line.unwrap_or(0),
                inlined: symbol.inlined,
                ..unnamed.clone()
            };
            profile.intern_frame(frame)
        })
        .collect()
}

fn optional(profile: &mut Profile, text: Option<&str>) -> StringId {
    text.map_or(Profile::EMPTY, |text| profile.intern_string(text))
}

fn unnamed() -> Frame {
    Frame {
        kind: FrameKind::Native,
        function: Profile::EMPTY,
        file: Profile::EMPTY,
        line: 0,
        first_line: 0,
        mapping: None,
        address: 0,
        inlined: false,
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::record::{NATIVE_COMPLETE, PYTHON_NONE, SampleHeader, StackKey};

    use super::*;
    use crate::{
        decode::{RawRecord, RawStack},
        recording::{Recording, Scope},
    };

    /// A window in which this process was met at these addresses.
    fn window(recording: &mut Recording, addresses: &[u64]) -> Window {
        let own = std::process::id();
        for &address in addresses {
            let key = StackKey { hash: [address, 1] };
            let header = SampleHeader {
                kind: 0,
                cpu: 0,
                pid: own,
                tid: own,
                time_ns: 1,
                stack: key,
                comm: [0; 16],
                instance: 0,
                python: PYTHON_NONE,
            };
            let stack = RawStack {
                kernel: Box::default(),
                native: Box::new([address]),
                native_status: NATIVE_COMPLETE,
                python: Box::default(),
                python_flags: 0,
                python_status: PYTHON_NONE,
                place: key,
            };
            recording.take(RawRecord::Stack(header, stack));
        }
        recording.cut().window
    }

    fn functions(profile: &Profile) -> Vec<String> {
        let samples = profile.samples();
        samples
            .flat_map(|(key, _)| profile.stack(key.stack).to_vec())
            .map(|frame| profile.string(profile.frame(frame).function).to_owned())
            .collect()
    }

    #[test]
    fn names_are_the_same_whether_they_were_kept_from_the_last_window_or_not() {
        let mut recording = Recording::new(Scope::All, true);
        let [a, b] = [
            functions as fn(&Profile) -> Vec<String> as usize as u64,
            name as *const () as u64,
        ];
        let mut namer = Namer::keeping();
        for addresses in [vec![a + 4], vec![a + 4, b + 4], vec![b + 4], vec![a + 4, b + 4]] {
            let window = window(&mut recording, &addresses);
            let (kept, _) = namer.name(&window, 1);
            let (anew, _) = name(&window, 1);
            assert_eq!(functions(&kept), functions(&anew));
            let expected = addresses.iter().map(|&address| match address == a + 4 {
                true => "functions",
                false => "name",
            });
            for (found, expected) in functions(&kept).iter().zip(expected) {
                assert!(found.ends_with(&format!("::{expected}")), "{found}");
            }
        }
    }

    #[test]
    fn a_symbol_table_is_read_for_each_function_and_not_for_each_of_its_addresses() {
        let mut namer = Namer::light();
        let symbol = |start: u64, end: u64| Symbol {
            function: format!("f{start}"),
            file: None,
            line: None,
            inlined: false,
            extent: Some((start, end)),
        };
        let mut asked = Vec::new();
        let mut names = |namer: &mut Namer, addresses: &[u64]| -> Vec<String> {
            namer.window += 1;
            let wanted: Vec<(usize, u64)> = addresses.iter().map(|&address| (0, address)).collect();
            let named = namer.names(
                7,
                &wanted,
                |_| true,
                |_, new| {
                    asked.extend(new.iter().map(|&(_, address)| address));
                    let found = new.iter().map(|&(_, address)| match address {
                        100..150 => vec![symbol(100, 150)],
                        // Its end is not known.
                        200.. => vec![symbol(200, address + 1)],
                        _ => Vec::new(),
                    });
                    found.collect()
                },
            );
            namer.let_go();
            let name = |symbols: Vec<Symbol>| symbols.first().map(|symbol| symbol.function.clone());
            named
                .into_iter()
                .map(|symbols| name(symbols).unwrap_or_default())
                .collect()
        };
        assert_eq!(names(&mut namer, &[110, 210, 99]), ["f100", "f200", ""]);
        assert_eq!(
            names(&mut namer, &[100, 149, 205, 150, 220]),
            ["f100", "f100", "f200", "", "f200"]
        );
        assert_eq!(names(&mut namer, &[219, 110, 99]), ["f200", "f100", ""]);
        assert_eq!(asked, [110, 210, 99, 150, 220]);
        assert_eq!(namer.functions.len(), 1);
        namer.window += REMEMBERED_WINDOWS;
        namer.let_go();
        assert!(namer.functions.is_empty(), "its file is not met any more");
    }

    #[test]
    fn names_that_are_kept_have_a_limit_and_go_when_their_file_is_not_met_any_more() {
        let mut namer = Namer::keeping();
        let find = |_: &mut Symbolizer, wanted: &[(usize, u64)]| vec![Vec::new(); wanted.len()];
        let kept = |namer: &Namer| -> usize { namer.kept.values().map(FxHashMap::len).sum() };
        for serial in 1..=100 {
            namer.window += 1;
            let wanted: Vec<(usize, u64)> = (0..10_000).map(|address| (0, address)).collect();
            namer.names(serial, &wanted, |_| true, find);
            namer.let_go();
            assert!(kept(&namer) <= MOST_KEPT);
        }
        assert!(namer.kept.contains_key(&100));
        namer.window += REMEMBERED_WINDOWS;
        namer.let_go();
        assert_eq!(kept(&namer), 0);
        // Of a file that is met in every window, at ever new addresses.
        for window in 0..10 * REMEMBERED_WINDOWS {
            namer.window += 1;
            namer.names(7, &[(0, 1), (1, window + 100)], |_| true, find);
            namer.let_go();
            assert!(kept(&namer) <= REMEMBERED_WINDOWS as usize + 1);
            assert!(namer.kept[&7].contains_key(&1));
        }
    }
}
