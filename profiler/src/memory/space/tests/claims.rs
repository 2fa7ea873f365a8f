//! What a fault, a release, a fork or a pool means.

use super::super::super::pools::PoolHeader;
use super::*;

fn fixture() -> Fixture {
    let mut fixture = Fixture::new(Limits::default(), Thp::Madvise);
    fixture.map(0..4096, MapKind::Anonymous);
    fixture
}

#[test]
fn a_page_belongs_to_who_wrote_it_first_until_it_is_given_back() {
    let mut f = fixture();
    f.write(1, 7);
    f.write(2, 7);
    f.write(3, 8);
    assert_eq!((f.live(7), f.live(8)), (2, 1));
    f.unmap(2..4);
    assert_eq!((f.live(7), f.live(8)), (1, 0));
    assert_eq!((f.allocated(7), f.allocated(8)), (2, 1));
    assert_eq!(f.accounts.totals(8).temporary.count, 1);
}

#[test]
fn reading_costs_nothing_until_it_is_written_to() {
    let mut f = fixture();
    f.fault(1, false, false, 7);
    f.fault(2, false, false, 7);
    assert_eq!(f.live(7), 0);
    // The page of zeros is there, and is not writable.
    f.fault(1, true, true, 8);
    assert_eq!((f.live(7), f.live(8)), (0, 1));
    assert_eq!(f.growth.faults().zero, 2);
}

#[test]
fn a_write_to_what_is_shared_since_a_fork_is_a_copy_and_no_growth() {
    let mut f = fixture();
    f.write(1, 7);
    f.map(200..300, MapKind::PrivateFile);
    f.take(43, What::Fork { parent: PID });
    assert_eq!(f.live(7), 1);
    f.fault_of(43, 200, true, true, 1, 9);
    // The parent's own page, and a page from before the recording.
    f.fault(1, true, true, 8);
    f.fault(2, true, true, 8);
    // Both of them in the child, and one that is new.
    f.fault_of(43, 1, true, true, 1, 9);
    f.fault_of(43, 2, true, true, 1, 9);
    f.fault_of(43, 3, true, false, 1, 9);
    assert_eq!((f.live(7), f.live(8), f.live(9)), (1, 0, 1));
    let copied = |f: &Fixture, pid| f.growth.process(pid).expect("alive").copied.count;
    // Who writes second has the page for itself.
    assert_eq!((copied(&f, PID), copied(&f, 43)), (2, 1));
    assert_eq!(f.growth.copies(43, 0), [(9, Amount::sampled(PAGE, 1, 1))]);
    f.take(43, What::Exit);
    assert_eq!((f.live(7), f.live(9)), (1, 0));
    assert_eq!(f.growth.process(43), None);
}

#[test]
fn what_was_mapped_since_the_last_fork_has_nothing_to_copy_but_zeros() {
    let mut f = Fixture::new(Limits::default(), Thp::Madvise);
    f.growth.adopt(
        PID,
        &[Mapping {
            start: BASE,
            end: BASE + 100 * PAGE,
            kind: MapKind::Anonymous,
            mapped: Mapped::default(),
            advice: HugeAdvice::None,
            heap: false,
        }],
    );
    // It may have forked before it was adopted.
    f.fault(1, true, true, 7);
    f.map(50..60, MapKind::Anonymous);
    f.fault(51, true, true, 8);
    assert_eq!((f.live(7), f.live(8)), (0, 1));
    f.take(43, What::Fork { parent: PID });
    f.fault(52, true, true, 9);
    f.fault_of(43, 52, true, true, 1, 9);
    assert_eq!(f.live(9), 0);
    f.take(PID, What::Exec);
    f.fault(1, true, true, 10);
    assert_eq!(f.live(10), 1);
}

#[test]
fn a_private_file_page_is_the_files_when_read_and_the_writers_when_written() {
    let mut f = fixture();
    f.map(0..100, MapKind::PrivateFile);
    f.fault(1, false, false, 7);
    assert_eq!(f.live(7), 0);
    f.fault(1, true, true, 8);
    f.fault(2, true, false, 8);
    f.fault(2, true, true, 9);
    assert_eq!((f.live(8), f.live(9)), (2, 0));
    assert_eq!(f.growth.faults().file, 1);
}

