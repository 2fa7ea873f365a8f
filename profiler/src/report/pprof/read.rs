//! From a pprof file, which may be anybody's, to a profile.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    io::Read as _,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, ensure};
use flate2::read::MultiGzDecoder;
use prost::Message as _;
use rustc_hash::FxHashMap;

use super::{CGROUP, COMM, COMMAND, CONTAINER, KERNEL_START, MARKER, PID, PYTHON, TASK, THREAD, TID, proto, times};
use crate::{
    profile::{Frame, FrameId, FrameKind, Labels, Mapping, MappingId, Profile, SampleKey, ValueType},
    report::why::stored,
};

/// Reads a pprof file, compressed or not.
///
/// What [`Pprof`](super::Pprof) wrote comes back as it was, except that a kernel frame without a mapping has got one
/// (`[kernel.kallsyms]`) and that what no sample uses is gone. Files of other programs are read as far as a [`Profile`]
/// has room: their further labels and the addresses of their mappings are not kept.
///
/// # Errors
/// If the bytes are not such a file, contradict themselves, or would take more memory than a profile can be worth.
pub fn read(bytes: &[u8]) -> anyhow::Result<Profile> {
    let bytes = decompress(bytes)?;
    check_entries(&bytes)?;
    let file = proto::Profile::decode(&*bytes).context("this is not a pprof file")?;
    drop(bytes);
    Reader::new(&file)?.profile(&file)
}

/// Whether bytes that are not compressed begin like such a file, which has no mark of its own: with a field that there is.
pub fn looks_like(mut bytes: &[u8]) -> bool {
    const LAST: u32 = 15;
    prost::encoding::decode_key(&mut bytes)
        .is_ok_and(|(tag, wire_type)| tag <= LAST && matches!(wire_type as u8, VARINT | LENGTH_DELIMITED))
}

/// Of protobuf, the ways in which its fields are written.
const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

/// A minute of a busy machine is a few megabytes; a gzip bomb is stopped here.
const MAX_BYTES: u64 = 256 << 20;
/// An empty message takes two bytes in the file and up to a hundred in memory, so their number is bounded as well.
const MAX_ENTRIES: usize = 8 << 20;
/// One location may stand for any number of frames, and be used any number of times.
const MAX_FRAMES: usize = 256 << 20;
/// A slice of time of a sample takes two bytes in the file and sixteen in memory.
const MAX_PARTS: usize = 8 << 20;
/// Deeper than any stack that a kernel or CPython makes.
const MAX_DEPTH: usize = 1 << 20;
const MAX_SAMPLE_TYPES: usize = 64;
/// The longest word for what is counted, in bytes.
const MAX_WORD: usize = 64;
/// How many such words all files together may bring.
const MAX_WORDS: usize = 4096;

fn decompress(bytes: &[u8]) -> anyhow::Result<Cow<'_, [u8]>> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    let bytes = if bytes.starts_with(&GZIP) {
        let mut plain = Vec::new();
        MultiGzDecoder::new(bytes)
            .take(MAX_BYTES + 1)
            .read_to_end(&mut plain)
            .context("the compressed data is damaged or cut short")?;
        Cow::Owned(plain)
    } else {
        Cow::Borrowed(bytes)
    };
    ensure!(
        bytes.len() as u64 <= MAX_BYTES,
        "larger than {} MiB when unpacked",
        MAX_BYTES >> 20
    );
    Ok(bytes)
}

/// Counts the entries of the outermost message before prost makes room for them.
fn check_entries(mut bytes: &[u8]) -> anyhow::Result<()> {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    let mut entries = 0;
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes).context("this is not a pprof file")?;
        skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).context("this is not a pprof file")?;
        entries += 1;
        ensure!(entries <= MAX_ENTRIES, "more than {MAX_ENTRIES} entries");
    }
    Ok(())
}

/// Frames by location id, leaf first. Most writers number locations from one on, so that most are found without a search.
#[derive(Default)]
struct Locations {
    frames: Vec<FrameId>,
    /// Where the frames of a small number begin, and how many there are.
    small: Vec<(u32, u32)>,
    large: FxHashMap<u64, (u32, u32)>,
}

impl Locations {
    fn expect(&mut self, number: usize) {
        self.small = vec![(0, 0); number + 1];
    }

    fn insert(&mut self, id: u64, frames: &[FrameId]) {
        // Both are bounded by `MAX_FRAMES`.
        let place = (self.frames.len() as u32, frames.len() as u32);
        self.frames.extend_from_slice(frames);
        match usize::try_from(id).ok().and_then(|id| self.small.get_mut(id)) {
            Some(small) => *small = place,
            None => {
                self.large.insert(id, place);
            }
        }
    }

    fn get(&self, id: u64) -> Option<&[FrameId]> {
        let small = usize::try_from(id).ok().and_then(|id| self.small.get(id));
        let (start, number) = *small.or_else(|| self.large.get(&id))?;
        // None has no frame.
        (number > 0).then(|| &self.frames[start as usize..(start + number) as usize])
    }
}

