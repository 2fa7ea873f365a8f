//! From resolved locations to a profile with names: the last stage before the writers.
//!
//! Works file by file: symbol tables and debug information are large, and only one file's is needed at a time. Between
//! windows the names themselves are kept, by file and address.

use std::path::Path;

use rustc_hash::FxHashMap;

use crate::{
    process::files::FileId,
    profile::{
        Frame, FrameId, FrameKind, Labels, Mapping, MappingId, Profile, SampleKey, StackId, StringId, ValueType,
    },
    resolve::Location,
    symbolize::{Symbol, Symbolizer},
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
pub fn name_stacks(window: &Window, profile: &mut Profile) -> (Vec<StackId>, Vec<String>) {
    Namer::default().name_stacks(window, profile)
}

/// Windows after which the names of a file are let go that was not met any more.
const REMEMBERED_WINDOWS: u64 = 30;

/// Addresses whose names are kept between windows: some tens of megabytes.
const MOST_KEPT: usize = 100_000;

/// Gives names, and keeps them for the next window if it is to.
#[derive(Debug, Default)]
pub struct Namer {
    symbolizer: Symbolizer,
    keeps: bool,
    /// Counts windows.
    window: u64,
    /// By [`File::serial`](crate::process::files::File::serial); 0 is the kernel.
    kept: FxHashMap<u64, Kept>,
}

/// Names in one file.
#[derive(Debug, Default)]
struct Kept {
    /// The last window that met it.
    window: u64,
    symbols: FxHashMap<u64, Vec<Symbol>>,
}

impl Namer {
    /// One that names many windows.
    pub fn keeping() -> Self {
        Self {
            keeps: true,
            ..Self::default()
        }
    }

    /// As [`name()`].
    pub fn name(&mut self, window: &Window, period_ns: u64) -> (Profile, Vec<String>) {
        let period = i64::try_from(period_ns).unwrap_or(i64::MAX);
        let mut profile = Profile::new(vec![SAMPLES, CPU_TIME], Some((CPU_TIME, period)));
        let (stacks, warnings) = self.name_stacks(window, &mut profile);
        for (sampled, &count) in &window.ledger.samples {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let key = key(&mut profile, &window.ledger, &stacks, sampled);
            profile.add(key, &[count, count.saturating_mul(period)]);
        }
        (profile, warnings)
    }

    /// As [`name_stacks()`].
    pub fn name_stacks(&mut self, window: &Window, profile: &mut Profile) -> (Vec<StackId>, Vec<String>) {
        self.window += 1;
        let ledger = &window.ledger;
        let frames = name_locations(window, self, profile);
        let mut stacks = Vec::with_capacity(ledger.resolved.stacks().len());
        let mut stack: Vec<FrameId> = Vec::new();
        for locations in ledger.resolved.stacks() {
            stack.clear();
            stack.extend(locations.iter().flat_map(|&location| &frames[location as usize]));
            stacks.push(profile.intern_stack(&stack));
        }
        self.let_go();
        (stacks, self.symbolizer.take_warnings())
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
        kept.window = self.window;
        let is_new = |&(_, address): &(usize, u64)| !kept.symbols.contains_key(&address);
        let new: Vec<(usize, u64)> = wanted.iter().copied().filter(is_new).collect();
        if !new.is_empty() {
            let found = find(&mut self.symbolizer, &new);
            kept.symbols.extend(new.iter().map(|&(_, address)| address).zip(found));
        }
        let named = wanted
            .iter()
            .map(|(_, address)| kept.symbols.get(address).cloned().unwrap_or_default())
            .collect();
        kept.symbols.retain(|&address, _| lasting(address));
        named
    }

    /// Lets go of files that are not met any more, and of those met least lately if there are too many names.
    fn let_go(&mut self) {
        let now = self.window;
        self.kept.retain(|_, kept| kept.window + REMEMBERED_WINDOWS > now);
        let mut all: usize = self.kept.values().map(|kept| kept.symbols.len()).sum();
        while all > MOST_KEPT {
            let Some((&serial, _)) = self.kept.iter().min_by_key(|(_, kept)| kept.window) else {
                break;
            };
            all -= self.kept.remove(&serial).map_or(0, |kept| kept.symbols.len());
        }
    }
}

/// What a sample is counted under. `stacks` are those of [`name_stacks`].
pub fn key(profile: &mut Profile, ledger: &Ledger, stacks: &[StackId], sampled: &Sampled) -> SampleKey {
    let labels = Labels {
        pid: sampled.pid,
        tid: sampled.tid,
        comm: profile.intern_string(ledger.name(sampled.comm)),
        command: profile.intern_string(ledger.name(sampled.command)),
        thread: profile.intern_string(ledger.thread_name(sampled.thread)),
        cgroup: profile.intern_string(ledger.name(sampled.cgroup)),
        container: profile.intern_string(ledger.name(sampled.container)),
    };
    SampleKey {
        stack: stacks[sampled.stack as usize],
        labels,
    }
}

/// The frames of each location, innermost first: more than one where functions were inlined.
fn name_locations(window: &Window, namer: &mut Namer, profile: &mut Profile) -> Vec<Vec<FrameId>> {
    let mut kernel = Vec::new();
    let mut vdso = Vec::new();
    let mut by_file: FxHashMap<FileId, Vec<(usize, u64)>> = FxHashMap::default();
    let ledger = &window.ledger;
    let mut frames = vec![Vec::new(); ledger.resolved.locations().len()];
    for (index, location) in ledger.resolved.locations().enumerate() {
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

    if !kernel.is_empty() {
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
                    let mut symbols = symbolizer.native(&path, file.debug_file.as_ref(), &addresses(wanted));
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

/// Whether it is the kernel's own code, which stays where it is until the next boot. Modules, and programs made at run
/// time, lie above it (Documentation/arch/x86/x86_64/mm.rst), and come and go.
fn is_kernel_text(address: u64) -> bool {
    (0xffff_ffff_8000_0000..0xffff_ffff_c000_0000).contains(&address)
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
    fn names_that_are_kept_have_a_limit_and_go_when_their_file_is_not_met_any_more() {
        let mut namer = Namer::keeping();
        let find = |_: &mut Symbolizer, wanted: &[(usize, u64)]| vec![Vec::new(); wanted.len()];
        let kept = |namer: &Namer| -> usize { namer.kept.values().map(|kept| kept.symbols.len()).sum() };
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
    }
}
