//! Running other programs: a failure names the whole command.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Error, Result, anyhow, bail};

/// Runs `command` with this process's output, and fails if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| cannot_start(command, error))?;
    if status.success() {
        Ok(())
    } else {
        bail!("`{}` failed: {status}", shown(command))
    }
}

/// Runs `command` with this process's output, shows `take` each line of its standard output, and fails if it fails.
pub fn watched(command: &mut Command, mut take: impl FnMut(&str)) -> Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(command, error))?;
    let from = child.stdout.take().context("a child without standard output")?;
    let mut line = Vec::new();
    let mut from = BufReader::new(from);
    let mut copied = std::io::stdout().lock();
    // By bytes: what programs under test print need not be text.
    while from.read_until(b'\n', &mut line)? > 0 {
        copied.write_all(&line)?;
        copied.flush()?;
        take(String::from_utf8_lossy(&line).trim_end_matches('\n'));
        line.clear();
    }
    let status = child.wait()?;
    if status.success() {
        Ok(())
    } else {
        bail!("`{}` failed: {status}", shown(command))
    }
}

/// Runs `command` and returns its standard output; its standard error is shown only as part of a failure.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| cannot_start(command, error))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}: {}", shown(command), output.status, stderr.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` did not print UTF-8", shown(command)))
}

/// Why `command` could not even be started.
pub fn cannot_start(command: &Command, error: std::io::Error) -> Error {
    let program = command.get_program();
    if error.kind() == ErrorKind::NotFound && program == OsStr::new("sudo") {
        return anyhow!(
            "`{}` needs root, and there is no sudo: run this task as root",
            shown(command)
        );
    }
    Error::new(error).context(format!("cannot start `{}`", shown(command)))
}

/// `command` as one would type it, as far as that matters to a reader.
pub fn shown(command: &Command) -> String {
    let mut text = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}={} ", name.display(), value.display());
        }
    }
    let _ = write!(text, "{}", command.get_program().display());
    for argument in command.get_args() {
        let _ = write!(text, " {}", argument.display());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo oh no >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("sh -c") && text.contains("exit status: 3") && text.contains("oh no"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("cannot start `/nonexistent/program`"),
            "{error:#}"
        );
    }
}
