//! Stacks that are hard to unwind. Each program is one of `workloads/whole/hard.c`, whose calls are known.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    folded::{Folded, is},
    pattern::{Pattern, is_native},
    profiler::Profiler,
    serial::serial,
    whole::{ensure_shapes, let_run, of_process, record, record_machine, user_parts},
    workload::Workload,
    workshop::Workshop,
};

use crate::RATE;

/// Of a program that is linked as most are.
const START: &str = "_start @libc.so main";
const CHAIN: &str = "hard_chain chain_outer chain_inner spin";

#[test]
fn a_program_without_frame_pointers_has_its_whole_stack() -> Result<()> {
    check(&["chain"], &[&format!("{START} {CHAIN}")], 0.99)
}

#[test]
fn a_thread_begins_where_glibc_cloned_it() -> Result<()> {
    check(
        &["thread"],
        &["@libc.so thread_entry chain_outer chain_inner spin"],
        0.99,
    )
}

/// The fault is at the first instruction of `interrupted`: the address of an interrupted frame is no return address.
#[test]
fn a_signal_handler_s_stack_goes_on_in_what_it_interrupted() -> Result<()> {
    let pattern = format!("{START} hard_fault interrupted ! handler handler_inner spin");
    check(&["fault"], &[&pattern], 0.99)
}

#[test]
fn a_handler_on_another_stack_goes_on_in_what_it_interrupted() -> Result<()> {
    let pattern = format!("{START} hard_fault_on_other_stack interrupted ! handler handler_inner spin");
    check(&["fault-on-other-stack"], &[&pattern], 0.99)?;
    let pattern = format!("{START} hard_timer spin_until_interrupted ! handler handler_inner spin");
    check(&["timer"], &[&pattern], 0.99)
}

#[test]
fn what_a_longjmp_left_is_not_in_the_stack() -> Result<()> {
    let before = format!("{START} hard_jump {} spin_a_little", "jump_deep ".repeat(10));
    let after = format!("{START} hard_jump after_jump spin_a_little");
    // Jumping itself takes a per cent of the time.
    let folded = checked(&["jump"], &[&before, &after], 0.95)?;
    for pattern in [before, after] {
        let pattern = Pattern::new(pattern);
        let share = folded.share(|stack| pattern.is(stack));
        ensure!(share > 0.3, "{:.1} % are {pattern}\n{folded}", share * 100.0);
    }
    ensure_shapes(&folded, &[&format!("{START} hard_jump *")], 0.99)
}

/// glibc does not say that nothing called `__start_context`, so whoever unwinds may find that the stack is not whole.
#[test]
fn a_stack_made_by_makecontext_ends_where_it_begins() -> Result<()> {
    let stack = "~libc.so context_outer chain_inner spin";
    check(&["context"], &[stack, &format!("[native% {stack}")], 0.99)
}

#[test]
fn functions_that_realign_their_stack_have_callers() -> Result<()> {
    let pattern =
        format!("{START} hard_realigned variable_length realigned_for_vectors realigned_by_attribute chain_inner spin");
    check(&["realigned"], &[&pattern], 0.99)
}

#[test]
fn prologues_and_epilogues_are_unwound_at_every_instruction() -> Result<()> {
    let inside = format!("{START} hard_prologue prologue_caller prologue_only");
    let patterns = [
        &inside,
        &format!("{START} hard_prologue prologue_caller"),
        &format!("{START} hard_prologue"),
    ];
    let folded = checked(&["prologue"], &patterns.map(String::as_str), 0.99)?;
    let inside = Pattern::new(inside);
    ensure!(folded.share(|stack| inside.is(stack)) > 0.5, "{folded}");
    Ok(())
}

#[test]
fn a_base_pointer_that_holds_something_else_misleads_nobody() -> Result<()> {
    let pattern = format!("{START} hard_base_pointer chain_outer chain_inner spin");
    check(&["base-pointer"], &[&pattern], 0.99)
}

#[test]
fn a_call_at_the_end_of_a_function_belongs_to_it() -> Result<()> {
    let pattern = format!("{START} hard_noreturn ends_in_a_call never_returns spin");
    check(&["noreturn"], &[&pattern], 0.99)
}

