//! A program whose calls are known from its first instruction to the system call: C without frame pointers, CPython in
//! it, Python, a C extension, Python, the kernel.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use profiler_tests::{
    pattern::{Pattern, is_kernel},
    python,
    serial::serial,
    skip::skip,
    whole::record,
    workload::Workload,
    workshop::Workshop,
};

use crate::RATE;

const PYENV: [&str; 6] = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"];

#[test]
fn a_stack_is_whole_from_the_first_function_through_python_and_c_to_the_kernel() -> Result<()> {
    let _serial = serial();
    python::each_of(&PYENV, |version| check(version, &[], "_start @libc.so main"))
}

#[test]
fn a_thread_s_stack_is_whole_from_where_the_thread_began() -> Result<()> {
    let _serial = serial();
    python::each_of(&PYENV, |version| check(version, &["thread"], "@libc.so tree_thread"))
}

fn check(version: &str, arguments: &[&str], start: &str) -> Result<()> {
    let Some(prefix) = prefix(version) else {
        skip(format!("pyenv has no CPython {version}"));
        return Ok(());
    };
    let workshop = Workshop::new()?;
    let workload = start_tree(&workshop, version, &prefix, arguments)?;
    let recorded = record(workload.pid, 1.0, RATE)?;
    let folded = &recorded.folded;

    // Up to 3.10 every call has frames of the interpreter's; from 3.11 on Python calls Python without any.
    let minor: u32 = version.trim_start_matches("3.").parse()?;
    let call = if minor <= 10 { "~libpython" } else { "" };
    let pattern = Pattern::new(format!(
        "{start} tree_run tree_enter @libpython <module> {call} outer {call} middle ~libpython extension_call \
         extension_inner ~libpython inner {call} innermost ~libpython,libc.so [k]*"
    ));
    let exact = folded.share(|stack| pattern.is(stack));
    ensure!(
        folded.total() > 300 && exact >= 0.99,
        "{:.1} % of {} samples are exactly {pattern}; not: {}\n{}",
        exact * 100.0,
        folded.total(),
        folded.only(|stack| !pattern.is(stack)),
        recorded.outcome.stderr
    );
    // They are what was asked for: nearly all of the time goes into the system call.
    let in_kernel = folded.share(|stack| stack.last().is_some_and(|leaf| is_kernel(leaf)));
    ensure!(
        in_kernel >= 0.9,
        "{:.1} % end in the kernel\n{folded}",
        in_kernel * 100.0
    );
    ensure!(
        recorded.native.share() >= 0.99,
        "{:?} by the summary\n{}",
        recorded.native,
        recorded.outcome.stderr
    );
    Ok(())
}

fn start_tree(workshop: &Workshop, version: &str, prefix: &Path, arguments: &[&str]) -> Result<Workload> {
    let include = format!("-I{}/include/python{version}", prefix.display());
    let folder = format!("-L{}/lib", prefix.display());
    let run_path = format!("-Wl,-rpath,{}/lib", prefix.display());
    let library = format!("-lpython{version}");
    let program = workshop.c("tree.c", "tree", &[&include, &folder, &run_path, &library, "-lpthread"])?;
    workshop.c("tree_extension.c", "tree_extension.so", &["-shared", "-fPIC", &include])?;
    let script = workshop.copy("tree.py")?;
    let mut command = Command::new(program);
    command
        .arg(script)
        .arg(workshop.path())
        .args(arguments)
        .env("PYTHONHOME", prefix);
    Workload::command(command, None)
}

/// Where pyenv has this version, if with a shared library.
pub fn prefix(version: &str) -> Option<PathBuf> {
    let prefix = python::pyenv(version)?.parent()?.parent()?.to_owned();
    let library = prefix.join(format!("lib/libpython{version}.so.1.0"));
    library.exists().then_some(prefix)
}
