//! Tests on files as compilers and distributions make them: with the symbols here, there, compressed, or nowhere.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use object::{Object as _, ObjectSymbol as _};

use super::{Options, Symbol, Symbolizer, debug_file, debug_file_in_container};

/// `twice` is inlined into `middle`, `hidden` is nobody's to link to, `area` is a template, `raw` has a C name.
const SOURCE: &str = r#"
#include <utility>
template <typename T> struct Area {
    T side;
    __attribute__((noinline)) T area(std::pair<T, T> by) const { return side * by.first + by.second; }
};
namespace shapes {
__attribute__((noinline)) static int hidden(int n) { asm volatile(""); return n * 3 + 1; }
static inline __attribute__((always_inline)) int twice(int n) {
    int sum = 0;
    for (volatile int i = 0; i < n; i = i + 1) sum += i;
    return sum * 2;
}
__attribute__((noinline)) int middle(int n) { return twice(n) + hidden(n); }
}
extern "C" __attribute__((noinline)) int raw(int n) {
    return shapes::middle(n) + Area<int>{n}.area({n, n}) + (int)Area<double>{1.5}.area({2.0, (double)n});
}
"#;

/// Mangled name, and what it reads.
const HIDDEN: (&str, &str) = ("_ZN6shapesL6hiddenEi", "shapes::hidden(int)");
const MIDDLE: (&str, &str) = ("_ZN6shapes6middleEi", "shapes::middle(int)");
const AREA: (&str, &str) = (
    "_ZNK4AreaIdE4areaESt4pairIddE",
    "Area<double>::area(std::pair<double, double>) const",
);
const RAW: (&str, &str) = ("raw", "raw");

/// A directory with `lib.so`, which has everything, and what was made of it.
struct Fixture {
    directory: tempfile::TempDir,
    /// Of the functions in `lib.so`, by mangled name.
    addresses: HashMap<String, u64>,
}

impl Fixture {
    /// `None`, and a word about it, if a tool is missing.
    fn new(arguments: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().expect("directory");
        fs::write(directory.path().join("lib.cc"), SOURCE).expect("write");
        let fixture = Self {
            directory,
            addresses: HashMap::new(),
        };
        let mut command = vec![
            "-shared",
            "-fPIC",
            "-O1",
            "-g",
            "-Wl,--build-id",
            "lib.cc",
            "-o",
            "lib.so",
        ];
        command.extend(arguments);
        fixture.run("g++", &command)?;
        Some(fixture.with_addresses())
    }

