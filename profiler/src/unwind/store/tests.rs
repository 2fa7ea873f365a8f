//! What the store writes, as the unwinder itself finds it.

use std::collections::{BTreeMap, BTreeSet};

use profiler_common::record::{
    NATIVE_COMPLETE, NATIVE_NO_ROOM, NATIVE_NOT_CODE, NATIVE_NOT_COVERED, NATIVE_TABLE_NOT_READY, NATIVE_UNSUPPORTED,
};
use profiler_common::unwind::{CFA_SP, FILE_NOT_READY, MAX_RULES};
use proptest::prelude::*;

use super::fake::{Fake, frame_at};
use super::*;

const SMALL: Sizes = Sizes {
    row_shards: 1,
    pages: 8,
    files: 6,
    mappings: 40,
    parts: 1,
};

fn store(sizes: Sizes) -> Store<Fake> {
    Store::new(Fake::new(sizes, 3))
}

/// A table whose rules no other has. Its pages have that many rows each.
fn table(id: u32, pages: &[u32]) -> Table {
    let mut table = Table {
        base: u64::from(id % 3) << 16,
        pages: Vec::new(),
        rows: Vec::new(),
        rules: vec![UnwindRule::default(); 2],
        unreadable: 0,
    };
    table.rules.extend((0..3).map(|local| UnwindRule {
        cfa: CFA_SP,
        cfa_offset: 8 * (100 * (id as i32 + 1) + local),
        ..UnwindRule::default()
    }));
    for &rows in pages {
        table.pages.push(UnwindPage {
            first: table.rows.len() as u32,
            rows,
        });
        let step = SHARD_ROWS as u32 / rows;
        let rows = (0..rows).map(|index| row((index * step) as u16, 2 + ((id + index) % 3) as u16));
        table.rows.extend(rows);
    }
    table
}

/// What the table itself says.
fn answer(table: &Table, address: u64) -> u64 {
    table.lookup(address).cfa_offset as u64
}

/// A file's code from here on.
fn place(file: u32, shift: u64) -> u64 {
    (u64::from(file) + 1) << 24 | shift << 32
}

fn mapping(file: u32, table: &Table, shift: u64) -> UnwindMapping {
    let start = place(file, shift);
    UnwindMapping {
        start,
        end: start + ((table.pages.len() as u64) << 16),
        to_file: table.base.wrapping_sub(start),
        file,
        reserved: 0,
    }
}

/// A mapping of no file, the n-th of many.
fn nameless(index: u64) -> UnwindMapping {
    UnwindMapping {
        start: index << 12,
        end: (index << 12) + 0x800,
        file: NO_FILE,
        ..UnwindMapping::default()
    }
}

fn find(store: &Store<Fake>, pid: u32, address: u64) -> Result<u64, u32> {
    frame_at(&store.memory, store.memory.processes[&pid], address)
}

fn later(store: &mut Store<Fake>, by: Duration) {
    store.advance(store.now + by);
}

#[test]
fn a_process_is_unwound_by_the_tables_of_its_own_files() {
    let mut store = store(SMALL);
    let tables = [table(0, &[3, 300]), table(1, &[1]), table(2, &[65_000, 7])];
    let lists = [[0, 1], [2, 1]];
    for (pid, files) in (1..).zip(lists) {
        let list = files.map(|file| mapping(file, &tables[file as usize], pid.into()));
        let mut list = list.to_vec();
        list.sort_by_key(|mapping| mapping.start);
        store.set_mappings(pid, &list);
    }
    assert_eq!(find(&store, 1, place(0, 1)), Err(NATIVE_TABLE_NOT_READY));
    for (file, table) in (0..).zip(&tables) {
        store.install(file, "", Ok(clone(table)));
    }
    for (pid, files) in (1..).zip(lists) {
        for file in files {
            let table = &tables[file as usize];
            for at in (0..(table.pages.len() as u64) << 16).step_by(97) {
                assert_eq!(
                    find(&store, pid, place(file, pid.into()) + at),
                    Ok(answer(table, table.base + at))
                );
            }
        }
        assert_eq!(find(&store, pid, place(0, 0)), Err(NATIVE_NOT_CODE));
    }
    assert_eq!(
        find(&store, 2, place(0, 1)),
        Err(NATIVE_NOT_CODE),
        "another process has it"
    );
}

