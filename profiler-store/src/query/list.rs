//! `list`: what the store has.

use std::io::Write as _;

use anyhow::Result;

use super::{columns, engine::Engine};
use crate::{
    cli::Which,
    text::{amount, clean, fit},
    times,
};

pub async fn run(engine: &Engine, which: &Which) -> Result<()> {
    let sql = format!(
        "SELECT service, type, unit, sum(CAST(value AS DOUBLE) * weight) AS value, count(DISTINCT host) AS hosts, \
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
        let texts = [0, 1, 2].map(|column| columns::texts(&batch, column));
        let [service, kind, unit] = texts;
        let (service, kind, unit) = (service?, kind?, unit?);
        let value = columns::floats(&batch, 3)?;
        let numbers = [4, 5, 6].map(|column| columns::numbers(&batch, column));
        let [hosts, first, last] = numbers;
        let (hosts, first, last) = (hosts?, first?, last?);
        for row in 0..batch.num_rows() {
            let cell = |text: &str, most| fit(&clean(text), most);
            writeln!(
                out,
                "{:<24} {:<16} {:>9} {:>5}  {:<10}  {}",
                cell(service.value(row), 24),
                cell(kind.value(row), 16),
                amount(value.value(row), unit.value(row)),
                hosts.value(row),
                times::shown(first.value(row)).get(5..).unwrap_or_default(),
                times::shown(last.value(row)).get(5..).unwrap_or_default(),
            )?;
        }
    }
    Ok(())
}
