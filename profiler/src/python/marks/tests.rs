use std::path::{Path, PathBuf};

use profiler_common::mark::{MARK_IMPORT, MARK_IMPORTED, MARK_RAISE, MARK_UNWIND};

use super::super::binary::{self, PythonBinary};
use super::*;

const PYENV: [&str; 6] = ["3.8.18", "3.9.18", "3.10.13", "3.11.7", "3.12.1", "3.13.0"];
const DEBIAN: [&str; 3] = ["3.13", "3.14", "3.15"];

/// The interpreters of this machine, where there are any.
fn builds() -> Vec<(PathBuf, Vec<u8>, PythonBinary)> {
    let pyenv = std::env::var_os("PYENV_ROOT").map_or_else(|| PathBuf::from("/root/.pyenv"), PathBuf::from);
    let pyenv = PYENV.iter().map(|release| {
        let minor = release.rsplit_once('.').unwrap().0;
        pyenv.join(format!("versions/{release}/lib/libpython{minor}.so.1.0"))
    });
    let sid = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/pythons/sid/usr/bin");
    let debian = DEBIAN.iter().map(|minor| sid.join(format!("python{minor}")));
    let paths = pyenv.chain([PathBuf::from("/usr/bin/python3.11")]).chain(debian);
    paths
        .filter_map(|path| {
            let Ok(elf) = std::fs::read(&path) else {
                eprintln!("skipped: there is no {}", path.display());
                return None;
            };
            let binary = binary::inspect(&elf).unwrap();
            Some((path, elf, binary))
        })
        .collect()
}

fn kinds(places: &[MarkPlace]) -> Vec<u32> {
    places.iter().map(|place| place.cookie as u32 & 0x7f).collect()
}

#[test]
fn exceptions_are_seen_in_every_build_where_the_kernel_emulates_the_instruction() {
    for (path, elf, binary) in builds() {
        let places = raises(&elf, &binary).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(kinds(&places), [MARK_RAISE, MARK_UNWIND], "{}", path.display());
        let stepped = places.iter().filter(|place| crate::governor::is_stepped(place.cookie));
        assert_eq!(stepped.count(), 0, "{}: {places:?}", path.display());
    }
}

#[test]
fn imports_are_seen_in_every_build() {
    for (path, elf, binary) in builds() {
        let places = imports(&elf, &binary).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let kinds = kinds(&places);
        let count = |kind| kinds.iter().filter(|other| **other == kind).count();
        // One is for `-X importtime`, where that was not put around a call.
        assert!((1..=2).contains(&count(MARK_IMPORT)), "{}: {places:?}", path.display());
        assert_eq!(count(MARK_IMPORT), count(MARK_IMPORTED), "{}", path.display());
    }
}

#[test]
fn collections_are_seen_in_every_build_but_3_8() {
    for (path, elf, binary) in builds() {
        match collections(&elf, &binary) {
            Ok(places) => assert_eq!(places.len(), 2, "{}", path.display()),
            Err(error) => assert_eq!(
                (error, binary.version.minor),
                (NoMarks::NoCollector, 8),
                "{}",
                path.display()
            ),
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_code_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let body: Vec<Instruction> =
            iced_x86::Decoder::with_ip(64, &bytes, 0x1000, iced_x86::DecoderOptions::NONE).into_iter().collect();
        finds_and_loads(&body);
        is_given_two(&body);
    }
}
