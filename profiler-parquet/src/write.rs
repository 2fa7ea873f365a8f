//! The two files of a set, column by column.
//!
//! Samples are sorted by service, type and time, so that a question about one service reads the pages that have it; frames
//! by service and path from the root. Both are in groups of rows that fit memory, compressed with zstd, and every text is in a dictionary.

use std::{cmp::Ordering, io::Write, sync::Arc};

use parquet::{
    basic::{Compression, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type},
    errors::{ParquetError, Result},
    file::{
        metadata::{KeyValue, SortingColumn},
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::types::TypePtr,
};

use crate::{
    rows::{Frame, Lost, Rows, Sample, StackId, Text},
    schema,
};

/// Of samples. What an engine reads at once, by thread.
const SAMPLES_PER_GROUP: usize = 256 << 10;
/// Of frames.
const FRAMES_PER_GROUP: usize = 1 << 20;
/// Where a dictionary grows above this, the rest of the group is written without: ids of stacks need more than the 1 MiB
/// that is usual.
const DICTIONARY_BYTES: usize = 8 << 20;

/// The columns by which samples are sorted: service, type, time.
const SAMPLES_SORTED_BY: [i32; 3] = [1, 2, 4];
/// Frames: service. Within it, stacks with the same callers are neighbours, which takes a sixth less than sorting by id
/// (measured on a recording of a whole machine).
const FRAMES_SORTED_BY: [i32; 1] = [1];

/// Texts as the format's writer wants them, made once: a copy is a count.
pub(crate) struct Texts(Vec<ByteArray>);

impl Texts {
    pub(crate) fn of(rows: &Rows) -> Self {
        let texts = rows.texts.iter();
        Self(texts.map(|text| ByteArray::from(text.as_bytes().to_vec())).collect())
    }

    fn get(&self, text: Text) -> ByteArray {
        // Every number was given by the rows.
        self.0.get(text as usize).cloned().unwrap_or_default()
    }
}

/// The samples of a set in their order: by service, type, time, then by what else is often the same.
pub(crate) fn sort(rows: &Rows, samples: &mut [u32]) {
    let mut by_text: Vec<Text> = (0..crate::rows::number(rows.texts.len())).collect();
    by_text.sort_unstable_by(|one, other| rows.str(*one).cmp(rows.str(*other)));
    let mut rank = vec![0_u32; by_text.len()];
    for (place, text) in by_text.iter().enumerate() {
        rank[*text as usize] = crate::rows::number(place);
    }
    let of = |text: Text| rank.get(text as usize).copied();
    let key = |sample: &Sample| {
        (
            of(sample.service),
            of(sample.kind),
            sample.start_us,
            of(sample.host),
            sample.pid,
            sample.tid,
            sample.labels,
            sample.stack,
        )
    };
    samples.sort_unstable_by(
        |one, other| match (rows.samples.get(*one as usize), rows.samples.get(*other as usize)) {
            (Some(one), Some(other)) => key(one).cmp(&key(other)),
            _ => Ordering::Equal,
        },
    );
}

/// Writes the samples with these numbers, which are sorted.
pub(crate) fn samples<W: Write + Send>(
    rows: &Rows,
    texts: &Texts,
    numbers: &[u32],
    set: &str,
    lost: &Lost,
    out: W,
) -> Result<W> {
    let sorted_by = sorting(&SAMPLES_SORTED_BY);
    let mut about = about("samples", set);
    about.extend(
        lost.counts()
            .map(|(what, count)| pair(&format!("{}{what}", schema::LOST), count)),
    );
    let mut file = begin(out, schema::samples()?, about, Some(sorted_by))?;
    let set = ByteArray::from(set.as_bytes().to_vec());
    for numbers in numbers.chunks(SAMPLES_PER_GROUP) {
        let samples: Vec<&Sample> = numbers.iter().filter_map(|at| rows.samples.get(*at as usize)).collect();
        let mut group = file.next_row_group()?;
        for column in schema::SAMPLES {
            let text = |of: fn(&Sample) -> Text| -> Vec<ByteArray> {
                samples.iter().map(|sample| texts.get(of(sample))).collect()
            };
            let number = |of: fn(&Sample) -> i64| -> Vec<i64> { samples.iter().map(|sample| of(sample)).collect() };
            match column {
                "set" => column_of::<ByteArrayType, W>(&mut group, &vec![set.clone(); samples.len()])?,
                "service" => column_of::<ByteArrayType, W>(&mut group, &text(|sample| sample.service))?,
                "type" => column_of::<ByteArrayType, W>(&mut group, &text(|sample| sample.kind))?,
                "unit" => column_of::<ByteArrayType, W>(&mut group, &text(|sample| sample.unit))?,
                "time" => column_of::<Int64Type, W>(&mut group, &number(|sample| sample.start_us))?,
                "end_time" => column_of::<Int64Type, W>(&mut group, &number(|sample| sample.end_us))?,
                "host" => column_of::<ByteArrayType, W>(&mut group, &text(|sample| sample.host))?,
                "process" => column_of::<ByteArrayType, W>(&mut group, &text(|sample| sample.process))?,
                "pid" => column_of::<Int64Type, W>(&mut group, &number(|sample| sample.pid))?,
                "thread" => column_of::<ByteArrayType, W>(&mut group, &text(|sample| sample.thread))?,
                "tid" => column_of::<Int64Type, W>(&mut group, &number(|sample| sample.tid))?,
                "trace_id" => column_of::<ByteArrayType, W>(&mut group, &text(|sample| sample.trace_id))?,
                "span_id" => column_of::<ByteArrayType, W>(&mut group, &text(|sample| sample.span_id))?,
                "period_type" => column_of::<ByteArrayType, W>(&mut group, &text(|sample| sample.period_kind))?,
                "period_unit" => column_of::<ByteArrayType, W>(&mut group, &text(|sample| sample.period_unit))?,
                "period" => column_of::<Int64Type, W>(&mut group, &number(|sample| sample.period))?,
                "value" => column_of::<Int64Type, W>(&mut group, &number(|sample| sample.value))?,
                "weight" => {
                    let weights: Vec<f64> = samples.iter().map(|sample| sample.weight).collect();
                    column_of::<DoubleType, W>(&mut group, &weights)?;
                }
                "stack" => {
                    let id = |sample: &&Sample| rows.stacks.get_index(sample.stack as usize).map(|(id, _)| bytes(id));
                    let ids: Vec<ByteArray> = samples.iter().filter_map(id).collect();
                    column_of::<ByteArrayType, W>(&mut group, &ids)?;
                }
                "labels" => labels(rows, texts, &samples, &mut group)?,
                other => return Err(ParquetError::General(format!("column {other} has no values"))),
            }
        }
        group.close()?;
    }
    file.into_inner()
}

/// A map's two columns. A sample without labels is one entry that is not there: definition level 0.
fn labels<W: Write + Send>(
    rows: &Rows,
    texts: &Texts,
    samples: &[&Sample],
    group: &mut SerializedRowGroupWriter<'_, W>,
) -> Result<()> {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let (mut defined, mut repeated) = (Vec::new(), Vec::new());
    for sample in samples {
        let pairs = rows.labels.get_index(sample.labels as usize);
        let pairs = pairs.map_or(&[][..], |pairs| pairs);
        if pairs.is_empty() {
            defined.push(0_i16);
            repeated.push(0_i16);
        }
        for (at, (key, value)) in pairs.iter().enumerate() {
            defined.push(1);
            repeated.push(i16::from(at > 0));
            keys.push(texts.get(*key));
            values.push(texts.get(*value));
        }
    }
    column::<ByteArrayType, W>(group, &keys, Some((&defined, &repeated)))?;
    column::<ByteArrayType, W>(group, &values, Some((&defined, &repeated)))
}

/// Writes the frames of the stacks that these samples have, which are sorted.
pub(crate) fn frames<W: Write + Send>(rows: &Rows, texts: &Texts, numbers: &[u32], set: &str, out: W) -> Result<W> {
    let sorted_by = sorting(&FRAMES_SORTED_BY);
    let mut file = begin(out, schema::frames()?, about("frames", set), Some(sorted_by))?;
    let set = ByteArray::from(set.as_bytes().to_vec());
    let stacks = stacks(rows, numbers);
    let mut rest = &stacks[..];
    while !rest.is_empty() {
        // Whole stacks, so that one is never in two groups.
        let mut count = 0;
        let taken = rest.iter().take_while(|stack| {
            count += stack.frames.len();
            count <= FRAMES_PER_GROUP
        });
        let taken = taken.count().max(1);
        let (now, later) = rest.split_at(taken);
        rest = later;
        let all: Vec<(&Stack<'_>, i32, &Frame)> = now
            .iter()
            .flat_map(|stack| (0..).zip(stack.frames).map(move |(depth, frame)| (stack, depth, frame)))
            .filter_map(|(stack, depth, frame)| Some((stack, depth, rows.frames.get_index(*frame as usize)?.0)))
            .collect();
        let mut group = file.next_row_group()?;
        let text = |of: fn(&Frame) -> Text| -> Vec<ByteArray> {
            all.iter().map(|(_, _, frame)| texts.get(of(frame))).collect()
        };
        let number = |of: fn(&Frame) -> i64| -> Vec<i64> { all.iter().map(|(_, _, frame)| of(frame)).collect() };
        for column in schema::FRAMES {
            match column {
                "set" => column_of::<ByteArrayType, W>(&mut group, &vec![set.clone(); all.len()])?,
                "service" => {
                    let services: Vec<ByteArray> = all.iter().map(|(stack, _, _)| texts.get(stack.service)).collect();
                    column_of::<ByteArrayType, W>(&mut group, &services)?;
                }
                "stack" => {
                    let ids: Vec<ByteArray> = all.iter().map(|(stack, _, _)| bytes(stack.id)).collect();
                    column_of::<ByteArrayType, W>(&mut group, &ids)?;
                }
                "depth" => {
                    let depths: Vec<i32> = all.iter().map(|(_, depth, _)| *depth).collect();
                    column_of::<Int32Type, W>(&mut group, &depths)?;
                }
                "function" => column_of::<ByteArrayType, W>(&mut group, &text(|frame| frame.function))?,
                "file" => column_of::<ByteArrayType, W>(&mut group, &text(|frame| frame.file))?,
                "line" => column_of::<Int64Type, W>(&mut group, &number(|frame| frame.line))?,
                "first_line" => column_of::<Int64Type, W>(&mut group, &number(|frame| frame.first_line))?,
                "kind" => column_of::<ByteArrayType, W>(&mut group, &text(|frame| frame.kind))?,
                "binary" => column_of::<ByteArrayType, W>(&mut group, &text(|frame| frame.binary))?,
                "build_id" => column_of::<ByteArrayType, W>(&mut group, &text(|frame| frame.build_id))?,
                "address" => {
                    let addresses = number(|frame| frame.address.cast_signed());
                    column_of::<Int64Type, W>(&mut group, &addresses)?;
                }
                other => return Err(ParquetError::General(format!("column {other} has no values"))),
            }
        }
        let inlined: Vec<bool> = all.iter().map(|(_, _, frame)| frame.inlined).collect();
        column_of::<BoolType, W>(&mut group, &inlined)?;
        group.close()?;
    }
    file.into_inner()
}

/// A stack of a service.
struct Stack<'a> {
    service: Text,
    id: &'a StackId,
    /// Leaf first.
    frames: &'a [u32],
}

/// Each stack of each service once: the samples are sorted by service.
fn stacks<'a>(rows: &'a Rows, numbers: &[u32]) -> Vec<Stack<'a>> {
    let samples: Vec<&Sample> = numbers.iter().filter_map(|at| rows.samples.get(*at as usize)).collect();
    let mut all = Vec::new();
    for samples in samples.chunk_by(|one, other| one.service == other.service) {
        let mut numbers: Vec<u32> = samples.iter().map(|sample| sample.stack).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let first = all.len();
        all.extend(numbers.iter().filter_map(|at| {
            let (id, frames) = rows.stacks.get_index(*at as usize)?;
            Some(Stack {
                service: samples[0].service,
                id,
                frames,
            })
        }));
        all[first..].sort_unstable_by(|one: &Stack<'_>, other| one.frames.iter().rev().cmp(other.frames.iter().rev()));
    }
    all
}

