//! Whose memory it is, over many windows.
//!
//! What lives on outlives the window in which it came, and with it the numbers that the window gave to stacks, names, files
//! and code. So at each cut the sites that still have something are kept by what they are, under numbers of their own, and
//! the writer puts them into the window that it names. Sites that have nothing any more are let go.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::event::SiteId;
use crate::{
    process::files::{File, FileId},
    python::{code::Code, codes::CodeId},
    recording::NO_SITE,
    resolve::{Location, Marker},
    window::{Sampled, Window},
};

/// Sites from here on are of all windows; those below are of the one that runs.
pub const LASTING: SiteId = 1 << 31;
/// The site of memory whose sites are too many.
pub const OTHERS: SiteId = SiteId::MAX - 2;

/// Some 1 KiB each. A program of a thousand lines that allocate, in ten threads, has ten thousand.
const MOST: usize = 1 << 15;

/// A frame without its process and without its window.
#[derive(Clone, Debug)]
enum Place {
    Python {
        code: Arc<Code>,
        line: u32,
    },
    Native {
        file: Arc<File>,
        address: u64,
    },
    Generated {
        name: Box<str>,
    },
    /// Whatever says all by itself.
    Other(Location),
    /// Of a file of which nothing is known any more.
    Lost,
}

/// Code and files are shared, so those that are the same are at the same place.
impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Python { code, line }, Self::Python { code: other, line: at }) => {
                Arc::ptr_eq(code, other) && line == at
            }
            (
                Self::Native { file, address },
                Self::Native {
                    file: other,
                    address: at,
                },
            ) => file.serial == other.serial && address == at,
            (Self::Generated { name }, Self::Generated { name: other }) => name == other,
            (Self::Other(location), Self::Other(other)) => location == other,
            (Self::Lost, Self::Lost) => true,
            _ => false,
        }
    }
}

impl Eq for Place {}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Python { code, line } => (Arc::as_ptr(code), line).hash(state),
            Self::Native { file, address } => (file.serial, address).hash(state),
            Self::Generated { name } => name.hash(state),
            Self::Other(location) => location.hash(state),
            Self::Lost => 0.hash(state),
        }
    }
}

/// A stack, and who had it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Whose {
    /// Leaf first.
    stack: Box<[Place]>,
    pid: u32,
    tid: u32,
    comm: Arc<str>,
    command: Arc<str>,
    thread: Arc<str>,
    cgroup: Arc<str>,
    container: Arc<str>,
}

impl Whose {
    fn of(window: &Window, sampled: &Sampled, shared: &mut Shared) -> Self {
        let ledger = &window.ledger;
        let place = |&index: &u32| match ledger.resolved.location(index) {
            Some(&Location::Python { code, line }) => match shared.codes.get(&code) {
                Some(code) => Place::Python {
                    code: Arc::clone(code),
                    line,
                },
                None => Place::Other(Location::Marker(Marker::UnknownCode)),
            },
            Some(&Location::Native { file, address }) => match shared.files.get(&file) {
                Some(file) => Place::Native {
                    file: Arc::clone(file),
                    address,
                },
                None => Place::Lost,
            },
            Some(&Location::Generated { name }) => Place::Generated {
                name: ledger.resolved.generated_name(name).into(),
            },
            Some(other) => Place::Other(other.clone()),
            None => Place::Lost,
        };
        Self {
            stack: ledger.resolved.stack(sampled.stack).iter().map(place).collect(),
            pid: sampled.pid,
            tid: sampled.tid,
            comm: shared.name(ledger.name(sampled.comm)),
            command: shared.name(ledger.name(sampled.command)),
            thread: shared.name(ledger.thread_name(sampled.thread)),
            cgroup: shared.name(ledger.name(sampled.cgroup)),
            container: shared.name(ledger.name(sampled.container)),
        }
    }
}

/// What a window shares with others, and its sites with each other.
struct Shared {
    files: FxHashMap<FileId, Arc<File>>,
    codes: FxHashMap<CodeId, Arc<Code>>,
    names: FxHashSet<Arc<str>>,
}