#[test]
fn a_files_index_serves_others_when_no_process_maps_it() {
    let mut store = store(SMALL);
    for id in 0..1000 {
        let table = table(id, &[3]);
        let list = [mapping(1, &table, 0)];
        store.set_mappings(1, &list);
        assert_eq!(
            find(&store, 1, list[0].start),
            Err(NATIVE_TABLE_NOT_READY),
            "the {id}th"
        );
        store.install(1, "", Ok(clone(&table)));
        assert_eq!(
            find(&store, 1, list[0].start),
            Ok(answer(&table, table.base)),
            "the {id}th"
        );
        store.remove(1);
        later(&mut store, GRACE);
        store.forget(1);
    }
    assert!(store.files.is_empty());
    assert!(store.tables.len() <= SMALL.files as usize + 1, "{}", store.tables.len());
    // Nor do their rules pile up.
    assert!(store.rules.len() < 40, "{}", store.rules.len());
    assert_eq!(store.tally.rules_refused, 0);
}

#[test]
fn rules_of_tables_that_nobody_needs_make_room_for_others() {
    let many = |id: u32| {
        let mut table = table(id, &[3]);
        table.rules.extend((0..30_000).map(|local| UnwindRule {
            cfa: CFA_SP,
            cfa_offset: (1 << 20) + (id as i32) * 30_000 + local,
            ..UnwindRule::default()
        }));
        table
    };
    let mut store = store(SMALL);
    for id in 0..8 {
        store.install(id % 5, "", Ok(many(id)));
        later(&mut store, GRACE);
        store.forget(id % 5);
    }
    assert_eq!(store.tally.rules_refused, 0);
    // What is needed keeps its own.
    let (held, more) = (many(8), many(9));
    let list = [mapping(0, &held, 0)];
    store.set_mappings(1, &list);
    store.install(0, "", Ok(clone(&held)));
    for id in 10..14 {
        store.install(1, "", Ok(many(id)));
        later(&mut store, GRACE);
        store.forget(1);
    }
    store.install(1, "", Ok(more));
    assert_eq!(find(&store, 1, list[0].start), Ok(answer(&held, held.base)));
    assert_eq!(store.tally.rules_refused, 0);
    check_accounts(&store);
}

fn clone(table: &Table) -> Table {
    Table {
        base: table.base,
        pages: table.pages.clone(),
        rows: table.rows.clone(),
        rules: table.rules.clone(),
        unreadable: table.unreadable,
    }
}

#[test]
fn a_process_without_code_is_unknown_whatever_its_neighbours_have() {
    let mut store = store(SMALL);
    store.set_mappings(1, &[nameless(1)]);
    store.set_mappings(2, &[]);
    assert!(!store.memory.processes.contains_key(&2));
    // After an exec, before anything is mapped.
    store.set_mappings(1, &[]);
    assert!(!store.memory.processes.contains_key(&1));
}

#[test]
fn forked_processes_share_one_list_until_the_last_is_gone() {
    let mut store = store(SMALL);
    let list: Vec<_> = (0..10).map(nameless).collect();
    for pid in 1..=3 {
        store.set_mappings(pid, &list);
    }
    assert_eq!(store.mappings.free(), 30);
    assert_eq!(store.memory.processes[&1], store.memory.processes[&3]);
    store.remove(1);
    store.set_mappings(2, &[nameless(77)]);
    later(&mut store, GRACE);
    assert_eq!(store.mappings.free(), 29);
    store.remove(3);
    store.remove(3);
    assert_eq!(store.mappings.free(), 29, "it may still be read");
    later(&mut store, GRACE);
    assert_eq!(store.mappings.free(), 39);
}

