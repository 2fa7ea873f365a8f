//! How many stacks are whole in programs as they are: built by distributions, wheels and other languages' compilers.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::{Folded, has, has_chain, is},
    pattern::is_native,
    python::{self, Python},
    serial::serial,
    skip::skip,
    venv,
    whole::{Start, of_process, record, record_machine},
    workload::Workload,
    workshop::{Workshop, is_installed, whole},
};

use crate::RATE;

/// What the issue asks for.
const LEAST: f64 = 0.99;

#[test]
fn stacks_of_every_interpreter_are_complete() -> Result<()> {
    let _serial = serial();
    python::each(|python| {
        let workshop = Workshop::of(python)?;
        let script = workshop.copy("mixed_work.py")?;
        let mut command = python.command();
        command.arg(python.seen(&script));
        let workload = Workload::command(command, None)?;
        let recorded = record(workload.pid, 2.0, RATE)?;
        recorded.ensure_complete(LEAST, &in_root(python))
    })
}

#[test]
fn stacks_of_numpy_are_complete() -> Result<()> {
    let _serial = serial();
    let Some((python, interpreter)) = with_packages(&["numpy"])? else {
        return Ok(());
    };
    let workload = numpy(&interpreter, None)?;
    let recorded = record(workload.pid, 3.0, RATE)?;
    recorded.ensure_complete(LEAST, &python.executable)?;
    // Python as well, not only the native part: who called the library is known.
    for function in ["products", "sorting", "ufuncs"] {
        let stacks = recorded.folded.only(|stack| has(stack, function));
        ensure!(
            stacks.share(|stack| stack.last().is_some_and(|leaf| is_native(leaf)) && is_native(&stack[0])) > 0.8,
            "{function}: {stacks}"
        );
    }
    Ok(())
}

/// OpenBLAS has kernels for each kind of processor. Those of some are written in assembler, and have no unwind
/// information.
#[test]
fn stacks_of_numpy_are_complete_and_right_whatever_the_processor() -> Result<()> {
    let _serial = serial();
    let Some((python, interpreter)) = with_packages(&["numpy"])? else {
        return Ok(());
    };
    let flags = processor_flags()?;
    for (core, needed) in CORES {
        if !needed.iter().all(|flag| flags.contains(*flag)) {
            // Not a skip that fails a strict run: nothing can be installed to change it.
            println!("this processor cannot run OpenBLAS' kernels for {core}");
            continue;
        }
        let workload = numpy(&interpreter, Some(core))?;
        let recorded = record(workload.pid, 1.0, RATE)?;
        recorded
            .ensure_complete(LEAST, &python.executable)
            .with_context(|| format!("with kernels for {core}"))?;
        ensure_kernels_are_called(&recorded.folded, core)?;
    }
    Ok(())
}

/// Values of OPENBLAS_CORETYPE, and what the processor must be able to do, as /proc/cpuinfo has it.
const CORES: [(&str, &[&str]); 5] = [
    ("PRESCOTT", &["pni"]),
    ("NEHALEM", &["sse4_2"]),
    ("SANDYBRIDGE", &["avx"]),
    ("HASWELL", &["avx2", "fma"]),
    ("SKYLAKEX", &["avx512f", "avx512bw", "avx512dq", "avx512vl"]),
];

/// The kernels of this core have run, and were called by what calls kernels, by order of numpy and of Python.
fn ensure_kernels_are_called(folded: &Folded, core: &str) -> Result<()> {
    let suffix = format!("_{core}");
    let is_kernel = |frame: &String| frame.split(' ').next().is_some_and(|name| name.ends_with(&suffix));
    let kernels = folded.only(|stack| stack.iter().any(is_kernel));
    let is_called = |stack: &[String]| {
        let Some(kernel) = stack.iter().position(is_kernel) else {
            return false;
        };
        let callers = &stack[..kernel];
        let by_blas = |caller: &String| {
            ["dgemm_nn", "inner_thread", "scipy_cblas_dgemm64_"]
                .iter()
                .any(|name| is(caller, name))
        };
        // Some of the work is done by threads of OpenBLAS' own.
        let ordered =
            has_chain(callers, &["products"]) && callers.iter().any(|frame| frame.starts_with("DOUBLE_matmul"));
        callers.last().is_some_and(by_blas) && (ordered || has(callers, "blas_thread_server"))
    };
    ensure!(
        kernels.total() > 10 && kernels.share(is_called) == 1.0,
        "{} samples in kernels for {core}; not called as they are: {}",
        kernels.total(),
        kernels.only(|stack| !is_called(stack))
    );
    Ok(())
}

