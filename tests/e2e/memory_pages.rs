//! Every way in which memory becomes resident counts as what the kernel says it is.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::{
    memory::{self, Account, Memory, Resident, ask, ensure_within, line_of, number},
    python::{self, Python},
    serial::serial,
    skip::skip,
    venv,
    workload::Workload,
};

const MIB: i64 = 1 << 20;
/// Of each thing in touch.py.
const SIZE: i64 = 16 * MIB;

/// Records touch.py while it does things, and returns what came of them: the account of a line, by its comment, what the
/// workload says of the last thing it did, and what was resident more.
struct Touched {
    account: Account,
    known: i64,
    growth: Resident,
    top: String,
    explained: f64,
}

fn touch(workload: &mut Workload, before: &[&str], things: &[&str], comment: &str) -> Result<Touched> {
    for thing in before {
        ask(workload, thing)?;
    }
    let then = Resident::of(workload.pid)?;
    let attached = Memory::record(&["-p", &workload.pid.to_string()])?.start()?;
    let mut known = 0;
    for thing in things {
        known += number(&ask(workload, thing)?, "/bytes")?;
    }
    let now = Resident::of(workload.pid)?;
    let taken = attached.stop()?;
    let heap = taken.heap()?;
    Ok(Touched {
        account: heap.line("touch.py", line_of("touch.py", comment)?),
        known,
        growth: Resident {
            all: now.all - then.all,
            anonymous: now.anonymous - then.anonymous,
            huge: now.huge - then.huge,
        },
        top: heap.top(),
        explained: taken.summary.explained()?,
    })
}

fn start(python: &Python) -> Result<Workload> {
    memory::run(python, "touch.py", &[])
}

fn ensure_known(touched: &Touched, share: f64) -> Result<()> {
    // The workload is right, or nothing is tested.
    ensure_within("resident", touched.growth.all, touched.known, 0.05)?;
    ensure_within("live", touched.account.live.bytes, touched.known, share).with_context(|| touched.top.clone())?;
    ensure!(
        (0.95..=1.05).contains(&touched.explained),
        "{:.1} % explained\n{}",
        touched.explained * 100.0,
        touched.top
    );
    Ok(())
}

#[test]
fn a_huge_page_is_two_mebibytes() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let touched = touch(&mut start(python)?, &[], &["huge"], "# huge pages")?;
        if touched.growth.huge < SIZE / 2 {
            skip(format!("this kernel gave {} bytes of huge pages", touched.growth.huge));
            return Ok(());
        }
        ensure_known(&touched, 0.05)
    })
}

#[test]
fn a_large_array_of_numpy_has_its_size_though_its_pages_are_huge() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let Some(interpreter) = venv::with(&python, &["numpy"])? else {
        return Ok(());
    };
    let python = Python {
        executable: interpreter,
        ..python
    };
    let touched = touch(&mut start(&python)?, &[], &["array"], "# an array of huge pages")?;
    ensure_known(&touched, 0.05)
}

/// Reading memory that nobody has written maps a page of the kernel's. What writes it makes the process grow, although the
/// page is there by then.
#[test]
fn a_page_that_is_only_read_is_nobody_s_until_it_is_written() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let read = touch(&mut start(python)?, &[], &["zero"], "# reads what nobody has written")?;
        ensure!(read.growth.all < MIB, "it grew by {:?}", read.growth);
        ensure!(
            read.account.live.bytes < MIB,
            "{:?} for the zero page\n{}",
            read.account,
            read.top
        );
        let written = touch(
            &mut start(python)?,
            &[],
            &["zero", "write"],
            "# writes what was only read",
        )?;
        ensure_known(&written, 0.05)
    })
}

/// As before, but nobody saw that it was only read: the fault is that of a copy on write, and the process grows.
#[test]
#[ignore = "a page of zeros from before the recording looks as one that is shared since a fork: its first write is taken for a copy"]
fn a_page_that_was_only_read_before_the_recording_counts_when_it_is_written() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let written = touch(
            &mut start(python)?,
            &["zero"],
            &["write"],
            "# writes what was only read",
        )?;
        ensure_known(&written, 0.05)
    })
}

/// One fault maps sixteen pages around it, or as many as the file's pages lie together in the page cache.
#[test]
fn a_mapped_file_counts_what_is_mapped_around_a_fault() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let touched = touch(&mut start(python)?, &[], &["file"], "# reads a mapped file")?;
        ensure_known(&touched, 0.1)
    })
}

#[test]
fn what_the_kernel_writes_for_the_process_is_the_callers() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        ensure_known(
            &touch(&mut start(python)?, &[], &["kernel"], "# the kernel writes")?,
            0.05,
        )
    })
}

/// The kernel maps such memory page by page within `mmap`: no page of it has a fault.
#[test]
fn memory_that_is_mapped_with_its_pages_is_who_mapped_it_s() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        ensure_known(
            &touch(&mut start(python)?, &[], &["populated"], "# mapped with its pages")?,
            0.05,
        )
    })
}

#[test]
fn memory_that_is_populated_in_name_only_does_not_come_and_by_advice_once() -> Result<()> {
    let _serial = serial();
    let python = python::any()?;
    let touched = touch(
        &mut start(&python)?,
        &[],
        &["populated_in_name", "populated_by_advice"],
        "# populated by advice",
    )?;
    ensure_known(&touched, 0.05)
}

#[test]
fn memory_that_is_mapped_with_its_pages_goes_with_its_mapping() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let touched = touch(
            &mut start(python)?,
            &[],
            &["populated_and_gone"],
            "# populated and given back",
        )?;
        ensure_within("allocated", touched.account.allocated.bytes, SIZE, 0.05).with_context(|| touched.top.clone())?;
        ensure!(
            touched.account.live.bytes < MIB,
            "{:?}\n{}",
            touched.account,
            touched.top
        );
        Ok(())
    })
}

#[test]
fn what_madvise_gives_back_is_not_live() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let touched = touch(&mut start(python)?, &[], &["advised"], "# given back by advice")?;
        ensure_within("allocated", touched.account.allocated.bytes, SIZE, 0.05)?;
        ensure!(
            touched.account.live.bytes < MIB,
            "{:?}\n{}",
            touched.account,
            touched.top
        );
        Ok(())
    })
}

#[test]
fn what_mremap_moves_stays_with_who_touched_it() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let touched = touch(&mut start(python)?, &[], &["moved"], "# moved")?;
        ensure_within("allocated", touched.account.allocated.bytes, SIZE, 0.05)?;
        ensure_known(&touched, 0.05)
    })
}

#[test]
fn mappings_that_come_and_go_are_allocated_each_time_and_never_live() -> Result<()> {
    let _serial = serial();
    python::each_kind(|python| {
        let touched = touch(&mut start(python)?, &[], &["cycle"], "# comes and goes")?;
        ensure_within("allocated", touched.account.allocated.bytes, SIZE, 0.05).with_context(|| touched.top.clone())?;
        ensure!(
            touched.account.live.bytes < MIB,
            "{:?}\n{}",
            touched.account,
            touched.top
        );
        Ok(())
    })
}
