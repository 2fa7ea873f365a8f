//! callgrind's format, for KCachegrind, QCachegrind and gprof2dot (valgrind.org/docs/manual/cl-format.html, version 1).
//!
//! It is about calls, which samples do not count: `calls=` has the number of samples in which the call was seen (1, where
//! the value is not of samples), and its cost is what was met below it. Both are said to be estimated.

use std::io::Write;

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    View, Writer, grouping, label,
    machinery::Machinery,
    rows::{Counted, Sum, shown_of},
};
use crate::profile::{FrameId, FrameKind, Profile, StringId};

#[derive(Clone, Copy, Debug)]
pub struct Callgrind;

/// What is one function there.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Function {
    kind: FrameKind,
    name: StringId,
    file: StringId,
    first_line: u32,
    mapping: Option<crate::profile::MappingId>,
    address: u64,
}

#[derive(Default)]
struct Cost {
    /// By line.
    own: FxHashMap<u32, i64>,
    /// By the line of the call and who is called.
    calls: IndexMap<(u32, usize), Sum, FxBuildHasher>,
}

impl Writer for Callgrind {
    fn write(&self, profile: &Profile, view: &View, out: &mut dyn Write) -> anyhow::Result<()> {
        let value_type = view.value_type(profile)?;
        let counted = Counted::new(profile, view.value);
        let mut machinery = Machinery::new(profile, view.interpreter);
        let mut functions: IndexMap<Function, (FrameId, Cost), FxBuildHasher> = IndexMap::default();
        let mut shown = Vec::new();
        let mut seen: Vec<(usize, u32, usize)> = Vec::new();
        let mut total = 0_i64;
        for (key, values) in profile.samples() {
            let sum = counted.of(values);
            // A cost is a plain number there.
            if sum.value <= 0 {
                continue;
            }
            shown_of(profile, key, &mut machinery, &mut shown);
            seen.clear();
            let mut caller: Option<(usize, u32)> = None;
            for id in &shown {
                let entry = functions.entry(function(profile, *id));
                let index = entry.index();
                entry.or_insert_with(|| (*id, Cost::default()));
                if let Some((by, line)) = caller
                    && !seen.contains(&(by, line, index))
                {
                    // Of a function that calls itself, each call counts once.
                    seen.push((by, line, index));
                    functions[by].1.calls.entry((line, index)).or_default().add(sum);
                }
                caller = Some((index, profile.frame(*id).line));
            }
            if let Some((by, line)) = caller {
                let own = functions[by].1.own.entry(line).or_default();
                *own = own.saturating_add(sum.value);
                total = total.saturating_add(sum.value);
            }
        }
        writeln!(
            out,
            "# callgrind format\nversion: 1\ncreator: profiler\npositions: line"
        )?;
        if let Some(command) = profile.comments.first() {
            writeln!(out, "cmd: {}", label::clean(command.clone()))?;
        }
        writeln!(out, "desc: Estimated: of samples, calls are those that were seen")?;
        let event = label::clean(format!("{}_{}", value_type.kind, value_type.unit)).replace(' ', "_");
        writeln!(out, "events: {event}\nsummary: {total}")?;
        let mut names = Names::default();
        for (id, cost) in functions.values() {
            let (object, file, name) = (object(profile, *id), file(profile, *id), name(profile, *id));
            writeln!(out)?;
            writeln!(out, "ob={}", names.objects.name(&object))?;
            writeln!(out, "fl={}", names.files.name(&file))?;
            writeln!(out, "fn={}", names.functions.name(&name))?;
            let mut own: Vec<_> = cost.own.iter().collect();
            own.sort_unstable();
            for (line, value) in own {
                writeln!(out, "{line} {value}")?;
            }
            for ((line, callee), sum) in &cost.calls {
                let Some((callee, _)) = functions.get_index(*callee).map(|(_, callee)| callee) else {
                    continue;
                };
                writeln!(out, "cob={}", names.objects.name(&self::object(profile, *callee)))?;
                writeln!(out, "cfi={}", names.files.name(&self::file(profile, *callee)))?;
                writeln!(out, "cfn={}", names.functions.name(&self::name(profile, *callee)))?;
                writeln!(
                    out,
                    "calls={} {}",
                    sum.samples.max(1),
                    profile.frame(*callee).first_line
                )?;
                writeln!(out, "{line} {}", sum.value)?;
            }
        }
        writeln!(out, "\ntotals: {total}")?;
        Ok(())
    }
}

fn function(profile: &Profile, id: FrameId) -> Function {
    let frame = profile.frame(id);
    let python = frame.kind == FrameKind::Python;
    Function {
        kind: frame.kind,
        name: frame.function,
        file: frame.file,
        first_line: if python { frame.first_line } else { 0 },
        mapping: frame.mapping,
        address: match profile.string(frame.function).is_empty() {
            true => frame.address,
            false => 0,
        },
    }
}

fn object(profile: &Profile, id: FrameId) -> String {
    let frame = profile.frame(id);
    match frame.mapping {
        Some(mapping) => label::clean(profile.string(profile.mapping(mapping).path).to_owned()),
        None => match frame.kind {
            FrameKind::Python => "[python]".to_owned(),
            FrameKind::Kernel => "[kernel]".to_owned(),
            FrameKind::Native | FrameKind::Marker => "[unknown]".to_owned(),
        },
    }
}

fn file(profile: &Profile, id: FrameId) -> String {
    let frame = profile.frame(id);
    label::clean(match profile.string(frame.file) {
        "" => grouping::file(profile, frame).into_owned(),
        file => file.to_owned(),
    })
}

fn name(profile: &Profile, id: FrameId) -> String {
    let frame = profile.frame(id);
    match (frame.kind, profile.string(frame.function)) {
        (FrameKind::Python, name) if !name.is_empty() => label::clean(name.to_owned()),
        // With what tells those without a name apart.
        _ => label::frame(profile, frame),
    }
}

/// Names are written once, and called by their numbers from then on.
#[derive(Default)]
struct Names {
    objects: Kind,
    files: Kind,
    functions: Kind,
}

#[derive(Default)]
struct Kind(FxHashMap<String, usize>);

impl Kind {
    fn name(&mut self, name: &str) -> String {
        let next = self.0.len() + 1;
        match self.0.get(name) {
            Some(number) => format!("({number})"),
            None => {
                self.0.insert(name.to_owned(), next);
                format!("({next}) {name}")
            }
        }
    }
}