#[test]
fn stubs_of_the_linkage_table_have_callers() -> Result<()> {
    let _serial = serial();
    let styles: [(&str, &[&str]); 3] = [
        ("lazy", &["-fplt", "-Wl,-z,lazy"]),
        (
            "lazy, with branch tracking",
            &["-fplt", "-fcf-protection", "-Wl,-z,lazy,-z,ibtplt"],
        ),
        ("none", &["-fno-plt"]),
    ];
    for (style, flags) in styles {
        let build = Build::with_library(flags)?;
        let folded = build.record(&["plt"])?;
        let patterns = [format!("{START} hard_plt"), format!("{START} hard_plt !")];
        ensure_shapes(&folded, &[&patterns[0], &patterns[1]], 0.99).context(style)?;
        let in_stub = folded.share(|stack| {
            stack
                .last()
                .is_some_and(|leaf| !is(leaf, "hard_plt") && !is(leaf, "library_nothing"))
        });
        ensure!(
            (style == "none") == (in_stub < 0.005),
            "{style}: {:.1} % in the stub\n{folded}",
            in_stub * 100.0
        );
    }
    Ok(())
}

#[test]
fn a_function_that_is_being_resolved_has_callers_or_says_why_not() -> Result<()> {
    let _serial = serial();
    let build = Build::with_library(&["-fplt", "-Wl,-z,lazy"])?;
    let folded = build.record(&["resolve"])?;
    // The stub, the code that saves the registers, and the search for the symbol.
    let resolving = format!("{START} hard_resolve library_many *");
    // The code that saves the registers finds its caller through `rbx`, which is not followed from frame to frame: it
    // would cost every stack something, and a function is resolved once. perf's unwinder, which has all of the stack
    // and all registers, gets these right.
    let cut = "[native% _dl_runtime_resolve% *";
    ensure_shapes(&folded, &[&resolving, &format!("{START} hard_resolve *"), cut], 0.99)?;
    let in_loader = folded.only(|stack| stack.last().is_some_and(|leaf| leaf.contains("ld-linux")));
    ensure_shapes(&in_loader, &[&resolving, cut], 0.99)
}

