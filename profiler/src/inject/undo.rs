//! `profiler undo`: takes away what a profiler that was killed has left in processes.

use anyhow::{Context as _, bail};

use super::{
    apart::Tracer,
    journal::Journals,
    placed::{self, Removed},
};
use crate::{exit, shown};

/// Of one process, or of all that have a journal.
///
/// # Errors
/// If something stays.
pub fn run(pid: Option<u32>) -> anyhow::Result<u8> {
    let journals = Journals::default();
    let pids = pid.map_or_else(|| journals.pids(), |pid| vec![pid]);
    if pids.is_empty() {
        shown::say("there is nothing to undo");
    }
    let mut tracer = Tracer::default();
    let mut failed = None;
    for pid in pids {
        match undo(&mut tracer, &journals, pid) {
            Ok(line) => shown::say(&line),
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    shown::say(&format!("error: {earlier:#}"));
                }
            }
        }
    }
    failed.map_or(Ok(exit::SUCCESS), Err)
}

fn undo(tracer: &mut Tracer, journals: &Journals, pid: u32) -> anyhow::Result<String> {
    let Some(journal) = journals.read(pid)? else {
        bail!("process {pid} has nothing to undo: there is no journal of it");
    };
    if !journal.is_of_a_living_process() {
        journals.remove(pid);
        return Ok(format!(
            "process {pid} has ended since (another may have its number): nothing to undo"
        ));
    }
    if journal.is_in_use() {
        let profiler = journal.profiler.pid;
        bail!("process {pid} is being sampled by process {profiler}: end that with Ctrl-C, which undoes it");
    }
    if journal.slots.is_empty() {
        journals.remove(pid);
        return Ok(format!("process {pid}: nothing had been changed"));
    }
    let (removed, took) =
        placed::remove(tracer, &journal).with_context(|| format!("process {pid} was left as it is"))?;
    if !matches!(removed, Removed::Except { .. }) {
        journals.remove(pid);
    }
    let slots = journal.slots.len();
    let children = match placed::remove_from_children(tracer, &journal) {
        0 => String::new(),
        left => format!("; {left} of its children keep sleeping stubs, because they are not to be stopped"),
    };
    let line = match removed {
        Removed::All => format!(
            "process {pid}: {slots} slots are as before; it was stopped for {:.2} ms",
            took.unwrap_or_default().as_secs_f64() * 1e3
        ),
        Removed::Except { slots: left } => format!(
            "process {pid}: {} of {slots} slots are as before; somebody else (tracemalloc?) has changed the others: undo it again when that has ended",
            slots - left
        ),
        Removed::Gone => format!("process {pid} runs another program by now: nothing to undo"),
    };
    Ok(line + &children)
}
