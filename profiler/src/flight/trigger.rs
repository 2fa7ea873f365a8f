//! A file that asks for windows to be kept: by appearing, or by being changed.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::keep::Keep;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What tells a file from what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

fn look(path: &Path) -> Option<Seen> {
    let metadata = fs::metadata(path).ok()?;
    Some(Seen {
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

/// Whether what is seen now asks for something, after what was seen before.
fn asks(before: Option<Seen>, now: Option<Seen>) -> bool {
    now.is_some() && now != before
}

/// Watches the file on a thread of its own: to look at it can take long, on a network. The thread ends with the program,
/// or when nobody else has `keep` any more. `told` is called after something was asked for.
pub fn watch(path: PathBuf, keep: &Arc<Mutex<Keep>>, told: impl Fn() + Send + 'static) -> io::Result<()> {
    let keep = Arc::downgrade(keep);
    // What is there already asks for nothing.
    let mut before = look(&path);
    thread::Builder::new().name("trigger".to_owned()).spawn(move || {
        loop {
            thread::sleep(LOOK_EVERY);
            let now = look(&path);
            let Some(keep) = keep.upgrade() else { break };
            if asks(before, now) {
                if let Ok(mut keep) = keep.lock() {
                    keep.ask();
                }
                told();
            }
            before = now;
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_asks_when_it_appears_or_changes_and_not_because_it_is_there_or_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trigger");
        let none = look(&path);
        fs::write(&path, "").unwrap();
        let empty = look(&path);
        fs::write(&path, "now").unwrap();
        let full = look(&path);
        assert!(asks(none, empty) && asks(empty, full) && asks(none, full));
        assert!(!asks(none, none) && !asks(full, full) && !asks(full, none));
    }
}
