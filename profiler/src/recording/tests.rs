use std::{
    io::{Read as _, Write as _},
    path::Path,
};

use profiler_common::record::{NATIVE_COMPLETE, PYTHON_NONE};

use super::*;
use crate::{
    decode::{RawRecord, RawStack},
    process::{
        self,
        sideband::{SidebandEvent, SidebandKind},
    },
    resolve::Location,
};

/// A sample of this very process, of one of many long stacks.
fn header(stack: u64) -> SampleHeader {
    SampleHeader {
        kind: 0,
        cpu: 0,
        pid: std::process::id(),
        tid: std::process::id(),
        time_ns: stack,
        stack: StackKey { hash: [stack, 0] },
        comm: [0; 16],
        instance: 0,
        python: PYTHON_NONE,
    }
}

fn stack(number: u64) -> RawStack {
    RawStack {
        kernel: Box::default(),
        native: (0..4096).map(|frame| number << 32 | frame).collect(),
        native_status: NATIVE_COMPLETE,
        python: Box::default(),
        python_flags: 0,
        python_status: PYTHON_NONE,
        place: StackKey { hash: [number, 0] },
    }
}

fn counted(recording: &Recording) -> u64 {
    let resolved: u64 = recording.ledger.samples.values().sum();
    let waiting = recording.table.iter().flat_map(|process| process.counts.values());
    let waiting: u64 = waiting.map(|counted| counted.count).sum();
    resolved + waiting
}

#[test]
fn raw_stacks_are_forgotten_when_there_are_too_many_and_their_samples_stay() {
    let mut recording = Recording::new(Scope::All, true);
    let mut stacks = 0;
    while recording.forget_stacks().stacks.is_empty() {
        assert!(recording.raw.bytes <= MOST_STACK_BYTES);
        recording.take(RawRecord::Stack(header(stacks), stack(stacks)));
        stacks += 1;
    }
    // What was on its way when the kernel side forgot: one stack by its key, and one that it sends again.
    recording.take(RawRecord::Sample(header(0)));
    recording.take(RawRecord::Stack(header(1), stack(1)));
    assert!(recording.forget_stacks().stacks.is_empty());
    assert!(recording.raw.bytes < MOST_STACK_BYTES / 100);

    recording.take(RawRecord::Sample(header(1)));
    assert_eq!(
        (recording.ledger.tally.lost_stacks, counted(&recording)),
        (0, stacks + 3)
    );
    recording.take(RawRecord::Sample(header(0)));
    assert_eq!(
        (recording.ledger.tally.lost_stacks, counted(&recording)),
        (1, stacks + 3)
    );
}

#[test]
fn what_was_counted_is_in_the_slice_of_its_window_in_which_it_was() {
    let needs = Needs {
        slices: true,
        ..Needs::default()
    };
    let mut recording = Recording::new(Scope::All, true).following(&needs);
    let taken = |recording: &mut Recording, number, ms: u64| {
        let mut header = header(number);
        header.time_ns = recording.slices_from_ns().expect("a beginning") + ms * 1_000_000;
        recording.take(RawRecord::Stack(header, short(number)));
    };
    let told = |window: &Window| {
        let times = &window.ledger.times;
        times
            .doublings()
            .map(|doublings| times.told(doublings).collect::<Vec<_>>())
    };
    taken(&mut recording, 1, 0);
    taken(&mut recording, 2, 31);
    taken(&mut recording, 1, 35);
    let Cut { window: first, .. } = recording.cut();
    assert_eq!(told(&first), Some(vec![vec![(0, 1), (3, 1)], vec![(3, 1)]]));
    // The next one has an axis of its own.
    taken(&mut recording, 2, 4);
    let Cut { window: second, .. } = recording.cut();
    assert_eq!(told(&second), Some(vec![vec![(0, 1)]]));
    let Cut { window: empty, .. } = recording.cut();
    assert_eq!(told(&empty), None);
    // Who does not ask for times keeps none.
    let mut recording = Recording::new(Scope::All, true);
    recording.take(RawRecord::Stack(header(1), short(1)));
    assert_eq!(told(&recording.finish()), None);
}

/// What a window has of each stack: its frames' addresses, where no file holds them.
fn anonymous(window: &Window) -> Vec<(Vec<u64>, u64)> {
    let locations: Vec<_> = window.ledger.resolved.locations().collect();
    let stacks: Vec<_> = window.ledger.resolved.stacks().collect();
    let address = |&location: &u32| match *locations[location as usize] {
        Location::Anonymous { address } => address,
        ref other => panic!("{other:?}"),
    };
    let samples = window.ledger.samples.iter();
    samples
        .map(|(sampled, &count)| (stacks[sampled.stack as usize].iter().map(address).collect(), count))
        .collect()
}

fn short(number: u64) -> RawStack {
    RawStack {
        native: Box::new([number]),
        ..stack(number)
    }
}

