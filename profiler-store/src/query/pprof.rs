//! pprof's `profile.proto`, by hand: the fields that are written here. `profiler report`, `profiler convert` and `go tool
//! pprof` read it.

use std::io::Write;

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use prost::Message;
use rustc_hash::FxHashMap;

use super::stacks::Stacks;

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
    #[prost(int64, tag = "5")]
    start_line: i64,
}

#[derive(Default)]
struct Texts {
    numbers: FxHashMap<String, i64>,
    list: Vec<String>,
}

impl Texts {
    fn number(&mut self, text: &str) -> i64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = i64::try_from(self.list.len()).unwrap_or(0);
        self.list.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }
}

/// Where a frame is, and its function: an inlined one is a location of its own, which readers show the same.
pub fn write(stacks: &Stacks, kind: &str, unit: &str, out: impl Write) -> Result<()> {
    let mut texts = Texts::default();
    texts.number("");
    let mut mappings: FxHashMap<i64, u64> = FxHashMap::default();
    let mut functions: FxHashMap<(i64, i64, i64), u64> = FxHashMap::default();
    let mut profile = Profile {
        sample_type: vec![ValueType {
            kind: texts.number(kind),
            unit: texts.number(unit),
        }],
        ..Profile::default()
    };
    for (frame, id) in stacks.frames.iter().zip(1..) {
        let binary = match (&*frame.binary, &*frame.kind) {
            ("", "kernel") => "[kernel.kallsyms]",
            (binary, _) => binary,
        };
        let mapping_id = match binary {
            "" => 0,
            binary => {
                let filename = texts.number(binary);
                let next = mappings.len() as u64 + 1;
                *mappings.entry(filename).or_insert_with(|| {
                    profile.mapping.push(Mapping { id: next, filename });
                    next
                })
            }
        };
        let mut line = Vec::new();
        if !frame.function.is_empty() || !frame.file.is_empty() {
            let key = (
                texts.number(&frame.function),
                texts.number(&frame.file),
                frame.first_line,
            );
            let next = functions.len() as u64 + 1;
            let function_id = *functions.entry(key).or_insert_with(|| {
                profile.function.push(Function {
                    id: next,
                    name: key.0,
                    filename: key.1,
                    start_line: key.2,
                });
                next
            });
            line.push(Line {
                function_id,
                line: frame.line,
            });
        }
        profile.location.push(Location {
            id,
            mapping_id,
            address: frame.address.cast_unsigned(),
            line,
        });
    }
    let samples = stacks.stacks.iter().filter(|stack| stack.value != 0).map(|stack| {
        let value = i64::try_from(stack.value);
        let value = value.context("a stack had more than pprof's numbers hold: ask for .folded")?;
        Ok(Sample {
            location_id: stack.frames.iter().map(|frame| u64::from(*frame) + 1).collect(),
            value: vec![value],
        })
    });
    profile.sample = samples.collect::<Result<_>>()?;
    profile.string_table = texts.list;
    let mut out = GzEncoder::new(out, Compression::default());
    out.write_all(&profile.encode_to_vec())?;
    out.finish()?;
    Ok(())
}
