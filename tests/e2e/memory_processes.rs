//! Whose memory it is, when processes fork, execute other programs, end, or begin later, and when they are no Python.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    memory::{self, Memory, Resident, ask, ensure_within, line_of, number},
    native::compile,
    python,
    serial::serial,
    workload::Workload,
};

const MIB: i64 = 1 << 20;
/// Each leak of family.py.
const LEAK: i64 = 12 * MIB;
/// What the parent has had since before anybody looked, and the child copies.
const INHERITED: i64 = 12 * MIB;

fn line(comment: &str) -> Result<u32> {
    line_of("family.py", comment)
}

/// Has it fork, and returns the child's pid when both have leaked.
fn fork(workload: &mut Workload) -> Result<u32> {
    workload.tell("fork")?;
    let said = [workload.value()?, workload.value()?];
    let child = said.iter().find_map(|value| value["child"].as_u64());
    Ok(u32::try_from(child.context("no child")?)?)
}

#[test]
fn a_child_s_memory_is_the_child_s_and_copies_are_no_growth() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let mut workload = memory::run(python, "family.py", &[])?;
        let attached = Memory::record(&["-s", "-p", &workload.pid.to_string()])?.start()?;
        let child = fork(&mut workload)?;
        let taken = attached.stop()?;
        let heap = taken.heap()?;
        let (of_parent, of_child) = (heap.of(workload.pid), heap.of(child));
        ensure_within(
            "the child's",
            of_child.line("family.py", line("# in the child")?).live.bytes,
            LEAK,
            0.05,
        )
        .with_context(|| heap.top())?;
        ensure_within(
            "the parent's",
            of_parent.line("family.py", line("# in the parent")?).live.bytes,
            LEAK,
            0.05,
        )
        .with_context(|| heap.top())?;
        ensure!(
            of_child.line("family.py", line("# in the parent")?).allocated.bytes == 0
                && of_parent.line("family.py", line("# in the child")?).allocated.bytes == 0,
            "they are mixed up\n{}",
            heap.top()
        );
        // They are told apart from what grew, to the page.
        let at = line("# copied on write")?;
        let there = |copies: bool| {
            of_child.sum(|row| {
                row.innermost("family.py").is_some_and(|frame| frame.line == at)
                    && row.stack.iter().any(|frame| frame.name == "[copies after a fork]") == copies
            })
        };
        ensure_within("the copies", there(true).live.bytes, INHERITED, 0.05).with_context(|| heap.top())?;
        let grown = there(false);
        ensure!(
            grown.live.bytes < 2 * MIB,
            "{grown:?} for copies of what was resident already\n{}",
            heap.top()
        );
        // With them it would be 1.4; a new process shares pages that its parent has, which is a tenth.
        let explained = taken.summary.explained()?;
        ensure!(
            (0.9..1.2).contains(&explained),
            "copies count as growth: {explained} of it is explained\n{}",
            taken.outcome.stderr
        );
        Ok(())
    })
}

/// Workers of a server are forked and begin to work: whose code it is must be known from the first page on.
#[test]
fn what_a_child_allocates_at_once_has_its_python_stack() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let mut workload = memory::run(python, "family.py", &[])?;
        let attached = Memory::record(&["-s", "-p", &workload.pid.to_string()])?.start()?;
        let child = fork(&mut workload)?;
        let heap = attached.stop()?.heap()?.of(child);
        let line = heap.line("family.py", line("# in a child that is new")?);
        // With some file pages that a new process maps again, which are apportioned: 3 to 6 % of so little.
        ensure_within("the child's", line.live.bytes, 4 * MIB, 0.08).with_context(|| heap.top())
    })
}

#[test]
fn without_children_only_the_target_is_shown() -> Result<()> {
    let _serial = serial();
    let mut workload = memory::run(&python::any()?, "family.py", &[])?;
    let attached = Memory::record(&["-p", &workload.pid.to_string()])?.start()?;
    let child = fork(&mut workload)?;
    let heap = attached.stop()?.heap()?;
    ensure!(heap.of(child).rows.is_empty(), "{}", heap.top());
    let parent = heap.line("family.py", line("# in the parent")?);
    ensure_within("the parent's", parent.live.bytes, LEAK, 0.05).with_context(|| heap.top())
}

