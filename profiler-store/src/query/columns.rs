//! Columns of an answer as the types that we read. Which type text has, an engine decides by itself: plain, views, or numbers
//! into a dictionary.

use anyhow::{Context as _, Result};
use datafusion::arrow::{
    array::{Array, AsArray as _, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray},
    compute::cast,
    datatypes::{DataType, Decimal128Type, Float64Type, Int64Type},
    record_batch::RecordBatch,
};

fn as_type(batch: &RecordBatch, column: usize, wanted: &DataType) -> Result<std::sync::Arc<dyn Array>> {
    let there = batch.columns().get(column).context("the answer has fewer columns")?;
    cast(there, wanted).with_context(|| format!("the store's column {column} is no {wanted}: it is of another version"))
}

pub fn texts(batch: &RecordBatch, column: usize) -> Result<StringArray> {
    Ok(as_type(batch, column, &DataType::Utf8)?.as_string::<i32>().clone())
}

pub fn numbers(batch: &RecordBatch, column: usize) -> Result<Int64Array> {
    Ok(as_type(batch, column, &DataType::Int64)?
        .as_primitive::<Int64Type>()
        .clone())
}

/// Sums, which can be more than any of what they are of.
pub fn sums(batch: &RecordBatch, column: usize) -> Result<Decimal128Array> {
    Ok(as_type(batch, column, &DataType::Decimal128(38, 0))?
        .as_primitive::<Decimal128Type>()
        .clone())
}

pub fn floats(batch: &RecordBatch, column: usize) -> Result<Float64Array> {
    Ok(as_type(batch, column, &DataType::Float64)?
        .as_primitive::<Float64Type>()
        .clone())
}

pub fn bytes(batch: &RecordBatch, column: usize) -> Result<BinaryArray> {
    Ok(as_type(batch, column, &DataType::Binary)?.as_binary::<i32>().clone())
}

pub fn booleans(batch: &RecordBatch, column: usize) -> Result<BooleanArray> {
    Ok(as_type(batch, column, &DataType::Boolean)?.as_boolean().clone())
}