#[test]
fn a_window_has_what_was_counted_since_the_last_cut_and_stacks_stay_known() {
    fn is_send<T: Send>(_: &T) {}
    let mut recording = Recording::new(Scope::All, true);
    recording.take(RawRecord::Stack(header(1), short(1)));
    recording.take(RawRecord::Sample(header(1)));
    recording.take(RawRecord::Stack(header(2), short(2)));
    let Cut { window: first, .. } = recording.cut();
    // The kernel side does not send a stack again because we write a file.
    recording.take(RawRecord::Sample(header(2)));
    let Cut { window: second, .. } = recording.cut();
    let Cut { window: empty, .. } = recording.cut();
    recording.take(RawRecord::Sample(header(1)));
    let last = recording.finish();

    is_send(&first);
    assert_eq!(anonymous(&first), [(vec![1], 2), (vec![2], 1)]);
    assert_eq!(anonymous(&second), [(vec![2], 1)]);
    assert_eq!(anonymous(&empty), []);
    assert_eq!(anonymous(&last), [(vec![1], 1)]);
    let tallies = [&first, &second, &empty, &last].map(|window| (window.ledger.tally.samples, window.processes));
    assert_eq!(tallies, [(3, 1), (1, 1), (0, 0), (1, 1)]);
    assert_eq!((recording.samples(), recording.tally().lost_stacks), (5, 0));
}

#[test]
fn names_of_threads_and_processes_are_whole_in_each_window() {
    let mut recording = Recording::new(Scope::All, true);
    let named = |name: &[u8], stack| {
        let mut header = header(stack);
        header.comm[..name.len()].copy_from_slice(name);
        header
    };
    let names = |window: &Window| -> Vec<String> {
        let samples = window.ledger.samples.keys();
        samples
            .map(|sampled| window.ledger.thread_name(sampled.thread).to_owned())
            .collect()
    };
    let comm = process::comm::of(Path::new("/proc"), std::process::id());
    for (name, other) in [("first", "second"), ("second", "third"), ("first", "third")] {
        recording.take(RawRecord::Stack(named(name.as_bytes(), 1), short(1)));
        recording.take(RawRecord::Stack(named(other.as_bytes(), 1), short(1)));
        let Cut { window, .. } = recording.cut();
        assert_eq!(names(&window), [name, other]);
        let (sampled, _) = window.ledger.samples.first().expect("two samples");
        assert_eq!(window.ledger.name(sampled.comm), comm);
    }
}

#[test]
fn a_file_and_its_number_go_with_the_last_process_that_had_it_and_the_window_keeps_it() {
    let mut recording = Recording::new(Scope::All, true);
    let mut child = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("cat");
    let pid = child.id();
    // Its answer says that it runs: before, it may have mapped nothing yet.
    child.stdin.as_mut().expect("a pipe").write_all(b"x").expect("it reads");
    child
        .stdout
        .as_mut()
        .expect("a pipe")
        .read_exact(&mut [0])
        .expect("it answers");
    recording.adopt(pid);
    let files: Vec<_> = recording
        .files_of(pid)
        .map(|(id, file)| (id, file.path.clone()))
        .collect();
    let mapped = &recording.table.get(pid).expect("it lives").unwind_mappings()[0];
    let start = mapped.start;
    let header = SampleHeader {
        pid,
        tid: pid,
        ..header(1)
    };
    recording.take(RawRecord::Stack(header, short(start)));
    child.kill().expect("it lives");
    child.wait().expect("it lived");
    recording.apply(&SidebandEvent {
        time_ns: 2,
        kind: SidebandKind::Exit { pid, tid: pid },
    });
    let Cut {
        window, files: gone, ..
    } = recording.cut();
    let mut expected: Vec<FileId> = files.iter().map(|(id, _)| *id).collect();
    expected.sort_unstable_by_key(|id| id.index());
    expected.dedup();
    assert_eq!(gone, expected);
    let Some(Location::Native { file, .. }) = window.ledger.resolved.locations().next() else {
        panic!("a location in a file");
    };
    let path = &files.iter().find(|(id, _)| id == file).expect("one of its files").1;
    let held = window.file(*file);
    assert_eq!(&held.path, path);
    assert!(held.opened.as_ref().is_some_and(|opened| opened.map().is_ok()));
    assert_eq!(recording.files.iter().count(), 0);
}

#[test]
fn what_was_unmapped_since_is_named_in_its_window_and_let_go() {
    let mut recording = Recording::new(Scope::All, true);
    let own = std::process::id();
    let file = std::fs::File::open("/bin/true").expect("a small program");
    // SAFETY: nobody reads it, and a program that is replaced is another file.
    let map = unsafe { memmap2::MmapOptions::new().map_exec(&file) }.expect("room for it");
    recording.adopt(own);
    let address = map.as_ptr() as u64;
    recording.take(RawRecord::Stack(header(1), short(address)));
    recording.table.get_mut(own).expect("this process").mapped = 1000;
    drop(map);
    let Cut { window, files, .. } = recording.cut();
    let Some(&Location::Native { file, .. }) = window.ledger.resolved.locations().next() else {
        panic!("a location in a file");
    };
    let path = &window.file(file).path;
    assert!(path.ends_with("true"), "{}", path.display());
    assert_eq!(files, [file]);
}