#[test]
fn an_exec_frees_what_was_before_and_what_comes_after_is_named() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let mut workload = memory::run(python, "family.py", &[])?;
        let attached = Memory::record(&["-p", &workload.pid.to_string()])?.start()?;
        ask(&mut workload, "exec")?;
        let heap = attached.stop()?.heap()?;
        let before = heap.line("family.py", line("# in the parent")?);
        ensure_within("before, allocated", before.allocated.bytes, LEAK, 0.05).with_context(|| heap.top())?;
        ensure!(
            before.live.bytes == 0,
            "{before:?} of a program that is gone\n{}",
            heap.top()
        );
        let after = heap.line("executed.py", line_of("executed.py", "# after the exec")?);
        ensure_within("after", after.live.bytes, LEAK, 0.05).with_context(|| heap.top())
    })
}

#[test]
fn a_target_that_ends_ends_the_recording_and_what_it_had_is_told() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let mut workload = memory::run(python, "family.py", &[])?;
        // For as long as it lives.
        let attached = Memory::record(&["-p", &workload.pid.to_string(), "-d", "600"])?.start()?;
        ask(&mut workload, "end")?;
        let ended = workload.wait()?;
        ensure!(ended.code() == Some(7), "it was to end by itself, not with {ended}");
        let heap = attached.finish()?.success()?.heap()?;
        let line = heap.line("family.py", line("# in the parent")?);
        ensure_within("allocated", line.allocated.bytes, LEAK, 0.05).with_context(|| heap.top())?;
        // Of the process that the recording is about, "live" is what it had when it ended: nothing else would be left to
        // show of it.
        ensure_within("what it had", line.live.bytes, LEAK, 0.05).with_context(|| heap.top())?;
        Ok(())
    })
}

#[test]
fn a_command_is_recorded_from_its_beginning_on() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let directory = memory::copy(python)?;
        let command = python.command();
        let script = python.seen(&directory.path().join("executed.py"));
        let taken = Memory::record(&[])?
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args())
            .arg(script)
            .succeed()?;
        let heap = taken.heap()?;
        let line = heap.line("executed.py", line_of("executed.py", "# after the exec")?);
        ensure_within("allocated", line.allocated.bytes, LEAK, 0.05).with_context(|| heap.top())
    })
}

#[test]
fn a_process_that_starts_later_is_seen_with_the_whole_machine() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let attached = Memory::record(&["-a"])?.start()?;
        let mut workload = memory::run(python, "leak.py", &["300", "16"])?;
        let truth = ask(&mut workload, "go")?;
        let heap = attached.stop()?.heap()?.of(workload.pid);
        for (name, comment) in [("small", "# small objects"), ("large", "# large bytes")] {
            let line = heap.line("leak.py", line_of("leak.py", comment)?);
            let known = number(&truth, &format!("/{name}/bytes"))?;
            // What came while it warmed up is one of the large ones more.
            let more = match name {
                "large" => known / number(&truth, "/large/count")?,
                _ => 0,
            };
            // What is followed of each CPU's faults is shared with all that runs there, and the rest is estimated.
            ensure_within(name, line.live.bytes, known + more, 0.1).with_context(|| heap.top())?;
        }
        Ok(())
    })
}

#[test]
fn a_program_without_python_has_native_stacks_and_is_ranked_among_all() -> Result<()> {
    let _serial = serial();
    let (_directory, program) = compile("memory/grow.c", "grower", &[])?;
    let start = || Workload::command(std::process::Command::new(&program), None);

    let mut workload = start()?;
    let known = number(&workload.truth[0], "/bytes")?;
    let before = Resident::of(workload.pid)?;
    let attached = Memory::record(&["-a"])?.start()?;
    ask(&mut workload, "grow")?;
    let growth = Resident::of(workload.pid)?.all - before.all;
    ensure_within("the workload's own", growth, known, 0.03)?;
    let heap = attached.stop()?.heap()?.of(workload.pid);
    for function in ["leaking", "business", "main"] {
        ensure_within(function, heap.function(function).live.bytes, known, 0.1).with_context(|| heap.top())?;
    }

    let mut workload = start()?;
    let attached = Memory::command(&["-a", "--by", "process", "--top", "5"])?.start()?;
    ask(&mut workload, "grow")?;
    let taken = attached.stop()?;
    let rows = memory::rows(&taken)?;
    // Others may work on this machine, too.
    ensure!(
        rows.iter().take(3).any(|row| row.contains("grower")),
        "not among the first of\n{}",
        rows.join("\n")
    );
    Ok(())
}