impl Shared {
    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }
}

/// The sites that have something, by numbers that last as long as they do.
#[derive(Debug, Default)]
pub struct Sites {
    known: Vec<Option<Arc<Whose>>>,
    ids: FxHashMap<Arc<Whose>, SiteId>,
    free: Vec<usize>,
    /// Those there was no number for.
    pub refused: u64,
}

impl Sites {
    /// The lasting numbers of those of a window's own sites that have something, by their own, which the others keep.
    pub fn enter(&mut self, window: &Window, has_something: impl Fn(SiteId) -> bool) -> Vec<SiteId> {
        let mut shared = Shared {
            names: FxHashSet::default(),
            files: window.files().map(|(id, file)| (id, Arc::clone(file))).collect(),
            codes: window
                .ledger
                .codes
                .shared()
                .map(|(id, code)| (id, Arc::clone(code)))
                .collect(),
        };
        let sites = (0..).zip(&window.ledger.sites);
        sites
            .map(|(own, site)| match site {
                Some(_) if !has_something(own) => own,
                Some(sampled) => self.number(Whose::of(window, sampled, &mut shared)),
                None => NO_SITE,
            })
            .collect()
    }

    fn number(&mut self, whose: Whose) -> SiteId {
        if let Some(&id) = self.ids.get(&whose) {
            return id;
        }
        if self.ids.len() >= MOST {
            self.refused += 1;
            return OTHERS;
        }
        let whose = Arc::new(whose);
        let index = self.free.pop().unwrap_or_else(|| {
            self.known.push(None);
            self.known.len() - 1
        });
        // There are fewer than 2³¹.
        let id = LASTING + index as SiteId;
        self.known[index] = Some(Arc::clone(&whose));
        self.ids.insert(whose, id);
        id
    }

    pub fn get(&self, id: SiteId) -> Option<&Arc<Whose>> {
        self.known.get(id.checked_sub(LASTING)? as usize)?.as_ref()
    }

    /// Lets go of all but these.
    pub fn keep(&mut self, kept: impl Fn(SiteId) -> bool) {
        for (index, known) in self.known.iter_mut().enumerate() {
            if !kept(LASTING + index as SiteId)
                && let Some(whose) = known.take()
            {
                self.ids.remove(&whose);
                self.free.push(index);
            }
        }
        if self.ids.capacity() > 4 * self.ids.len().max(1024) {
            self.ids.shrink_to_fit();
        }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// A window into which sites of earlier ones are put.
pub struct Returning<'a> {
    window: &'a mut Window,
    /// By [`File::serial`].
    files: FxHashMap<u64, FileId>,
    codes: FxHashMap<*const Code, CodeId>,
}

impl<'a> Returning<'a> {
    pub fn to(window: &'a mut Window) -> Self {
        Self {
            files: window.files().map(|(id, file)| (file.serial, id)).collect(),
            codes: window
                .ledger
                .codes
                .shared()
                .map(|(id, code)| (Arc::as_ptr(code), id))
                .collect(),
            window,
        }
    }

    /// Who it is in this window.
    pub fn put(&mut self, whose: &Whose) -> Sampled {
        let locations: Vec<Location> = whose.stack.iter().map(|place| self.location(place)).collect();
        let ledger = &mut self.window.ledger;
        Sampled {
            stack: ledger.resolved.take_back(locations.into_iter()),
            pid: whose.pid,
            tid: whose.tid,
            comm: ledger.take_back_name(&whose.comm),
            command: ledger.take_back_name(&whose.command),
            thread: ledger.take_back_thread(&whose.thread),
            cgroup: ledger.take_back_name(&whose.cgroup),
            container: ledger.take_back_name(&whose.container),
        }
    }

