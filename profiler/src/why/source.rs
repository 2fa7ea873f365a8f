//! What a line of source says about a wait: whether it takes a lock. Of lines that the stacks do not tell apart.

/// What a line takes, as far as its text says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LooksLike {
    /// By its name, or because it is acquired.
    NamedLock,
    /// `with` of something that is there already, whatever it is called: what waits there in CPython itself is a lock, if
    /// nobody has written another one.
    Lock,
}

/// `with lock:`, `lock.acquire()`. What `with` calls first may wait itself: `with items.get() as item:`.
pub fn takes_lock(line: &[u8]) -> Option<LooksLike> {
    let line = line.trim_ascii_start();
    let contains = |what: &[u8]| line.windows(what.len()).any(|part| part == what);
    if contains(b".acquire(") {
        return Some(LooksLike::NamedLock);
    }
    let what = line.strip_prefix(b"with ")?;
    let calls = what.contains(&b'(');
    // Names up to the colon that are no arguments: `with self.lock_of(name)`, `with locks[name]`.
    let mut words = what
        .split(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'.'))
        .filter(|word| !word.is_empty())
        .take_while(|word| *word != b"as");
    let names_lock = match calls {
        true => words.next().is_some_and(is_called_lock),
        false => words.any(is_called_lock),
    };
    match (names_lock, calls) {
        (true, _) => Some(LooksLike::NamedLock),
        (false, false) => Some(LooksLike::Lock),
        (false, true) => None,
    }
}

/// `self._lock`, `LOCKS`, `FileLock`, `mutex`; not `block` and `clock`.
fn is_called_lock(name: &[u8]) -> bool {
    let last = name.rsplit(|byte| *byte == b'.').next().unwrap_or(name);
    let last = last.to_ascii_lowercase();
    let mut parts = last.split(|byte| *byte == b'_');
    parts.any(|part| {
        let part = part.strip_suffix(b"s").unwrap_or(part);
        let is_other = part.ends_with(b"block") || part.ends_with(b"clock");
        part.starts_with(b"lock")
            || (part.ends_with(b"lock") && !is_other)
            || matches!(part, b"mutex" | b"mtx" | b"semaphore")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_that_take_locks_are_told_by_their_text() {
        for (line, expected) in [
            (&b"        with self._lock:"[..], Some(LooksLike::NamedLock)),
            (b"  if not lock.acquire(timeout=5):", Some(LooksLike::NamedLock)),
            (b"with self.locks[key], other:", Some(LooksLike::NamedLock)),
            (b"with self.lock_for(key):", Some(LooksLike::NamedLock)),
            (b"with second:  # here", Some(LooksLike::Lock)),
            (b"with the_block:", Some(LooksLike::Lock)),
            // What waits there may be what is called.
            (b"with items.get(block=True) as item:", None),
            (b"with open(lock_file) as file:", None),
            (b"    item = items.get()", None),
            (b"", None),
        ] {
            assert_eq!(takes_lock(line), expected, "{}", String::from_utf8_lossy(line));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "with [a-z_.(), ]{0,40}") {
            takes_lock(&bytes);
            takes_lock(text.as_bytes());
        }
    }
}
