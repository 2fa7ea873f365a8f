//! Which lines add to what became more: the container on the way to it has a name, and code that adds to that name says so
//! in its bytecode ([`additions`]).
//!
//! Nothing has to be met by chance for that, and nothing of the process is touched. It is not known how often such a line
//! ran: where several add to one container, all are told.

use rustc_hash::FxHashSet;
use serde::Serialize;

use super::{
    account::{Path, RootKind, RootName, Step},
    growth::{Change, Growth},
    roots,
    walk::Walk,
};
use crate::python::{
    additions::{self, Named},
    code::Code,
    object::Objects,
};

/// A line of the program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Line {
    pub file: Box<str>,
    pub line: u32,
    pub function: Box<str>,
}

/// What has become more in one container, and the lines that add to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Added {
    /// The way to the container.
    pub container: Path,
    /// At least one.
    pub lines: Vec<Line>,
    /// Of all that hangs on the container, itself included.
    pub change: Change,
}

/// Fewer come and go in any program. In bytes also at least one in so many of all that became more.
const LEAST_OBJECTS: i64 = 24;
const LEAST_BYTES: i64 = 64 << 10;
const LEAST_SHARE: i64 = 100;
/// Ways that are asked for, functions that are kept, code objects that are read for one of them, and code in code in code.
const MOST_WAYS: usize = 32;
const MOST_FUNCTIONS: usize = 1 << 18;
const MOST_CODES: usize = 1 << 14;
const MOST_NESTED: usize = 4;
/// Lines that are told of one way: a name that so many lines add to says little.
const MOST_LINES: usize = 12;
const MOST_NAMES: u64 = 1 << 12;
const MOST_NAME: u64 = 128;
const MOST_PATH: u64 = 4096;
const READS: u32 = 1 << 22;
/// `ob_size` of a tuple.
const SIZE: u64 = 16;
/// `PyFunctionObject.func_globals`, `func_code` and `func_qualname`: up to 3.9, and from 3.10 on (found in live objects of
/// 3.8 – 3.15).
const FUNCTION: [(u64, u64, u64); 2] = [(24, 16, 104), (16, 48, 40)];

/// Containers that have more in them, what grew most first, as far as lines are known that add to them.
pub fn of(walk: &Walk<'_, '_>, growth: &Growth) -> Vec<Added> {
    let more = growth.holders.iter().map(|(_, change)| change.whole.max(0));
    let least = LEAST_BYTES.max(more.sum::<i64>() / LEAST_SHARE);
    at_least(walk, growth, LEAST_OBJECTS, least)
}

/// The same, of containers that have so many objects and bytes more.
pub(super) fn at_least(walk: &Walk<'_, '_>, growth: &Growth, objects: i64, bytes: i64) -> Vec<Added> {
    let mut asked: Vec<Asked<'_>> = Vec::new();
    for (path, _) in growth
        .holders
        .iter()
        .filter(|(_, change)| change.whole > 0 && change.objects > 0)
        .take(MOST_WAYS)
    {
        asked.extend(Asked::of(path, growth).filter(|new| !asked.contains(new)));
    }
    let mut found: Vec<(Asked<'_>, Change)> = asked.into_iter().map(|asked| (asked, asked.change(growth))).collect();
    found.retain(|(_, change)| change.objects >= objects && change.whole >= bytes);
    if found.is_empty() {
        return Vec::new();
    }
    found.sort_by_key(|(_, change)| std::cmp::Reverse(change.whole));
    let program = Program::new(walk);
    let added = |(asked, change): (Asked<'_>, Change)| {
        let lines = program.lines(&asked);
        (!lines.is_empty()).then(|| Added {
            container: Path {
                root: asked.root.clone(),
                steps: asked.steps.to_vec(),
            },
            lines,
            change,
        })
    };
    found.into_iter().filter_map(added).collect()
}

/// What is to be looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked<'a> {
    /// The module or the function at which the way begins.
    root: &'a RootName,
    /// The way to the container, or to what is put in the place of another.
    steps: &'a [Step],
    /// The name that the container has, and the type that has it as an attribute.
    container: Option<Name<'a>>,
    /// The name of what became more itself, if that is one: another object is put there.
    replaced: Option<Name<'a>>,
}

type Name<'a> = (&'a str, Option<&'a str>);

impl<'a> Asked<'a> {
    /// The container is the last on the way of which there are no more than before.
    fn of(path: &'a Path, growth: &Growth) -> Option<Self> {
        if !matches!(path.root.kind, RootKind::Module | RootKind::Function) {
            return None;
        }
        let first = (0..path.steps.len()).find(|&at| {
            let before = &path.steps[..=at];
            let mut ways = growth.holders.iter();
            ways.any(|(way, change)| change.objects > 0 && way.root == path.root && way.steps == before)
        })?;
        let name = |at: usize| {
            let Step { attribute, .. } = &path.steps[at];
            let owner = at.checked_sub(1).map(|owner| &*path.steps[owner].kind);
            (!attribute.is_empty() && &**attribute != "__dict__").then_some((&**attribute, owner))
        };
        let replaced = name(first);
        Some(Self {
            root: &path.root,
            steps: &path.steps[..first + usize::from(replaced.is_some())],
            container: (0..first).rev().find_map(name),
            replaced,
        })
        .filter(|asked| !asked.steps.is_empty())
    }

