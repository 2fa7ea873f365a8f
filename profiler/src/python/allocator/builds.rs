//! The interpreters of this machine, where there are any.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::{Object as _, ObjectSymbol as _};

use super::super::binary::{self, PythonBinary};
use super::super::memory::ProcessMemory;
use super::coverage::{Coverage, Verdict};
use super::place::Place;
use super::pool::UsableArenas;
use super::table::{AllocatorInUse, Below, Domain, Hook};
use super::*;

const PYENV: [&str; 6] = ["3.8.18", "3.9.18", "3.10.13", "3.11.7", "3.12.1", "3.13.0"];
const DEBIAN: [&str; 3] = ["3.13", "3.14", "3.15"];

struct Build {
    name: String,
    /// The file that has the interpreter in it.
    path: PathBuf,
    /// How to run it.
    command: Vec<PathBuf>,
    /// `PYTHONHOME`, if it does not find its library by itself.
    home: Option<PathBuf>,
    elf: Vec<u8>,
    binary: PythonBinary,
    allocators: Allocators,
    symbols: HashMap<String, u64>,
}

impl Build {
    fn read(path: PathBuf, command: Vec<PathBuf>, home: Option<PathBuf>) -> Option<Self> {
        let name = path.display().to_string();
        let Ok(elf) = std::fs::read(&path) else {
            eprintln!("skipped: there is no {name}");
            return None;
        };
        let binary = binary::inspect(&elf).unwrap();
        let allocators = inspect(&elf, &binary).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let file = object::File::parse(&*elf).unwrap();
        let named = file.symbols().filter(|symbol| symbol.is_definition());
        let symbols = named
            .filter_map(|symbol| Some((symbol.name().ok()?.to_owned(), symbol.address())))
            .collect();
        Some(Self {
            name,
            path,
            command,
            home,
            binary,
            allocators,
            symbols,
            elf,
        })
    }

    /// Built without a profile and without link-time optimisation.
    fn is_plain(&self) -> bool {
        self.name.contains("libpython")
    }

    fn symbol(&self, name: &str) -> u64 {
        *self
            .symbols
            .get(name)
            .unwrap_or_else(|| panic!("{} has no {name}", self.name))
    }

    fn places(&self) -> Vec<Place> {
        let allocators = &self.allocators;
        let functions = allocators.functions.iter().map(|function| function.entry);
        let deaths = allocators.pool_deaths.iter().map(|death| death.place);
        functions
            .chain(deaths)
            .chain([allocators.pool.unwrap().place])
            .collect()
    }
}

fn builds() -> Vec<Build> {
    let pyenv = std::env::var_os("PYENV_ROOT").map_or_else(|| PathBuf::from("/root/.pyenv"), PathBuf::from);
    let pyenv = PYENV.iter().map(|release| {
        let root = pyenv.join("versions").join(release);
        let minor = release.rsplit_once('.').unwrap().0;
        let path = root.join(format!("lib/libpython{minor}.so.1.0"));
        (path, vec![root.join("bin/python3")], None)
    });
    let system = PathBuf::from("/usr/bin/python3.11");
    let sid = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/pythons/sid");
    let debian = DEBIAN.iter().map(|minor| {
        let path = sid.join(format!("usr/bin/python{minor}"));
        // With its own C library, which is younger than this machine's may be.
        let command = vec![
            sid.join("lib64/ld-linux-x86-64.so.2"),
            "--library-path".into(),
            sid.join("usr/lib/x86_64-linux-gnu"),
            path.clone(),
        ];
        (path, command, Some(sid.join("usr")))
    });
    pyenv
        .chain([(system.clone(), vec![system], None)])
        .chain(debian)
        .filter_map(|(path, command, home)| Build::read(path, command, home))
        .collect()
}

#[test]
fn the_functions_are_those_that_the_symbols_name() {
    for build in builds().iter().filter(|build| build.is_plain()) {
        let tables = &build.allocators.tables;
        for (domain, table) in [("PyObject_", &tables.object), ("PyMem_Raw", &tables.raw)] {
            let named = ["Malloc", "Calloc", "Realloc", "Free"].map(|what| build.symbol(&format!("_{domain}{what}")));
            let found = [table.malloc, table.calloc, table.realloc, table.free];
            assert_eq!(found, named, "{}", build.name);
        }
        let pool = build.allocators.pool.unwrap();
        let slow_path = if build.binary.version.series() == (3, 8) {
            "pymalloc_alloc.constprop.0"
        } else {
            "allocate_from_new_pool"
        };
        let from = pool.place.address.checked_sub(build.symbol(slow_path));
        assert!(from.is_some_and(|offset| offset < 128), "{}: {pool:x?}", build.name);
        match pool.usable_arenas {
            UsableArenas::Static { address } => assert_eq!(address, build.symbol("usable_arenas"), "{}", build.name),
            UsableArenas::InState { offset, .. } => assert_eq!(offset, 0x218, "{}", build.name),
        }
    }
}