/// The file's tables, translated.
struct Reader<'a> {
    strings: &'a [String],
    profile: Profile,
    locations: Locations,
    /// What is left of [`MAX_FRAMES`].
    frames_left: usize,
    /// … and of [`MAX_PARTS`].
    parts_left: usize,
}

impl<'a> Reader<'a> {
    fn new(file: &'a proto::Profile) -> anyhow::Result<Self> {
        let strings = &file.string_table[..];
        ensure!(
            strings.first().is_some_and(String::is_empty),
            "this is not a pprof file: it has no table of strings"
        );
        let types = &file.sample_type;
        ensure!(!types.is_empty(), "the file does not say what its values mean");
        ensure!(
            types.len() <= MAX_SAMPLE_TYPES,
            "more than {MAX_SAMPLE_TYPES} kinds of values"
        );
        let sample_types = types
            .iter()
            .map(|value| value_type(strings, value))
            .collect::<anyhow::Result<_>>()?;
        let period = match &file.period_type {
            Some(value) => Some((value_type(strings, value)?, file.period)),
            None => None,
        };
        let mut profile = Profile::new(sample_types, period);
        // Named by its word alone. A file that names none, or none of its own, opens at its first.
        profile.default_type = types
            .iter()
            .position(|value| value.r#type == file.default_sample_type)
            .unwrap_or(0);
        profile.started_at_ns = file.time_nanos;
        profile.duration_ns = file.duration_nanos;
        if file.slice_nanos > 0 {
            profile.begin_timeline(file.slice_nanos);
        }
        for line in &file.comment {
            let line = string(strings, *line)?;
            match line.starts_with(stored::PREFIX) {
                true => profile.findings = Some(line.to_owned()),
                false => profile.comments.push(line.to_owned()),
            }
        }
        for source in &file.source {
            let path = string(strings, source.filename)?;
            ensure!(
                profile.sources.insert(path, &source.text),
                "more source text than a recording has, or one file twice"
            );
        }
        let mut reader = Self {
            strings,
            profile,
            locations: Locations::default(),
            frames_left: MAX_FRAMES,
            parts_left: MAX_PARTS,
        };
        reader.read_locations(file)?;
        Ok(reader)
    }

    fn profile(mut self, file: &proto::Profile) -> anyhow::Result<Profile> {
        let mut totals = vec![0_i64; self.profile.sample_types.len()];
        // How exact a value is, is nobody's sum.
        let mut is_shown = vec![false; totals.len()];
        self.profile.shown_types().for_each(|(at, _)| is_shown[at] = true);
        let mut stack = Vec::new();
        for sample in &file.sample {
            ensure!(
                sample.value.len() == totals.len(),
                "a sample has {} values, not {}",
                sample.value.len(),
                totals.len()
            );
            for ((total, value), _) in (totals.iter_mut().zip(&sample.value))
                .zip(&is_shown)
                .filter(|(_, shown)| **shown)
            {
                *total = total
                    .checked_add(*value)
                    .context("the values are too large to add up")?;
            }
            stack.clear();
            for id in &sample.location_id {
                let frames = self.locations.get(*id);
                stack.extend_from_slice(frames.with_context(|| format!("there is no location {id}"))?);
                ensure!(stack.len() <= MAX_DEPTH, "a stack of more than {MAX_DEPTH} frames");
            }
            self.spend_frames(stack.len())?;
            let labels = self.labels(&sample.label)?;
            let stack = self.profile.intern_stack(&stack);
            let (number, _) = self.profile.add_at(SampleKey { stack, labels }, &sample.value);
            if !sample.slices.is_empty() {
                let value = sample.value.get(self.profile.default_type).copied().unwrap_or(0);
                let parts = times::decode(&sample.slices, value)?;
                self.parts_left = (self.parts_left.checked_sub(parts.len()))
                    .with_context(|| format!("more than {MAX_PARTS} slices of time in all"))?;
                self.profile.add_parts(number, &parts);
            }
        }
        Ok(self.profile)
    }

    fn spend_frames(&mut self, frames: usize) -> anyhow::Result<()> {
        self.frames_left = self
            .frames_left
            .checked_sub(frames)
            .with_context(|| format!("more than {MAX_FRAMES} frames in all"))?;
        Ok(())
    }

    fn labels(&mut self, labels: &[proto::Label]) -> anyhow::Result<Labels> {
        let mut found = Labels {
            pid: 0,
            tid: 0,
            comm: Profile::EMPTY,
            command: Profile::EMPTY,
            thread: Profile::EMPTY,
            cgroup: Profile::EMPTY,
            container: Profile::EMPTY,
            task: Profile::EMPTY,
        };
        for label in labels {
            match string(self.strings, label.key)? {
                PID => found.pid = number(label.num)?,
                TID => found.tid = number(label.num)?,
                COMM => found.comm = self.profile.intern_string(string(self.strings, label.str)?),
                COMMAND => found.command = self.profile.intern_string(string(self.strings, label.str)?),
                CGROUP => found.cgroup = self.profile.intern_string(string(self.strings, label.str)?),
                CONTAINER => found.container = self.profile.intern_string(string(self.strings, label.str)?),
                TASK => found.task = self.profile.intern_string(string(self.strings, label.str)?),
                THREAD => found.thread = self.profile.intern_string(string(self.strings, label.str)?),
                _ => {}
            }
        }
        Ok(found)
    }

    fn read_locations(&mut self, file: &proto::Profile) -> anyhow::Result<()> {
        let functions: FxHashMap<_, _> = file.function.iter().map(|function| (function.id, function)).collect();
        let mut mappings = FxHashMap::default();
        for mapping in &file.mapping {
            mappings.insert(mapping.id, self.mapping(mapping)?);
        }
        self.locations.expect(file.location.len());
        for location in &file.location {
            let (kind, mapping) = match location.mapping_id {
                0 => (FrameKind::Native, None),
                id => *mappings.get(&id).with_context(|| format!("there is no mapping {id}"))?,
            };
            let unresolved = Frame {
                kind,
                function: Profile::EMPTY,
                file: Profile::EMPTY,
                line: 0,
                first_line: 0,
                mapping,
                address: location.address,
                inlined: false,
            };
            let mut frames = Vec::with_capacity(location.line.len().max(1));
            for (index, line) in location.line.iter().enumerate() {
                let function = match line.function_id {
                    0 => &proto::Function::default(),
                    id => functions
                        .get(&id)
                        .with_context(|| format!("there is no function {id}"))?,
                };
                frames.push(self.profile_frame(&unresolved, function, line.line, index + 1 < location.line.len())?);
            }
            if frames.is_empty() {
                frames.push(self.profile.intern_frame(unresolved));
            }
            self.spend_frames(frames.len())?;
            self.locations.insert(location.id, &frames);
        }
        Ok(())
    }

    fn profile_frame(
        &mut self,
        at: &Frame,
        function: &proto::Function,
        line: i64,
        inlined: bool,
    ) -> anyhow::Result<FrameId> {
        let file = string(self.strings, function.filename)?;
        // Other writers have no word for Python; ours never leaves native code without a mapping or an address.
        let kind = match at.mapping.is_none() && at.address == 0 && file.ends_with(".py") {
            true => FrameKind::Python,
            false => at.kind,
        };
        let frame = Frame {
            kind,
            function: self.profile.intern_string(string(self.strings, function.name)?),
            file: self.profile.intern_string(file),
            line: number(line)?,
            first_line: number(function.start_line)?,
            inlined,
            ..at.clone()
        };
        Ok(self.profile.intern_frame(frame))
    }

    /// What a mapping says about the frames in it (see the [module](super)).
    fn mapping(&mut self, mapping: &proto::Mapping) -> anyhow::Result<(FrameKind, Option<MappingId>)> {
        let path = string(self.strings, mapping.filename)?;
        let build_id = string(self.strings, mapping.build_id)?;
        let kind = match path {
            PYTHON => return Ok((FrameKind::Python, None)),
            MARKER => return Ok((FrameKind::Marker, None)),
            // Other programs leave the addresses out, but not perf's name.
            _ if mapping.memory_start >= KERNEL_START || path.starts_with("[kernel") => FrameKind::Kernel,
            _ => FrameKind::Native,
        };
        let path = self.profile.intern_string(path);
        let build_id = self.profile.intern_string(build_id);
        Ok((kind, Some(self.profile.intern_mapping(Mapping { path, build_id }))))
    }
}

fn string(strings: &[String], index: i64) -> anyhow::Result<&str> {
    let string = usize::try_from(index)
        .ok()
        .and_then(|index| strings.get(index))
        .map(String::as_str);
    string.with_context(|| format!("there is no string {index}"))
}

fn number(number: i64) -> anyhow::Result<u32> {
    u32::try_from(number).with_context(|| format!("{number} is not a line or an id"))
}

fn value_type(strings: &[String], value: &proto::ValueType) -> anyhow::Result<ValueType> {
    Ok(ValueType {
        kind: word(string(strings, value.r#type)?)?,
        unit: word(string(strings, value.unit)?)?,
    })
}

/// A word that lives as long as the program: each is kept once, and there are few and short ones.
fn word(word: &str) -> anyhow::Result<&'static str> {
    static WORDS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    ensure!(
        word.len() <= MAX_WORD,
        "a kind of value with a name of more than {MAX_WORD} bytes"
    );
    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(word) = words.get(word) {
        return Ok(word);
    }
    ensure!(
        words.len() < MAX_WORDS,
        "too many kinds of values in all files together"
    );
    let word: &'static str = Box::leak(word.into());
    words.insert(word);
    Ok(word)
}