    fn location(&mut self, place: &Place) -> Location {
        match place {
            Place::Python { code, line } => Location::Python {
                code: *self
                    .codes
                    .entry(Arc::as_ptr(code))
                    .or_insert_with(|| self.window.ledger.codes.take_back(code)),
                line: *line,
            },
            Place::Native { file, address } => Location::Native {
                file: *self
                    .files
                    .entry(file.serial)
                    .or_insert_with(|| self.window.take_back_file(file)),
                address: *address,
            },
            Place::Generated { name } => Location::Generated {
                name: self.window.ledger.resolved.take_back_name(name),
            },
            Place::Other(location) => location.clone(),
            Place::Lost => Location::Anonymous { address: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustc_hash::FxHashSet;

    use super::*;
    use crate::process::files::Files;

    /// A window with one site: a frame in a file, called by generated code.
    fn window(file: FileId, files: &Files, address: u64, thread: &str) -> Window {
        let mut ledger = crate::window::Ledger::default();
        let name = ledger.resolved.take_back_name("jitted");
        let locations = [Location::Native { file, address }, Location::Generated { name }];
        let sampled = Sampled {
            stack: ledger.resolved.take_back(locations.into_iter()),
            pid: 7,
            tid: 8,
            comm: ledger.take_back_name("comm"),
            command: ledger.take_back_name("command"),
            thread: ledger.take_back_thread(thread),
            cgroup: ledger.take_back_name(""),
            container: ledger.take_back_name(""),
        };
        ledger.sites = vec![Some(sampled), None];
        Window::new(ledger, files)
    }

    #[test]
    fn a_site_is_the_same_in_every_window_and_can_be_put_into_one_that_has_not_met_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("library");
        std::fs::write(&path, "code").unwrap();
        let mut files = Files::default();
        let file = files.foresee(&path).unwrap();
        let mut sites = Sites::default();
        let first = sites.enter(&window(file, &files, 0x10, "a"), |_| true);
        assert!(first[0] >= LASTING && first[0] < OTHERS);
        assert_eq!(first[1], NO_SITE);
        assert_eq!(sites.enter(&window(file, &files, 0x10, "a"), |_| true), first);
        let other = sites.enter(&window(file, &files, 0x10, "b"), |_| true);
        assert_ne!(other[0], first[0], "another thread's");
        assert_ne!(sites.enter(&window(file, &files, 0x11, "a"), |_| true)[0], first[0]);

        // Its file is nobody's any more, and its id another's.
        files.keep(&FxHashSet::default(), Instant::now());
        let mut empty = Window::default();
        let whose = sites.get(first[0]).unwrap().clone();
        let again = Returning::to(&mut empty).put(&whose);
        assert_eq!((again.pid, again.tid), (7, 8));
        assert_eq!(empty.ledger.thread_name(again.thread), "a");
        assert_eq!(empty.ledger.name(again.command), "command");
        let stack = empty.ledger.resolved.stack(again.stack);
        let Some(&Location::Native { file, address: 0x10 }) = empty.ledger.resolved.location(stack[0]) else {
            panic!("not the frame that it was");
        };
        assert_eq!(empty.file(file).path, path);
        // What was put in is itself what it was.
        empty.ledger.sites = vec![Some(again)];
        assert_eq!(sites.enter(&empty, |_| true), [first[0]]);
    }

    #[test]
    fn numbers_of_sites_that_are_gone_are_used_again_and_there_is_a_limit() {
        let files = Files::default();
        let mut sites = Sites::default();
        let file = FileId::of_window(0);
        let mut kept = Vec::new();
        for address in 0..100 {
            // Of a file that is not known nothing but the thread tells them apart.
            let window = window(file, &files, 0, &format!("thread {address}"));
            let id = sites.enter(&window, |_| true)[0];
            assert_eq!(
                sites.enter(&window, |_| false)[0],
                0,
                "what has nothing has its own number"
            );
            assert!(id < LASTING + 10, "{id}");
            kept.push(id);
            let last: Vec<SiteId> = kept.iter().rev().take(9).copied().collect();
            sites.keep(|id| last.contains(&id));
            assert!(sites.len() <= 9);
        }
    }
}