#[test]
fn code_that_is_loaded_while_recording_is_unwound() -> Result<()> {
    let _serial = serial();
    let build = Build::with_library(&[])?;
    let mut workload = build.start(&["dlopen", &build.library()?])?;
    let pid = workload.pid.to_string();
    let recording = Profiler::record(&["-p", &pid, "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
    workload.tell("go")?;
    workload.expect("LOADED")?;
    let_run(workload.pid, 2.0)?;
    let folded = user_parts(&recording.stop()?.folded()?);
    // The first moments are over before its table is made.
    ensure_shapes(
        &folded,
        &[&format!("{START} hard_dlopen library_outer library_spin")],
        0.95,
    )
}

#[test]
fn glibc_s_functions_in_assembler_have_callers() -> Result<()> {
    let inside = format!("{START} hard_strings @libc.so");
    let folded = checked(&["strings"], &[&inside, &format!("{START} hard_strings")], 0.99)?;
    let inside = Pattern::new(inside);
    ensure!(folded.share(|stack| inside.is(stack)) > 0.8, "{folded}");
    Ok(())
}

#[test]
fn the_vdso_has_callers_and_names() -> Result<()> {
    let inside = format!("{START} hard_vdso ~libc.so @[vdso,vdso");
    // The stub through which `clock_gettime` is called has no name, and on some machines 2 % of the samples.
    let patterns = [
        &inside,
        &format!("{START} hard_vdso ~libc.so"),
        &format!("{START} hard_vdso @hard"),
    ];
    let folded = checked(&["vdso"], &patterns.map(String::as_str), 0.99)?;
    let inside = Pattern::new(inside);
    ensure!(folded.share(|stack| inside.is(stack)) > 0.5, "{folded}");
    Ok(())
}

#[test]
fn a_child_that_goes_on_without_exec_is_unwound_as_its_parent() -> Result<()> {
    let _serial = serial();
    let build = Build::new(&[])?;
    for when in ["early", "late"] {
        let mut workload = build.start(&["fork", when])?;
        let pid = workload.pid.to_string();
        let recording = Profiler::record(&["-p", &pid, "-s", "-r", RATE, "-f", "folded", "-o", "-"]).start()?;
        workload.tell("go")?;
        let truth = match workload.truth.first() {
            Some(truth) => truth.clone(),
            None => workload.value()?,
        };
        let child = u32::try_from(truth["child"].as_u64().context("no child")?)?;
        let_run(child, 1.0)?;
        let folded = recording.stop()?.folded()?;
        let stacks = user_parts(&of_process(&folded, child));
        let pattern = format!("{START} hard_fork forked_child chain_outer chain_inner spin");
        ensure_shapes(&stacks, &[&pattern], 0.97).with_context(|| format!("forked {when}\n{folded}"))?;
    }
    Ok(())
}

#[test]
fn a_program_whose_file_is_deleted_is_unwound_and_named() -> Result<()> {
    let _serial = serial();
    let build = Build::new(&[])?;
    let workload = build.start(&["chain"])?;
    fs::remove_file(&build.program)?;
    check_chain(&workload, START)
}

#[test]
fn a_program_in_a_file_without_a_directory_is_unwound_and_named() -> Result<()> {
    let _serial = serial();
    let build = Build::new(&[])?;
    let launcher = build.workshop.c("memfd.c", "memfd", &[])?;
    let mut command = Command::new(launcher);
    command.arg(&build.program).arg("chain");
    let workload = Workload::command(command, None)?;
    fs::remove_file(&build.program)?;
    check_chain(&workload, START)
}

/// By process, and as part of the machine, where files are found on another way.
fn check_chain(workload: &Workload, start: &str) -> Result<()> {
    let pattern = format!("{start} {CHAIN}");
    let recorded = record(workload.pid, 0.7, RATE)?;
    ensure_shapes(&user_parts(&recorded.folded), &[&pattern], 0.99)?;
    let recorded = record_machine(workload.pid, 0.7, RATE)?;
    let stacks = user_parts(&of_process(&recorded.folded, workload.pid));
    ensure_shapes(&stacks, &[&pattern], 0.99).context("-a")
}

#[test]
fn generated_code_with_frame_pointers_has_callers_and_callees() -> Result<()> {
    let pattern = format!("{START} hard_jit [anonymous] [anonymous] jit_callback chain_inner spin");
    check(&["jit"], &[&pattern], 0.99)
}

#[test]
fn generated_code_is_named_by_its_perf_map() -> Result<()> {
    let _serial = serial();
    let build = Build::new(&[])?;
    let workload = build.start(&["jit", "map"])?;
    let map = RemovedAtEnd(PathBuf::from(format!("/tmp/perf-{}.map", workload.pid)));
    ensure!(map.0.exists(), "the workload has written no map");
    let folded = record(workload.pid, 1.0, RATE)?.folded;
    let pattern = format!("{START} hard_jit jitted_outer% jitted_inner(int)% jit_callback chain_inner spin");
    ensure_shapes(&user_parts(&folded), &[&pattern], 0.99)
}

#[derive(Debug)]
struct RemovedAtEnd(PathBuf);

impl Drop for RemovedAtEnd {
    fn drop(&mut self) {
        // The workload wrote it, so it is there; if not, all the better.
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn two_hundred_and_forty_native_frames_are_all_there() -> Result<()> {
    let pattern = format!("{START} hard_deep {} spin", "descend ".repeat(240));
    check(&["deep", "240"], &[&pattern], 0.99)
}

#[test]
fn a_deeper_native_stack_keeps_its_leaf_and_is_marked_as_truncated() -> Result<()> {
    let _serial = serial();
    let build = Build::new(&[])?;
    let workload = build.start(&["deep", "3000"])?;
    let recorded = record(workload.pid, 1.0, RATE)?;
    let folded = user_parts(&recorded.folded);
    let right = folded.share(|stack| {
        let [marker, frames @ .., leaf] = stack else {
            return false;
        };
        let kept = frames.iter().filter(|frame| is(frame, "descend")).count();
        marker.starts_with('[')
            && marker.contains("truncated")
            && kept == frames.len()
            && kept >= 255
            && is(leaf, "spin")
    });
    ensure!(
        folded.total() > 50 && right >= 0.99,
        "{:.1} % are as they should be\n{folded}",
        right * 100.0
    );
    // Said, and not taken for whole.
    ensure!(
        recorded.native.complete == 0 && recorded.outcome.stderr.contains("truncated"),
        "{:?}\n{}",
        recorded.native,
        recorded.outcome.stderr
    );
    Ok(())
}

#[test]
fn a_program_with_frame_pointers_instead_of_tables_is_unwound() -> Result<()> {
    let _serial = serial();
    let build = Build::new(&[
        "-fno-omit-frame-pointer",
        "-DWITH_FRAMES",
        "-fno-asynchronous-unwind-tables",
        "-fno-unwind-tables",
        "-fno-optimize-sibling-calls",
    ])?;
    let folded = build.record(&["chain"])?;
    // Between a function's first two instructions there is no frame yet.
    ensure_shapes(&folded, &[&format!("{START} {CHAIN}")], 0.97)
}

#[test]
fn a_program_whose_tables_are_among_its_debug_information_is_unwound() -> Result<()> {
    let _serial = serial();
    let build = Build::new(&["-g", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"])?;
    let folded = build.record(&["chain"])?;
    ensure_shapes(&folded, &[&format!("{START} {CHAIN}")], 0.99)
}

#[test]
fn programs_that_are_linked_otherwise_are_unwound() -> Result<()> {
    let _serial = serial();
    for flags in [
        &["-static-pie"][..],
        &["-static"],
        &["-no-pie"],
        &["-Wl,-z,noseparate-code"],
        &["-Wl,--hash-style=sysv", "-Wl,--no-eh-frame-hdr"],
    ] {
        let build = Build::new(flags)?;
        let folded = build.record(&["chain"])?;
        // A static program's glibc is in its own file.
        ensure_shapes(&folded, &[&format!("_start @libc.so,hard main {CHAIN}")], 0.99)
            .with_context(|| format!("{flags:?}"))?;
    }
    Ok(())
}

#[test]
fn a_stripped_program_is_unwound_and_its_functions_read_as_addresses() -> Result<()> {
    let _serial = serial();
    let build = Build::new(&["-s"])?;
    check_stripped(&build)
}

#[test]
fn a_program_without_section_headers_is_unwound() -> Result<()> {
    let _serial = serial();
    let build = Build::new(&["-s"])?;
    let mut bytes = fs::read(&build.program)?;
    // `e_shoff`, and `e_shentsize`, `e_shnum`, `e_shstrndx`.
    for range in [40..48, 58..64] {
        bytes.get_mut(range).context("no ELF header")?.fill(0);
    }
    fs::write(&build.program, bytes)?;
    check_stripped(&build)
}

fn check_stripped(build: &Build) -> Result<()> {
    let workload = build.start(&["chain"])?;
    let functions: Vec<(String, u64)> = workload
        .truth
        .iter()
        .filter_map(|function| Some((function["name"].as_str()?.to_owned(), function["offset"].as_u64()?)))
        .collect();
    ensure!(functions.len() == 5, "{:?}", workload.truth);
    let folded = user_parts(&record(workload.pid, 1.0, RATE)?.folded);
    // What the addresses mean, which only the program knows.
    let mut named = Folded::default();
    for (stack, count) in &folded.stacks {
        let stack = stack.iter().map(|frame| {
            let address = frame.strip_prefix("[hard+0x").and_then(|rest| rest.strip_suffix(']'));
            let address = address.and_then(|address| u64::from_str_radix(address, 16).ok());
            let function = address.and_then(|address| {
                let before = functions.iter().filter(|(_, offset)| *offset <= address);
                before.max_by_key(|(_, offset)| *offset)
            });
            function.map_or_else(|| frame.clone(), |(name, _)| format!("{name} (hard)"))
        });
        *named.stacks.entry(stack.collect()).or_default() += count;
    }
    // `_start` lies behind one of those functions.
    ensure_shapes(&named, &[&format!("! @libc.so main {CHAIN}")], 0.99).with_context(|| folded.to_string())?;
    let unnamed = folded.share(|stack| stack.iter().all(|frame| is_native(frame)));
    ensure!(unnamed >= 0.99, "{folded}");
    Ok(())
}

/// Builds the program as distributions build theirs, runs it, and looks at all of its stacks without the kernel's
/// frames.
fn check(arguments: &[&str], patterns: &[&str], least: f64) -> Result<()> {
    checked(arguments, patterns, least).map(drop)
}

/// Like [`check`]. Returns the stacks, for what else can be said of them.
fn checked(arguments: &[&str], patterns: &[&str], least: f64) -> Result<Folded> {
    let _serial = serial();
    let folded = Build::new(&[])?.record(arguments)?;
    ensure_shapes(&folded, patterns, least)?;
    Ok(folded)
}

/// `hard`, built in one way.
#[derive(Debug)]
struct Build {
    workshop: Workshop,
    program: PathBuf,
}

impl Build {
    fn new(flags: &[&str]) -> Result<Self> {
        let workshop = Workshop::new()?;
        let program = workshop.c("hard.c", "hard", &[&["-ldl", "-lpthread"], flags].concat())?;
        Ok(Self { workshop, program })
    }

    /// Linked with a library of its own.
    fn with_library(flags: &[&str]) -> Result<Self> {
        let workshop = Workshop::new()?;
        workshop.c("hard_library.c", "libhard.so", &[&["-shared", "-fPIC"], flags].concat())?;
        let folder = workshop.path().display();
        let (search, run) = (format!("-L{folder}"), format!("-Wl,-rpath,{folder}"));
        let link = ["-DWITH_LIBRARY", &search, &run, "-lhard", "-ldl", "-lpthread"];
        let program = workshop.c("hard.c", "hard", &[&link, flags].concat())?;
        Ok(Self { workshop, program })
    }

    fn library(&self) -> Result<String> {
        let library: &Path = &self.workshop.path().join("libhard.so");
        Ok(library.to_str().context("not UTF-8")?.to_owned())
    }

    fn start(&self, arguments: &[&str]) -> Result<Workload> {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        Workload::command(command, None)
    }

    /// A second of it, without the kernel's frames.
    fn record(&self, arguments: &[&str]) -> Result<Folded> {
        let workload = self.start(arguments)?;
        let folded = record(workload.pid, 1.0, RATE)?.folded;
        Ok(user_parts(&folded))
    }
}
