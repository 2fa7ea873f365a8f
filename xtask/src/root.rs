//! Becoming root for the few commands that need it.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

/// `program` to be run as root with these variables set: through sudo, unless this process is root already.
pub fn command(program: impl AsRef<OsStr>, variables: &[(&str, OsString)]) -> Command {
    command_for(is_root(), program.as_ref(), variables)
}

fn command_for(is_root: bool, program: &OsStr, variables: &[(&str, OsString)]) -> Command {
    if is_root {
        let mut command = Command::new(program);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        return command;
    }
    // Through env(1), because a sudoers policy may forbid `--preserve-env` but not a command's arguments.
    let mut command = Command::new("sudo");
    if !variables.is_empty() {
        command.arg("env");
    }
    for (name, value) in variables {
        let mut assignment = OsString::from(name);
        assignment.push("=");
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program);
    command
}

/// Whether this process runs as root. The owner of its own /proc directory is its effective user.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::shown;

    #[test]
    fn sudo_is_asked_only_by_those_who_are_not_root() {
        let variables = [("CI", OsString::from("true"))];
        assert_eq!(shown(&command_for(true, OsStr::new("ls"), &variables)), "CI=true ls");
        assert_eq!(
            shown(&command_for(false, OsStr::new("ls"), &variables)),
            "sudo env CI=true ls"
        );
        assert_eq!(shown(&command_for(false, OsStr::new("ls"), &[])), "sudo ls");
    }
}
