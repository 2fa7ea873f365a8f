//! What an interpreter says of its own stack, in the words of the profiler.

use anyhow::{Context as _, Result};
use serde_json::Value;

/// A chain of calls, as the function at its end saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub shape: String,
    /// Root first. The last one is the leaf.
    pub frames: Vec<Frame>,
}

/// A frame, executing one of a few lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub name: String,
    /// `co_filename`, as it is.
    pub file: String,
    pub first_line: u32,
    /// The first and the last line it may be at.
    pub lines: (u32, u32),
}

impl Chain {
    /// Reads `{"shape": …, "frames": [[name, file, first line, from, to], …]}`.
    pub fn from_json(value: &Value) -> Result<Self> {
        let shape = value["shape"].as_str().context("a chain without a shape")?.to_owned();
        let frames = value["frames"].as_array().context("a chain without frames")?;
        Ok(Self {
            shape,
            frames: frames.iter().map(Frame::from_json).collect::<Result<_>>()?,
        })
    }

    /// Whether a folded stack is this chain, exactly: no frame more, none less, every line right.
    pub fn is(&self, stack: &[String]) -> bool {
        stack.len() == self.frames.len() && stack.iter().zip(&self.frames).all(|(label, frame)| frame.reads(label))
    }
}

impl Frame {
    fn from_json(value: &Value) -> Result<Self> {
        let text = |index: usize| Some(value[index].as_str()?.to_owned());
        let number = |index: usize| u32::try_from(value[index].as_u64()?).ok();
        let frame = || {
            let (name, file, first_line) = (text(0)?, text(1)?, number(2)?);
            Some(Self {
                name,
                file,
                first_line,
                lines: (number(3)?, number(4)?),
            })
        };
        frame().with_context(|| format!("not a frame: {value}"))
    }

    /// Whether `label` is what the issue says a frame reads like: `name (file.py:12)`.
    pub fn reads(&self, label: &str) -> bool {
        let Some(rest) = label.strip_prefix(&format!("{} ({}:", self.name, self.short_file())) else {
            return false;
        };
        let line = rest.strip_suffix(')').and_then(|line| line.parse().ok());
        line.is_some_and(|line| self.is_at(line))
    }

    pub fn is_at(&self, line: u32) -> bool {
        (self.lines.0..=self.lines.1).contains(&line)
    }

    /// The file's name, with its folder where the name alone says nothing.
    fn short_file(&self) -> &str {
        if self.file.starts_with('<') {
            return &self.file;
        }
        let parts = if self.file.ends_with("/__init__.py") { 2 } else { 1 };
        let cut = self
            .file
            .rmatch_indices('/')
            .nth(parts - 1)
            .map_or(0, |(index, _)| index + 1);
        &self.file[cut..]
    }
}
