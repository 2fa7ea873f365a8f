//! `profiler query`: a question for a store of profiles, answered by `profiler-store`, a program of its own. Its engine is
//! larger than the whole profiler, and who asks needs no root.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::anyhow;

const PROGRAM: &str = "profiler-store";

/// Becomes that program; returns only if that fails.
pub fn run(arguments: &[OsString]) -> anyhow::Error {
    let beside = env::current_exe().ok().and_then(|path| beside(&path));
    // What is installed with us goes before what PATH has.
    let program = beside.unwrap_or_else(|| PathBuf::from(PROGRAM));
    let error = Command::new(&program).arg("query").args(arguments).exec();
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "questions are answered by {PROGRAM}, which is neither beside this program nor in PATH; docs/store.md says how \
             to build it"
        ),
        _ => anyhow!("cannot run {}: {error}", program.display()),
    }
}

fn beside(own: &Path) -> Option<PathBuf> {
    let path = own.with_file_name(PROGRAM);
    path.is_file().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_us_is_taken_and_what_is_not_there_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let own = directory.path().join("profiler");
        assert_eq!(beside(&own), None);
        let other = directory.path().join(PROGRAM);
        std::fs::write(&other, "").expect("a file");
        assert_eq!(beside(&own), Some(other));
    }
}
