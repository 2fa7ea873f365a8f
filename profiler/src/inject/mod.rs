//! Writing to a process: the one room of the profiler that does.
//!
//! What for: CPython calls its allocators through a table of pointers. For `memory --sampled`, the eight of the domains `obj`
//! and `mem` lead through stubs of ours for the length of a recording, which sees every call, on builds with inlined fast paths,
//! too (these compare the pointer before). `raw` stays as it is: large blocks of the other two go there, and would count twice.
//!
//! | module | |
//! |---|---|
//! | `plan` | what would be changed, and why it is refused (`refusal`) |
//! | `consent` | asks |
//! | `placed` | the stubs in a process: mapped, installed, allowed to go on, removed |
//! | `apart` | the process that stops others, and outlives whoever asks it to until it has let go |
//! | `stops` | what is done in a stop: by that process only |
//! | `tracer` | one thread, stopped: the only use of ptrace |
//! | `stub`, `layout` | the machine code, and where everything is |
//! | `weight` | what a sample stands for |
//! | `journal`, `undo` | what is known on disk, and who puts things back |
//!
//! The order: the journal is written, the range is mapped (first stop), the journal says where, probes are attached, the slots
//! are swapped (second stop), and swapped back (third). Each swap is a compare-and-swap that the process does itself, so what
//! others write to the table meanwhile is never overwritten. Nothing is ever unmapped: a thread can be inside the stubs.
//!
//! What is left: if the process that stops others is itself killed within the third of a millisecond in which a thread has
//! foreign registers, that thread goes on with them, which ends the process. A kill of the profiler does not do that.

pub mod apart;
pub mod consent;
pub mod journal;
pub mod layout;
pub mod placed;
pub mod plan;
pub mod refusal;
pub mod stops;
pub mod stub;
pub mod tracer;
pub mod undo;
pub mod weight;