    fn change(&self, growth: &Growth) -> Change {
        let mut sum = Change::default();
        let ways = growth.holders.iter();
        ways.filter(|(way, _)| way.root == *self.root && way.steps.starts_with(self.steps))
            .for_each(|(_, change)| sum.add(change));
        sum
    }
}

/// Addresses of what a function has: the dict of its module, its code, and its name, a string.
struct Function {
    globals: u64,
    code: u64,
    name: u64,
}

/// A name, and what it is of.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Global(&'a str),
    Attribute(&'a str),
    /// Of a function that runs.
    Local(&'a str),
}

/// The functions of a process.
struct Program<'w, 'h, 'a> {
    walk: &'w Walk<'h, 'a>,
    objects: Objects<'w>,
    functions: Vec<Function>,
    /// Code that runs: of a module's own there is no function.
    running: Vec<u64>,
    modules: Vec<(Box<str>, u64)>,
}

impl<'w, 'h, 'a> Program<'w, 'h, 'a> {
    fn new(walk: &'w Walk<'h, 'a>) -> Self {
        let (target, heap) = (walk.target, walk.heap);
        let (globals, code, name) = FUNCTION[usize::from(target.binary.version.minor >= 10)];
        let kinds = walk.types.iter();
        let kinds: FxHashSet<_> = kinds
            .filter(|(_, kind)| &*kind.name == "function")
            .map(|(id, _)| id)
            .collect();
        let word = |address: u64| heap.word(address).filter(|&word| word != 0);
        let functions = walk
            .all()
            .filter(|&node| kinds.contains(&walk.kind(node)))
            .map(|node| walk.address(node))
            .filter_map(|address| {
                Some(Function {
                    globals: word(address + globals)?,
                    code: word(address + code)?,
                    name: word(address + name)?,
                })
            })
            .take(MOST_FUNCTIONS)
            .collect();
        let interpreters = target.interpreters(heap);
        Self {
            walk,
            objects: Objects::new(heap, &target.process, target.objects, READS),
            functions,
            running: roots::codes(target, heap, &interpreters),
            modules: roots::modules(target, heap, &interpreters),
        }
    }

    fn lines(&self, asked: &Asked<'_>) -> Vec<Line> {
        let mut lines = match (asked.replaced, asked.container) {
            (Some(name), _) => self.of_name(asked, name, true),
            (None, Some(name)) => self.of_name(asked, name, false),
            (None, None) => Vec::new(),
        };
        // `head = [row, head]`.
        if lines.is_empty()
            && let Some(name) = asked.container
        {
            lines = self.of_name(asked, name, true);
        }
        if lines.len() > MOST_LINES {
            lines.clear();
        }
        lines
    }

    fn of_name(&self, asked: &Asked<'_>, (name, owner): Name<'_>, replaced: bool) -> Vec<Line> {
        let is_local = asked.root.kind == RootKind::Function && owner.is_none();
        let wanted = match (is_local, owner) {
            (true, _) => Wanted::Local(name),
            (false, None) => Wanted::Global(name),
            (false, Some(_)) => Wanted::Attribute(name),
        };
        if is_local {
            let running = self.running.iter().copied();
            let codes = running.filter(|&code| self.is_named(code, &asked.root.name)).collect();
            return self.of_codes(codes, wanted, replaced);
        }
        // An attribute can be set in the module of its class, too.
        let (module_of_class, class) = owner.and_then(|owner| owner.rsplit_once('.')).unzip();
        let is_meant = |module: &str| {
            asked.root.kind == RootKind::Module && module == &*asked.root.name || module_of_class == Some(module)
        };
        let modules = self.modules.iter().filter(|(module, _)| is_meant(module));
        let dicts: Vec<u64> = modules
            .filter_map(|&(_, module)| self.objects.module_dict(module))
            .collect();
        let functions: Vec<&Function> = self
            .functions
            .iter()
            .filter(|function| dicts.contains(&function.globals))
            .collect();
        // Several classes can have attributes of one name.
        if let Some(class) = class {
            let is_method = |function: &&&Function| {
                let name = self.objects.text(function.name, MOST_NAME).unwrap_or_default();
                name.strip_prefix(class).is_some_and(|rest| rest.starts_with('.'))
            };
            let methods = functions
                .iter()
                .filter(is_method)
                .map(|function| function.code)
                .collect();
            let lines = self.of_codes(methods, wanted, replaced);
            if !lines.is_empty() {
                return lines;
            }
        }
        let mut codes: Vec<u64> = functions.iter().map(|function| function.code).collect();
        let files: Vec<_> = dicts
            .iter()
            .filter_map(|&dict| self.objects.text(self.objects.get(dict, "__file__")?, MOST_PATH))
            .collect();
        codes.extend(
            self.running
                .iter()
                .copied()
                .filter(|&code| self.is_body_of(code, &files)),
        );
        self.of_codes(codes, wanted, replaced)
    }