#[test]
fn file_pages_are_apportioned_by_faults_to_what_was_measured_within_what_can_be() {
    let mut f = fixture();
    f.map(0..100, MapKind::Shared);
    for page in 0..3 {
        f.fault(page, false, false, 7);
    }
    f.fault(50, true, false, 8);
    let of = |f: &Fixture, bytes| f.growth.file_pages(PID, Pot::File, bytes);
    let share = |site, pages| FileShare {
        site,
        bytes: pages * PAGE,
        again: 0,
    };
    let file = of(&f, 32 * PAGE).expect("file pages");
    assert_eq!(
        (file.sites, file.factor, file.clamped),
        (vec![share(7, 24), share(8, 8)], 8.0, false)
    );
    let file = of(&f, 1 << 40).expect("file pages");
    assert_eq!((file.factor, file.clamped), (512.0, true));
    assert_eq!(of(&f, 0), None);
    assert_eq!(f.growth.file_pages(PID, Pot::Memory, PAGE), None);
    // What is gone does not get a share.
    f.unmap(0..10);
    assert_eq!(of(&f, 32 * PAGE).expect("file pages").sites, [share(8, 32)]);
    assert_eq!((f.live(7), f.live(8)), (0, 0));
}

#[test]
fn a_page_that_faults_again_was_taken_away_and_is_the_new_ones() {
    let mut f = fixture();
    f.write(1, 7);
    f.fault(1, false, false, 8);
    assert_eq!((f.live(7), f.live(8)), (0, 1));
    assert_eq!((f.allocated(7), f.accounts.totals(7).temporary.count), (1, 1));
    assert_eq!(f.growth.faults().again, 1);
}

#[test]
fn advice_gives_back_what_it_covers() {
    for (advice, left) in [(4, 1), (8, 1), (9, 1), (24, 1), (3, 4), (21, 4)] {
        let mut f = fixture();
        for page in 0..4 {
            f.write(page, 7);
        }
        let (start, bytes) = (BASE, 3 * PAGE - 5);
        f.take(
            PID,
            What::Advise {
                start,
                bytes,
                advice,
                site: 9,
            },
        );
        assert_eq!(f.live(7), left, "advice {advice}");
    }
}

#[test]
fn a_new_mapping_replaces_what_was_there() {
    let mut f = fixture();
    f.write(1, 7);
    f.write(5, 7);
    f.map(0..4, MapKind::Shared);
    assert_eq!(f.live(7), 1);
    f.fault(1, true, false, 8);
    assert_eq!(f.live(8), 0);
}

#[test]
fn moved_pages_keep_their_owner_and_shrinking_gives_back() {
    let mut f = fixture();
    for page in 0..4 {
        f.write(page, 7);
    }
    f.write(1000, 8);
    let remap = |old, old_pages, new, new_pages| What::Remap {
        old: BASE + old * PAGE,
        old_bytes: old_pages * PAGE,
        new: BASE + new * PAGE,
        new_bytes: new_pages * PAGE,
        site: 0,
    };
    f.take(PID, remap(0, 4, 1000, 8));
    assert_eq!((f.live(7), f.live(8)), (4, 0));
    f.unmap(0..10);
    assert_eq!(f.live(7), 4);
    f.take(PID, remap(1000, 8, 1000, 3));
    assert_eq!(f.live(7), 3);
    f.take(PID, remap(1000, 3, 1000, 500));
    f.write(1400, 7);
    assert_eq!(f.live(7), 4);
}

#[test]
fn the_heap_shrinks_with_the_break() {
    let mut f = Fixture::new(Limits::default(), Thp::Madvise);
    f.growth.adopt(
        PID,
        &[Mapping {
            start: BASE,
            end: BASE + 4 * PAGE,
            kind: MapKind::Anonymous,
            mapped: Mapped::default(),
            advice: HugeAdvice::None,
            heap: true,
        }],
    );
    let to = |pages: u64| What::Break {
        end: BASE + pages * PAGE - 100,
        site: 0,
    };
    f.take(PID, to(8));
    for page in 0..8 {
        f.write(page, 7);
    }
    f.take(PID, to(6));
    assert_eq!(f.live(7), 6);
    assert_eq!(f.growth.faults().strangers, 0);
}

