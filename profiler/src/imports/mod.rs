//! Imports: which module was imported within which, and how long that took.

use profiler_common::mark::{MARK_IMPORT, MARK_IMPORTED, MARK_TEXT};
use rustc_hash::FxHashMap;

use crate::recording::Marked;

/// More are not kept: a program that makes up modules could have any number.
const MOST: usize = 200_000;

/// A module that was imported, once in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    pub pid: u32,
    pub tid: u32,
    /// As it is asked for, with all parent packages. Empty if it could not be read.
    pub name: String,
    /// The name is longer.
    pub is_cut: bool,
    /// Within which other it was.
    pub parent: Option<usize>,
    pub depth: u32,
    /// From its beginning to its end.
    pub wall_ns: u64,
    /// Of that, what its thread was on a CPU, as the kernel accounts for it: at ticks and switches.
    pub cpu_ns: u64,
    /// Within it, in others: of the first level, and how many there were on all.
    pub nested_ns: u64,
    pub nested_cpu_ns: u64,
    pub nested: u64,
    /// Those of the first level.
    pub direct: u64,
    /// Its end was not seen.
    pub is_unfinished: bool,
}

impl Import {
    /// What it took itself.
    pub fn own_ns(&self) -> u64 {
        self.wall_ns.saturating_sub(self.nested_ns)
    }
}

#[derive(Clone, Copy, Debug)]
struct Open {
    index: usize,
    /// Where its thread's stack was.
    place: u64,
    began_ns: u64,
    cpu_ns: u64,
}

#[derive(Debug, Default)]
pub struct Account {
    pub imports: Vec<Import>,
    open: FxHashMap<u32, Vec<Open>>,
    /// The last that was heard of each thread.
    last_ns: FxHashMap<u32, u64>,
    /// Beyond what is kept.
    pub forgotten: u64,
}

impl Account {
    pub fn take(&mut self, marked: &Marked) {
        let header = &marked.header;
        let (pid, tid, now_ns, event) = (header.pid, header.tid, header.time_ns, &marked.event);
        self.last_ns.insert(tid, now_ns);
        match event.what {
            MARK_IMPORT => {
                if self.imports.len() >= MOST {
                    self.forgotten += 1;
                    return;
                }
                // A thread of that number may have ended in the middle of it, and so may its process.
                self.close_above(tid, event.value);
                let open = self.open.entry(tid).or_default();
                if open.last().is_some_and(|open| self.imports[open.index].pid != pid) {
                    open.clear();
                }
                let parent = open.last().map(|open| open.index);
                open.push(Open {
                    index: self.imports.len(),
                    place: event.value,
                    began_ns: now_ns,
                    cpu_ns: event.runtime_ns,
                });
                let (name, is_cut) = name(&event.text, event.count);
                self.imports.push(Import {
                    pid,
                    tid,
                    name,
                    is_cut,
                    parent,
                    depth: parent.map_or(0, |parent| self.imports[parent].depth + 1),
                    wall_ns: 0,
                    cpu_ns: 0,
                    nested_ns: 0,
                    nested_cpu_ns: 0,
                    nested: 0,
                    direct: 0,
                    is_unfinished: true,
                });
            }
            MARK_IMPORTED => {
                let Some(open) = self.open.get_mut(&tid) else { return };
                // Those above it have ended without our seeing it.
                let Some(at) = open.iter().rposition(|open| open.place == event.value) else {
                    return;
                };
                let ended = open[at];
                open.truncate(at);
                self.end(ended, now_ns, event.runtime_ns, false);
            }
            _ => {}
        }
    }

    /// The recording is over.
    pub fn finish(&mut self) {
        for (tid, open) in std::mem::take(&mut self.open) {
            let last_ns = self.last_ns.get(&tid).copied().unwrap_or_default();
            for open in open.into_iter().rev() {
                self.end(open, last_ns, open.cpu_ns, true);
            }
        }
    }