    fn with_addresses(mut self) -> Self {
        let bytes = fs::read(self.path("lib.so")).expect("a file");
        let file = object::File::parse(&*bytes).expect("ELF");
        self.addresses = file
            .symbols()
            .filter_map(|symbol| Some((symbol.name().ok()?.to_owned(), symbol.address())))
            .collect();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a tool in the directory; `None` if there is no such tool.
    fn run(&self, tool: &str, arguments: &[impl AsRef<OsStr>]) -> Option<()> {
        let output = Command::new(tool)
            .args(arguments)
            .current_dir(self.directory.path())
            .output();
        let Ok(output) = output else {
            eprintln!("skipped: there is no {tool}");
            return None;
        };
        assert!(
            output.status.success(),
            "{tool}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Some(())
    }

    /// Splits `lib.so` into `bare.so`, without symbols, and `lib.debug`.
    fn split(&self) -> Option<()> {
        self.run("objcopy", &["--only-keep-debug", "lib.so", "lib.debug"])?;
        self.run("objcopy", &["--strip-all", "lib.so", "bare.so"])
    }

    /// Where the build id puts the debug file below a directory for debug files.
    fn build_id_path(&self) -> PathBuf {
        let bytes = fs::read(self.path("lib.so")).expect("a file");
        let build_id = object::File::parse(&*bytes)
            .expect("ELF")
            .build_id()
            .expect("notes")
            .expect("a build id")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        format!(".build-id/{}/{}.debug", &build_id[..2], &build_id[2..]).into()
    }

    fn options(&self) -> Options {
        Options {
            debug_dirs: vec![self.path("debug")],
            ..Options::default()
        }
    }

    /// What `file` says of a function.
    fn name(&self, file: &str, function: (&str, &str)) -> Vec<Symbol> {
        let mut symbolizer = Symbolizer::new(self.options());
        let address = self.addresses[function.0] + 1;
        symbolizer.native(&self.path(file), None, &[address]).remove(0)
    }

    #[track_caller]
    fn assert_named(&self, file: &str, function: (&str, &str)) -> Symbol {
        let symbols = self.name(file, function);
        let outermost = symbols.last().expect(function.1);
        assert_eq!(outermost.function, function.1);
        outermost.clone()
    }
}

fn is_in_source(symbol: &Symbol) -> bool {
    symbol.line.is_some() && symbol.file.as_ref().is_some_and(|file| file.ends_with("lib.cc"))
}

#[test]
fn everything_is_there_in_a_file_with_debug_information() {
    for arguments in [&["-gdwarf-5"][..], &["-gdwarf-4"], &["-gdwarf-5", "-gz=zlib"]] {
        let Some(fixture) = Fixture::new(arguments) else { return };
        for function in [HIDDEN, MIDDLE, AREA, RAW] {
            assert!(is_in_source(&fixture.assert_named("lib.so", function)), "{arguments:?}");
        }
        let start = fixture.addresses[MIDDLE.0];
        let mut symbolizer = Symbolizer::new(fixture.options());
        let inside: Vec<u64> = (start..start + 24).collect();
        let symbols = symbolizer.native(&fixture.path("lib.so"), None, &inside);
        let nested = symbols.iter().find(|symbols| symbols.len() == 2).expect("inlined code");
        // Without a linkage name, which GCC gives to static functions in the symbol table only.
        assert_eq!((&*nested[0].function, nested[0].inlined), ("twice", true));
        assert_eq!((&*nested[1].function, nested[1].inlined), (MIDDLE.1, false));
        assert_eq!(symbolizer.warnings(), [""; 0]);
    }
}

#[test]
fn a_symbol_table_names_all_functions_and_the_dynamic_one_those_that_are_exported() {
    let Some(fixture) = Fixture::new(&[]) else { return };
    let Some(()) = fixture.run("objcopy", &["--strip-debug", "lib.so", "symtab.so"]) else {
        return;
    };
    let Some(()) = fixture.run("objcopy", &["--strip-all", "lib.so", "dynsym.so"]) else {
        return;
    };
    for function in [HIDDEN, MIDDLE, AREA, RAW] {
        assert_eq!(fixture.assert_named("symtab.so", function).line, None);
    }
    for function in [MIDDLE, AREA, RAW] {
        fixture.assert_named("dynsym.so", function);
    }
    assert_eq!(fixture.name("dynsym.so", HIDDEN), []);
    // What has no name is known by its start.
    let start = fixture.addresses[HIDDEN.0];
    let starts = Symbolizer::default().function_starts(&fixture.path("dynsym.so"), &[start + 1]);
    assert_eq!(starts, [Some(start)]);
}

/// As Fedora's find-debuginfo makes it: the symbols that are not in `.dynsym`, in a file without code, compressed.
fn mini_debug_info(fixture: &Fixture) -> Option<()> {
    fixture.split()?;
    fixture.run("objcopy", &["--strip-debug", "lib.debug", "mini"])?;
    fixture.run("xz", &["--keep", "mini"])?;
    fixture.run(
        "objcopy",
        &["--add-section", ".gnu_debugdata=mini.xz", "bare.so", "mini.so"],
    )
}

#[test]
fn mini_debug_info_names_what_was_stripped() {
    let Some(fixture) = Fixture::new(&[]) else { return };
    let Some(()) = mini_debug_info(&fixture) else { return };
    assert_eq!(fixture.name("bare.so", HIDDEN), []);
    for function in [HIDDEN, MIDDLE, AREA, RAW] {
        fixture.assert_named("mini.so", function);
    }
}

#[test]
fn mini_debug_info_that_would_fill_the_memory_is_left_packed() {
    let Some(fixture) = Fixture::new(&[]) else { return };
    let Some(()) = fixture.split() else { return };
    let zeros = File::create(fixture.path("zeros")).expect("create");
    zeros.set_len(4 << 20).expect("grow");
    let Some(()) = fixture.run("xz", &["zeros"]) else {
        return;
    };
    let Some(()) = fixture.run(
        "objcopy",
        &["--add-section", ".gnu_debugdata=zeros.xz", "bare.so", "bomb.so"],
    ) else {
        return;
    };
    let fits = |name: &str, most_bytes| {
        let bytes = fs::read(fixture.path(name)).expect("a file");
        debug_file::mini_debug_info_fits(&object::File::parse(&*bytes).expect("ELF"), most_bytes)
    };
    assert!(fits("bomb.so", 4 << 20));
    assert!(!fits("bomb.so", (4 << 20) - 1));
    assert!(fits("bare.so", 0));
    // What is no xz does not fit either: blazesym gives up the whole file over it.
    let Some(()) = fixture.run(
        "objcopy",
        &["--add-section", ".gnu_debugdata=lib.cc", "bare.so", "junk.so"],
    ) else {
        return;
    };
    assert!(!fits("junk.so", 4 << 20));
}

#[test]
fn a_debug_file_is_found_by_build_id() {
    let Some(fixture) = Fixture::new(&[]) else { return };
    let Some(()) = fixture.split() else { return };
    assert_eq!(fixture.name("bare.so", HIDDEN), []);
    let place = fixture.path("debug").join(fixture.build_id_path());
    fs::create_dir_all(place.parent().expect("a directory")).expect("create");
    fs::copy(fixture.path("lib.debug"), &place).expect("copy");
    for function in [HIDDEN, MIDDLE, AREA, RAW] {
        assert!(is_in_source(&fixture.assert_named("bare.so", function)));
    }
    // A debug file may have the symbol table alone.
    let Some(()) = fixture.run(
        "objcopy",
        &[OsStr::new("--strip-debug"), OsStr::new("lib.debug"), place.as_os_str()],
    ) else {
        return;
    };
    assert_eq!(fixture.assert_named("bare.so", HIDDEN).line, None);
}

#[test]
fn a_debug_file_is_found_by_link_and_believed_by_checksum() {
    let Some(fixture) = Fixture::new(&["-Wl,--build-id=none"]) else {
        return;
    };
    let Some(()) = fixture.split() else { return };
    let Some(()) = fixture.run("objcopy", &["--add-gnu-debuglink=lib.debug", "bare.so", "linked.so"]) else {
        return;
    };
    let beside = fixture.path("lib.debug");
    let below = fixture.path("debug").join(
        fixture
            .directory
            .path()
            .strip_prefix("/")
            .expect("a path from the root"),
    );
    for place in [
        fixture.path("lib.debug"),
        fixture.path(".debug/lib.debug"),
        below.join("lib.debug"),
        fixture.path("debug/lib.debug"),
    ] {
        fs::create_dir_all(place.parent().expect("a directory")).expect("create");
        if place != beside {
            fs::copy(&beside, &place).expect("copy");
            fs::rename(&beside, fixture.path("aside")).expect("rename");
        }
        for function in [HIDDEN, MIDDLE, AREA] {
            assert!(is_in_source(&fixture.assert_named("linked.so", function)), "{place:?}");
        }
        if place != beside {
            fs::remove_file(&place).expect("remove");
            fs::rename(fixture.path("aside"), &beside).expect("rename");
        }
    }
    // One changed byte, and it is another file; the next place is tried.
    let mut bytes = fs::read(&beside).expect("read");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::rename(&beside, fixture.path("debug/lib.debug")).expect("rename");
    fs::write(&beside, bytes).expect("write");
    assert!(is_in_source(&fixture.assert_named("linked.so", HIDDEN)));
    fs::remove_file(fixture.path("debug/lib.debug")).expect("remove");
    assert_eq!(fixture.name("linked.so", HIDDEN), []);
    fixture.assert_named("linked.so", MIDDLE);
}

#[test]
fn a_pipe_in_place_of_a_debug_file_holds_nobody_up() {
    let Some(fixture) = Fixture::new(&[]) else { return };
    let Some(()) = fixture.split() else { return };
    let Some(()) = fixture.run("objcopy", &["--add-gnu-debuglink=lib.debug", "bare.so", "linked.so"]) else {
        return;
    };
    // With debug information of its own, and a link nevertheless.
    let Some(()) = fixture.run("objcopy", &["--add-gnu-debuglink=lib.debug", "lib.so", "both.so"]) else {
        return;
    };
    fs::remove_file(fixture.path("lib.debug")).expect("remove");
    let Some(()) = fixture.run("mkfifo", &["lib.debug", "lib.so.dwp", "both.so.dwp", "linked.so.dwp"]) else {
        return;
    };
    assert_eq!(fixture.name("linked.so", HIDDEN), []);
    fixture.assert_named("linked.so", MIDDLE);
    fixture.assert_named("both.so", HIDDEN);
    assert!(is_in_source(&fixture.assert_named("lib.so", HIDDEN)));
}

#[test]
fn split_debug_information_is_read_from_its_package() {
    let Some(fixture) = Fixture::new(&["-gsplit-dwarf", "-gdwarf-4"]) else {
        return;
    };
    // binutils' dwp knows DWARF 4 only (2.40).
    let names: Vec<_> = fs::read_dir(fixture.directory.path())
        .expect("list")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".dwo"))
        .collect();
    let mut arguments = vec!["-o".to_owned(), "lib.so.dwp".to_owned()];
    arguments.extend(names);
    let Some(()) = fixture.run("dwp", &arguments) else {
        return;
    };
    for function in [HIDDEN, MIDDLE, AREA] {
        fixture.assert_named("lib.so", function);
    }
    let start = fixture.addresses[MIDDLE.0];
    let inside: Vec<u64> = (start..start + 24).collect();
    let symbols = Symbolizer::new(fixture.options()).native(&fixture.path("lib.so"), None, &inside);
    assert!(symbols.iter().any(|symbols| symbols.len() == 2), "{symbols:?}");
}

