//! What a stack must look like: a regular expression whose letters are frames.
//!
//! | part | stands for |
//! |---|---|
//! | `main` | one frame of this function, Python or native |
//! | `app::run%` | one frame that begins so, whatever it is |
//! | `@libc.so` | one or more native frames of a file whose name begins so; `@a,b` of either |
//! | `~libc.so` | any number of them |
//! | `!` | one native frame, whatever it is |
//! | `+` | one or more native frames |
//! | `*` | any number of native frames |
//! | `...` | any number of frames of any kind |
//! | `[k]` | one or more kernel frames |
//! | `[k]*` | any number of kernel frames |
//! | `[anything else]` | one frame that reads exactly so, such as `[truncated]` |

use std::fmt;

use crate::folded::{is, is_python};

/// A stack's shape, root first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

/// A frame, or any number of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    what: What,
    repeated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Function(String),
    Beginning(String),
    Label(String),
    Files(Vec<String>),
    Native,
    Kernel,
    Any,
}

impl Pattern {
    /// Parts with spaces between them.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let parts = text.split_whitespace().flat_map(parts).collect();
        Self { text, parts }
    }

    /// Whether the whole stack is of this shape.
    pub fn is(&self, stack: &[String]) -> bool {
        // Every part that what was seen so far may be followed by; the last place is the end.
        let mut at = vec![false; self.parts.len() + 1];
        at[0] = true;
        self.skip(&mut at);
        for frame in stack {
            let mut next = vec![false; at.len()];
            for (index, part) in self.parts.iter().enumerate() {
                if at[index] && part.what.is(frame) {
                    next[if part.repeated { index } else { index + 1 }] = true;
                }
            }
            self.skip(&mut next);
            at = next;
        }
        at[self.parts.len()]
    }

    /// What may be met any number of times may be met never.
    fn skip(&self, at: &mut [bool]) {
        for (index, part) in self.parts.iter().enumerate() {
            at[index + 1] |= at[index] && part.repeated;
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// "One or more" is one, and then any number.
fn parts(text: &str) -> Vec<Part> {
    let files = |names: &str| What::Files(names.split(',').map(str::to_owned).collect());
    let (what, one, repeated) = match text {
        "!" => (What::Native, true, false),
        "+" => (What::Native, true, true),
        "*" => (What::Native, false, true),
        "..." => (What::Any, false, true),
        "[k]" => (What::Kernel, true, true),
        "[k]*" => (What::Kernel, false, true),
        _ if text.starts_with('@') => (files(&text[1..]), true, true),
        _ if text.starts_with('~') => (files(&text[1..]), false, true),
        _ => match text.strip_suffix('%') {
            Some(beginning) => (What::Beginning(beginning.to_owned()), true, false),
            None if text.starts_with('[') => (What::Label(text.to_owned()), true, false),
            None => (What::Function(text.to_owned()), true, false),
        },
    };
    let one = one.then(|| Part {
        what: what.clone(),
        repeated: false,
    });
    one.into_iter()
        .chain(repeated.then_some(Part { what, repeated: true }))
        .collect()
}

impl What {
    fn is(&self, frame: &str) -> bool {
        match self {
            Self::Function(name) => is(frame, name),
            Self::Beginning(beginning) => frame.starts_with(beginning.as_str()),
            Self::Label(label) => frame == label,
            Self::Files(names) => file_of(frame).is_some_and(|file| names.iter().any(|name| file.starts_with(name))),
            Self::Native => is_native(frame),
            Self::Kernel => is_kernel(frame),
            Self::Any => true,
        }
    }
}

pub fn is_kernel(frame: &str) -> bool {
    frame.ends_with("_[k]")
}

/// Whether a frame is machine code outside of the kernel. Markers are nobody's code.
pub fn is_native(frame: &str) -> bool {
    !is_kernel(frame)
        && !is_python(frame)
        && (!frame.starts_with('[') || frame.starts_with("[0x") || file_of(frame).is_some())
}

/// The file that native code is in: of `f (libfoo.so)` and `[libfoo.so+0x1234]`.
pub fn file_of(frame: &str) -> Option<&str> {
    if is_kernel(frame) || is_python(frame) {
        return None;
    }
    match frame.strip_prefix('[') {
        Some(rest) => Some(rest.strip_suffix(']')?.rsplit_once("+0x")?.0),
        None => Some(frame.rsplit_once(" (")?.1.strip_suffix(')')?),
    }
}

/// The stack without what an interrupt did on top of it.
pub fn user_part(stack: &[String]) -> &[String] {
    let length = stack.iter().take_while(|frame| !is_kernel(frame)).count();
    &stack[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(pattern: &str, stack: &str) -> bool {
        let stack: Vec<String> = stack.split(';').map(str::to_owned).collect();
        Pattern::new(pattern).is(&stack)
    }

    #[test]
    fn every_part_stands_for_what_the_table_says() {
        let stack = "_start (a);f (libc.so.6);[libc.so.6+0x12];main (a);<module> (a.py:1);g (libx.so);k_[k]";
        assert!(is("_start @libc.so main <module> g [k]", stack));
        assert!(is("_start ~libc.so main <module> ! [k]*", stack));
        assert!(is("+ <module> + [k]", stack));
        assert!(is("... g ...", stack));
        assert!(is("* <mod% @libx,liby * [k]", stack));
        assert!(is("! ! ! ! <module> ! ~x [k]", stack));
    }

    #[test]
    fn a_frame_too_many_or_too_few_is_no_match() {
        let stack = "_start (a);main (a);f (a.py:1)";
        for pattern in [
            "_start main",
            "main f",
            "_start main f !",
            "_start ! main f",
            "_start @libc main f",
            "+",
            "_start main f [k]",
            "_start main main f",
        ] {
            assert!(!is(pattern, stack), "{pattern}");
        }
        assert!(is("_start main f", stack));
    }

    #[test]
    fn markers_are_no_code() {
        assert!(is("[truncated] f", "[truncated];f (a)"));
        assert!(!is("+", "[truncated];f (a)"));
        assert!(is("+", "[0x1234];[a+0x12];f (a)"));
    }
}
