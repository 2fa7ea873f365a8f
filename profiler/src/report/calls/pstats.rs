//! The file that `cProfile.Profile.dump_stats` writes, for `pstats`, snakeviz and whatever else reads it.
//!
//! It is a dictionary `{(file, line, name): (cc, nc, tt, ct, callers)}`: primitive calls, calls, time in the function
//! itself, time in it and all it called; `callers` is `{(file, line, name): (nc, cc, tt, ct)}`, in which the two counts
//! change places (`cProfile.py`, `snapshot_stats`). There is no room for errors, nor for what is unknown: calls of whom
//! nobody counted are 0, and where primitive calls are not known all are taken to be.

use std::io::Write;

use anyhow::Context as _;

use super::{CallsReport, Function, marshal::Marshal, merge::merged};

pub fn write(report: &CallsReport, out: &mut dyn Write) -> anyhow::Result<()> {
    let functions = merged(&report.functions);
    let mut file = Marshal::new(out);
    dictionary(report, &functions, &mut file).context("cannot write the calls for pstats")
}

fn dictionary<'a, W: Write>(
    report: &CallsReport,
    functions: &'a [Function],
    file: &mut Marshal<'a, W>,
) -> std::io::Result<()> {
    file.begin_dict()?;
    for function in functions {
        let count = function.calls.unwrap_or_default();
        key(function, file)?;
        file.begin_tuple(5)?;
        file.integer(count.primitive.unwrap_or(count.all))?;
        file.integer(count.all)?;
        file.float(report.tottime(function).seconds)?;
        file.float(report.cumtime(function).seconds)?;
        file.begin_dict()?;
        for caller in &function.callers {
            // Whoever is named as a caller must be a function of the file, or snakeviz fails; merging sees to that.
            let Some(by) = functions.get(caller.function) else {
                continue;
            };
            key(by, file)?;
            file.begin_tuple(4)?;
            file.integer(caller.calls)?;
            file.integer(caller.calls)?;
            file.float(report.estimate(caller.own_samples).seconds)?;
            file.float(report.estimate(caller.cumulative_samples).seconds)?;
        }
        file.end_dict()?;
    }
    if functions.is_empty() {
        nothing(file)?;
    }
    file.end_dict()
}

fn key<'a, W: Write>(function: &'a Function, file: &mut Marshal<'a, W>) -> std::io::Result<()> {
    file.begin_tuple(3)?;
    file.string(&function.file)?;
    file.integer(function.first_line.into())?;
    file.string(&function.name)
}

/// `pstats.Stats` raises a `TypeError` for an empty dictionary. The file `~` and line 0 are what built-in functions have,
/// and are not printed.
fn nothing<W: Write>(file: &mut Marshal<'_, W>) -> std::io::Result<()> {
    file.begin_tuple(3)?;
    file.string("~")?;
    file.integer(0)?;
    file.string("<no calls>")?;
    file.begin_tuple(5)?;
    file.integer(0)?;
    file.integer(0)?;
    file.float(0.0)?;
    file.float(0.0)?;
    file.begin_dict()?;
    file.end_dict()
}
