//! The local variables of frames, as text.

use rustc_hash::FxHashMap;

use super::options;
use crate::{
    process::pythons::PythonIn,
    python::{
        memory::ReadMemory,
        object::{ObjectLayout, Objects},
        secret,
        value::{Limits, Values},
        variables::{Variable, VariableLayout},
    },
};

/// Reads of objects in one process. A frame takes some hundreds.
const MOST_READS: u32 = 1_000_000;

/// A variable.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    pub name: String,
    pub address: u64,
    pub is_argument: bool,
    /// The name of its type.
    pub kind: String,
    /// Its value as text; empty if values were not asked for.
    pub text: String,
}

/// Values that were told, by their addresses: `self` is in many frames of a stack.
pub type Texts = FxHashMap<u64, String>;

/// What reads those of one process.
pub struct Reader<'a> {
    objects: Objects<'a>,
    python: &'a PythonIn,
    layout: VariableLayout,
    wanted: options::Locals,
}

impl<'a> Reader<'a> {
    /// None where nobody has looked at how the version keeps objects.
    pub fn new(python: &'a PythonIn, memory: &'a dyn ReadMemory, wanted: options::Locals) -> Option<Self> {
        let version = python.binary.version;
        let runtime = python.binary.runtime.wrapping_add(python.bias);
        Some(Self {
            objects: Objects::new(
                memory,
                &python.facts,
                ObjectLayout::of(version, python.is_free_threaded())?,
                MOST_READS,
            ),
            python,
            layout: VariableLayout::of(version, memory, runtime)?,
            wanted,
        })
    }

    /// Those of a frame of this code object; none if they cannot be read. `texts` are those of the thread's other frames.
    pub fn read(&self, code: u64, frame: u64, texts: &mut Texts) -> Vec<Local> {
        let limits = match self.wanted.values {
            options::Values::Long => Limits::LONG,
            options::Values::Short | options::Values::Hidden => Limits::SHORT,
        };
        let values = Values::new(&self.objects, self.python.binary.version, limits, self.wanted.secrets);
        let variables = self
            .layout
            .read(&self.objects, &values, code, frame)
            .unwrap_or_default();
        let local = |variable: Variable| Local {
            address: variable.value,
            is_argument: variable.is_argument,
            kind: values.kind(variable.value).unwrap_or_else(|| "?".to_owned()),
            text: match self.wanted.values {
                options::Values::Hidden => String::new(),
                _ if values.is_hidden(&variable.name) => secret::MASK.to_owned(),
                _ => texts
                    .entry(variable.value)
                    .or_insert_with(|| values.text(variable.value))
                    .clone(),
            },
            name: variable.name.into(),
        };
        variables.into_iter().map(local).collect()
    }
}