#[test]
fn one_name_that_is_no_text_costs_no_other_its_own() {
    let Some(fixture) = Fixture::new(&[]) else { return };
    let Some(()) = fixture.run("objcopy", &["--strip-debug", "lib.so", "symtab.so"]) else {
        return;
    };
    let mut bytes = fs::read(fixture.path("symtab.so")).expect("read");
    let name = HIDDEN.0.as_bytes();
    let at = (0..bytes.len() - name.len())
        .rev()
        .find(|&at| bytes[at..].starts_with(name))
        .expect("a name");
    bytes[at + name.len() - 1] = 0xff;
    fs::write(fixture.path("symtab.so"), bytes).expect("write");
    let addresses = [HIDDEN, MIDDLE, AREA].map(|function| fixture.addresses[function.0] + 1);
    let symbols = Symbolizer::default().native(&fixture.path("symtab.so"), None, &addresses);
    let names: Vec<Option<&str>> = symbols
        .iter()
        .map(|symbols| symbols.last().map(|symbol| &*symbol.function))
        .collect();
    assert_eq!(names[1..], [Some(MIDDLE.1), Some(AREA.1)]);
}

#[test]
fn names_of_rust_are_readable_however_they_are_mangled() {
    const SOURCE: &str = "
        pub mod shapes {
            pub struct Area<T>(pub T);
            impl<T: Copy + std::ops::Mul<Output = T>> Area<T> {
                #[inline(never)] pub fn area(&self) -> T { self.0 * self.0 }
            }
        }
        #[unsafe(no_mangle)] pub extern \"C\" fn raw(n: u64) -> u64 { shapes::Area(n).area() }
    ";
    for arguments in [
        &["-Csymbol-mangling-version=v0"][..],
        &["-Csymbol-mangling-version=legacy", "-Zunstable-options"],
    ] {
        let directory = tempfile::tempdir().expect("directory");
        fs::write(directory.path().join("lib.rs"), SOURCE).expect("write");
        let output = Command::new("rustc")
            .args([
                "--crate-type=cdylib",
                "--edition=2024",
                "-O",
                "-g",
                "--crate-name=area",
                "lib.rs",
                "-o",
                "lib.so",
            ])
            .args(arguments)
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(directory.path())
            .output();
        let Ok(output) = output else {
            eprintln!("skipped: there is no rustc");
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let fixture = Fixture {
            directory,
            addresses: HashMap::new(),
        }
        .with_addresses();
        let Some(()) = fixture.run("objcopy", &["--strip-debug", "lib.so", "symtab.so"]) else {
            return;
        };
        let mangled = fixture
            .addresses
            .keys()
            .find(|name| name.contains("shapes") && name.contains("area"))
            .expect("a method");
        let from_debug = fixture.name("lib.so", (mangled, ""));
        let from_table = fixture.name("symtab.so", (mangled, ""));
        for symbols in [from_debug, from_table] {
            let name = &symbols.last().expect("a name").function;
            assert!(
                ["<area::shapes::Area<u64>>::area", "area::shapes::Area<T>::area"].contains(&&**name),
                "{name}"
            );
        }
    }
}

/// A program for an empty root: it says that it runs, and waits until its input ends.
const PROGRAM: &str = r#"
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}
__attribute__((noinline)) static long hidden(void) { char c; return call(0, 0, (long)&c, 1); }
void _start(void) { call(1, 1, (long)"ready\n", 6); hidden(); call(60, 0, 0, 0); }
"#;