#[test]
fn what_was_replaced_stays_as_it_was_for_the_grace() {
    let mut store = store(SMALL);
    let old: Vec<_> = (0..10).map(nameless).collect();
    store.set_mappings(1, &old);
    let seen = store.memory.processes[&1];
    let at = seen.first_mapping as usize..(seen.first_mapping + seen.mappings) as usize;
    for round in 0..5 {
        let new: Vec<_> = (0..10).map(|index| nameless(100 * (round + 1) + index)).collect();
        store.set_mappings(1, &new);
        if round < 3 {
            later(&mut store, GRACE / 4);
        }
        assert_eq!(store.memory.mappings[at.clone()], old[..]);
    }
}

#[test]
fn a_process_without_room_is_unknown_and_gets_it_when_there_is() {
    let mut store = store(SMALL);
    let list = |from: u64| (from..from + 10).map(nameless).collect::<Vec<_>>();
    // Room for processes first, then for mappings.
    for pid in 1..=4 {
        store.set_mappings(pid, &list(0));
    }
    assert_eq!(store.tally.not_unwound, 1);
    assert!(!store.memory.processes.contains_key(&4));
    store.set_mappings(4, &list(0));
    assert_eq!(store.tally.not_unwound, 1, "it is the same one");
    store.retry();
    assert!(!store.memory.processes.contains_key(&4));
    store.remove(2);
    assert!(store.retry().is_empty());
    assert_eq!(store.memory.processes[&4], store.memory.processes[&1]);

    for pid in [1, 3, 4] {
        store.set_mappings(pid, &list(100 * u64::from(pid)));
    }
    store.set_mappings(1, &list(500));
    assert_eq!(store.tally.not_unwound, 2, "all are taken or may still be read");
    assert!(!store.memory.processes.contains_key(&1));
    later(&mut store, GRACE);
    store.retry();
    assert_eq!(find(&store, 1, 500 << 12), Err(NATIVE_COMPLETE));
    assert!(store.refused.is_empty());
}

#[test]
fn what_the_kernel_side_copied_at_a_fork_goes_with_the_child_though_nobody_has_set_it() {
    let mut store = store(SMALL);
    let copied = UnwindProcess {
        first_mapping: 0,
        mappings: 1,
    };
    assert!(store.memory.set_process(8, copied));
    store.remove(8);
    assert!(!store.memory.processes.contains_key(&8));
}

#[test]
fn a_process_that_is_gone_does_not_come_back() {
    let mut store = store(SMALL);
    for pid in 1..=4 {
        store.set_mappings(pid, &[nameless(1)]);
    }
    store.remove(4);
    store.remove(1);
    store.retry();
    assert!(!store.memory.processes.contains_key(&4));
}

#[test]
fn a_process_that_had_to_wait_says_which_files_it_needs() {
    let mut store = store(SMALL);
    for pid in 1..=3 {
        store.set_mappings(pid, &[nameless(1)]);
    }
    let list = [2, 0, 1].map(|file| mapping(file, &table(file, &[1]), 0));
    store.set_mappings(4, &list);
    assert!(store.retry().is_empty());
    store.remove(1);
    assert_eq!(store.retry(), [0, 1, 2]);
    assert!(store.retry().is_empty());
}

#[test]
fn one_process_cannot_have_more_than_its_share() {
    let mut store = store(SMALL);
    let list: Vec<_> = (0..11).map(nameless).collect();
    store.set_mappings(1, &list);
    store.set_mappings(1, &list[..]);
    assert_eq!((store.tally.not_unwound, store.mappings.free()), (1, 40));
    store.retry();
    assert!(store.memory.processes.is_empty());
    store.set_mappings(1, &list[1..]);
    assert!(store.memory.processes.contains_key(&1));
}

#[test]
fn files_with_the_same_build_id_have_one_table() {
    let mut store = store(SMALL);
    let table = table(3, &[4]);
    let list = [mapping(1, &table, 0), mapping(2, &table, 0)];
    store.set_mappings(1, &list);
    assert!(!store.adopt(1, "abc"));
    store.install(1, "abc", Ok(clone(&table)));
    let used = store.rows.free();
    assert!(store.adopt(2, "abc"));
    // Both were asked for before the first was there.
    store.install(2, "abc", Ok(clone(&table)));
    store.install(1, "abc", Ok(clone(&table)));
    assert_eq!((store.rows.free(), store.tally.tables), (used, 1));
    for file in [1, 2] {
        assert_eq!(find(&store, 1, place(file, 0) + 5), Ok(answer(&table, table.base + 5)));
    }
    assert!(!store.adopt(3, ""));
    store.install(4, "", Ok(clone(&table)));
    assert!(!store.adopt(5, ""), "no build id is nobody's");
}

