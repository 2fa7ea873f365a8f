//! Calling cargo, and starting programs outside of it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{command, workspace};

/// The cargo that runs this xtask, in the workspace's root.
pub fn command(subcommand: &str) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.arg(subcommand).current_dir(workspace::root());
    command
}

/// Runs a cargo command that builds, shows its progress and diagnostics, and returns its JSON messages.
pub fn messages(build: &mut Command) -> Result<Vec<Value>> {
    build
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    let child = build.spawn().map_err(|error| command::cannot_start(build, error))?;
    // Only standard output is piped, so the rest goes straight to the terminal.
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot wait for `{}`", command::shown(build)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", command::shown(build), output.status);
    }
    output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter(|line| line.starts_with(b"{"))
        .map(|line| serde_json::from_slice(line).context("cargo printed a message that is not JSON"))
        .collect()
}

/// The executable of the target `name` among cargo's messages.
pub fn executable(messages: &[Value], name: &str) -> Result<PathBuf> {
    messages
        .iter()
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str())
        .map(PathBuf::from)
        .with_context(|| format!("cargo built no executable named {name}"))
}

/// The `OUT_DIR` of the build script of `package` among cargo's messages.
pub fn out_dir(messages: &[Value], package: &str) -> Result<PathBuf> {
    messages
        .iter()
        .filter(|message| message["reason"] == "build-script-executed")
        .filter(|message| {
            message["package_id"]
                .as_str()
                .is_some_and(|id| package_name(id) == package)
        })
        .find_map(|message| message["out_dir"].as_str())
        .map(PathBuf::from)
        .with_context(|| format!("cargo ran no build script of {package}"))
}

/// Takes out of `command`'s environment what cargo and rustup put there for this xtask.
///
/// Under `cargo xtask run -- record -- python3 app.py` it would reach app.py: a library path into the compiler's
/// directory is no place to profile a program in.
pub fn leave(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_cargos_own) {
            command.env_remove(name);
        }
    }
    if let Some(paths) = std::env::var_os("LD_LIBRARY_PATH") {
        let executable = std::env::current_exe().unwrap_or_default();
        match without_build_directories(&paths, executable.parent().unwrap_or(Path::new("/proc"))) {
            Some(rest) => command.env("LD_LIBRARY_PATH", rest),
            None => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
}

/// The name in a package id: `path+file:///work/profiler#0.1.0` or `path+file:///work/tests#profiler-tests@0.1.0`
/// (<https://doc.rust-lang.org/cargo/reference/pkgid-spec.html>).
fn package_name(id: &str) -> &str {
    let (url, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _version)) => name,
        None => url.rsplit('/').next().unwrap_or(url),
    }
}

/// <https://doc.rust-lang.org/cargo/reference/environment-variables.html>; not `CARGO_HOME` and the like, which are
/// the user's.
fn is_cargos_own(name: &str) -> bool {
    matches!(
        name,
        "CARGO"
            | "CARGO_MANIFEST_DIR"
            | "CARGO_MANIFEST_PATH"
            | "CARGO_PRIMARY_PACKAGE"
            | "RUST_RECURSION_COUNT"
            | "RUSTUP_TOOLCHAIN"
            | "RUSTUP_TOOLCHAIN_SOURCE"
    ) || name.starts_with("CARGO_PKG_")
}

/// `LD_LIBRARY_PATH` without the directories cargo and rustup add: those below `build`, and the toolchain's.
fn without_build_directories(paths: &OsStr, build: &Path) -> Option<OsString> {
    let mut rest = std::env::split_paths(paths)
        .filter(|path| !path.starts_with(build) && !path.iter().any(|part| part == "toolchains"))
        .peekable();
    rest.peek()?;
    // The parts came out of such a list, so none contains its separator.
    std::env::join_paths(rest).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_of_a_package_id_have_a_name() {
        assert_eq!(package_name("path+file:///work/main/profiler#0.1.0"), "profiler");
        assert_eq!(
            package_name("path+file:///work/main/tests#profiler-tests@0.1.0"),
            "profiler-tests"
        );
        assert_eq!(
            package_name("registry+https://github.com/rust-lang/crates.io-index#libc@0.2.1"),
            "libc"
        );
    }

    #[test]
    fn the_executable_of_a_test_target_is_found_among_other_artifacts() {
        let messages = [
            json!({"reason": "compiler-artifact", "target": {"name": "e2e"}, "executable": null}),
            json!({"reason": "compiler-artifact", "target": {"name": "other"}, "executable": "/t/other"}),
            json!({"reason": "compiler-artifact", "target": {"name": "e2e"}, "executable": "/t/e2e-0123"}),
        ];
        assert_eq!(executable(&messages, "e2e").unwrap(), PathBuf::from("/t/e2e-0123"));
        assert!(executable(&messages, "missing").is_err());
    }

    #[test]
    fn only_the_library_path_of_the_build_is_dropped() {
        let build = Path::new("/x/target/debug");
        let paths = OsStr::new("/home/u/.rustup/toolchains/stable/lib:/opt/cuda/lib:/x/target/debug/deps");
        assert_eq!(without_build_directories(paths, build).unwrap(), "/opt/cuda/lib");
        assert_eq!(
            without_build_directories(OsStr::new("/x/target/debug/deps"), build),
            None
        );
    }

    #[test]
    fn the_users_cargo_settings_are_kept() {
        assert!(is_cargos_own("CARGO_PKG_NAME") && is_cargos_own("RUSTUP_TOOLCHAIN"));
        assert!(!is_cargos_own("CARGO_HOME") && !is_cargos_own("PATH"));
    }
}
