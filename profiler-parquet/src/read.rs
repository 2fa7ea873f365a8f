//! A set's files as rows again, to make one set of many. Without arrow, as they were written.

use std::{fs::File, path::Path};

use parquet::{
    column::reader::get_typed_column_reader,
    data_type::{AsBytes, BoolType, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type},
    errors::{ParquetError, Result},
    file::reader::{FileReader as _, RowGroupReader, SerializedFileReader},
};
use rustc_hash::FxHashMap;

use crate::{
    rows::{EMPTY, Frame, Rows, Sample, StackId, Text},
    schema,
    store::Files,
};

impl Rows {
    /// Adds a set's samples from this group of rows on, with all they refer to. Returns the group to go on with, if the rows
    /// were full before that.
    pub(crate) fn read(
        &mut self,
        files: &Files,
        from: usize,
        is_full: &mut impl FnMut(&mut Self) -> bool,
    ) -> Result<Option<usize>> {
        let stacks = self.read_frames(&files.frames)?;
        self.read_samples(&files.samples, &stacks, from, is_full)
    }

    /// The numbers of the stacks in such a file.
    fn read_frames(&mut self, path: &Path) -> Result<FxHashMap<StackId, u32>> {
        let reader = SerializedFileReader::new(File::open(path)?)?;
        let mut stacks = FxHashMap::default();
        for at in 0..reader.num_row_groups() {
            let group = reader.get_row_group(at)?;
            let group = Columns(&*group);
            let ids = group.ids("stack")?;
            let depths = group.values::<Int32Type>("depth")?;
            let mut text = |name: &str| self.texts_of(&group, name);
            let (function, file, kind) = (text("function")?, text("file")?, text("kind")?);
            let (binary, build_id) = (text("binary")?, text("build_id")?);
            let line = group.values::<Int64Type>("line")?;
            let first_line = group.values::<Int64Type>("first_line")?;
            let address = group.values::<Int64Type>("address")?;
            let inlined = group.values::<BoolType>("inlined")?;
            let mut frames = Vec::new();
            for row in 0..ids.len() {
                frames.push(self.frame(Frame {
                    function: function[row],
                    file: file[row],
                    line: line[row],
                    first_line: first_line[row],
                    kind: kind[row],
                    binary: binary[row],
                    build_id: build_id[row],
                    address: address[row].cast_unsigned(),
                    inlined: inlined[row],
                }));
                // The last of this stack: the next row begins another, or the same for another service.
                if depths.get(row + 1).is_none_or(|depth| *depth == 0) {
                    stacks.entry(ids[row]).or_insert_with(|| self.stack(&frames));
                    frames.clear();
                }
            }
        }
        Ok(stacks)
    }

    fn read_samples(
        &mut self,
        path: &Path,
        stacks: &FxHashMap<StackId, u32>,
        from: usize,
        is_full: &mut impl FnMut(&mut Self) -> bool,
    ) -> Result<Option<usize>> {
        let reader = SerializedFileReader::new(File::open(path)?)?;
        if from == 0 {
            self.read_lost(&reader);
        }
        for at in from..reader.num_row_groups() {
            let group = reader.get_row_group(at)?;
            let group = Columns(&*group);
            let ids = group.ids("stack")?;
            let mut text = |name: &str| self.texts_of(&group, name);
            let (service, kind, unit) = (text("service")?, text("type")?, text("unit")?);
            let (host, process, thread) = (text("host")?, text("process")?, text("thread")?);
            let (trace_id, span_id) = (text("trace_id")?, text("span_id")?);
            let (period_kind, period_unit) = (text("period_type")?, text("period_unit")?);
            let number = |name: &str| group.values::<Int64Type>(name);
            let (time, end_time, pid, tid) = (number("time")?, number("end_time")?, number("pid")?, number("tid")?);
            let (period, value) = (number("period")?, number("value")?);
            let weight = group.values::<DoubleType>("weight")?;
            let labels = self.labels_of(&group)?;
            for (row, id) in ids.iter().enumerate() {
                let stack = *(stacks.get(id))
                    .ok_or_else(|| ParquetError::General("a sample's stack is not in its set".to_owned()))?;
                self.samples.push(Sample {
                    start_us: time[row],
                    end_us: end_time[row],
                    service: service[row],
                    host: host[row],
                    process: process[row],
                    pid: pid[row],
                    thread: thread[row],
                    tid: tid[row],
                    trace_id: trace_id[row],
                    span_id: span_id[row],
                    labels: labels[row],
                    kind: kind[row],
                    unit: unit[row],
                    period_kind: period_kind[row],
                    period_unit: period_unit[row],
                    period: period[row],
                    value: value[row],
                    weight: weight[row],
                    stack,
                });
            }
            if at + 1 < reader.num_row_groups() && is_full(self) {
                return Ok(Some(at + 1));
            }
        }
        Ok(None)
    }

    /// What was left out of this set was left out of what it becomes.
    fn read_lost(&mut self, reader: &SerializedFileReader<File>) {
        let about = reader.metadata().file_metadata().key_value_metadata();
        for pair in about.into_iter().flatten() {
            let what = pair.key.strip_prefix(schema::LOST);
            let count = pair.value.as_deref().and_then(|count| count.parse().ok());
            if let (Some(what), Some(count)) = (what, count) {
                self.lost.add_one(what, count);
            }
        }
    }