#[test]
fn every_build_shows_its_pools() {
    for build in builds() {
        let pool = build.allocators.pool.unwrap();
        let bytes = if build.binary.version.series() < (3, 10) {
            4 << 10
        } else {
            16 << 10
        };
        assert_eq!((pool.pool_bytes, pool.place.emulated), (bytes, true), "{}", build.name);
        assert!(!build.allocators.pool_deaths.is_empty(), "{}", build.name);
    }
}

#[test]
fn a_place_is_the_start_of_an_instruction_of_its_function() {
    for build in builds() {
        let code = Code::new(&build.elf).unwrap();
        let places = build.places();
        assert!(places.len() >= 10, "{}: {places:x?}", build.name);
        for place in places {
            let function = code.piece_of(place.address).unwrap();
            let instruction = code
                .instructions(&function)
                .into_iter()
                .find(|i| i.ip() == place.address)
                .unwrap();
            let start = place.file_offset as usize;
            let bytes = &build.elf[start..start + instruction.len()];
            assert_eq!(
                Some(bytes),
                code.image.bytes(place.address, instruction.len()),
                "{}",
                build.name
            );
            assert_eq!(place::emulates(bytes), place.emulated, "{}: {place:x?}", build.name);
        }
    }
}

#[test]
fn without_a_profile_all_functions_are_probed_where_the_kernel_emulates() {
    for build in builds().iter().filter(|build| build.is_plain()) {
        let functions = &build.allocators.functions;
        assert_eq!(functions.len(), 8, "{}", build.name);
        assert!(
            functions.iter().all(|function| function.entry.emulated),
            "{}: {functions:x?}",
            build.name
        );
    }
}

#[test]
fn builds_with_a_profile_hide_allocations_and_say_so() {
    for build in builds() {
        let coverage = Coverage::measure(&build.elf, &build.allocators).unwrap().unwrap();
        if build.is_plain() {
            assert_eq!((coverage.inlined, coverage.inlined_frees), (0, 0), "{}", build.name);
            assert_eq!(coverage.verdict(), Verdict::Complete);
        } else {
            assert!(coverage.inlined > 100, "{}: {coverage:?}", build.name);
            assert!(coverage.inlined_share() > 0.25, "{}: {coverage:?}", build.name);
            assert_eq!(coverage.verdict(), Verdict::Misleading);
        }
    }
}

/// What a new process of the build allocates objects and raw memory with.
fn in_use(build: &Build, option: Option<&str>, setting: Option<&str>) -> [AllocatorInUse; 2] {
    let [program, arguments @ ..] = &build.command[..] else {
        panic!()
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(option)
        .args(["-c", "import sys; print(flush=True); sys.stdin.read()"]);
    command
        .env_remove("PYTHONMALLOC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command.envs(setting.map(|setting| ("PYTHONMALLOC", setting)));
    command.envs(build.home.as_ref().map(|home| ("PYTHONHOME", home)));
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
    let path = build.path.canonicalize().unwrap();
    let first = maps
        .lines()
        .find(|line| line.ends_with(path.to_str().unwrap()))
        .unwrap();
    let bias = if build.binary.position_independent {
        u64::from_str_radix(first.split_once('-').unwrap().0, 16).unwrap()
    } else {
        0
    };
    let memory = ProcessMemory { pid: child.id() };
    let tables = &build.allocators.tables;
    let found = [Domain::Object, Domain::Raw].map(|domain| tables.in_use(&memory, bias, domain).unwrap());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success(), "{}", build.name);
    found
}

#[test]
fn the_allocator_of_a_live_process_is_the_one_it_was_started_with() {
    for build in builds() {
        let name = &build.name;
        let default = in_use(&build, None, None);
        assert_eq!(default, [AllocatorInUse::Pymalloc, AllocatorInUse::Malloc], "{name}");
        assert_eq!(
            in_use(&build, None, Some("malloc")),
            [AllocatorInUse::Malloc; 2],
            "{name}"
        );
        for (option, setting, expected) in [
            (None, "debug", (Hook::Debug, Below::Pymalloc)),
            (None, "malloc_debug", (Hook::Debug, Below::Malloc)),
            (Some("-Xtracemalloc"), "pymalloc", (Hook::Trace, Below::Pymalloc)),
        ] {
            let [object, raw] = in_use(&build, option, Some(setting));
            let told = |found| match found {
                AllocatorInUse::Hooked { hook, below, .. } => Some((hook, below)),
                _ => None,
            };
            assert_eq!(told(object), Some(expected), "{name}, {setting}: {object:x?}");
            assert_eq!(
                told(raw),
                Some((expected.0, Below::Malloc)),
                "{name}, {setting}: {raw:x?}"
            );
        }
        if build.binary.version.series() >= (3, 13) {
            let [object, _] = in_use(&build, None, Some("mimalloc"));
            assert!(matches!(object, AllocatorInUse::Mimalloc { .. }), "{name}: {object:x?}");
        }
    }
}
