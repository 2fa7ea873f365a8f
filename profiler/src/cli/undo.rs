//! What can be typed after `profiler undo`.

use clap::Args;

/// Take away what a killed `profiler memory --sampled` has left in processes
///
/// A recording that ends, by Ctrl-C or an error, too, takes it away itself. What a profiler leaves that was killed (SIGKILL, out
/// of memory) sleeps, and costs a few nanoseconds each time CPython allocates.
#[derive(Debug, Args)]
pub struct Undo {
    /// Only of this process, instead of all that have something
    #[arg(short, long, value_name = "PID")]
    pub pid: Option<u32>,
}