/// Two of these fill the pages of [`SMALL`].
fn half(id: u32) -> Table {
    table(id, &[2; 4])
}

#[test]
fn the_table_that_has_not_been_needed_for_longest_makes_room() {
    let mut store = store(SMALL);
    let tables = [half(0), half(1), half(2)];
    for pid in 0..2 {
        store.set_mappings(pid, &[mapping(pid, &tables[pid as usize], 0)]);
        store.install(pid, "", Ok(clone(&tables[pid as usize])));
    }
    store.remove(1);
    store.remove(0);
    store.set_mappings(2, &[mapping(2, &tables[2], 0)]);

    // The kernel side may still be reading them.
    store.install(2, "", Ok(half(2)));
    assert_eq!((store.tally.evicted, store.tally.no_room), (0, 1));
    assert_eq!(find(&store, 2, place(2, 0)), Err(NATIVE_NO_ROOM));
    assert_eq!(store.without_room(), [2]);

    later(&mut store, RETRY);
    assert!(store.take_missing(2));
    assert!(!store.take_missing(2), "somebody is at it");
    store.install(2, "", Ok(half(2)));
    assert_eq!((store.tally.evicted, store.tally.no_room), (1, 1));
    assert_eq!(find(&store, 2, place(2, 0)), Ok(answer(&tables[2], tables[2].base)));
    // It was file 1's: 0 was needed later.
    assert!(store.take_missing(1) && !store.take_missing(0));
    store.set_mappings(0, &[mapping(0, &tables[0], 0)]);
    assert_eq!(find(&store, 0, place(0, 0)), Ok(answer(&tables[0], tables[0].base)));
    store.set_mappings(1, &[mapping(1, &tables[1], 0)]);
    assert_eq!(find(&store, 1, place(1, 0)), Err(NATIVE_TABLE_NOT_READY));
}

#[test]
fn one_user_s_files_have_half_of_the_room_and_make_room_among_their_own() {
    let mut store = store(Sizes { parts: 2, ..SMALL });
    const USER: u32 = 1000;
    let quarter = |id| table(id, &[2; 2]);
    for file in 0..3 {
        store.set_file_owner(file, USER);
        store.set_mappings(file, &[mapping(file, &quarter(file), 0)]);
        store.install(file, "", Ok(quarter(file)));
    }
    assert_eq!((store.tally.tables, store.tally.no_room), (2, 1));
    assert_eq!(find(&store, 2, place(2, 0)), Err(NATIVE_NO_ROOM));
    // There is room for others, and for root.
    store.install(3, "", Ok(half(3)));
    later(&mut store, GRACE);
    assert_eq!((store.tally.tables, store.tally.evicted), (3, 0));
    // What nobody needs of theirs goes, and not what others' have not needed for longer.
    store.remove(0);
    later(&mut store, GRACE);
    store.install(2, "", Ok(quarter(2)));
    assert_eq!((store.tally.tables, store.tally.evicted), (4, 1));
    assert!(store.has_table(3) && store.has_table(2) && !store.has_table(0));
    store.set_file_owner(4, USER);
    store.install(4, "", Ok(table(4, &[2; 5])));
    later(&mut store, RETRY * 1000);
    assert!(!store.take_missing(4), "it is more than a user may have");
}