fn bytes(id: &StackId) -> ByteArray {
    ByteArray::from(id.to_vec())
}

fn pair(key: &str, value: impl ToString) -> KeyValue {
    KeyValue::new(key.to_owned(), value.to_string())
}

/// What a file says of itself.
fn about(kind: &str, set: &str) -> Vec<KeyValue> {
    vec![
        pair("profiler.schema", schema::VERSION),
        pair("profiler.file", kind),
        pair("profiler.set", set),
    ]
}

fn sorting(columns: &[i32]) -> Vec<SortingColumn> {
    let column = |column_idx: &i32| SortingColumn {
        column_idx: *column_idx,
        descending: false,
        nulls_first: false,
    };
    columns.iter().map(column).collect()
}

fn begin<W: Write + Send>(
    out: W,
    schema: TypePtr,
    about: Vec<KeyValue>,
    sorted_by: Option<Vec<SortingColumn>>,
) -> Result<SerializedFileWriter<W>> {
    let properties = WriterProperties::builder()
        .set_created_by(concat!("profiler ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_key_value_metadata(Some(about))
        .set_sorting_columns(sorted_by)
        .build();
    SerializedFileWriter::new(out, schema, Arc::new(properties))
}

fn column_of<T: DataType, W: Write + Send>(group: &mut SerializedRowGroupWriter<'_, W>, values: &[T::T]) -> Result<()> {
    column::<T, W>(group, values, None)
}

/// The next column: values, and for nested ones at which levels they are.
fn column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    levels: Option<(&[i16], &[i16])>,
) -> Result<()> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("more values than columns".to_owned()));
    };
    let (defined, repeated) = levels.unzip();
    column.typed::<T>().write_batch(values, defined, repeated)?;
    column.close()
}
