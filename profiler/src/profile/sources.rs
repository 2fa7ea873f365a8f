//! The text of source files as it was when the recording ended, by the path that frames have.

use std::collections::BTreeMap;

/// A recording brings a few megabytes of 64 files at most; merged ones bring more, and a file may say anything.
const MOST_FILES: usize = 1024;
const MOST_BYTES: usize = 32 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    texts: BTreeMap<String, String>,
    bytes: usize,
}

impl Sources {
    /// Whether there was room.
    pub fn insert(&mut self, path: &str, text: &str) -> bool {
        let bytes = self.bytes.saturating_add(path.len() + text.len());
        if self.texts.contains_key(path) || self.texts.len() >= MOST_FILES || bytes > MOST_BYTES {
            return false;
        }
        self.bytes = bytes;
        self.texts.insert(path.to_owned(), text.to_owned());
        true
    }

    pub fn get(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.texts.iter().map(|(path, text)| (&**path, &**text))
    }

    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// What several recordings have, and how many files are left out because they have several texts: lines of one would
    /// stand beside numbers of another.
    pub fn common<'a>(all: impl IntoIterator<Item = &'a Self>) -> (Self, usize) {
        let mut texts: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        for (path, text) in all.into_iter().flat_map(Self::iter) {
            texts
                .entry(path)
                .and_modify(|known| *known = known.filter(|known| *known == text))
                .or_insert(Some(text));
        }
        let mut common = Self::default();
        let mut several = 0;
        for (path, text) in texts {
            match text {
                Some(text) => {
                    common.insert(path, text);
                }
                None => several += 1,
            }
        }
        (common, several)
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Sources {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(texts: T) -> Self {
        let mut sources = Self::default();
        for (path, text) in texts {
            sources.insert(path, text);
        }
        sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_texts_of_a_file_none_is_kept() {
        let one = Sources::from_iter([("/a.py", "x"), ("/b.py", "y")]);
        let two = Sources::from_iter([("/a.py", "x"), ("/b.py", "z"), ("/c.py", "c")]);
        let three = Sources::from_iter([("/b.py", "y")]);
        let (common, several) = Sources::common([&one, &two, &three]);
        assert_eq!(common, Sources::from_iter([("/a.py", "x"), ("/c.py", "c")]));
        assert_eq!(several, 1);
    }

    #[test]
    fn there_is_an_end_to_what_a_file_may_bring() {
        let mut sources = Sources::default();
        assert!(!sources.insert("/a.py", &"x".repeat(MOST_BYTES)));
        for number in 0..MOST_FILES {
            assert!(sources.insert(&format!("/{number}.py"), ""));
        }
        assert!(!sources.insert("/one more.py", ""));
    }
}
