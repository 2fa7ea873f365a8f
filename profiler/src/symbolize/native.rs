//! Functions and lines in ELF files.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized, Symbolizer};
use memmap2::Mmap;
use object::elf;
use object::{CompressionFormat, Object as _, ObjectSection as _, SectionFlags};

use super::debug_file::{self, Place, Wanted};
use super::demangle::demangle;
use super::{Options, Symbol};
use crate::process::root::{LastLink, descriptor_path, open_regular};

/// Debug information above this size is left out. blazesym reads what the addresses need, at up to one byte of memory
/// for each byte (21 MiB for libpython3.12's 22 MiB, all of it touched), and unpacks compressed sections whole; a
/// browser's gigabytes would take minutes and get us killed.
const MOST_DEBUG_BYTES: u64 = 256 << 20;

/// Names `addresses` of the ELF file at `path`; beside the names, why some are missing. `kept` is a debug file from
/// where the file came from, if one was found there: a container's own.
pub(super) fn symbolize(
    path: &Path,
    kept: Option<&File>,
    addresses: &[u64],
    options: &Options,
) -> (Vec<Vec<Symbol>>, Option<String>) {
    let mut symbols = vec![Vec::new(); addresses.len()];
    if addresses.is_empty() {
        return (symbols, None);
    }
    let opened = open_regular(path, LastLink::Follow).map_err(|error| error.to_string());
    let source = match opened.and_then(|file| NameSource::new(file, path)) {
        Ok(source) => source,
        Err(error) => return (symbols, Some(format!("no symbols from {}: {error}", path.display()))),
    };

    let mut warning = None;
    let debug_dirs = Some(&*options.debug_dirs);
    if options.debug_info {
        if let Some(debug) = debug_source(path, kept, &source.facts, options) {
            // Both: a function written in assembler is only in the symbol table, and a debug file can be damaged in
            // part.
            if debug.has_debug_info() {
                warning = fill(&mut symbols, &debug, addresses, debug_dirs).err();
                complete_names(&mut symbols, &debug, addresses);
            }
            if let Err(error) = fill(&mut symbols, &debug, addresses, None) {
                warning.get_or_insert(error);
            }
        }
        // An error above is not the end: the file itself may still do.
        if symbols.iter().all(Vec::is_empty) && source.has_debug_info() {
            warning = fill(&mut symbols, &source, addresses, debug_dirs).err().or(warning);
            complete_names(&mut symbols, &source, addresses);
        }
    }
    // What has no debug information may be in a symbol table. This is also what is left if the debug information is
    // damaged.
    if let Err(error) = fill(&mut symbols, &source, addresses, None) {
        warning.get_or_insert(error);
    }
    (symbols, warning)
}

/// The debug file that belongs to a file with these `facts`: an installed one if there is one, because it can be
/// trusted, then the one that was kept.
fn debug_source(path: &Path, kept: Option<&File>, facts: &Facts, options: &Options) -> Option<NameSource> {
    let check = |place: &Place, file: File| {
        let debug = NameSource::new(file, &place.path).ok()?;
        let is_right = facts.wanted.matches(&debug.facts.wanted, &debug.map().ok()?);
        is_right.then_some(NameSource {
            is_installed: place.is_installed,
            ..debug
        })
    };
    let places = facts.wanted.places(Some(path), &options.debug_dirs);
    debug_file::first(places, check).or_else(|| {
        let place = Place {
            path: path.to_owned(),
            is_installed: false,
        };
        check(&place, kept?.try_clone().ok()?)
    })
}

/// A file that is asked for names.
struct NameSource {
    file: File,
    /// To be shown; to be opened only after a look at what is there.
    path: PathBuf,
    facts: Facts,
    /// It was put where only root can put files.
    is_installed: bool,
}

