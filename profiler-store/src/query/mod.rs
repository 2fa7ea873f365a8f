//! `query`: a question in words becomes SQL for the samples, stacks are named from the sets that have them, and what is left
//! fits a screen.

mod columns;
mod diff;
mod engine;
mod flame;
mod list;
mod pprof;
mod sql;
mod stacks;
#[cfg(test)]
mod tests;
mod top;
mod which;

use anyhow::Result;

use crate::cli::{Query, Question};

pub use engine::Engine;

pub async fn run(query: &Query) -> Result<()> {
    let engine = Engine::open(&query.store).await?;
    match &query.question {
        Question::Top { number, lines } => top::run(&engine, &query.which, *number, *lines).await,
        Question::Flame { output } => flame::run(&engine, &query.which, output.as_deref()).await,
        Question::Diff {
            base_from,
            base_to,
            base_service,
            number,
        } => {
            let base = diff::base(&query.which, *base_from, *base_to, base_service.as_deref())?;
            diff::run(&engine, &query.which, &base, *number).await
        }
        Question::List => list::run(&engine, &query.which).await,
        Question::Sql { sql, csv } => sql::run(&engine, sql, *csv).await,
    }
}
