//! The columns of both files, version 1. docs/store.md says the same to who reads them.
//!
//! What all engines take (DuckDB, DataFusion, ClickHouse, Spark; tried by `profiler-store/tests/engines.py`): microseconds
//! in UTC (Spark reads no nanoseconds), texts that are never null, ids of 16 plain bytes (Spark reads no UUID), one MAP for
//! what has no column of its own.

use std::sync::Arc;

use parquet::{
    basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type as Physical},
    errors::Result,
    schema::types::{Type, TypePtr},
};

/// Of the files' columns and of their directory. A reader of version 1 can read what has more columns.
pub const VERSION: u32 = 1;
/// Of the attribute that says how many samples this one stands for.
pub const WEIGHT: &str = "profiler.weight";
/// How the footer's keys begin that say what was left out.
pub const LOST: &str = "profiler.lost.";
/// The function of a sample without frames.
pub const NO_STACK: &str = "[no stack]";

/// The samples' columns, in the order in which they are written.
pub const SAMPLES: [&str; 20] = [
    "set",
    "service",
    "type",
    "unit",
    "time",
    "end_time",
    "host",
    "process",
    "pid",
    "thread",
    "tid",
    "trace_id",
    "span_id",
    "period_type",
    "period_unit",
    "period",
    "value",
    "weight",
    "stack",
    "labels",
];

/// The frames' columns: one row per service, stack and depth. A stack that two services have is there for each of them: so a
/// question about one service reads its part of the file, and misses nothing.
pub const FRAMES: [&str; 12] = [
    "set",
    "service",
    "stack",
    "depth",
    "function",
    "file",
    "line",
    "first_line",
    "kind",
    "binary",
    "build_id",
    "address",
];
/// The last.
pub const INLINED: &str = "inlined";

fn primitive(name: &str, physical: Physical) -> Result<TypePtr> {
    let column = Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED);
    column.build().map(Arc::new)
}

fn text(name: &str) -> Result<TypePtr> {
    let column = Type::primitive_type_builder(name, Physical::BYTE_ARRAY)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(LogicalType::String));
    column.build().map(Arc::new)
}

fn time(name: &str) -> Result<TypePtr> {
    let column = Type::primitive_type_builder(name, Physical::INT64)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(LogicalType::timestamp(true, TimeUnit::MICROS)));
    column.build().map(Arc::new)
}

/// Not of fixed length, for which the writer has no dictionary: in an hour's set, most ids are met a hundred times.
fn id(name: &str) -> Result<TypePtr> {
    primitive(name, Physical::BYTE_ARRAY)
}

/// `MAP<text, text>`, in the three levels that the format prescribes.
fn map(name: &str) -> Result<TypePtr> {
    let pair = Type::group_type_builder("key_value")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![text("key")?, text("value")?])
        .build()?;
    Type::group_type_builder(name)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(LogicalType::Map))
        .with_converted_type(ConvertedType::MAP)
        .with_fields(vec![Arc::new(pair)])
        .build()
        .map(Arc::new)
}

fn file(columns: Vec<TypePtr>) -> Result<TypePtr> {
    Type::group_type_builder("profiler")
        .with_fields(columns)
        .build()
        .map(Arc::new)
}

pub(crate) fn samples() -> Result<TypePtr> {
    let column = |name: &&str| match *name {
        "time" | "end_time" => time(name),
        "pid" | "tid" | "period" | "value" => primitive(name, Physical::INT64),
        "weight" => primitive(name, Physical::DOUBLE),
        "stack" => id(name),
        "labels" => map(name),
        _ => text(name),
    };
    file(SAMPLES.iter().map(column).collect::<Result<_>>()?)
}

pub(crate) fn frames() -> Result<TypePtr> {
    let column = |name: &&str| match *name {
        "stack" => id(name),
        "depth" => primitive(name, Physical::INT32),
        "line" | "first_line" | "address" => primitive(name, Physical::INT64),
        _ => text(name),
    };
    let mut columns = FRAMES.iter().map(column).collect::<Result<Vec<_>>>()?;
    columns.push(primitive(INLINED, Physical::BOOLEAN)?);
    file(columns)
}