impl NameSource {
    fn new(file: File, path: &Path) -> Result<Self, String> {
        let facts = Facts::read(&file)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            facts,
            is_installed: false,
        })
    }

    fn map(&self) -> std::io::Result<Mmap> {
        // SAFETY: the bytes can change meanwhile, as those of any file; they are foreign and only read with checks.
        unsafe { Mmap::map(&self.file) }
    }

    /// Whether there is debug information to be read.
    ///
    /// blazesym follows references to further files and opens what it finds, wherever they lead. Those of an installed
    /// debug file (dwz puts what several have in common into one of its own) are as good as it is; those of other files
    /// are their owner's.
    fn has_debug_info(&self) -> bool {
        self.facts.debug_bytes > 0 && (self.is_installed || !self.facts.refers_to_others)
    }

    /// The path to be opened for debug information: not the name of the file, beside which blazesym looks for a `.dwp`
    /// (split DWARF), unless there really is one, and one of reasonable size.
    fn path_with_package(&self) -> PathBuf {
        let mut package = self.path.as_os_str().to_owned();
        package.push(".dwp");
        let is_package = open_regular(package.as_ref(), LastLink::Follow)
            .map_err(|error| error.to_string())
            .and_then(|file| Facts::read(&file))
            .is_ok_and(|facts| facts.debug_bytes <= MOST_DEBUG_BYTES && !facts.refers_to_others);
        if is_package {
            self.path.clone()
        } else {
            descriptor_path(&self.file)
        }
    }
}

/// Names those addresses that have no symbols yet. With `debug_dirs` from debug information, without from symbol
/// tables.
fn fill(
    symbols: &mut [Vec<Symbol>],
    source: &NameSource,
    addresses: &[u64],
    debug_dirs: Option<&[PathBuf]>,
) -> Result<(), String> {
    let missing: Vec<usize> = (0..addresses.len()).filter(|&at| symbols[at].is_empty()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let facts = &source.facts;
    if debug_dirs.is_some() && facts.debug_bytes > MOST_DEBUG_BYTES {
        let mebibytes = facts.debug_bytes >> 20;
        return Err(format!(
            "no lines from {}: {mebibytes} MiB of debug information are too many",
            source.path.display()
        ));
    }

    // One symbolizer per file and question: when it goes, all that it read goes with it.
    let look_up = || {
        let symbolizer = Symbolizer::builder()
            .enable_auto_reload(false)
            .enable_code_info(debug_dirs.is_some())
            .enable_inlined_fns(debug_dirs.is_some())
            .enable_demangling(false)
            .set_debug_dirs(debug_dirs)
            .build();
        let path = match debug_dirs {
            Some(_) => source.path_with_package(),
            None => descriptor_path(&source.file),
        };
        let mut elf = Elf::new(path);
        elf.debug_syms = debug_dirs.is_some();
        let from = Source::Elf(elf);
        let mut take = |at: usize, result: &Symbolized<'_>| {
            if let Symbolized::Sym(sym) = result
                && facts.covers(sym, addresses[at])
            {
                symbols[at] = functions(sym);
            }
        };
        let inputs: Vec<u64> = missing.iter().map(|&at| addresses[at]).collect();
        let error = match symbolizer.symbolize(&from, Input::VirtOffset(&inputs)) {
            Ok(results) => {
                missing.iter().zip(&results).for_each(|(&at, result)| take(at, result));
                return Ok(());
            }
            Err(error) => error.to_string(),
        };
        // One symbol that cannot be read (a name that is no UTF-8, one damaged unit) is an error for all. A file that
        // cannot be read at all is one each time.
        const MOST_FAILURES: usize = 16;
        let mut failures = 0;
        for (&at, &input) in missing.iter().zip(&inputs) {
            match symbolizer.symbolize_single(&from, Input::VirtOffset(input)) {
                Ok(result) => take(at, &result),
                Err(_) => failures += 1,
            }
            if failures == MOST_FAILURES {
                break;
            }
        }
        Err(error)
    };
    // The file is somebody else's, and blazesym trusts the indices in it more than we do.
    let outcome = catch_unwind(AssertUnwindSafe(look_up)).unwrap_or_else(|_| Err("damaged ELF file".into()));
    outcome.map_err(|error: String| {
        let what = if debug_dirs.is_some() { "lines" } else { "symbols" };
        format!("no {what} from {}: {error}", source.path.display())
    })
}