    fn texts_of(&mut self, group: &Columns<'_>, name: &str) -> Result<Vec<Text>> {
        let values = group.values::<ByteArrayType>(name)?;
        self.numbers(&values)
    }

    /// Most values are the same as the one before: files are sorted.
    fn numbers(&mut self, values: &[parquet::data_type::ByteArray]) -> Result<Vec<Text>> {
        let mut last: Option<(&[u8], Text)> = None;
        let mut numbers = Vec::with_capacity(values.len());
        for value in values {
            let bytes = value.as_bytes();
            let number = match last {
                Some((last, number)) if last == bytes => number,
                _ => {
                    let text = std::str::from_utf8(bytes).map_err(|error| ParquetError::General(error.to_string()))?;
                    self.text(text)
                }
            };
            last = Some((bytes, number));
            numbers.push(number);
        }
        Ok(numbers)
    }

    fn labels_of(&mut self, group: &Columns<'_>) -> Result<Vec<u32>> {
        let (keys, defined, repeated) = group.nested::<ByteArrayType>("labels.key_value.key")?;
        let (values, _, _) = group.nested::<ByteArrayType>("labels.key_value.value")?;
        let (keys, values) = (self.numbers(&keys)?, self.numbers(&values)?);
        let mut pairs = keys.into_iter().zip(values);
        let mut sets = Vec::new();
        let mut labels = Vec::new();
        for (at, defined) in defined.iter().enumerate() {
            if *defined > 0 {
                labels.extend(pairs.next());
            }
            // The last of this sample.
            if repeated.get(at + 1).is_none_or(|repeated| *repeated == 0) {
                sets.push(self.label_set(std::mem::take(&mut labels)));
            }
        }
        Ok(sets)
    }

    /// The same over longer: samples of one hour that differ only in window, process or thread become one. Their stacks,
    /// services, hosts and labels stay.
    pub fn rolled_up(&mut self, start_us: i64, end_us: i64) {
        let mut sums: FxHashMap<_, Sample> = FxHashMap::default();
        // Sums that have no room for more.
        let mut full = Vec::new();
        for sample in self.samples.drain(..) {
            let mut sample = Sample {
                start_us,
                end_us,
                pid: 0,
                tid: 0,
                thread: EMPTY,
                trace_id: EMPTY,
                span_id: EMPTY,
                ..sample
            };
            let key = (
                (sample.service, sample.host, sample.process, sample.labels),
                (
                    sample.kind,
                    sample.unit,
                    sample.period_kind,
                    sample.period_unit,
                    sample.period,
                ),
                (sample.weight.to_bits(), sample.stack),
            );
            if let Some(sum) = sums.get(&key) {
                match sample.value.checked_add(sum.value) {
                    Some(value) => sample.value = value,
                    None => full.push(*sum),
                }
            }
            sums.insert(key, sample);
        }
        self.samples = sums.into_values().chain(full).collect();
    }
}

/// The columns of a group of rows, by name.
struct Columns<'a>(&'a dyn RowGroupReader);

type Nested<T> = (Vec<T>, Vec<i16>, Vec<i16>);

impl Columns<'_> {
    fn values<T: DataType>(&self, name: &str) -> Result<Vec<T::T>> {
        let (values, _, _) = self.nested::<T>(name)?;
        match i64::try_from(values.len()) == Ok(self.0.metadata().num_rows()) {
            true => Ok(values),
            false => Err(ParquetError::General(format!("column {name} lacks values"))),
        }
    }

    fn ids(&self, name: &str) -> Result<Vec<StackId>> {
        let values = self.values::<ByteArrayType>(name)?;
        let id = |value: &parquet::data_type::ByteArray| value.data().try_into();
        let ids: std::result::Result<Vec<StackId>, _> = values.iter().map(id).collect();
        ids.map_err(|_| ParquetError::General(format!("column {name} is not of 16 bytes")))
    }

    /// Values, definition and repetition levels.
    fn nested<T: DataType>(&self, name: &str) -> Result<Nested<T::T>> {
        let schema = self.0.metadata().schema_descr();
        let at = (0..schema.num_columns()).find(|at| schema.column(*at).path().string() == name);
        let missing = || ParquetError::General(format!("there is no column {name}"));
        let at = at.ok_or_else(missing)?;
        if schema.column(at).physical_type() != T::get_physical_type() {
            return Err(ParquetError::General(format!("column {name} is of another type")));
        }
        let rows = usize::try_from(self.0.metadata().num_rows()).unwrap_or(0);
        let mut reader = get_typed_column_reader::<T>(self.0.get_column_reader(at)?);
        let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        let mut done = 0;
        while done < rows {
            let (records, _, _) =
                reader.read_records(rows - done, Some(&mut defined), Some(&mut repeated), &mut values)?;
            if records == 0 {
                break;
            }
            done += records;
        }
        Ok((values, defined, repeated))
    }
}