#[test]
fn tables_in_use_are_not_thrown_out_for_what_finds_no_room() {
    let mut store = store(SMALL);
    for file in 0..2 {
        store.set_mappings(file, &[mapping(file, &half(file), 0)]);
        store.install(file, "", Ok(half(file)));
    }
    // Not even what is not in use, if that would not be enough.
    store.remove(1);
    later(&mut store, GRACE);
    store.install(2, "", Ok(table(2, &[2; 5])));
    store.install(3, "", Ok(table(3, &[2; 9])));
    assert_eq!((store.tally.evicted, store.tally.no_room), (0, 2));
    later(&mut store, RETRY * 1000);
    assert!(!store.take_missing(2), "there still is no room");
    store.remove(0);
    later(&mut store, GRACE);
    assert!(store.take_missing(2));
    assert!(!store.take_missing(3), "there can be none");
}

#[test]
fn what_finds_no_room_again_and_again_is_tried_less_and_less() {
    let mut store = store(SMALL);
    // Free in all, but not in one piece.
    for file in 0..4 {
        store.install(file, "", Ok(table(file, &[2; 2])));
    }
    for file in [1, 3] {
        store.set_mappings(file, &[mapping(file, &table(file, &[2; 2]), 0)]);
    }
    later(&mut store, GRACE);
    let mut wait = RETRY;
    for _ in 0..5 {
        store.install(4, "", Ok(table(4, &[2; 3])));
        later(&mut store, wait - Duration::from_nanos(1));
        assert!(!store.take_missing(4));
        later(&mut store, Duration::from_nanos(1));
        assert!(store.take_missing(4));
        wait *= 2;
    }
    assert_eq!(store.tally.no_room, 1);
}

#[test]
fn evicting_a_shared_table_takes_it_from_all_and_a_later_one_is_shared_again() {
    let mut store = store(SMALL);
    store.install(0, "abc", Ok(half(0)));
    assert!(store.adopt(1, "abc"));
    later(&mut store, GRACE);
    store.install(2, "", Ok(half(2)));
    store.install(3, "", Ok(half(3)));
    assert_eq!(store.tally.evicted, 1);
    assert!(store.take_missing(0) && store.take_missing(1));
    assert!(!store.adopt(1, "abc"));
    later(&mut store, GRACE);
    store.install(1, "abc", Ok(half(0)));
    assert!(store.adopt(0, "abc"));
}

#[test]
fn a_file_that_there_is_no_place_for_costs_no_rows() {
    let mut store = store(SMALL);
    let table = table(0, &[9]);
    store.set_mappings(1, &[mapping(6, &table, 0)]);
    store.install(6, "abc", Ok(clone(&table)));
    assert_eq!((store.tally.no_room, store.tally.tables, store.row_bytes()), (1, 0, 0));
    assert!(!store.has_place(6) && store.has_place(5));
    store.install(5, "abc", Ok(clone(&table)));
    assert!(!store.adopt(6, "abc"));
    assert!(find(&store, 1, place(6, 0)).is_err());
}

#[test]
fn files_without_a_table_say_why() {
    let mut store = store(SMALL);
    let shape = table(0, &[1]);
    store.set_mappings(1, &[0, 1, 2].map(|file| mapping(file, &shape, 0)));
    store.install(0, "", Err(NoTable::NoUnwindInformation));
    store.install(1, "", Err(NoTable::Damaged));
    // Followed by the frame pointer, which is 0 here.
    assert_eq!(find(&store, 1, place(0, 0)), Err(NATIVE_COMPLETE));
    assert_eq!(find(&store, 1, place(1, 0)), Err(NATIVE_NOT_COVERED));
    assert_eq!(find(&store, 1, place(2, 0)), Err(NATIVE_TABLE_NOT_READY));
}

#[test]
fn rules_go_with_their_table_so_that_a_crowd_of_files_does_not_take_them_for_good() {
    let mut store = store(Sizes { files: 32, ..SMALL });
    let known = store.rules.len();
    for round in 0..20 {
        let table = table(round, &[SHARD_ROWS as u32]);
        store.install(round, "", Ok(clone(&table)));
        store.advance(store.now + GRACE);
    }
    assert_eq!(store.tally.evicted, 19);
    // Those of the one that is left.
    assert!(store.rules.len() <= known + 4, "{}", store.rules.len());
}