#[test]
fn after_exec_and_exit_nothing_lives() {
    let mut f = fixture();
    f.write(1, 7);
    f.take(PID, What::Exec);
    assert_eq!((f.live(7), f.allocated(7)), (0, 1));
    f.write(1, 8);
    f.take(PID, What::Exit);
    assert_eq!(f.live(8), 0);
    assert_eq!(f.accounts.live(), Amount::default());
    // What comes late makes no process of it.
    f.unmap(0..10);
    assert_eq!(f.growth.processes().count(), 0);
}

#[test]
fn a_fault_in_a_process_that_nobody_knows_is_growth_and_counted() {
    let mut f = Fixture::new(Limits::default(), Thp::Always);
    f.write(1, 7);
    assert_eq!((f.live(7), f.growth.faults().strangers), (1, 1));
}

/// The first page of an aligned 2 MiB of which `EveryThird` says this.
fn region(of: PageSize) -> u64 {
    (0..3)
        .map(|n| n * 512)
        .find(|page| EveryThird::at(BASE + page * PAGE) == of)
        .expect("one of three")
}

fn advise(f: &mut Fixture, pages: std::ops::Range<u64>, advice: i32) {
    let (start, bytes) = (BASE + pages.start * PAGE, (pages.end - pages.start) * PAGE);
    f.take(
        PID,
        What::Advise {
            start,
            bytes,
            advice,
            site: 9,
        },
    );
}

fn map(
    f: &mut Fixture,
    pid: u32,
    pages: std::ops::Range<u64>,
    kind: MapKind,
    mapped: Mapped,
    populated: Option<Populated>,
) {
    let (start, bytes) = (BASE + pages.start * PAGE, (pages.end - pages.start) * PAGE);
    let reserved = false;
    f.take(
        pid,
        What::Map {
            start,
            bytes,
            kind,
            mapped,
            populated,
            reserved,
            site: 7,
        },
    );
}

#[test]
fn what_is_populated_to_be_written_is_there_and_what_is_read_is_zeros() {
    let mut f = fixture();
    map(
        &mut f,
        PID,
        0..100,
        MapKind::Anonymous,
        Mapped::default(),
        Some(Populated::Written),
    );
    map(
        &mut f,
        PID,
        100..200,
        MapKind::Anonymous,
        Mapped::default(),
        Some(Populated::Read),
    );
    assert_eq!(f.live(7), 100);
    f.fault(150, true, true, 8);
    assert_eq!((f.live(7), f.live(8)), (100, 1));
    // The rest of it, and nothing twice.
    for _ in 0..3 {
        advise(&mut f, 0..200, 23);
    }
    assert_eq!((f.live(7), f.live(8), f.live(9)), (100, 1, 99));
    assert_eq!(f.allocated(9), 99);
}

#[test]
fn what_was_there_before_the_recording_does_not_come_by_advice() {
    let mut f = fixture();
    f.growth.adopt(
        PID,
        &[Mapping {
            start: BASE,
            end: BASE + 100 * PAGE,
            kind: MapKind::Anonymous,
            mapped: Mapped::default(),
            advice: HugeAdvice::None,
            heap: false,
        }],
    );
    advise(&mut f, 0..100, 23);
    assert_eq!(f.live(9), 0);
}

#[test]
fn advice_in_a_loop_is_not_followed_for_ever() {
    let mut f = fixture();
    f.map(0..1 << 18, MapKind::Anonymous);
    for page in (0..20_000).step_by(2) {
        f.write(page, 7);
    }
    for _ in 0..1_000 {
        advise(&mut f, 0..1 << 18, 23);
    }
    assert_eq!((f.live(7), f.live(9)), (10_000, (1 << 18) - 10_000));
    // All others are told as lost, each with all of its pages.
    let followed = 1_000 - f.growth.lost().memory.bytes / (PAGE << 18);
    assert!((2..50).contains(&followed), "{followed}");
}

