//! pprof: the file users keep. It holds all of a [`Profile`](crate::profile::Profile), and [`read()`] gives it back.
//!
//! pprof has no word for the kind of a frame, so the mapping of its location tells it:
//!
//! | kind | mapping | address |
//! |---|---|---|
//! | Python | `[python]` | none |
//! | native | the ELF file with its build id, starting at 0; or none | inside that file |
//! | kernel | `[kernel.kallsyms]` or a module, starting in the upper half of the address space | as the kernel has it |
//! | marker | `[marker]` | none |
//!
//! - A mapping from 0 to 0 says that addresses are already those of the file: `go tool pprof` then adds no base
//!   (`elfexec.GetBase`, "a fake mapping that spans the entire address space", Go 1.27), so `-list` and `-disasm` work.
//!   It does not go looking for symbols in mappings whose name starts with `[` (`profile.Mapping.Unsymbolizable`).
//! - Functions inlined into one another are the lines of one location.
//! - Names are plain (`read`, not `read_[k]`): pprof shows file and line by itself.
//! - When samples were is in two fields of our own, which other readers skip (`proto`, `times`): what they see of a sample
//!   is the same with and without it. A third has the text of source files.
//! - Labels `pid` and `tid` are numbers, `comm`, `thread`, `command`, `cgroup`, `container` and `task` strings, the last four
//!   only where there is one.

#[cfg(test)]
mod dump;
mod proto;
mod read;
mod times;
mod write;

#[cfg(test)]
pub(super) use dump::dump;
pub use read::{looks_like, read};
pub use write::Pprof;

/// The mapping of Python frames.
const PYTHON: &str = "[python]";
/// The mapping of markers.
const MARKER: &str = "[marker]";
/// The mapping of kernel frames that come without one, under perf's name for it.
const KERNEL: &str = "[kernel.kallsyms]";
/// Where the kernel's half of the address space begins, on x86-64 as on arm64.
const KERNEL_START: u64 = 1 << 63;

const PID: &str = "pid";
const TID: &str = "tid";
const COMM: &str = "comm";
const COMMAND: &str = "command";
const THREAD: &str = "thread";
const CGROUP: &str = "cgroup";
const CONTAINER: &str = "container";
const TASK: &str = "task";
