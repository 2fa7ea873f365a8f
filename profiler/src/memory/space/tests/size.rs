//! What a million live pages take up.

use super::*;

#[test]
fn pages_touched_in_order_are_few_entries() {
    let mut f = Fixture::new(Limits::default(), Thp::Never);
    f.map(0..1 << 20, MapKind::Anonymous);
    for page in 0..1 << 20 {
        f.now_ns += 1000;
        f.write(page, 7);
    }
    assert_eq!(f.live(7), 1 << 20);
    assert!(f.growth.common.used.runs <= 20, "{}", f.growth.common.used.runs);
}

/// The worst case: no two neighbours of one site, and in order, which leaves the tree's nodes half empty (pages in no
/// order: 45 MiB). Reading the process's own memory is no exact measurement while other tests run, so what is asserted
/// is the size of an entry, and the figure is printed: 50 MiB, accounts included
/// (`cargo test --release a_million_lone_pages_fit -- --nocapture --test-threads 1`).
#[test]
fn a_million_lone_pages_fit() {
    assert_eq!(size_of::<(u64, pages::Run)>(), 24);
    let anonymous = || {
        let resident = crate::memory::rss::Resident::read(std::process::id()).expect("own memory");
        resident.anonymous
    };
    let before = anonymous();
    let mut f = Fixture::new(Limits::default(), Thp::Never);
    f.map(0..4 << 20, MapKind::Anonymous);
    for page in 0..1 << 20 {
        f.write(page * 2, (page % 1000) as u32);
    }
    assert_eq!(f.accounts.live().count, 1 << 20);
    assert_eq!(f.growth.common.used.runs, 1 << 20);
    eprintln!("a million lone pages: {} MiB", anonymous().saturating_sub(before) >> 20);
}