#[test]
fn shared_memory_is_apart_from_files_and_counts_for_who_touched_it_first() {
    let mut f = fixture();
    let block = |start: u64| Mapped::new(26, 5, 0, BASE + start * PAGE, true);
    map(&mut f, PID, 0..32, MapKind::Shared, block(0), None);
    map(
        &mut f,
        PID,
        100..132,
        MapKind::Shared,
        Mapped::new(8, 6, 0, BASE + 100 * PAGE, false),
        None,
    );
    for page in 0..32 {
        f.fault(page, true, false, 7);
    }
    f.fault(100, false, false, 8);
    // Another process has it elsewhere, and one part more of it.
    map(&mut f, 43, 500..548, MapKind::Shared, block(500), None);
    for page in [500, 516, 532] {
        f.fault_of(43, page, false, false, 1, 9);
    }
    let sites = |f: &Fixture, pid, pot| f.growth.file_pages(pid, pot, 48 * PAGE).map(|pages| pages.sites);
    let share = |site, bytes, again| FileShare {
        site,
        bytes: bytes * PAGE,
        again: again * PAGE,
    };
    assert_eq!(sites(&f, PID, Pot::Memory), Some(vec![share(7, 48, 0)]));
    assert_eq!(sites(&f, PID, Pot::File), Some(vec![share(8, 48, 0)]));
    assert_eq!(sites(&f, 43, Pot::Memory), Some(vec![share(9, 16, 32)]));
}

#[test]
fn what_a_page_was_before_tells_a_copy_from_a_first_write() {
    let mut f = fixture();
    f.growth.adopt(
        PID,
        &[Mapping {
            start: BASE,
            end: BASE + 100 * PAGE,
            kind: MapKind::Anonymous,
            mapped: Mapped::default(),
            advice: HugeAdvice::None,
            heap: false,
        }],
    );
    let first = BASE / PAGE;
    let before = [
        (first, 10, Before::Shared),
        (first + 10, 10, Before::Zeros),
        (first + 20, 10, Before::Own),
    ];
    f.growth.set_before(PID, &before);
    for page in [1, 11, 21, 31] {
        f.fault(page, true, true, 7);
        f.fault(page, true, true, 8);
    }
    assert_eq!((f.live(7), f.live(8)), (1, 0));
    assert_eq!(f.growth.copies(PID, 0), [(7, Amount::sampled(PAGE, 1, 1))]);
    // Of page 31 it is not known.
    assert_eq!(f.growth.faults().perhaps_copied, 2);
    // Once its child is gone nobody has it any more.
    f.take(43, What::Fork { parent: PID });
    f.fault(22, true, true, 9);
    f.take(43, What::Exec);
    f.fault(23, true, true, 9);
    assert_eq!(f.growth.copies(PID, 0).len(), 2);
    f.unmap(0..100);
    assert_eq!(f.growth.copies(PID, 0), []);
}

#[test]
fn one_fault_brings_a_huge_page_where_it_was_asked_for_and_is_one() {
    let (small, huge, gone) = (
        region(PageSize::Small),
        region(PageSize::Huge),
        region(PageSize::Unknown),
    );
    let mut f = fixture();
    f.write(huge + 5, 6);
    advise(&mut f, 0..4096, 4);
    advise(&mut f, 0..2048, 14);
    f.write(huge + 5, 7);
    f.write(small + 5, 8);
    f.write(gone + 5, 9);
    assert_eq!((f.live(6), f.live(7), f.live(8), f.live(9)), (0, 512, 1, 512));
    f.unmap(huge + 100..huge + 200);
    assert_eq!(f.live(7), 412);
    // The rest is small pages now.
    f.map(huge + 100..huge + 200, MapKind::Anonymous);
    advise(&mut f, 0..2048, 14);
    f.write(huge + 150, 10);
    assert_eq!(f.live(10), 1);
}

#[test]
fn no_huge_page_comes_where_one_does_not_fit_or_small_ones_are() {
    let huge = region(PageSize::Huge);
    let mut f = fixture();
    f.write(huge + 5, 7);
    advise(&mut f, 0..2048, 14);
    f.write(huge + 6, 7);
    assert_eq!(f.live(7), 2);
    f.map(huge + 511..huge + 512, MapKind::Shared);
    advise(&mut f, huge..huge + 511, 4);
    f.write(huge + 6, 8);
    assert_eq!(f.live(8), 1);
    f.unmap(0..4096);
    f.map(0..4096, MapKind::Anonymous);
    advise(&mut f, 0..4096, 14);
    advise(&mut f, huge..huge + 10, 15);
    f.write(huge + 100, 9);
    assert_eq!(f.live(9), 1);
}

