//! What the profiler's exit status says.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | the profile was written (also when the reader of standard output left early) |
//! | 1 | something failed; one line on standard error names it and the remedy |
//! | 2 | the command line makes no sense |
//! | 4 | `why --fail-on` or `diff --fail-on` found what it was to fail on |
//! | 126, 127 | the command after `--` cannot be executed, or was not found (as in a shell) |
//! | anything else | the status of the command after `--`; 128 + N when signal N ended it |
//!
//! With a command, its own status is the profiler's, so 1 and 2 can be the command's as well; the line on standard
//! error that starts with `error:` is what tells the two apart.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

use crate::{agent::options::OptionsError, config::ConfigError, launch::LaunchError};

pub const SUCCESS: u8 = 0;
pub const FAILURE: u8 = 1;
/// clap uses the same number for what it finds itself.
pub const USAGE: u8 = 2;
/// Something was found that is as bad as `--fail-on` says.
pub const FOUND: u8 = 4;
pub const NOT_EXECUTABLE: u8 = 126;
pub const NOT_FOUND: u8 = 127;

/// The status for an error that ends the program.
pub fn of_error(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return error.exit_code();
    }
    if error.downcast_ref::<OptionsError>().is_some() {
        return USAGE;
    }
    if let Some(error) = error.downcast_ref::<LaunchError>() {
        return error.exit_code();
    }
    FAILURE
}

/// What to do about an error that can come from anywhere.
pub fn remedy(error: &anyhow::Error) -> Option<&'static str> {
    // Some libraries tell what the kernel said in words only.
    let has_number = |number: i32| {
        let words = format!("(os error {number})");
        error.chain().any(|cause| cause.to_string().contains(&words))
    };
    if has_number(libc::EMFILE) {
        return Some("raise the limit of open files of this shell or service (ulimit -n 65536, LimitNOFILE=65536)");
    }
    if has_number(libc::ENFILE) {
        return Some("raise the machine's limit of open files (sysctl fs.file-max)");
    }
    None
}

/// The status that stands for how a command ended, as a shell would report it.
pub fn of_child(status: ExitStatus) -> u8 {
    let number = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        // Neither ended nor killed: only stopped children look like that, and nobody asks for those.
        (None, None) => i32::from(FAILURE),
    };
    // An exit status has eight bits, and signals end at 64, so this only guards against what cannot happen.
    u8::try_from(number).unwrap_or(FAILURE)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_child_ends_with_its_own_status_or_128_and_the_signal() {
        assert_eq!(of_child(ExitStatus::from_raw(0)), 0);
        assert_eq!(of_child(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(of_child(ExitStatus::from_raw(255 << 8)), 255);
        assert_eq!(of_child(ExitStatus::from_raw(libc::SIGTERM)), 143);
        assert_eq!(of_child(ExitStatus::from_raw(libc::SIGSEGV | 0x80)), 139);
    }

    #[test]
    fn who_has_no_file_left_is_told_the_limit_to_raise() {
        let error = |number| {
            let error = std::io::Error::from_raw_os_error(number);
            anyhow::Error::new(error).context("failed to open something")
        };
        assert!(remedy(&error(libc::EMFILE)).is_some_and(|remedy| remedy.contains("ulimit -n")));
        assert!(remedy(&error(libc::ENFILE)).is_some_and(|remedy| remedy.contains("fs.file-max")));
        assert_eq!(remedy(&error(libc::ENOENT)), None);
    }

    #[test]
    fn an_error_keeps_its_status_under_context() {
        let error = Err::<(), _>(ConfigError::NoTarget)
            .context("while reading the command line")
            .unwrap_err();
        assert_eq!(of_error(&error), USAGE);
        let error = anyhow::Error::from(LaunchError::NotFound {
            command: "foo".into(),
            hint: "",
        })
        .context("outer");
        assert_eq!(of_error(&error), NOT_FOUND);
        assert_eq!(of_error(&anyhow::anyhow!("anything")), FAILURE);
    }
}