#[test]
fn one_user_has_half_of_the_mappings_however_they_change() {
    let mut store = Store::new(Fake::new(SMALL, 100));
    let most = SMALL.mappings;
    let list = |pid: u32, len: u32| -> Vec<UnwindMapping> {
        let start = |at: u32| u64::from(pid) << 40 | u64::from(at) << 20;
        let mapping = |at| UnwindMapping {
            start: start(at),
            end: start(at) + 4096,
            file: NO_FILE,
            ..UnwindMapping::default()
        };
        (0..len).map(mapping).collect()
    };
    // Each takes an eighth, and so does what they had before.
    for pid in 0..8 {
        store.set_owner(pid, 1000);
        store.set_mappings(pid, &list(pid + 1, most / 8));
        store.set_mappings(pid, &list(pid + 100, most / 8));
    }
    assert!(store.mappings.free() >= u64::from(most / 2));
    assert!(store.tally.not_unwound > 0);
    store.set_owner(50, 1001);
    store.set_mappings(50, &list(50, most / 8));
    assert!(store.processes.contains_key(&50));
    // When what was replaced is not read any more, there is room for others of the first user.
    store.advance(store.now + GRACE);
    store.retry();
    let theirs = store.processes.keys().filter(|&&pid| pid < 8).count();
    assert_eq!(theirs, 4);
}

#[test]
fn rules_are_shared_and_those_beyond_the_last_number_are_unsupported_and_counted() {
    let mut store = store(SMALL);
    store.install(0, "", Ok(table(0, &[4])));
    let known = store.rules.len();
    store.install(1, "", Ok(table(0, &[4])));
    assert_eq!(store.rules.len(), known);

    for at in store.rules.len()..MAX_RULES {
        let rule = UnwindRule {
            cfa_extra: at as i32,
            ..UnwindRule::default()
        };
        assert_eq!(usize::from(store.take_rule(rule, ROOT)), at);
    }
    let (old, new) = (table(0, &[4]), table(2, &[4]));
    store.install(2, "", Ok(clone(&new)));
    store.set_mappings(1, &[mapping(1, &old, 0), mapping(2, &new, 0)]);
    assert_eq!(find(&store, 1, place(1, 0)), Ok(answer(&old, old.base)));
    assert_eq!(find(&store, 1, place(2, 0)), Err(NATIVE_UNSUPPORTED));
    assert_eq!((store.rules.len(), store.tally.rules_refused), (MAX_RULES, 3));
}

#[test]
fn pages_that_have_rows_in_common_find_them() {
    let mut store = store(SMALL);
    let mut shared = table(1, &[3, 2]);
    shared.pages.push(shared.pages[0]);
    store.install(0, "", Ok(clone(&shared)));
    store.set_mappings(1, &[mapping(0, &shared, 0)]);
    for at in (0..3 << 16).step_by(991) {
        assert_eq!(find(&store, 1, place(0, 0) + at), Ok(answer(&shared, shared.base + at)));
    }
    assert_eq!(store.row_bytes(), 20);
}

#[derive(Clone, Debug)]
enum Step {
    /// Of these files (bits), somewhere.
    Map {
        pid: u32,
        files: u32,
        shift: u64,
    },
    Remove {
        pid: u32,
    },
    /// As `Unwinder::want` does.
    Want {
        file: u32,
    },
    /// Without being asked.
    Install {
        file: u32,
    },
    Adopt {
        file: u32,
    },
    Later {
        ms: u64,
    },
    Retry,
    /// If no process maps it: as when a window is cut.
    Forget {
        file: u32,
    },
}

const FILES: u32 = 8;

fn any_step() -> impl Strategy<Value = Step> {
    let file = || 0..FILES;
    prop_oneof![
        6 => (1u32..6, 0u32..1 << FILES, 0u64..3).prop_map(|(pid, files, shift)| Step::Map { pid, files, shift }),
        3 => (1u32..6).prop_map(|pid| Step::Remove { pid }),
        6 => file().prop_map(|file| Step::Want { file }),
        1 => file().prop_map(|file| Step::Install { file }),
        1 => file().prop_map(|file| Step::Adopt { file }),
        3 => prop_oneof![Just(1u64), Just(50), Just(100), Just(5000)].prop_map(|ms| Step::Later { ms }),
        1 => Just(Step::Retry),
        2 => file().prop_map(|file| Step::Forget { file }),
    ]
}

