//! The text of the files that a recording met, for those who read it line by line elsewhere (`--with-source`).
//!
//! Which files these are, the programs say, and a page is shown to others. So only what is called like Python's source is
//! read, what the program itself could have read, as it sees it, and a few megabytes of it.

use std::{
    cmp::Reverse,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use rustc_hash::FxHashMap;

use crate::{
    invoker::{Invoker, acting},
    process::root::{LastLink, Root, open_regular},
    profile::{FrameKind, Profile, Sources, StringId},
    report::path,
};

const MOST_FILES: usize = 64;
const MOST_OF_FILE: u64 = 512 << 10;
const MOST: usize = 3 << 20;
const ENDINGS: [&str; 3] = [".py", ".pyx", ".pyw"];

/// Of the program's own files first, and of those the hottest.
pub fn read(profile: &Profile, value: usize, invoker: Option<&Invoker>) -> Sources {
    let mut left = MOST;
    let mut sources = Sources::default();
    for (file, pid) in wanted(profile, value) {
        if let Some(text) = text(pid, Path::new(file), invoker).filter(|text| text.len() <= left) {
            left -= text.len();
            sources.insert(file, &text);
        }
    }
    sources
}

/// The files worth reading, each with a process that runs it.
fn wanted(profile: &Profile, value: usize) -> Vec<(&str, u32)> {
    let mut files: FxHashMap<StringId, (i64, u32)> = FxHashMap::default();
    for (key, values) in profile.samples().filter(|(_, values)| values[value] > 0) {
        let mut innermost = true;
        for id in profile.stack(key.stack) {
            let frame = profile.frame(*id);
            let file = profile.string(frame.file);
            if frame.kind != FrameKind::Python || !ENDINGS.iter().any(|ending| file.ends_with(ending)) {
                continue;
            }
            // Of installed files, those that ran; the program's own called them.
            if std::mem::take(&mut innermost) || !path::is_installed(file) {
                files.entry(frame.file).or_insert((0, key.labels.pid)).0 += values[value];
            }
        }
    }
    let mut files: Vec<_> = (files.into_iter())
        .map(|(file, (weight, pid))| (profile.string(file), weight, pid))
        .collect();
    files.sort_by_key(|(file, weight, _)| (path::is_installed(file), Reverse(*weight), *file));
    files
        .into_iter()
        .take(MOST_FILES)
        .map(|(file, _, pid)| (file, pid))
        .collect()
}

fn text(pid: u32, path: &Path, invoker: Option<&Invoker>) -> Option<String> {
    if !path.is_absolute() {
        return None;
    }
    let file = match Root::of(pid) {
        Ok(root) => root
            .open(path, LastLink::Follow)
            .ok()
            .filter(|file| could_read(pid, file).unwrap_or(false))?,
        // It has ended: what who asks may read under that name.
        Err(_) => acting(invoker, || open_regular(path, LastLink::Follow)).ok()?.ok()?,
    };
    let mut bytes = Vec::new();
    file.take(MOST_OF_FILE + 1).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    (text.len() as u64 <= MOST_OF_FILE && !text.contains('\0')).then_some(text)
}

/// Whether the process may read it, by its owner and group alone.
fn could_read(pid: u32, file: &File) -> io::Result<bool> {
    let process = fs::metadata(format!("/proc/{pid}"))?;
    let file = file.metadata()?;
    let mode = file.mode();
    Ok(process.uid() == 0
        || (file.uid() == process.uid() && mode & 0o400 != 0)
        || (file.gid() == process.gid() && mode & 0o040 != 0)
        || mode & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Frame, Labels, SampleKey, ValueType};

    fn profile(files: &[(&str, i64)]) -> Profile {
        let count = ValueType {
            kind: "samples",
            unit: "count",
        };
        let mut profile = Profile::new(vec![count], None);
        for (file, count) in files {
            let frame = Frame {
                kind: FrameKind::Python,
                function: profile.intern_string("f"),
                file: profile.intern_string(file),
                line: 1,
                first_line: 1,
                mapping: None,
                address: 0,
                inlined: false,
            };
            let frame = profile.intern_frame(frame);
            let key = SampleKey {
                stack: profile.intern_stack(&[frame]),
                labels: Labels {
                    pid: std::process::id(),
                    tid: 1,
                    comm: Profile::EMPTY,
                    command: Profile::EMPTY,
                    thread: Profile::EMPTY,
                    cgroup: Profile::EMPTY,
                    container: Profile::EMPTY,
                    task: Profile::EMPTY,
                },
            };
            profile.add(key, &[*count]);
        }
        profile
    }

    #[test]
    fn the_programs_own_files_come_first_and_only_source_is_read() {
        let files = [
            ("/v/lib/python3.12/site-packages/orm/query.py", 90),
            ("/srv/a.py", 1),
            ("/srv/b.py", 5),
            ("/etc/shadow", 50),
            ("<string>", 50),
            ("/srv/none.py", 0),
        ];
        let profile = profile(&files);
        let wanted: Vec<&str> = wanted(&profile, 0).into_iter().map(|(file, _)| file).collect();
        assert_eq!(wanted, ["/srv/b.py", "/srv/a.py", files[0].0]);
    }

    #[test]
    fn what_is_too_long_or_no_text_or_no_file_is_left_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        fs::write(path("a.py"), "def f(): pass\n").expect("written");
        fs::write(path("b.py"), [0xff, 0xfe]).expect("written");
        fs::write(path("c.py"), "# long\n".repeat(100_000)).expect("written");
        fs::create_dir(path("d.py")).expect("made");
        let names = ["a.py", "b.py", "c.py", "d.py", "e.py"].map(path);
        let files: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let sources = read(&profile(&files), 0, None);
        assert_eq!(sources.iter().collect::<Vec<_>>(), [(&*names[0], "def f(): pass\n")]);
    }
}