    /// Imports that began further down the stack than this have ended.
    fn close_above(&mut self, tid: u32, place: u64) {
        if let Some(open) = self.open.get_mut(&tid) {
            open.retain(|open| open.place > place);
        }
    }

    fn end(&mut self, open: Open, now_ns: u64, cpu_ns: u64, is_unfinished: bool) {
        let import = &mut self.imports[open.index];
        import.wall_ns = now_ns.saturating_sub(open.began_ns);
        import.cpu_ns = cpu_ns.saturating_sub(open.cpu_ns).min(import.wall_ns);
        import.is_unfinished = is_unfinished;
        let (wall_ns, cpu_ns, nested, parent) = (import.wall_ns, import.cpu_ns, import.nested, import.parent);
        if let Some(parent) = parent {
            let parent = &mut self.imports[parent];
            parent.nested_ns += wall_ns;
            parent.nested_cpu_ns += cpu_ns;
            parent.nested += 1 + nested;
            parent.direct += 1;
        }
    }
}

fn name(text: &[u8; MARK_TEXT], characters: u32) -> (String, bool) {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    let name = String::from_utf8_lossy(&text[..end]).into_owned();
    let is_cut = !name.is_empty() && (characters as usize) > end;
    (name, is_cut)
}

#[cfg(test)]
mod tests {
    use profiler_common::{mark::MarkEvent, record::SampleHeader, record::StackKey};

    use super::*;

    fn mark(what: u32, name: &str, place: u64, time_ns: u64) -> Marked {
        let mut event = MarkEvent {
            what,
            count: name.len() as u32,
            value: place,
            runtime_ns: time_ns / 2,
            ..MarkEvent::default()
        };
        event.text[..name.len()].copy_from_slice(name.as_bytes());
        Marked {
            header: SampleHeader {
                kind: 0,
                cpu: 0,
                pid: 1,
                tid: 1,
                time_ns,
                stack: StackKey::default(),
                comm: [0; 16],
                instance: 0,
                python: 0,
            },
            site: 0,
            event: Box::new(event),
        }
    }

    fn account(marks: &[(u32, &str, u64, u64)]) -> Account {
        let mut account = Account::default();
        for &(what, name, place, time_ns) in marks {
            account.take(&mark(what, name, place, time_ns));
        }
        account.finish();
        account
    }

    #[test]
    fn what_a_module_imports_is_not_its_own() {
        let account = account(&[
            (MARK_IMPORT, "a", 900, 10),
            (MARK_IMPORT, "b", 800, 20),
            (MARK_IMPORT, "c", 700, 30),
            (MARK_IMPORTED, "", 700, 40),
            (MARK_IMPORTED, "", 800, 60),
            (MARK_IMPORTED, "", 900, 110),
        ]);
        let told: Vec<_> = account
            .imports
            .iter()
            .map(|import| {
                (
                    &*import.name,
                    import.wall_ns,
                    import.own_ns(),
                    import.cpu_ns,
                    import.depth,
                    import.nested,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("a", 100, 60, 50, 0, 2),
                ("b", 40, 30, 20, 1, 1),
                ("c", 10, 10, 5, 2, 0)
            ]
        );
        assert!(account.imports.iter().all(|import| !import.is_unfinished));
    }

    #[test]
    fn an_end_that_belongs_to_none_changes_nothing() {
        let account = account(&[
            (MARK_IMPORT, "a", 900, 10),
            (MARK_IMPORTED, "", 500, 20),
            (MARK_IMPORTED, "", 900, 30),
        ]);
        assert_eq!((account.imports.len(), account.imports[0].wall_ns), (1, 20));
    }

    #[test]
    fn what_has_not_ended_is_marked() {
        let account = account(&[(MARK_IMPORT, "a", 900, 10), (MARK_IMPORT, "b", 800, 20)]);
        assert!(account.imports.iter().all(|import| import.is_unfinished));
        assert_eq!(account.imports[0].wall_ns, 10);
    }
}
