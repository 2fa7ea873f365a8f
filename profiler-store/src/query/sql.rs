//! `sql`: whatever the tables can answer. Nothing can be changed by it.

use std::io::Write as _;

use anyhow::Result;
use datafusion::arrow::{
    array::Array,
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};

use super::engine::Engine;
use crate::text::clean;

pub async fn run(engine: &Engine, sql: &str, csv: bool) -> Result<()> {
    let frame = engine.frame(sql).await?;
    let names: Vec<String> = frame
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let batches = frame.collect().await?;
    let mut rows = vec![names];
    for batch in &batches {
        texts(batch, &mut rows)?;
    }
    let mut out = std::io::stdout().lock();
    if csv {
        for row in &rows {
            let cells: Vec<String> = row.iter().map(|cell| csv_cell(cell)).collect();
            writeln!(out, "{}", cells.join(","))?;
        }
        return Ok(());
    }
    let mut widths = vec![0; rows[0].len()];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| clean(cell)).collect())
        .collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// The rows of a batch as text; ids as hexadecimal digits.
fn texts(batch: &RecordBatch, rows: &mut Vec<Vec<String>>) -> Result<()> {
    let options = FormatOptions::default();
    let columns: Vec<ArrayFormatter<'_>> = (batch.columns().iter())
        .map(|column| ArrayFormatter::try_new(column as &dyn Array, &options))
        .collect::<Result<_, _>>()?;
    for row in 0..batch.num_rows() {
        rows.push(columns.iter().map(|column| column.value(row).to_string()).collect());
    }
    Ok(())
}

fn csv_cell(cell: &str) -> String {
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_with_a_comma_stays_one() {
        assert_eq!(csv_cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(csv_cell("a"), "a");
    }
}
