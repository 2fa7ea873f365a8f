//! Asking before anything is written to a process.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use super::{layout, plan::Plan};
use crate::humanize;

#[derive(Debug, thiserror::Error)]
pub enum NoConsent {
    #[error("--sampled writes to the process: say --yes where nobody can be asked")]
    NobodyToAsk,
    #[error("nothing was changed")]
    Declined,
}

/// What would be done, in words.
fn told(plan: &Plan) -> String {
    format!(
        "--sampled writes to process {} (CPython {}). It is stopped three\n\
         times for a moment and gets {} of memory that it keeps until it ends;\n\
         eight pointers in CPython's table of allocators lead there until this is over.\n\
         Ctrl-C undoes that; if the profiler is killed, profiler undo -p {} does.",
        plan.process.pid,
        plan.version,
        humanize::bytes(layout::ALL),
        plan.process.pid,
    )
}

/// # Errors
/// If it is not wanted, or nobody is there to ask and nobody has said `--yes`.
pub fn obtain(plan: &Plan, yes: bool) -> Result<(), NoConsent> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(NoConsent::NobodyToAsk);
    }
    let mut out = io::stderr();
    let _ = write!(out, "{}\nGo on? [y/N] ", told(plan));
    let _ = out.flush();
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    match (read, answer.trim().to_ascii_lowercase().as_str()) {
        (Ok(_), "y" | "yes") => Ok(()),
        _ => Err(NoConsent::Declined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::journal::Identity;

    #[test]
    fn what_is_asked_fits_a_terminal() {
        let plan = Plan {
            process: Identity {
                pid: 4_194_304,
                began: 1,
            },
            version: "3.14.10".to_owned(),
            originals: [0; 4],
            slots: [0; 8],
        };
        let text = told(&plan);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
