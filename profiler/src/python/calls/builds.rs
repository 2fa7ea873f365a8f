//! The interpreters of this machine, where there are any.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object as _, ObjectSymbol as _};

use super::super::allocator::code::Code;
use super::super::allocator::place::{Place, emulates};
use super::super::binary::{self, PythonBinary};
use super::handlers::Opcodes;
use super::{CallProbes, Event, inspect};

const PYENV: [&str; 6] = ["3.8.18", "3.9.18", "3.10.13", "3.11.7", "3.12.1", "3.13.0"];
const DEBIAN: [&str; 3] = ["3.13", "3.14", "3.15"];

struct Build {
    name: String,
    /// How to run it, and its `PYTHONHOME` if it does not find its library by itself.
    command: Vec<PathBuf>,
    home: Option<PathBuf>,
    elf: Vec<u8>,
    binary: PythonBinary,
    probes: CallProbes,
    symbols: HashMap<String, u64>,
}

impl Build {
    fn read(path: &Path, command: Vec<PathBuf>, home: Option<PathBuf>) -> Option<Self> {
        let name = path.display().to_string();
        let Ok(elf) = std::fs::read(path) else {
            eprintln!("skipped: there is no {name}");
            return None;
        };
        let binary = binary::inspect(&elf).unwrap();
        let probes = inspect(&elf, &binary).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let file = object::File::parse(&*elf).unwrap();
        let named = file.symbols().filter(|symbol| symbol.is_definition());
        let symbols = named
            .filter_map(|symbol| Some((symbol.name().ok()?.to_owned(), symbol.address())))
            .collect();
        Some(Self {
            name,
            command,
            home,
            binary,
            probes,
            symbols,
            elf,
        })
    }

    fn series(&self) -> (u8, u8) {
        self.binary.version.series()
    }

    fn places(&self) -> Vec<Place> {
        let calls = self.probes.calls.iter().map(|probe| probe.place);
        let entries = self.probes.entries.iter().flatten();
        let frames = entries.chain(&self.probes.ends).map(|probe| probe.place);
        calls.chain(frames).collect()
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
        .filter_map(|(path, command, home)| Build::read(&path, command, home))
        .collect()
}

#[test]
fn every_build_shows_all_that_a_call_is() {
    for build in builds() {
        let events: Vec<Event> = build.probes.calls.iter().map(|probe| probe.event).collect();
        let expected: &[Event] = match build.series() {
            (3, ..=10) => &[Event::Entry],
            (3, 11) => &[Event::InnerExit, Event::LoopEntry { code_flags: 48 }],
            _ => &[Event::Exit, Event::Yield, Event::Yield],
        };
        assert_eq!(events, expected, "{}", build.name);
        assert_eq!(build.probes.no_yields, None, "{}", build.name);
        assert_eq!(
            build.probes.ends.len(),
            usize::from(build.series() < (3, 11)),
            "{}",
            build.name
        );
        let cleans_up = build.series() >= (3, 13);
        assert_eq!(build.probes.cleanup_code.is_some(), cleans_up, "{}", build.name);
    }
}

#[test]
fn calls_and_entries_are_probed_where_the_kernel_emulates() {
    for build in builds() {
        let calls = build.probes.calls.iter().filter(|probe| probe.event != Event::Yield);
        assert!(
            calls.map(|probe| probe.place).all(|place| place.emulated),
            "{}",
            build.name
        );
        let entries = build.probes.entries.as_ref().unwrap();
        assert!(
            entries.iter().all(|probe| probe.place.emulated),
            "{}: {entries:x?}",
            build.name
        );
    }
}

#[test]
fn ends_are_probed_in_the_function_that_the_symbols_name() {
    for build in builds() {
        let name = match build.series() {
            (3, ..=10) => "_PyEval_EvalFrameDefault",
            (3, 11) => "_PyFrame_Clear",
            (3, 12) => "_PyEvalFrameClearAndPop",
            _ => "_PyEval_FrameClearAndPop",
        };
        let place = build.probes.calls.first().unwrap().place;
        // Debian's have only exported symbols.
        if let Some(address) = build.symbols.get(name) {
            let offset = place.address.checked_sub(*address);
            assert!(
                offset.is_some_and(|offset| offset < 16),
                "{}: {place:x?}, {name} is at {address:#x}",
                build.name
            );
        }
        if let Some(address) = build.symbols.get("_Py_InitCleanup") {
            assert_eq!(build.probes.cleanup_code, Some(*address), "{}", build.name);
        }
    }
}

#[test]
fn a_place_is_the_start_of_an_instruction() {
    for build in builds() {
        let code = Code::new(&build.elf).unwrap();
        for place in build.places() {
            let mut ranges = build.binary.eval_loop.iter().cloned();
            let range = ranges.find(|range| range.contains(&place.address));
            let range = range.or_else(|| code.piece_of(place.address)).unwrap();
            let instructions = code.instructions(&range);
            let instruction = instructions.iter().find(|i| i.ip() == place.address).unwrap();
            let start = place.file_offset as usize;
            let bytes = &build.elf[start..start + instruction.len()];
            let loaded = code.image.bytes(place.address, instruction.len());
            assert_eq!(Some(bytes), loaded, "{}", build.name);
            assert_eq!(emulates(bytes), place.emulated, "{}: {place:x?}", build.name);
        }
    }
}

/// What the interpreter itself says. Up to 3.12, `dis` numbers the specialised ones as the loop does.
const OPCODES: &str = "
m = {}
try:
    import _opcode_metadata as o
    m.update(o._specialized_opmap)
    m.update(o.opmap)
except ImportError:
    import dis, opcode
    m.update(dis._all_opmap)
    m.update(opcode.opmap)
print(*[m[n] for n in m if n.removeprefix('INSTRUMENTED_').startswith(('RESUME', 'YIELD_VALUE'))])
";

#[test]
fn opcodes_are_those_that_the_interpreter_names() {
    for build in builds().iter().filter(|build| build.series() >= (3, 11)) {
        let [program, arguments @ ..] = &build.command[..] else {
            panic!()
        };
        let mut command = Command::new(program);
        command.args(arguments).args(["-c", OPCODES]);
        command.envs(build.home.as_ref().map(|home| ("PYTHONHOME", home)));
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut named: Vec<u8> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let opcodes = Opcodes::of(build.series());
        let mut known = [opcodes.entries, opcodes.yields].concat();
        if build.series() == (3, 11) {
            // YIELD_VALUE, which is not needed.
            known.push(86);
        }
        named.sort_unstable();
        known.sort_unstable();
        assert_eq!(named, known, "{}", build.name);
    }
}
