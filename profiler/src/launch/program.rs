//! Which file's machine code a command will run, as far as that can be known before it runs.
//!
//! The kernel and the dynamic loader are followed: PATH, `#!` lines, and, if the executable needs a libpython, where the
//! loader looks for it (ld.so(8)). Behind any other program (a shell's `-c`, `nice`, `setsid`, `timeout`, …) the words it
//! is given are tried as commands. A wrong guess does no harm, since a file counts only once it is mapped; where the way
//! leads through a program that decides for itself (a shell script, as pyenv's shims are), nothing is said.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH};

use super::{DEFAULT_PATH, candidates};
use crate::{
    process::root::{LastLink, open_regular},
    python::image::Image,
};

/// How many files a command may lead through.
const MOST_STEPS: usize = 6;
/// How much of a `#!` line the kernel reads (BINPRM_BUF_SIZE, Linux 5.1 and later).
const LINE_BYTES: u64 = 256;
const MOST_CACHE_BYTES: u64 = 16 << 20;

const LOADER_CACHE: &str = "/etc/ld.so.cache";
const DEFAULT_DIRECTORIES: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

/// How many words of a command are tried as commands.
const MOST_WORDS: usize = 64;

/// The executable that `command` comes to in the end and the libpython it needs, if any. If it is no interpreter by its
/// name, then the same of the first word behind it that leads to one.
pub(super) fn files(command: &[OsString], variables: &[(OsString, OsString)]) -> Vec<PathBuf> {
    let own = executable(command, variables);
    let is_found = own.as_deref().is_some_and(is_interpreter);
    let behind = (!is_found).then(|| behind(command, variables)).flatten();
    let executables = own.into_iter().chain(behind);
    executables
        .flat_map(|executable| {
            let library = library(&executable, variables);
            std::iter::once(executable).chain(library)
        })
        .collect()
}

/// The interpreter that a program is told to run, in one of its words, or in the text that one of them is.
fn behind(command: &[OsString], variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    let words = command.iter().skip(1).flat_map(|word| {
        let parts = word.as_bytes().split(|byte| b" \t\n;&|()`'\"".contains(byte));
        parts.filter(|part| !part.is_empty())
    });
    words
        .take(MOST_WORDS)
        .filter_map(|word| executable(&[OsStr::from_bytes(word).to_owned()], variables))
        .find(|path| is_interpreter(path))
}

/// By its name, or that of what it links to: which file it is is looked at later.
fn is_interpreter(path: &Path) -> bool {
    let named = |path: &Path| {
        let name = path.file_name();
        name.is_some_and(|name| name.as_bytes().starts_with(b"python"))
    };
    named(path) || path.canonicalize().is_ok_and(|path| named(&path))
}

fn variable<'a>(variables: &'a [(OsString, OsString)], wanted: &str) -> Option<&'a OsStr> {
    let mut found = variables.iter().filter(|(name, _)| name == wanted);
    found.next().map(|(_, value)| value.as_os_str())
}

fn executable(command: &[OsString], variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    let mut words: Vec<OsString> = command.to_vec();
    for _ in 0..MOST_STEPS {
        let path = look_up(words.first()?, variables)?;
        let mut start = Vec::new();
        open_regular(&path, LastLink::Follow)
            .ok()?
            .take(LINE_BYTES)
            .read_to_end(&mut start)
            .ok()?;
        if let Some(line) = start.strip_prefix(b"#!") {
            let interpreter = interpreter(line);
            words = interpreter.into_iter().chain([path.into()]).collect();
        } else if path.file_name() == Some(OsStr::new("env")) {
            words = behind_env(&words)?;
        } else {
            return start.starts_with(b"\x7fELF").then_some(path);
        }
    }
    None
}

/// The first file that can be executed of those that execvp(3) would try.
fn look_up(program: &OsStr, variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    let path = variable(variables, "PATH").unwrap_or(OsStr::new(DEFAULT_PATH));
    let candidates = candidates(program, path).into_iter();
    candidates
        .map(|path| PathBuf::from(OsStr::from_bytes(&path)))
        .find(|path| {
            let metadata = path.metadata();
            metadata.is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        })
}