#[test]
fn a_debug_file_inside_a_container_is_found_while_its_process_lives() {
    let directory = tempfile::tempdir().expect("directory");
    let root = directory.path().join("root");
    fs::create_dir(&root).expect("create");
    fs::write(directory.path().join("program.c"), PROGRAM).expect("write");
    let fixture = Fixture {
        directory,
        addresses: HashMap::new(),
    };
    let compile = [
        "-static",
        "-nostdlib",
        "-O1",
        "-g",
        "-fno-stack-protector",
        "-Wl,--build-id",
        "program.c",
        "-o",
        "lib.so",
    ];
    let Some(()) = fixture.run("gcc", &compile) else { return };
    let fixture = fixture.with_addresses();
    let Some(()) = fixture.split() else { return };
    fs::copy(fixture.path("bare.so"), root.join("program")).expect("copy");
    // As in an image: by a link that is absolute, and leads to another place from outside.
    let place = root.join("usr/lib/debug").join(fixture.build_id_path());
    fs::create_dir_all(place.parent().expect("a directory")).expect("create");
    fs::copy(fixture.path("lib.debug"), root.join("program.debug")).expect("copy");
    symlink("/program.debug", &place).expect("link");

    let child = Command::new("chroot")
        .args([root.as_os_str(), OsStr::new("/program")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: there is no chroot");
        return;
    };
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    output.read_line(&mut line).expect("a line");
    let program = File::open(root.join("program")).expect("open");
    let found = debug_file_in_container(child.id(), Path::new("/program"), &program);
    let ours = debug_file_in_container(std::process::id(), Path::new("/program"), &program);
    drop(child.stdin.take());
    child.wait().expect("wait");
    if line.is_empty() {
        eprintln!("skipped: only root can change its root directory");
        return;
    }
    fs::remove_dir_all(&root).expect("remove");

    assert!(ours.is_none());
    let found = found.expect("a debug file");
    let address = [fixture.addresses["hidden"] + 1];
    let bare = fixture.path("bare.so");
    let mut symbolizer = Symbolizer::new(fixture.options());
    assert_eq!(symbolizer.native(&bare, None, &address), [vec![]]);
    let symbols = symbolizer.native(&bare, Some(&found), &address);
    assert_eq!(symbols[0].last().map(|symbol| &*symbol.function), Some("hidden"));
    assert!(symbols[0][0].line.is_some());
    // That of another build is not believed.
    let other = File::open(std::env::current_exe().expect("own path")).expect("open");
    assert_eq!(symbolizer.native(&bare, Some(&other), &address), [vec![]]);
}