#[test]
fn a_huge_page_of_zeros_is_replaced_as_a_whole() {
    let huge = region(PageSize::Huge);
    let mut f = fixture();
    advise(&mut f, 0..2048, 14);
    f.fault(huge + 5, false, false, 7);
    assert_eq!(f.live(7), 0);
    f.fault(huge + 9, true, true, 8);
    assert_eq!(f.live(8), 512);
}

#[test]
fn a_sampled_huge_page_has_the_variance_of_one_draw_and_loses_it_in_parts() {
    let huge = region(PageSize::Huge);
    let mut f = fixture();
    advise(&mut f, 0..2048, 14);
    f.fault_of(PID, huge, true, false, 8, 7);
    assert_eq!(
        f.accounts.totals(7).live,
        Amount::sampled(HUGE_PAGE, 512, 8),
        "as one event"
    );
    f.unmap(huge..huge + 300);
    f.unmap(huge + 300..huge + 512);
    assert_eq!(f.accounts.totals(7).live, Amount::default());
}

#[test]
fn pages_of_an_older_pool_go_to_the_new_pools_site() {
    let mut f = fixture();
    f.pool(0, 7);
    for page in 0..4 {
        f.write(page, 7);
    }
    f.now_ns = 10 * SECOND;
    f.pool(0, 8);
    assert_eq!((f.live(7), f.live(8)), (0, 4));
    // The first pool came and went; the memory did so once for each.
    assert_eq!((f.allocated(7), f.allocated(8)), (4, 4));
    let aged = f.growth.live_older_than(f.now_ns, 0);
    assert_eq!(aged[&8].oldest_ns, 10 * SECOND);
    assert_eq!(f.accounts.live().count, 4);
}

#[test]
fn a_pools_first_page_may_be_touched_before_its_birth_is_told() {
    let mut f = fixture();
    f.write(0, 7);
    f.pool(0, 8);
    f.write(1, 9);
    assert_eq!((f.live(7), f.live(8), f.live(9)), (0, 1, 1));
    assert_eq!(f.allocated(7), 0);
}

#[test]
fn a_pool_in_memory_from_before_the_recording_is_no_growth() {
    let mut f = fixture();
    f.pool(0, 7);
    f.take(
        PID,
        What::Pool {
            address: 0,
            bytes: 16384,
            object_bytes: 64,
            weight: 3,
            site: 7,
        },
    );
    assert_eq!((f.live(7), f.allocated(7)), (0, 0));
    let totals: Vec<_> = f.growth.pools().collect();
    assert_eq!(totals.len(), 1);
    assert_eq!(
        (totals[0].0, totals[0].1.born.count, totals[0].1.without_address),
        (7, 4, 3)
    );
}

struct Headers;

impl PoolReader for Headers {
    /// Pool 0 holds nothing, 1 has objects, 2 is of another size now, 3 cannot be read.
    fn headers(&mut self, pid: u32, addresses: &[u64]) -> Vec<Option<PoolHeader>> {
        assert_eq!(pid, PID);
        let of = |address: u64| match (address - BASE) / (4 * PAGE) {
            0 => Some((0, 3)),
            1 => Some((20, 3)),
            2 => Some((20, 9)),
            _ => None,
        };
        addresses
            .iter()
            .map(|&address| of(address).map(|(used, size_class)| PoolHeader { used, size_class }))
            .collect()
    }
}

#[test]
fn pools_that_hold_nothing_in_the_end_are_the_allocators() {
    let mut f = fixture();
    for pool in 0..5 {
        f.pool(pool * 4, 7);
        for page in 0..4 {
            f.write(pool * 4 + page, 7);
        }
    }
    // The fifth one's memory is gone.
    f.unmap(16..20);
    f.growth.finish(SECOND, 99, &mut Headers, &mut f.accounts);
    assert_eq!((f.live(7), f.live(99)), (12, 4));
    assert_eq!((f.allocated(7), f.allocated(99)), (20, 0));
    let totals = f.growth.pools().next().expect("a site").1;
    assert_eq!((totals.free, totals.in_use, totals.unknown), (1, 1, 2));
    assert_eq!((totals.objects, totals.object_bytes), (20, 20 * 64));
    assert_eq!(f.growth.live_older_than(SECOND, 0)[&99].amount.count, 4);
}