/// The interpreter and its one argument in what follows `#!`.
fn interpreter(line: &[u8]) -> Vec<OsString> {
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.trim_ascii();
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (program, argument) = line.split_at(end);
    let words = [program, argument.trim_ascii()];
    let words = words.into_iter().filter(|word| !word.is_empty());
    words.map(|word| OsStr::from_bytes(word).to_owned()).collect()
}

/// What env(1) runs; none if it is told more than variables.
fn behind_env(words: &[OsString]) -> Option<Vec<OsString>> {
    // `#!/usr/bin/env -S python3 -u` is one word.
    let split = words.get(1)?.as_bytes().strip_prefix(b"-S ");
    let mut words: Vec<OsString> = match split {
        Some(split) => split
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty())
            .map(|word| OsStr::from_bytes(word).to_owned())
            .chain(words.iter().skip(2).cloned())
            .collect(),
        None => words[1..].to_vec(),
    };
    let first = words.iter().position(|word| !word.as_bytes().contains(&b'='))?;
    // A PATH of its own is one more way that is not followed.
    let sets_path = words[..first].iter().any(|word| word.as_bytes().starts_with(b"PATH="));
    words.drain(..first);
    (!sets_path && !words[0].as_bytes().starts_with(b"-")).then_some(words)
}

/// The libpython that an executable needs, where the loader would find it.
fn library(executable: &Path, variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    let file = open_regular(executable, LastLink::Follow).ok()?;
    let bytes = map(&file)?;
    let image = Image::parse(&bytes)?;
    let needed = image.dynamic(DT_NEEDED);
    let name = needed.iter().find(|name| name.starts_with(b"libpython"))?;
    let name = OsStr::from_bytes(name);
    let own = executable.canonicalize().ok()?;
    let origin = own.parent()?.as_os_str().as_bytes();
    let expanded = |list: &[u8]| -> Vec<PathBuf> {
        let directories = list
            .split(|&byte| byte == b':')
            .filter(|directory| !directory.is_empty());
        directories
            .map(|directory| {
                let rest = [&b"$ORIGIN"[..], b"${ORIGIN}"]
                    .iter()
                    .find_map(|token| directory.strip_prefix(*token));
                let path = rest.map_or_else(|| directory.to_vec(), |rest| [origin, rest].concat());
                PathBuf::from(OsStr::from_bytes(&path))
            })
            .collect()
    };
    let run_path: Vec<PathBuf> = image
        .dynamic(DT_RUNPATH)
        .iter()
        .flat_map(|list| expanded(list))
        .collect();
    let mut directories = Vec::new();
    if run_path.is_empty() {
        directories.extend(image.dynamic(DT_RPATH).iter().flat_map(|list| expanded(list)));
    }
    if let Some(list) = variable(variables, "LD_LIBRARY_PATH") {
        directories.extend(expanded(list.as_bytes()));
    }
    directories.extend(run_path);
    let exists = |path: &PathBuf| path.is_file();
    let found = directories.iter().map(|directory| directory.join(name)).find(exists);
    found.or_else(|| cached(name).filter(exists)).or_else(|| {
        let paths = DEFAULT_DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(name));
        paths.into_iter().find(exists)
    })
}

/// Where the loader's cache has a library.
fn cached(name: &OsStr) -> Option<PathBuf> {
    let file = open_regular(Path::new(LOADER_CACHE), LastLink::Follow).ok()?;
    let mut bytes = Vec::new();
    file.take(MOST_CACHE_BYTES).read_to_end(&mut bytes).ok()?;
    in_cache(&bytes, name.as_bytes())
}

/// `struct cache_file_new` of glibc (sysdeps/generic/dl-cache.h): a header of 48 bytes, then 24 bytes for each library, in
/// which are, as offsets from the header, its name and its path. Caches that begin with
/// the older format (until glibc 2.32) are not read.
fn in_cache(bytes: &[u8], name: &[u8]) -> Option<PathBuf> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    /// `FLAG_ELF_LIBC6 | FLAG_X8664_LIB64`.
    const X86_64: u32 = 0x0303;
    if !bytes.starts_with(MAGIC) {
        return None;
    }
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let text = |at: u32| bytes.get(at as usize..)?.split(|&byte| byte == 0).next();
    let count = word(MAGIC.len())? as usize;
    let entries = bytes.get(HEADER..)?.chunks_exact(ENTRY).take(count).enumerate();
    for (index, _) in entries {
        let at = HEADER + index * ENTRY;
        let (flags, key, value) = (word(at)?, word(at + 4)?, word(at + 8)?);
        if flags == X86_64 && text(key) == Some(name) {
            return text(value).map(|path| PathBuf::from(OsStr::from_bytes(path)));
        }
    }
    None
}

