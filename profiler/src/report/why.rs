//! What `profiler why` writes: the answer as text, for programs, and as a recording keeps it.

pub mod json;
pub mod stored;
pub mod text;
