//! The frames of a thread as they are told: names, files and lines.

use std::rc::Rc;

use profiler_common::record::FRAME_GENERATOR;
use rustc_hash::FxHashMap;

use super::{
    chain::{Chain, Link},
    locals::Local,
};
use crate::{
    process::pythons::PythonIn,
    python::{
        code::{Code, UNREADABLE},
        memory::ReadMemory,
    },
    report::path,
};

/// A frame, innermost first in its thread.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub code: Rc<Code>,
    /// `None` if CPython has no line for it either.
    pub line: Option<u32>,
    /// Where the frame is, and the code object: what tells whether it is still the same one later.
    pub link: Link,
    /// `None` if they were not asked for.
    pub locals: Option<Vec<Local>>,
    /// It was there, at the same instruction, at every look (`--repeat`).
    pub is_unchanged: bool,
}

impl Frame {
    pub fn name(&self) -> &str {
        self.code.display_name()
    }

    pub fn file(&self) -> &str {
        &self.code.filename
    }

    /// Whether it is the program's own code: neither installed nor made by the interpreter.
    pub fn is_own(&self) -> bool {
        let file = self.file();
        !path::is_installed(file) && !path::is_launcher(file) && !file.starts_with('<')
    }
}

/// Code objects that were read, by where they are and what told them from others there.
#[derive(Debug, Default)]
pub struct Codes {
    known: FxHashMap<(u64, u64), Rc<Code>>,
}

impl Codes {
    /// The frames of a chain that CPython itself would show.
    pub fn frames(&mut self, python: &PythonIn, memory: &dyn ReadMemory, chain: &Chain) -> Vec<Frame> {
        let shown = chain.links.iter().filter_map(|link| {
            let frame = self.frame(python, memory, link);
            let is_generator = link.frame.instruction & FRAME_GENERATOR != 0;
            let is_incomplete = frame
                .code
                .is_incomplete(link.frame.code, link.instruction(), is_generator);
            (!is_incomplete).then_some(frame)
        });
        shown.collect()
    }

    /// One frame, of a thread or of a coroutine.
    pub fn frame(&mut self, python: &PythonIn, memory: &dyn ReadMemory, link: &Link) -> Frame {
        let code = self.code(python, memory, link);
        Frame {
            line: code.line_at(link.frame.code, link.instruction()),
            code,
            link: *link,
            locals: None,
            is_unchanged: false,
        }
    }

    fn code(&mut self, python: &PythonIn, memory: &dyn ReadMemory, link: &Link) -> Rc<Code> {
        let key = (link.frame.code, link.frame.fingerprint);
        if let Some(code) = self.known.get(&key) {
            return Rc::clone(code);
        }
        let code = Code::from_memory(memory, link.frame.code, &python.facts, python.binary.format());
        let code = Rc::new(code.unwrap_or_else(|_| Code::gone()));
        // What could not be read may be there the next time.
        if &*code.name != UNREADABLE {
            self.known.insert(key, Rc::clone(&code));
        }
        code
    }
}