/// Gives functions the names they have in the symbol table if those say more: debug information of C++ has no more than
/// `run` for a static function or one in an unnamed namespace, where the symbol table has `server::run(int)` (GCC 12).
/// Functions that are inlined everywhere are not in there, and keep theirs.
fn complete_names(symbols: &mut [Vec<Symbol>], source: &NameSource, addresses: &[u64]) {
    let is_plain = |name: &str| !name.contains("::") && !name.contains('(');
    let plain: Vec<usize> = (0..addresses.len())
        .filter(|&at| symbols[at].last().is_some_and(|symbol| is_plain(&symbol.function)))
        .collect();
    let inside: Vec<u64> = plain.iter().map(|&at| addresses[at]).collect();
    let mut named = vec![Vec::new(); inside.len()];
    // What cannot be read has been told of, or will be.
    let _ = fill(&mut named, source, &inside, None);
    for (at, named) in plain.into_iter().zip(named) {
        if let (Some(symbol), Some(named)) = (symbols[at].last_mut(), named.into_iter().next_back())
            && !is_plain(&named.function)
        {
            symbol.function = named.function;
        }
    }
}

/// Innermost first: blazesym gives the function that has the code, and those inlined into it from the outside in.
pub(super) fn functions(sym: &Sym<'_>) -> Vec<Symbol> {
    if sym.name.is_empty() {
        return Vec::new();
    }
    let symbol = |name: &str, code: Option<&CodeInfo<'_>>, inlined| Symbol {
        function: demangle(name),
        file: code.map(|code| code.to_path().to_string_lossy().into_owned()),
        line: code.and_then(|code| code.line).filter(|&line| line != 0),
        inlined,
        extent: None,
    };
    let inlined = sym
        .inlined
        .iter()
        .rev()
        .map(|inlined| symbol(&inlined.name, inlined.code_info.as_ref(), true));
    let outermost = Symbol {
        extent: (sym.size).and_then(|size| Some((sym.addr, sym.addr.checked_add(size as u64)?))),
        ..symbol(&sym.name, sym.code_info.as_deref(), false)
    };
    inlined.chain([outermost]).collect()
}

/// What is needed to know of a file before blazesym reads it.
struct Facts {
    wanted: Wanted,
    /// Size of its debug information, unpacked.
    debug_bytes: u64,
    refers_to_others: bool,
    /// Address ranges of the sections with code.
    code: Vec<(u64, u64)>,
}

impl Facts {
    fn read(file: &File) -> Result<Self, String> {
        // SAFETY: the bytes can change meanwhile, as those of any file; they are foreign and only read with checks.
        let bytes = unsafe { Mmap::map(file) }.map_err(|error| error.to_string())?;
        let file = object::File::parse(&*bytes).map_err(|_| "not an ELF file".to_owned())?;
        let mut facts = Self {
            wanted: Wanted::of(&file),
            debug_bytes: 0,
            refers_to_others: debug_file::refers_to_others(&file),
            code: Vec::new(),
        };
        const TOO_LARGE: &str = "it has a section that is damaged or too large to be unpacked";
        if !debug_file::mini_debug_info_fits(&file, MOST_DEBUG_BYTES) {
            return Err(TOO_LARGE.to_owned());
        }
        for section in file.sections() {
            if let SectionFlags::Elf { sh_flags } = section.flags()
                && sh_flags & u64::from(elf::SHF_EXECINSTR) != 0
            {
                facts
                    .code
                    .push((section.address(), section.address().saturating_add(section.size())));
            }
            // Believing a damaged size would mean to ask for that much memory, and to be ended if there is not so much.
            let unpacked_bytes = section.compressed_data().map_or(0, |data| data.uncompressed_size);
            let is_debug = section
                .name()
                .is_ok_and(|name| name.starts_with(".debug_") || name.starts_with(".zdebug_"));
            if is_debug {
                facts.debug_bytes = facts.debug_bytes.saturating_add(unpacked_bytes.max(section.size()));
            } else if section
                .compressed_file_range()
                .is_ok_and(|range| range.format != CompressionFormat::None)
                && unpacked_bytes > MOST_DEBUG_BYTES
            {
                return Err(TOO_LARGE.to_owned());
            }
        }
        Ok(facts)
    }

