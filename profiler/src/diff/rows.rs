//! From stacks to rows: what each function, line, file, module or package took, itself and with all it called.
//!
//! Two recordings have nothing in common but names: processes have other numbers, code other addresses, and a line that is
//! added moves those below it. So a function is its name and the shortest path of its file.

use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::{
    profile::{Frame, FrameKind, Profile, StackId, unseen},
    report::{label, package::package, path},
};

/// What a row stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    #[default]
    Function,
    /// A line of Python, or a native function.
    Line,
    /// A source file, or the mapped file of native code.
    File,
    Module,
    /// What is installed under one name, the standard library, or one's own.
    Package,
}

impl By {
    pub fn name(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Line => "line",
            Self::File => "file",
            Self::Module => "module",
            Self::Package => "package",
        }
    }
}

/// What a row is about. Two are the same exactly if every field is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// As people read it, clean.
    pub name: String,
    /// Qualified name; empty if it is about no function.
    pub function: String,
    pub module: String,
    /// The shortest path that tells it from others.
    pub file: String,
    /// 0 if it is about no line.
    pub line: u32,
    pub python: bool,
    /// Not code: a mark where frames are missing. How many are is a matter of the recording, not of the program.
    pub marker: bool,
}

impl Key {
    /// In a sentence: `orders.render`.
    pub fn word(&self) -> String {
        match (&*self.function, &*self.module) {
            ("", _) => self.name.clone(),
            (function, module) if self.python && !module.is_empty() => {
                let module = module.rsplit('.').next().unwrap_or(module);
                let line = if self.line > 0 {
                    format!(":{}", self.line)
                } else {
                    String::new()
                };
                label::clean(format!("{module}.{function}{line}"))
            }
            _ => self.name.clone(),
        }
    }
}

/// All rows of both sides.
#[derive(Debug)]
pub struct Rows {
    pub by: By,
    /// Machine code below Python is told of itself, and not of the Python that called it.
    pub native: bool,
    pub keys: IndexSet<Key, FxBuildHasher>,
}

/// Which rows a profile's stacks are of: the first is the innermost, which has the stack as its own; none twice.
pub struct Found<'a> {
    profile: &'a Profile,
    /// By frame: the row, and one.
    frames: Vec<u32>,
    stacks: FxHashMap<StackId, Box<[u32]>>,
    /// By row: the last stack, by its number here, that was found to be of it.
    seen_in: Vec<u32>,
    number: u32,
}

impl<'a> Found<'a> {
    pub fn new(profile: &'a Profile) -> Self {
        Self {
            profile,
            frames: vec![0; profile.frames().len()],
            stacks: FxHashMap::default(),
            seen_in: Vec::new(),
            number: 0,
        }
    }

    pub fn rows(&mut self, rows: &mut Rows, stack: StackId) -> &[u32] {
        if !self.stacks.contains_key(&stack) {
            let found = self.find(rows, stack);
            self.stacks.insert(stack, found);
        }
        &self.stacks[&stack]
    }

    fn find(&mut self, rows: &mut Rows, stack: StackId) -> Box<[u32]> {
        let profile = self.profile;
        let frames = profile.stack(stack);
        let is_python = |frame: &Frame| match frame.kind {
            FrameKind::Python => true,
            FrameKind::Marker => unseen::ALL.contains(&profile.string(frame.function)),
            FrameKind::Native | FrameKind::Kernel => false,
        };
        let all = rows.native || !frames.iter().any(|id| is_python(profile.frame(*id)));
        self.number += 1;
        let mut found = Vec::new();
        for id in frames {
            let frame = profile.frame(*id);
            if !all && !is_python(frame) {
                continue;
            }
            let known = &mut self.frames[id.index()];
            if *known == 0 {
                *known = rows.keys.insert_full(key(profile, frame, rows.by)).0 as u32 + 1;
            }
            let row = *known - 1;
            if self.seen_in.len() <= row as usize {
                self.seen_in.resize(row as usize + 1, 0);
            }
            if self.seen_in[row as usize] != self.number {
                self.seen_in[row as usize] = self.number;
                found.push(row);
            }
        }
        if found.is_empty() {
            let none = Key {
                name: "[no frames]".to_owned(),
                function: String::new(),
                module: String::new(),
                file: String::new(),
                line: 0,
                python: false,
                marker: true,
            };
            found.push(rows.keys.insert_full(none).0 as u32);
        }
        found.into()
    }
}

fn key(profile: &Profile, frame: &Frame, by: By) -> Key {
    let python = frame.kind == FrameKind::Python;
    let function = profile.string(frame.function);
    let source = profile.string(frame.file);
    let mapped = frame
        .mapping
        .map_or("", |mapping| profile.string(profile.mapping(mapping).path));
    let (file, module) = match python {
        true => (path::short(source).into_owned(), path::module(source).into_owned()),
        false => (path::file_name(mapped).to_owned(), path::extension(mapped).to_owned()),
    };
    // A line or an address tells a place, not a function.
    let place = Frame {
        line: if by == By::Line { frame.line } else { 0 },
        ..frame.clone()
    };
    let or_unknown = |text: &str| match text {
        "" => "[unknown]".to_owned(),
        text => label::clean(text.to_owned()),
    };
    let whole = |name: String| Key {
        name,
        function: String::new(),
        module: String::new(),
        file: String::new(),
        line: 0,
        python,
        marker: frame.kind == FrameKind::Marker,
    };
    match by {
        By::Function | By::Line => Key {
            name: match (python, &*file) {
                (true, file) if by == By::Function && !file.is_empty() => label::clean(format!("{function} ({file})")),
                _ => label::frame(profile, &place),
            },
            function: function.to_owned(),
            module,
            line: if by == By::Line { frame.line } else { 0 },
            file,
            python,
            marker: frame.kind == FrameKind::Marker,
        },
        _ if frame.kind == FrameKind::Marker => whole(or_unknown(function)),
        By::File => Key {
            file: file.clone(),
            ..whole(or_unknown(&file))
        },
        By::Module => Key {
            module: module.clone(),
            ..whole(or_unknown(&module))
        },
        By::Package => whole(or_unknown(&package(profile, frame))),
    }
}