fn numpy(interpreter: &Path, core: Option<&str>) -> Result<Workload> {
    let mut command = Command::new(interpreter);
    command.arg(whole("numpy_work.py"));
    if let Some(core) = core {
        command.env("OPENBLAS_CORETYPE", core);
    }
    Workload::command(command, None)
}

fn processor_flags() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let flags = text
        .lines()
        .find_map(|line| line.strip_prefix("flags"))
        .context("no flags")?;
    Ok(flags.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn stacks_of_a_server_under_load_are_complete() -> Result<()> {
    let _serial = serial();
    let Some((python, interpreter)) = with_packages(&["fastapi", "uvicorn"])? else {
        return Ok(());
    };
    let mut command = Command::new(interpreter);
    command.arg(whole("server.py"));
    let server = Workload::command(command, None)?;
    let port = server.truth[0]["port"].as_u64().context("no port")?.to_string();
    let mut load = python.command();
    load.arg(whole("load.py")).arg(port);
    let _load = Workload::command(load, None)?;
    let recorded = record(server.pid, 3.0, RATE)?;
    recorded.ensure_complete(LEAST, &python.executable)?;
    ensure!(
        recorded.folded.count_of("get_order") + recorded.folded.count_of("post_order") > 0,
        "{}",
        recorded.folded
    );
    Ok(())
}

#[test]
fn stacks_of_a_rust_release_build_are_complete_and_demangled() -> Result<()> {
    let _serial = serial();
    let (workshop, workload) = rust()?;
    let recorded = record(workload.pid, 2.0, RATE)?;
    recorded.ensure_complete(LEAST, &workshop.path().join("release"))?;
    let folded = &recorded.folded;
    let share = folded.share(|stack| has_chain(stack, &["release::work", "release::outer"]));
    ensure!(share >= 0.98, "{:.1} % have the chain\n{folded}", share * 100.0);
    ensure!(
        folded.count_of("release::maps") > 0 && folded.count_of("release::sorting") > 0,
        "{folded}"
    );
    // Neither `_ZN` nor `_RN`, nor a hash.
    let mangled = folded.count(|stack| {
        stack
            .iter()
            .any(|frame| frame.starts_with("_ZN") || frame.starts_with("_RN"))
    });
    ensure!(mangled == 0, "mangled names\n{folded}");
    Ok(())
}

#[test]
fn stacks_of_cpp_are_complete_also_while_an_exception_is_thrown() -> Result<()> {
    let _serial = serial();
    let (workshop, workload) = cpp()?;
    let recorded = record(workload.pid, 2.0, RATE)?;
    recorded.ensure_complete(LEAST, &workshop.path().join("objects"))?;
    let folded = &recorded.folded;
    // In libgcc's unwinder, which is code as any other.
    let throwing = folded.only(|stack| stack.iter().any(|frame| frame.starts_with("deep_throw")));
    let below = |name: &'static str| move |stack: &[String]| stack.iter().any(|frame| frame.starts_with(name));
    ensure!(
        throwing.total() > 20 && throwing.share(below("exceptions")) >= LEAST && throwing.share(below("work")) >= LEAST,
        "throwing: {throwing}"
    );
    let shapes = folded.only(|stack| stack.iter().any(|frame| frame.starts_with("shapes::Square::area")));
    ensure!(
        shapes.total() > 20 && shapes.share(below("virtual_calls")) >= LEAST,
        "{shapes}\nof {folded}"
    );
    Ok(())
}

#[test]
fn stacks_of_node_are_complete_and_named() -> Result<()> {
    let _serial = serial();
    let Some(node) = node()? else { return Ok(()) };
    let recorded = record(node.workload.pid, 2.0, RATE)?;
    recorded.ensure_complete(LEAST, &which("node")?)?;
    // V8 makes one function of `round` and what it calls, as soon as it is hot.
    let calls = |name: &'static str| move |stack: &[String]| stack.iter().any(|frame| frame.contains(name));
    let working = recorded.folded.only(calls(":*round "));
    ensure!(
        working.total() > 50
            && working.share(calls("forever ")) >= 0.95
            && working.share(|stack| has(stack, "_start")) >= LEAST,
        "{}",
        recorded.folded
    );
    Ok(())
}

#[test]
fn stacks_of_go_are_complete_and_named() -> Result<()> {
    let _serial = serial();
    if !is_installed("go") {
        return Ok(());
    }
    let workshop = Workshop::new()?;
    let program = workshop.path().join("goes");
    profiler_tests::workshop::run(
        Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(whole("main.go")),
    )?;
    let workload = Workload::command(Command::new(&program), None)?;
    let recorded = record(workload.pid, 2.0, RATE)?;
    // A goroutine begins in `runtime.goexit`, which never called it.
    let folded = &recorded.folded;
    let working = folded.only(|stack| has(stack, "main.inner"));
    let share = working.share(|stack| has_chain(stack, &["main.work", "main.outer", "main.inner"]));
    let begins = working.share(|stack| stack[0].starts_with("runtime.goexit"));
    ensure!(
        working.total() > 50 && share >= LEAST && begins >= LEAST && recorded.native.share() >= LEAST,
        "{:.1} % have the chain, {:.1} % begin as goroutines do; {:?}\n{folded}",
        share * 100.0,
        begins * 100.0,
        recorded.native
    );
    Ok(())
}

#[test]
fn programs_in_different_languages_are_whole_in_one_recording_of_the_machine() -> Result<()> {
    let _serial = serial();
    let (rust_shop, rust) = rust()?;
    let (cpp_shop, cpp) = cpp()?;
    let node = node()?;
    let python = python::any()?;
    let mut command = python.command();
    command.arg(whole("mixed_work.py"));
    let interpreter = Workload::command(command, None)?;
    let mut processes = vec![
        (rust.pid, rust_shop.path().join("release")),
        (cpp.pid, cpp_shop.path().join("objects")),
        (interpreter.pid, python.executable),
    ];
    if let Some(node) = &node {
        processes.push((node.workload.pid, which("node")?));
    }
    let recorded = record_machine(interpreter.pid, 2.0, RATE)?;
    for (pid, program) in processes {
        let start = Start::of(&program)?;
        let stacks = of_process(&recorded.folded, pid);
        let starts = |stack: &[String]| start.is(&stack[0]);
        let share = stacks.share(starts);
        ensure!(
            stacks.total() > 50 && share >= LEAST,
            "{}: {:.1} % of {} samples begin where a thread does; not: {}\n{}",
            program.display(),
            share * 100.0,
            stacks.total(),
            stacks.only(|stack| !starts(stack)),
            recorded.outcome.stderr
        );
    }
    Ok(())
}

fn rust() -> Result<(Workshop, Workload)> {
    let workshop = Workshop::new()?;
    let program = workshop.rust("release.rs", "release")?;
    let workload = Workload::command(Command::new(program), None)?;
    Ok((workshop, workload))
}

fn cpp() -> Result<(Workshop, Workload)> {
    let workshop = Workshop::new()?;
    let program = workshop.cpp("objects.cpp", "objects", &["-lpthread"])?;
    let workload = Workload::command(Command::new(program), None)?;
    Ok((workshop, workload))
}

fn node() -> Result<Option<Node>> {
    if !is_installed("node") {
        return Ok(None);
    }
    // It leaves a log where it was started, and its map in /tmp.
    let workshop = Workshop::new()?;
    let mut command = Command::new("node");
    // Without the second one, all functions that V8 has not compiled yet have one name, `InterpreterEntryTrampoline`, and when
    // it compiles `forever` depends on the machine's load.
    command
        .args(["--perf-basic-prof", "--interpreted-frames-native-stack"])
        .arg(whole("server.js"))
        .current_dir(workshop.path());
    let workload = Workload::command(command, None)?;
    Ok(Some(Node {
        workload,
        _workshop: workshop,
    }))
}

#[derive(Debug)]
struct Node {
    workload: Workload,
    _workshop: Workshop,
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nobody else will, and nothing depends on it.
        let _ = fs::remove_file(format!("/tmp/perf-{}.map", self.workload.pid));
    }
}

/// An interpreter with packages, in which the version does not matter.
fn with_packages(packages: &[&str]) -> Result<Option<(Python, PathBuf)>> {
    // The one the issue names.
    let Some(python) = python::all()?.into_iter().find(|python| python.version == (3, 12)) else {
        skip("pyenv has no CPython 3.12");
        return Ok(None);
    };
    Ok(venv::with(&python, packages)?.map(|interpreter| (python, interpreter)))
}

/// Where we see an interpreter's file.
fn in_root(python: &Python) -> PathBuf {
    match &python.root {
        Some(root) => root.join(python.executable.strip_prefix("/").unwrap_or(&python.executable)),
        None => python.executable.clone(),
    }
}

fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| Path::exists(file));
    found.with_context(|| format!("{program} is not in PATH"))
}
