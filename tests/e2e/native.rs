//! Programs that are no Python, and the kernel.

use std::process::Command;

use anyhow::{Result, ensure};
use profiler_tests::{
    folded::{has, has_chain},
    native::compile,
    profiler::Profiler,
    python,
    serial::serial,
    workload::{Workload, line_of},
};

use crate::RATE;

#[test]
fn a_native_program_has_its_chain_of_functions() -> Result<()> {
    let _serial = serial();
    let (_directory, program) = compile("busy.c", "busy-native", &[])?;
    let workload = Workload::command(Command::new(&program), None)?;
    let pid = workload.pid.to_string();
    for target in [vec!["-p", &pid], vec!["-a"]] {
        let folded = Profiler::record(&target)
            .args(["-d", "1", "-r", RATE, "-f", "folded", "-o", "-"])
            .succeed()?;
        let mut folded = folded.folded()?;
        if target == ["-a"] {
            folded = folded.below(&format!("process {pid}:"));
        }
        let share = folded.share(|stack| {
            has_chain(stack, &["main", "native_outer", "native_middle", "native_leaf"])
                && stack.iter().any(|frame| frame == "native_leaf (busy-native)")
        });
        ensure!(
            folded.total() > 50 && share >= 0.98,
            "{target:?}: {:.1} %\n{folded}",
            share * 100.0
        );
    }
    let arguments = [
        "-p",
        &pid,
        "--no-native",
        "-d",
        "500ms",
        "-r",
        RATE,
        "-f",
        "folded",
        "-o",
        "-",
    ];
    let folded = Profiler::record(&arguments).succeed()?.folded()?;
    ensure!(folded.share_of("native_leaf") == 0.0, "{folded}");
    Ok(())
}

#[test]
fn kernel_frames_are_marked_and_can_be_left_out() -> Result<()> {
    let _serial = serial();
    let (_directory, program) = compile("busy.c", "busy-kernel", &[])?;
    let mut command = Command::new(&program);
    command.arg("kernel");
    let workload = Workload::command(command, None)?;
    let pid = workload.pid.to_string();
    let record = |more: &[&str]| -> Result<_> {
        let arguments = ["-p", &pid, "-d", "1", "-r", RATE, "-f", "folded", "-o", "-"];
        Profiler::record(&arguments).args(more).succeed()?.folded()
    };
    let is_kernel = |frame: &String| frame.ends_with("_[k]");

    let folded = record(&[])?;
    let in_getrandom = folded.share(|stack| {
        // What it does in the kernel, above what it does outside.
        let border = stack.iter().position(is_kernel);
        let kernel_only = border.is_some_and(|border| stack[border..].iter().all(is_kernel));
        kernel_only
            && stack
                .iter()
                .any(|frame| frame.contains("getrandom") && frame.ends_with("_[k]"))
    });
    ensure!(
        in_getrandom > 0.5,
        "{:.1} % in getrandom\n{folded}",
        in_getrandom * 100.0
    );
    ensure!(
        folded.share(|stack| has_chain(stack, &["__libc_start_call_main", "main"])) > 0.9,
        "{folded}"
    );
    ensure!(
        !folded.stacks.keys().flatten().any(|frame| frame.starts_with("[0xffff")),
        "not symbolized\n{folded}"
    );

    let folded = record(&["--no-kernel"])?;
    ensure!(folded.total() > 100, "{folded}");
    ensure!(!folded.stacks.keys().flatten().any(is_kernel), "{folded}");

    let folded = record(&["--no-native"])?;
    ensure!(
        folded.share(|stack| has(stack, "main") || has(stack, "kernel_work")) == 0.0,
        "{folded}"
    );
    ensure!(folded.share(|stack| stack.iter().any(is_kernel)) > 0.5, "{folded}");
    Ok(())
}

#[test]
fn a_python_stack_has_its_native_and_kernel_leaf() -> Result<()> {
    let _serial = serial();
    let line = format!("reading (reading.py:{})", line_of("reading.py", "# read")?);
    python::each(|python| {
        let workload = Workload::python(python, "reading.py", &[])?;
        let pid = workload.pid.to_string();
        let arguments = ["-p", &pid, "-d", "1", "-r", RATE, "-f", "folded", "-o", "-"];
        // As a user has it: what the interpreter does to get from call to call is not shown, what works is.
        let folded = Profiler::record(&["--native", "work"])
            .args(arguments)
            .succeed()?
            .folded()?;
        let begins = folded.share(|stack| stack[0].starts_with("<module> (reading.py:"));
        ensure!(begins > 0.99, "{:.1} % begin with Python\n{folded}", begins * 100.0);
        let machinery = [
            "_start",
            "Py_RunMain",
            "PyObject_Vectorcall",
            "_PyEval_EvalFrameDefault",
            "_PyFunction_Vectorcall",
        ];
        ensure!(machinery.iter().all(|name| folded.count_of(name) == 0), "{folded}");
        let whole = folded.share(|stack| {
            let python = stack.iter().position(|frame| *frame == line);
            let libc = stack.iter().position(|frame| frame.contains("(libc"));
            let kernel = stack.iter().position(|frame| frame.ends_with("_[k]"));
            matches!((python, libc, kernel), (Some(python), Some(libc), Some(kernel)) if python < libc && libc < kernel)
        });
        ensure!(whole > 0.8, "{:.1} % have both\n{folded}", whole * 100.0);
        Ok(())
    })
}