    /// Whether it is the code of a module that is one of these files: that of the main module can have a shorter path.
    fn is_body_of(&self, code: u64, files: &[Box<str>]) -> bool {
        self.code(code).is_some_and(|code| {
            let path = code.filename.trim_start_matches("./");
            let is_it = |file: &str| {
                file.strip_suffix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
            };
            &*code.name == "<module>" && files.iter().any(|file| is_it(file))
        })
    }

    /// Of code objects, and of those in them.
    fn of_codes(&self, mut codes: Vec<u64>, wanted: Wanted<'_>, replaced: bool) -> Vec<Line> {
        let mut lines = Vec::new();
        codes.sort_unstable();
        codes.dedup();
        codes.truncate(MOST_CODES);
        let mut seen: FxHashSet<u64> = codes.iter().copied().collect();
        for _ in 0..MOST_NESTED {
            let mut inner = Vec::new();
            for &code in &codes {
                self.look(code, wanted, replaced, &mut lines);
                let constants = additions::constants(self.walk.target.binary.layout.format.instruction);
                for constant in self.tuple(code, constants) {
                    if self.is_code(constant) && seen.len() < MOST_CODES && seen.insert(constant) {
                        inner.push(constant);
                    }
                }
            }
            codes = inner;
        }
        if replaced {
            // Once for an object, or for a module: that does not make it more.
            lines.retain(|line: &Line| !line.function.ends_with("__init__") && &*line.function != "<module>");
        }
        lines.sort();
        lines.dedup();
        lines
    }

    /// Enters the lines of one code object.
    fn look(&self, at: u64, wanted: Wanted<'_>, replaced: bool, lines: &mut Vec<Line>) {
        let target = self.walk.target;
        let (minor, format) = (target.binary.version.minor, target.binary.layout.format);
        let names = self.texts(at, additions::names(format.instruction));
        let wanted = match wanted {
            Wanted::Local(name) => {
                let locals = self.texts(at, target.heap.local_names);
                let Some(number) = locals.iter().position(|local| &**local == name) else {
                    return;
                };
                Named::Local(number as u32)
            }
            Wanted::Global(name) | Wanted::Attribute(name) if !names.iter().any(|known| &**known == name) => return,
            Wanted::Global(name) => Named::Global(name),
            Wanted::Attribute(name) => Named::Attribute(name),
        };
        let Some(bytes) = additions::read(self.walk.heap, format.instruction, at) else {
            return;
        };
        let found = match replaced {
            true => additions::assignments(minor, &bytes, &names, wanted),
            false => additions::additions(minor, &bytes, &names, wanted),
        };
        if found.is_empty() {
            return;
        }
        let Some(code) = self.code(at) else { return };
        for offset in found {
            let instruction = additions::instruction_at(format.instruction, at, offset);
            if let Some(line) = code.line_at(at, instruction) {
                lines.push(Line {
                    file: code.filename.clone(),
                    line,
                    function: code.display_name().into(),
                });
            }
        }
    }

    fn code(&self, at: u64) -> Option<Code> {
        let target = self.walk.target;
        Code::from_memory(self.walk.heap, at, &target.process, target.binary.layout.format).ok()
    }

    fn is_named(&self, code: u64, name: &str) -> bool {
        self.code(code).is_some_and(|code| code.display_name() == name)
    }

    fn is_code(&self, address: u64) -> bool {
        let kind = self.objects.word(address, self.walk.target.process.object_type.into());
        kind == Some(self.walk.target.types.code)
    }

    fn tuple(&self, object: u64, offset: u64) -> Vec<u64> {
        let mut items = Vec::new();
        if let Some(tuple) = self.objects.word(object, offset)
            && let Some(size) = self.objects.word(tuple, SIZE)
        {
            let first = tuple.wrapping_add(self.walk.target.heap.tuple_items);
            self.walk
                .heap
                .words(first, size.min(MOST_NAMES), |_, item| items.push(item));
        }
        items
    }

    /// By number; what could not be read is empty.
    fn texts(&self, object: u64, offset: u64) -> Vec<Box<str>> {
        let names = self.tuple(object, offset).into_iter();
        names
            .map(|name| self.objects.text(name, MOST_NAME).unwrap_or_default())
            .collect()
    }
}