/// The tables of the files. Two of them are one file twice.
fn tables() -> Vec<(&'static str, Table)> {
    vec![
        ("", table(0, &[3])),
        ("b1", table(1, &[40_000, 2])),
        ("b2", table(2, &[1, 1, 40_000])),
        ("b3", table(3, &[5, 5, 5, 5])),
        ("b3", table(3, &[5, 5, 5, 5])),
        ("b5", table(5, &[65_536])),
        // Beyond what there is a place for.
        ("b6", table(6, &[1])),
        ("b1", table(1, &[40_000, 2])),
    ]
}

/// A list that a sample has found, and may read as long as it is not too old.
struct Seen {
    until: Instant,
    process: UnwindProcess,
    list: Vec<UnwindMapping>,
}

/// Whatever is found for an address is its own file's.
fn check_list(store: &Store<Fake>, tables: &[(&str, Table)], process: UnwindProcess, list: &[UnwindMapping]) {
    let at = process.first_mapping as usize;
    assert_eq!(&store.memory.mappings[at..at + process.mappings as usize], list);
    for mapping in list {
        let (_, table) = &tables[mapping.file as usize];
        let has_table = store
            .files
            .get(&mapping.file)
            .is_some_and(|state| state.table.is_some());
        for address in [mapping.start, mapping.start + 0x7777, mapping.end - 1] {
            match frame_at(&store.memory, process, address) {
                Ok(found) => assert_eq!(
                    found,
                    answer(table, address.wrapping_add(mapping.to_file)),
                    "{address:#x}"
                ),
                Err(NATIVE_TABLE_NOT_READY | NATIVE_NO_ROOM) => assert!(!has_table, "{address:#x}"),
                Err(status) => panic!("{address:#x}: status {status}"),
            }
        }
        assert_eq!(
            frame_at(&store.memory, process, mapping.start - 1),
            Err(NATIVE_NOT_CODE)
        );
        assert_eq!(frame_at(&store.memory, process, mapping.end), Err(NATIVE_NOT_CODE));
    }
}

/// What the store keeps account of is what there is.
fn check_accounts(store: &Store<Fake>) {
    let sizes = store.memory.sizes;
    let installed = || store.tables.iter().flatten();
    let rows: u64 = installed().map(Installed::rows).sum();
    let pages: u64 = installed().map(|table| u64::from(table.file.pages)).sum();
    assert_eq!(
        store.rows.free() + rows,
        u64::from(sizes.row_shards) * SHARD_ROWS as u64
    );
    assert_eq!(store.pages.free() + pages, u64::from(sizes.pages));

    let retired: u64 = store.retired.iter().map(|&(_, _, len, _)| u64::from(len)).sum();
    let listed: u64 = store.lists.keys().map(|list| list.len() as u64).sum();
    assert_eq!(store.mappings.free() + listed + retired, u64::from(sizes.mappings));
    for (list, known) in &store.lists {
        let users = store.processes.values().filter(|mappings| *mappings == list).count();
        assert_eq!(users, known.users as usize);
    }
    let known: BTreeSet<_> = store.processes.keys().collect();
    assert!(known.into_iter().eq(store.memory.processes.keys()));
    assert!(store.refused.keys().all(|pid| !store.processes.contains_key(pid)));

    for (&file, state) in &store.files {
        let users = store
            .lists
            .keys()
            .filter(|list| list.iter().any(|mapping| mapping.file == file))
            .count();
        assert_eq!(users, state.users as usize);
        if let Some(table) = state.table {
            assert!(
                store.tables[table]
                    .as_ref()
                    .is_some_and(|table| table.files.contains(&file))
            );
        }
        assert!(state.table.is_none() || state.missing.is_none());
        assert_eq!(
            matches!(state.missing, Some(Missing::NoRoom { .. })),
            store.no_room.contains(&file)
        );
    }
    let mut idle = (0, 0);
    for (index, table) in store.tables.iter().enumerate() {
        let Some(table) = table else {
            assert!(store.unused.contains(&index));
            continue;
        };
        let users: u32 = table.files.iter().map(|file| store.files[file].users).sum();
        assert_eq!(users, table.users);
        assert_eq!(store.idle.contains(&(table.released, index)), users == 0);
        if users == 0 {
            idle = (idle.0 + table.rows(), idle.1 + u64::from(table.file.pages));
        }
    }
    assert_eq!((store.idle_rows, store.idle_pages), idle);
    let mut uses: BTreeMap<usize, u32> = BTreeMap::new();
    let rules = store.tables.iter().flatten().flat_map(|table| &table.rules);
    rules.for_each(|&rule| *uses.entry(rule.into()).or_default() += 1);
    // The first two are there for good.
    for (index, users) in store.rules.users().enumerate().skip(2) {
        assert_eq!(uses.get(&index).copied().unwrap_or(0), users);
    }
}