fn map(file: &File) -> Option<Mmap> {
    // SAFETY: others can change the bytes under the map, as with any program's file; its parser takes them for foreign.
    unsafe { Mmap::map(file) }.ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use proptest::prelude::*;

    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn scripts_links_and_env_lead_to_the_executable() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let own = std::env::current_exe().unwrap();
        symlink(&own, at("python9")).unwrap();
        let script = |name: &str, text: &str| {
            fs::write(at(name), text).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        script("direct", &format!("#! {} -u\nprint()\n", at("python9").display()));
        script("by-env", "#!/usr/bin/env python9\n");
        script("by-split-env", "#!/usr/bin/env -S X=1 python9 -u\n");
        script("shim", "#!/bin/sh\nexec python9 \"$@\"\n");
        script("endless", &format!("#!{}\n", at("endless").display()));
        let path = format!("/nonexistent:{}:/usr/bin:/bin", directory.path().display());
        let variables = [(OsString::from("PATH"), OsString::from(path))];
        let found = |command: &[&str]| executable(&words(command), &variables);
        for command in [
            &["python9"][..],
            &["direct", "x"],
            &["by-env"],
            &["by-split-env"],
            &["env", "A=1", "B=2", "python9", "-c", ""],
        ] {
            assert_eq!(found(command), Some(at("python9")), "{command:?}");
        }
        assert_ne!(found(&["shim"]), Some(at("python9")));
        for command in [
            &["endless"][..],
            &["not-there"],
            &["env"],
            &["env", "-i", "python9"],
            &["env", "PATH=/", "python9"],
            &[],
        ] {
            assert_eq!(found(command), None, "{command:?}");
        }
        // The test is no CPython, and needs none.
        assert_eq!(files(&words(&["python9"]), &variables), [at("python9")]);
        for command in [
            &["sh", "-c", "cd /tmp; exec python9 -u \"$@\"", "x"][..],
            &["nice", "-n", "5", "python9", "x.py"],
            &["taskset", "1", "by-env"],
            &["setsid", "env", "A=1", "direct"],
            &["timeout", "--signal=INT", "30", "python9"],
            &["env", "-i", "python9"],
        ] {
            assert!(
                files(&words(command), &variables).contains(&at("python9")),
                "{command:?}"
            );
        }
        assert!(!files(&words(&["sh", "-c", "echo by-nobody"]), &variables).contains(&at("python9")));
    }

    #[test]
    fn the_loader_s_cache_is_read() {
        let mut cache = b"glibc-ld.so.cache1.1".to_vec();
        cache.extend(2_u32.to_le_bytes());
        cache.resize(48, 0);
        let strings = 48 + 2 * 24;
        for (flags, key, value) in [(0x0803_u32, 0_u32, 10_u32), (0x0303, 0, 20)] {
            cache.extend(flags.to_le_bytes());
            cache.extend((strings + key).to_le_bytes());
            cache.extend((strings + value).to_le_bytes());
            cache.resize(cache.len() + 12, 0);
        }
        cache.extend(b"libx.so.1\0/lib32/x\0\0/lib64/x\0");
        assert_eq!(in_cache(&cache, b"libx.so.1"), Some(PathBuf::from("/lib64/x")));
        assert_eq!(in_cache(&cache, b"libx.so"), None);
        if let Ok(real) = fs::read(LOADER_CACHE) {
            assert!(in_cache(&real, b"libc.so.6").is_some_and(|path| path.exists()));
        }
    }

    proptest! {
        #[test]
        fn no_cache_and_no_line_panics(bytes: Vec<u8>) {
            let _ = in_cache(&bytes, b"libc.so.6");
            let _ = in_cache(&[&b"glibc-ld.so.cache1.1"[..], &bytes].concat(), b"libc.so.6");
            let _ = interpreter(&bytes);
            let _ = behind_env(&[OsString::from("env"), OsStr::from_bytes(&bytes).to_owned()]);
        }
    }
}