    /// Whether a symbol that was found for an address can be meant for it.
    ///
    /// A symbol without a size (from assembler, `_init`) is given for everything up to the next symbol, even across
    /// sections: all stubs of `.plt` would be called `_init`. A function of several parts, whose cold code lies
    /// elsewhere, has no size either, but is known from debug information, which covers the address itself.
    fn covers(&self, sym: &Sym<'_>, address: u64) -> bool {
        let section = |address: u64| self.code.iter().find(|&&(start, end)| (start..end).contains(&address));
        sym.size.is_some()
            || sym.code_info.is_some()
            || section(sym.addr).is_some_and(|found| section(address) == Some(found))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::hint::black_box;
    use std::os::fd::AsRawFd as _;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::process::file::MappedFile;
    use crate::process::maps;

    #[inline(always)]
    fn folded_in(value: u64) -> u64 {
        black_box(value.wrapping_mul(7)) ^ black_box(value)
    }

    #[inline(never)]
    fn folding(value: u64) -> u64 {
        black_box(folded_in(black_box(value))).wrapping_add(1)
    }

    /// Virtual addresses of the first bytes of `folding`, and the executable they are in.
    fn folding_addresses() -> (PathBuf, Vec<u64>) {
        let start = folding as fn(u64) -> u64 as usize as u64;
        let maps = maps::read(std::process::id()).expect("own maps");
        let entry = maps.find(start).expect("a mapping");
        let file = MappedFile::open(std::process::id(), entry).expect("own executable");
        let bias = file.elf_headers().expect("ELF").load_bias(entry).expect("a segment");
        let start = start.wrapping_sub(bias);
        (file.path_to_open(), (start..start + 16).collect())
    }

    fn without_debug_info() -> Options {
        Options {
            debug_info: false,
            ..Options::default()
        }
    }

    #[test]
    fn an_inlined_function_comes_before_the_one_that_has_its_code() {
        let (path, addresses) = folding_addresses();
        let (symbols, warning) = symbolize(&path, None, &addresses, &Options::default());
        assert_eq!(warning, None);
        for functions in &symbols {
            let last = functions.last().expect("a function");
            assert!(last.function.ends_with("::folding") && !last.inlined, "{functions:?}");
        }
        let nested = symbols
            .iter()
            .find(|functions| functions.len() > 1)
            .expect("an inlined function");
        let position = |name: &str| nested.iter().position(|symbol| symbol.function.ends_with(name));
        assert!(nested[..nested.len() - 1].iter().all(|symbol| symbol.inlined));
        assert_eq!(position("folding"), Some(nested.len() - 1));
        let last = nested.last().expect("a function");
        assert!(
            last.file
                .as_ref()
                .is_some_and(|file| file.ends_with("symbolize/native.rs")),
            "{last:?}"
        );
        assert!(last.line.is_some());
    }

    #[test]
    fn without_debug_information_there_are_functions_and_no_lines() {
        let (path, addresses) = folding_addresses();
        let (symbols, warning) = symbolize(&path, None, &addresses, &without_debug_info());
        assert_eq!(warning, None);
        for functions in symbols {
            assert_eq!(functions.len(), 1);
            assert!(functions[0].function.ends_with("::folding"), "{functions:?}");
            assert_eq!((&functions[0].file, functions[0].line), (&None, None));
        }
    }

    #[test]
    fn a_deleted_file_is_symbolized_through_its_descriptor() {
        let (path, addresses) = folding_addresses();
        let copy = tempfile::NamedTempFile::new().expect("file");
        fs::copy(&path, copy.path()).expect("copy");
        let (file, copied) = copy.into_parts();
        copied.close().expect("delete");
        let descriptor = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let expected = symbolize(&path, None, &addresses, &Options::default());
        assert_eq!(symbolize(&descriptor, None, &addresses, &Options::default()), expected);
    }

    /// A copy of an ELF file that has no section headers, and with them no symbols of any kind.
    fn stripped(path: &Path) -> tempfile::NamedTempFile {
        let mut bytes = fs::read(path).expect("read");
        // e_shoff, e_shnum and e_shstrndx of a 64-bit header.
        bytes[0x28..0x30].fill(0);
        bytes[0x3c..0x40].fill(0);
        let copy = tempfile::NamedTempFile::new().expect("file");
        fs::write(copy.path(), bytes).expect("write");
        copy
    }

    #[test]
    fn a_debug_file_is_found_by_build_id() {
        let (path, addresses) = folding_addresses();
        let stripped = stripped(&path);
        let build_id = Facts::read(stripped.as_file()).expect("ELF").wanted.build_id;
        if build_id.is_empty() {
            eprintln!("skipped: the linker writes no build id");
            return;
        }
        let directory = tempfile::tempdir().expect("directory");
        let options = Options {
            debug_dirs: vec![directory.path().into()],
            ..Options::default()
        };
        let (symbols, _) = symbolize(stripped.path(), None, &addresses, &options);
        assert!(symbols.iter().all(Vec::is_empty));

        let hex: String = build_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let debug_file = directory
            .path()
            .join(".build-id")
            .join(&hex[..2])
            .join(format!("{}.debug", &hex[2..]));
        fs::create_dir_all(debug_file.parent().expect("a directory")).expect("create");
        std::os::unix::fs::symlink(&path, &debug_file).expect("link");
        let expected = symbolize(&path, None, &addresses, &Options::default());
        assert_eq!(symbolize(stripped.path(), None, &addresses, &options), expected);

        // A debug file of another build is not believed.
        fs::remove_file(&debug_file).expect("remove");
        fs::copy("/bin/true", &debug_file).expect("copy");
        assert!(
            symbolize(stripped.path(), None, &addresses, &options)
                .0
                .iter()
                .all(Vec::is_empty)
        );
    }

    #[test]
    fn a_stub_is_not_named_after_the_function_before_its_section() {
        let facts = Facts {
            wanted: Wanted::default(),
            debug_bytes: 0,
            refers_to_others: false,
            code: vec![(0x1000, 0x1017), (0x1020, 0x2000)],
        };
        let init = |size| Sym {
            name: "_init".into(),
            module: None,
            addr: 0x1000,
            offset: 0,
            size,
            code_info: None,
            inlined: Box::new([]),
            _non_exhaustive: (),
        };
        assert!(facts.covers(&init(None), 0x1010));
        assert!(!facts.covers(&init(None), 0x1030));
        assert!(!facts.covers(&init(None), 0x9000));
        assert!(facts.covers(&init(Some(0x40)), 0x1030));
    }

    #[test]
    fn what_is_not_elf_is_named_in_a_warning() {
        let (symbols, warning) = symbolize(Path::new("/proc/self/cmdline"), None, &[1, 2], &Options::default());
        assert_eq!(symbols, [vec![], vec![]]);
        assert!(warning.expect("a warning").contains("/proc/self/cmdline"));
        let (_, warning) = symbolize(Path::new("/no/such/file"), None, &[1], &Options::default());
        assert!(warning.expect("a warning").contains("No such file"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_damaged_file_is_survived(
            headers in prop::collection::vec((0usize..64, any::<u8>()), 0..3),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..200),
            addresses in prop::collection::vec(any::<u64>(), 1..4),
        ) {
            static TOOL: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read("/bin/true").expect("read"));
            let mut bytes = TOOL.clone();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            for (at, byte) in headers {
                bytes[at] = byte;
            }
            let file = tempfile::NamedTempFile::new().expect("file");
            fs::write(file.path(), bytes).expect("write");
            let addresses: Vec<u64> = addresses.into_iter().flat_map(|address| [address, address & 0xffff]).collect();
            let (symbols, _) = symbolize(file.path(), None, &addresses, &Options::default());
            prop_assert_eq!(symbols.len(), addresses.len());
        }
    }
}
