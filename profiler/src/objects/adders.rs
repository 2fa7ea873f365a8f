//! Which lines add to what became more: the container on the way to it has a name, and code that adds to that name says so
//! in its bytecode ([`additions`]).
//!
//! Nothing has to be met by chance for that, and nothing of the process is touched. It is not known how often such a line
//! ran: where several add to one container, all are told.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;

use super::{
    account::{Path, RootKind, Step},
    growth::Growth,
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

/// By way, for those that grew most; ways of which no line is known are not there.
pub type Adders = BTreeMap<Path, Vec<Line>>;

/// Ways that are asked for, functions that are kept, code objects that are read for one of them, and code in code in code.
const MOST_WAYS: usize = 12;
const MOST_FUNCTIONS: usize = 1 << 18;
const MOST_CODES: usize = 1 << 14;
const MOST_NESTED: usize = 4;
/// Lines that are told of one way: a name that so many lines add to says little.
const MOST_LINES: usize = 12;
const MOST_NAMES: u64 = 1 << 12;
const MOST_NAME: u64 = 128;
const READS: u32 = 1 << 22;
/// `ob_size` of a tuple.
const SIZE: u64 = 16;
/// `PyFunctionObject.func_globals` and `func_code`: up to 3.9, and from 3.10 on (shared/field/objects.md).
const FUNCTION: [(u64, u64); 2] = [(24, 16), (16, 48)];

/// Lines that add to what is on the ways that grew most.
pub fn of(walk: &Walk<'_, '_>, growth: &Growth) -> Adders {
    let mut adders = Adders::new();
    let wanted: Vec<(&Path, Asked<'_>)> = growth
        .holders
        .iter()
        .filter(|(_, change)| change.whole > 0 && change.objects > 0)
        .take(MOST_WAYS)
        .filter_map(|(path, _)| Some((path, Asked::of(path, growth)?)))
        .collect();
    if wanted.is_empty() {
        return adders;
    }
    let program = Program::new(walk);
    let mut known: FxHashMap<Asked<'_>, Vec<Line>> = FxHashMap::default();
    for (path, asked) in wanted {
        let lines = known.entry(asked).or_insert_with(|| program.lines(&asked));
        if !lines.is_empty() {
            adders.insert(path.clone(), lines.clone());
        }
    }
    adders
}

/// What is to be looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asked<'a> {
    /// The module or the function at which the way begins.
    kind: RootKind,
    root: &'a str,
    /// The name that the container has, and the type that has it as an attribute.
    container: Option<(&'a str, Option<&'a str>)>,
    /// The name of what became more itself, if that is one: another object is put there.
    replaced: Option<(&'a str, Option<&'a str>)>,
}

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
        Some(Self {
            kind: path.root.kind,
            root: &path.root.name,
            container: (0..first).rev().find_map(name),
            replaced: name(first),
        })
    }
}

/// The functions of a process.
struct Program<'w, 'h, 'a> {
    walk: &'w Walk<'h, 'a>,
    objects: Objects<'w>,
    /// The dict of a function's module, and its code.
    functions: Vec<(u64, u64)>,
    /// Code that runs: of a module's own there is no function.
    running: Vec<u64>,
    modules: Vec<(Box<str>, u64)>,
}

impl<'w, 'h, 'a> Program<'w, 'h, 'a> {
    fn new(walk: &'w Walk<'h, 'a>) -> Self {
        let (target, heap) = (walk.target, walk.heap);
        let (globals, code) = FUNCTION[usize::from(target.binary.version.minor >= 10)];
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
            .filter_map(|address| Some((word(address + globals)?, word(address + code)?)))
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
        let mut lines = asked
            .container
            .map_or_else(Vec::new, |named| self.of_name(asked, named, false));
        if lines.is_empty()
            && let Some(named) = asked.replaced
        {
            lines = self.of_name(asked, named, true);
        }
        if lines.len() > MOST_LINES {
            lines.clear();
        }
        lines
    }

    fn of_name(&self, asked: &Asked<'_>, (name, owner): (&str, Option<&str>), replaced: bool) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        let mut codes = Vec::new();
        match (asked.kind, owner) {
            // Of a function that runs.
            (RootKind::Function, None) => {
                let running = self.running.iter().copied();
                codes.extend(running.filter(|&code| self.is_named(code, asked.root)));
            }
            _ => {
                // An attribute can be set in the module of its class, too.
                let of_class = owner.and_then(|owner| owner.rsplit_once('.')).map(|(module, _)| module);
                let modules: Vec<u64> = self
                    .modules
                    .iter()
                    .filter(|(module, _)| {
                        asked.kind == RootKind::Module && **module == *asked.root || of_class == Some(module)
                    })
                    .map(|&(_, module)| module)
                    .collect();
                let dicts: Vec<u64> = modules
                    .iter()
                    .filter_map(|&module| self.objects.module_dict(module))
                    .collect();
                let functions = self.functions.iter().filter(|(globals, _)| dicts.contains(globals));
                codes.extend(functions.map(|&(_, code)| code));
                let files: Vec<_> = dicts
                    .iter()
                    .filter_map(|&dict| self.objects.text(self.objects.get(dict, "__file__")?, 4096))
                    .collect();
                let running = self.running.iter().copied();
                codes.extend(running.filter(|&code| {
                    self.code(code)
                        .is_some_and(|code| &*code.name == "<module>" && files.contains(&code.filename))
                }));
            }
        }
        codes.sort_unstable();
        codes.dedup();
        codes.truncate(MOST_CODES);
        let mut seen: FxHashSet<u64> = codes.iter().copied().collect();
        for _ in 0..MOST_NESTED {
            let mut inner = Vec::new();
            for &code in &codes {
                self.look(
                    code,
                    (name, asked.kind == RootKind::Function, owner.is_some()),
                    replaced,
                    &mut lines,
                );
                let constants = additions::constants(self.walk.target.binary.layout.format.instruction);
                for constant in self.tuple(code, constants) {
                    if self.is_code(constant) && seen.len() < MOST_CODES && seen.insert(constant) {
                        inner.push(constant);
                    }
                }
            }
            codes = inner;
        }
        lines.sort();
        lines.dedup();
        // Of several classes that have attributes of this name, the one that it is of.
        let class = owner.and_then(|owner| owner.rsplit('.').next());
        if let Some(class) = class {
            let own = |line: &Line| {
                line.function
                    .strip_prefix(class)
                    .is_some_and(|rest| rest.starts_with('.'))
            };
            if lines.iter().any(own) {
                lines.retain(own);
            }
        }
        lines
    }

    /// Enters the lines of one code object.
    fn look(&self, at: u64, (name, is_local, is_attribute): (&str, bool, bool), replaced: bool, lines: &mut Vec<Line>) {
        let target = self.walk.target;
        let (minor, format) = (target.binary.version.minor, target.binary.layout.format);
        let found = {
            let names = self.texts(at, additions::names(format.instruction));
            let wanted = match (is_attribute, is_local) {
                (true, _) => Named::Attribute(name),
                (false, false) => Named::Global(name),
                (false, true) => {
                    let locals = self.texts(at, target.heap.local_names);
                    let Some(number) = locals.iter().position(|local| &**local == name) else {
                        return;
                    };
                    Named::Local(number as u32)
                }
            };
            if !matches!(wanted, Named::Local(_)) && !names.iter().any(|known| &**known == name) {
                return;
            }
            let Some(bytes) = additions::read(self.walk.heap, format.instruction, at) else {
                return;
            };
            match replaced {
                true => additions::assignments(minor, &bytes, &names, wanted),
                false => additions::additions(minor, &bytes, &names, wanted),
            }
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
