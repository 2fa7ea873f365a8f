//! From resolved locations to a profile with names: the last stage before the writers.
//!
//! Runs once, after the recording, file by file: symbol tables and debug information are large, and only one file's is
//! needed at a time.

use std::path::Path;

use rustc_hash::FxHashMap;

use crate::{
    process::files::FileId,
    profile::{
        Frame, FrameId, FrameKind, Labels, Mapping, MappingId, Profile, SampleKey, StackId, StringId, ValueType,
    },
    recording::{Ledger, Recording, Sampled},
    resolve::Location,
    symbolize::{Options, Symbol, Symbolizer},
};

const SAMPLES: ValueType = ValueType {
    kind: "samples",
    unit: "count",
};
const CPU_TIME: ValueType = ValueType {
    kind: "cpu",
    unit: "nanoseconds",
};

/// A profile of the CPU time in `recording`. The second value is what the user should know about missing names.
pub fn name(recording: &Recording, period_ns: u64) -> (Profile, Vec<String>) {
    let period = i64::try_from(period_ns).unwrap_or(i64::MAX);
    let mut profile = Profile::new(vec![SAMPLES, CPU_TIME], Some((CPU_TIME, period)));
    let (stacks, warnings) = name_stacks(recording, &mut profile);
    for (sampled, &count) in &recording.ledger.samples {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let key = key(&mut profile, &recording.ledger, &stacks, sampled);
        profile.add(key, &[count, count.saturating_mul(period)]);
    }
    (profile, warnings)
}

/// Names all stacks in `recording`: their ids by their indices, and what the user should know about missing names.
pub fn name_stacks(recording: &Recording, profile: &mut Profile) -> (Vec<StackId>, Vec<String>) {
    let mut symbolizer = Symbolizer::new(Options::default());
    let ledger = &recording.ledger;
    let frames = name_locations(recording, &mut symbolizer, profile);
    let mut stacks = Vec::with_capacity(ledger.resolved.stacks().len());
    let mut stack: Vec<FrameId> = Vec::new();
    for locations in ledger.resolved.stacks() {
        stack.clear();
        stack.extend(locations.iter().flat_map(|&location| &frames[location as usize]));
        stacks.push(profile.intern_stack(&stack));
    }
    (stacks, symbolizer.warnings().to_vec())
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
fn name_locations(recording: &Recording, symbolizer: &mut Symbolizer, profile: &mut Profile) -> Vec<Vec<FrameId>> {
    let mut kernel = Vec::new();
    let mut vdso = Vec::new();
    let mut by_file: FxHashMap<FileId, Vec<(usize, u64)>> = FxHashMap::default();
    let ledger = &recording.ledger;
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
        let symbols = symbolizer.kernel(&addresses(&kernel));
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
        let symbols = symbolizer.vdso(&addresses(&vdso));
        add(profile, &mut frames, FrameKind::Native, ("[vdso]", ""), &vdso, &symbols);
    }
    // In order, so that equal recordings give equal files.
    let mut by_file: Vec<_> = by_file.into_iter().collect();
    by_file.sort_unstable_by_key(|(file, _)| file.index());
    for (id, wanted) in by_file {
        let file = recording.files.get(id);
        let build_id = file.headers.as_ref().map_or("", |headers| headers.build_id.as_str());
        let symbols = match &file.opened {
            Some(opened) => {
                let path = opened.path_to_open();
                let mut symbols = symbolizer.native(&path, file.debug_file.as_ref(), &addresses(&wanted));
                name_by_start(symbolizer, &path, &file.path, &wanted, &mut symbols);
                symbols
            }
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