proptest! {
    #[test]
    fn after_whatever_steps_an_address_finds_its_own_files_table_or_none(steps in prop::collection::vec(any_step(), 1..60)) {
        let tables = tables();
        let mut store = store(SMALL);
        let mut asked = [false; FILES as usize];
        let mut wanted: BTreeMap<u32, Vec<UnwindMapping>> = BTreeMap::new();
        let mut seen: Vec<Seen> = Vec::new();
        for step in steps {
            let before = store.memory.processes.clone();
            let mapped_before: BTreeMap<_, _> = store.processes.iter().map(|(&pid, list)| (pid, list.to_vec())).collect();
            match step {
                Step::Map { pid, files, shift } => {
                    let list: Vec<_> = (0..FILES)
                        .filter(|file| files >> file & 1 != 0)
                        .map(|file| mapping(file, &tables[file as usize].1, shift))
                        .collect();
                    store.set_mappings(pid, &list);
                    wanted.insert(pid, list);
                }
                Step::Remove { pid } => {
                    store.remove(pid);
                    wanted.remove(&pid);
                }
                Step::Want { file } => {
                    let (build_id, table) = &tables[file as usize];
                    let known = std::mem::replace(&mut asked[file as usize], true);
                    if (!known || store.take_missing(file)) && !store.adopt(file, build_id) {
                        store.install(file, build_id, Ok(clone(table)));
                    }
                }
                Step::Install { file } => {
                    let (build_id, table) = &tables[file as usize];
                    store.install(file, build_id, Ok(clone(table)));
                }
                Step::Adopt { file } => {
                    store.adopt(file, tables[file as usize].0);
                }
                Step::Later { ms } => later(&mut store, Duration::from_millis(ms)),
                Step::Retry => {
                    store.retry();
                }
                Step::Forget { file } => {
                    let is_mapped = store.lists.keys().any(|list| list.iter().any(|mapping| mapping.file == file));
                    if !is_mapped {
                        store.forget(file);
                        asked[file as usize] = false;
                    }
                }
            }
            for (pid, process) in before {
                if store.memory.processes.get(&pid) != Some(&process) {
                    let list = mapped_before[&pid].clone();
                    seen.push(Seen { until: store.now + GRACE, process, list });
                }
            }
            seen.retain(|seen| store.now < seen.until);
            for seen in &seen {
                check_list(&store, &tables, seen.process, &seen.list);
            }
            for (&pid, &process) in &store.memory.processes {
                check_list(&store, &tables, process, &wanted[&pid]);
            }
            check_accounts(&store);
        }
        // When all is over, all room is there again.
        for pid in 1..6 {
            store.remove(pid);
        }
        later(&mut store, GRACE);
        while store.evict(|_| true) {}
        prop_assert_eq!(store.rows.free(), SHARD_ROWS as u64);
        prop_assert_eq!((store.pages.free(), store.mappings.free()), (8, 40));
        prop_assert!(store.memory.files.iter().all(|file| file.state == FILE_NOT_READY || file.state == FILE_NO_ROOM));
    }
}
