use std::ptr;

use super::*;

#[test]
fn rings_shrink_as_cpus_grow() {
    assert_eq!(
        [0, 1, 8, 9, 64, 100, 1024, 10_000].map(data_pages),
        [128, 128, 128, 64, 16, 8, 8, 8]
    );
}

/// Needs root or CAP_PERFMON; says so and passes elsewhere (the end-to-end tests need both anyway).
fn privileged() -> Option<Sideband> {
    match Sideband::open(&online_cpus()) {
        Ok(sideband) => Some(sideband),
        Err(error) => {
            eprintln!("skipped: {error:#}");
            None
        }
    }
}

fn online_cpus() -> Vec<u32> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("online cpus");
    let number = |text: &str| text.parse::<u32>().expect("a cpu number");
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first)..=number(last),
        None => number(part)..=number(part),
    };
    text.trim().split(',').flat_map(range).collect()
}

fn wait_for(sideband: &mut Sideband, events: &mut Vec<SidebandEvent>, last: impl Fn(&SidebandKind) -> bool) {
    while !events.iter().any(|event| last(&event.kind)) {
        let mut poll = libc::pollfd {
            fd: sideband.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid entry.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 10_000) };
        assert_eq!(ready, 1, "woken within ten seconds");
        sideband.drain(events);
    }
}

#[test]
fn a_program_that_is_started_is_seen_from_fork_to_exit() {
    let Some(mut sideband) = privileged() else { return };
    let mut child = std::process::Command::new("/bin/true")
        .spawn()
        .expect("start /bin/true");
    let born = child.id();
    let mut events = Vec::new();
    wait_for(
        &mut sideband,
        &mut events,
        |kind| matches!(kind, SidebandKind::Exit { pid, .. } if *pid == born),
    );
    child.wait().expect("reap");

    assert_eq!(sideband.unreadable(), 0);
    let position = |wanted: &dyn Fn(&SidebandKind) -> bool| {
        events.iter().position(|event| wanted(&event.kind)).expect("the event")
    };
    let me = std::process::id();
    let fork = position(
        &|kind| matches!(kind, SidebandKind::Fork { pid, parent_pid, .. } if (*pid, *parent_pid) == (born, me)),
    );
    let exec = position(&|kind| matches!(kind, SidebandKind::Exec { pid, comm } if *pid == born && comm == "true"));
    let libc_mapped = position(&|kind| {
        matches!(kind, SidebandKind::Mmap { pid, map, .. }
            if *pid == born && map.executable && map.path().is_some_and(|path| path.ends_with("libc.so.6")))
    });
    assert!(fork < exec && exec < libc_mapped, "{fork} {exec} {libc_mapped}");
}

/// Keeps the calling thread, which is this test's own, where it is.
fn stay_on_this_cpu() {
    // SAFETY: `set` is a plain bit set that lives across the calls; 0 is the calling thread.
    let pinned = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().unsigned_abs() as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(pinned, 0);
}

#[test]
fn a_full_ring_counts_what_it_loses_and_goes_on() {
    let Some(mut sideband) = privileged() else { return };
    // A ring reports its loss with its next record: on another CPU there may never be one.
    stay_on_this_cpu();
    // Each change of protection to executable is a record of about 100 bytes.
    // SAFETY: a new private mapping, unmapped below and used by nobody else.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            4096,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(page, libc::MAP_FAILED);
    let toggle = |times: usize| {
        for _ in 0..times {
            for protection in [libc::PROT_READ | libc::PROT_EXEC, libc::PROT_READ] {
                // SAFETY: the page mapped above.
                assert_eq!(unsafe { libc::mprotect(page, 4096, protection) }, 0);
            }
        }
    };
    let mine = |events: &[SidebandEvent]| {
        let here = |kind: &SidebandKind| matches!(kind, SidebandKind::Mmap { map, .. } if map.start == page as u64);
        events.iter().filter(|event| here(&event.kind)).count() as u64
    };
    let count = 20_000;
    toggle(count);
    let mut events = Vec::new();
    sideband.drain(&mut events);
    let seen = mine(&events);
    assert!(seen > 1000 && seen < count as u64, "{seen} seen");

    // The kernel reports a loss with the next record it has room for. A ring that was emptied wraps at another
    // place each time: nothing is unreadable.
    for _ in 0..100 {
        toggle(100);
        sideband.drain(&mut events);
    }
    assert_eq!(sideband.unreadable(), 0);
    assert!(sideband.lost() > 0);
    // Other tests' processes may lose records too, so this is a lower bound.
    assert!(mine(&events) + sideband.lost() >= count as u64 + 100 * 100);
    // SAFETY: the page mapped above.
    unsafe { libc::munmap(page, 4096) };
}

#[test]
fn a_cpu_that_leaves_keeps_its_last_words() {
    let Some(mut sideband) = privileged() else { return };
    std::process::Command::new("/bin/true").status().expect("run /bin/true");
    for cpu in online_cpus() {
        sideband.remove_cpu(cpu);
    }
    assert_eq!(sideband.ring_bytes(), 0);
    let mut events = Vec::new();
    sideband.drain(&mut events);
    assert!(
        events
            .iter()
            .any(|event| matches!(&event.kind, SidebandKind::Exec { comm, .. } if comm == "true"))
    );
    for cpu in online_cpus() {
        assert!(sideband.add_cpu(cpu).expect("allowed"));
        assert!(!sideband.add_cpu(cpu).expect("allowed"));
    }
    assert!(!sideband.add_cpu(100_000).unwrap_or(false), "there is no such cpu");
}
