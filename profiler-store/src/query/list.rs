//! `list`: what the store has.

use std::io::Write as _;

use anyhow::Result;
use datafusion::arrow::{array::AsArray as _, datatypes::Int64Type};

use super::engine::Engine;
use crate::{
    cli::Which,
    text::{amount, clean, fit},
    times,
};

pub async fn run(engine: &Engine, which: &Which) -> Result<()> {
    let sql = format!(
        "SELECT service, type, unit, sum(value) AS value, count(DISTINCT host) AS hosts, \
         CAST(arrow_cast(min(time), 'Int64') AS BIGINT) AS first, CAST(arrow_cast(max(end_time), 'Int64') AS BIGINT) AS last \
         FROM samples WHERE {} GROUP BY service, type, unit ORDER BY service, type",
        which.condition()
    );
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<24} {:<16} {:>9} {:>5}  {:<10}  last (UTC)",
        "service", "type", "value", "hosts", "first"
    )?;
    for batch in engine.rows(&sql).await? {
        let text = |column: usize| batch.column(column).as_string::<i32>();
        let number = |column: usize| batch.column(column).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let cell = |column: usize, most| fit(&clean(text(column).value(row)), most);
            let at = |column: usize| times::shown(number(column).value(row));
            writeln!(
                out,
                "{:<24} {:<16} {:>9} {:>5}  {:<10}  {}",
                cell(0, 24),
                cell(1, 16),
                amount(number(3).value(row), text(2).value(row)),
                number(4).value(row),
                at(5).get(5..).unwrap_or_default(),
                at(6).get(5..).unwrap_or_default(),
            )?;
        }
    }
    Ok(())
}