#[test]
fn ages_are_told_by_site() {
    let mut f = fixture();
    f.write(0, 7);
    f.now_ns = 20 * SECOND;
    f.write(1, 7);
    f.write(9, 8);
    f.now_ns = 60 * SECOND;
    let old = f.growth.live_older_than(f.now_ns, 50 * SECOND);
    assert_eq!(old.len(), 1);
    assert_eq!(
        (old[&7].amount.count, old[&7].oldest_ns, old[&7].youngest_ns),
        (1, 0, 0)
    );
    let all = f.growth.live_older_than(f.now_ns, 0);
    assert_eq!((all[&7].amount.count, all[&7].youngest_ns), (2, 20 * SECOND));
    assert_eq!(all[&8].amount.count, 1);
}

fn few_runs(runs: usize) -> Fixture {
    let limits = Limits {
        runs,
        ..Limits::default()
    };
    let mut f = Fixture::new(limits, Thp::Never);
    f.map(0..4096, MapKind::Anonymous);
    f
}

#[test]
fn what_cannot_be_remembered_is_lost_by_name() {
    let mut f = few_runs(10);
    for page in 0..100 {
        f.write(page * 2, 7);
    }
    assert_eq!((f.live(7), f.allocated(7)), (10, 10));
    assert_eq!(f.growth.lost().memory.count, 90);
    f.unmap(0..4096);
    f.write(5, 7);
    assert_eq!(f.live(7), 1);
}

#[test]
fn giving_back_every_other_page_does_not_grow_the_recording() {
    let mut f = few_runs(10);
    for page in 0..1000 {
        f.write(page, 7);
    }
    for page in 0..500 {
        advise(&mut f, page * 2..page * 2 + 1, 4);
        assert!(f.growth.common.used.runs <= 10);
    }
    let lost = f.growth.lost().memory.count;
    assert!(lost > 0);
    assert_eq!(f.allocated(7) + lost, 1000);
    assert_eq!(f.live(7), f.growth.process(PID).expect("alive").live.count);
}

#[test]
fn addresses_that_cannot_be_never_panic() {
    let mut f = fixture();
    for address in [0, u64::MAX, u64::MAX - PAGE, 1 << 63, 1 << 56, (1 << 56) - 1] {
        for bytes in [0, 1, u64::MAX, 1 << 56] {
            let kind = MapKind::Anonymous;
            let site = 1;
            for what in [
                What::Map {
                    start: address,
                    bytes,
                    kind,
                    mapped: Mapped::default(),
                    populated: Some(Populated::Written),
                    reserved: false,
                    site,
                },
                What::Fault {
                    address,
                    write: true,
                    present: false,
                    weight: u32::MAX,
                    site,
                },
                What::Advise {
                    start: address,
                    bytes,
                    advice: 14,
                    site,
                },
                What::Advise {
                    start: address,
                    bytes,
                    advice: 23,
                    site,
                },
                What::Fault {
                    address,
                    write: true,
                    present: false,
                    weight: 0,
                    site,
                },
                What::Pool {
                    address,
                    bytes: u32::MAX,
                    object_bytes: 0,
                    weight: 0,
                    site,
                },
                What::Remap {
                    old: address,
                    old_bytes: bytes,
                    new: bytes,
                    new_bytes: address,
                    site,
                },
                What::Remap {
                    old: bytes,
                    old_bytes: address,
                    new: address,
                    new_bytes: bytes,
                    site,
                },
                What::Break { end: address, site },
                What::Break { end: bytes, site },
                What::Unmap { start: address, bytes },
                What::Fork { parent: PID },
            ] {
                f.take(PID, what);
            }
        }
    }
    f.take(PID, What::Exit);
    assert_eq!(f.growth.common.used, Used::default());
}
