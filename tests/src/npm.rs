//! Programs from npm's registry that read what we write, installed once and kept in `target/npm`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{python::workspace, skip::skip_pythons, workshop::run};

/// A directory whose `node_modules` has this package. `None`, said aloud, if it cannot be had: offline, or without node.
pub fn with(package: &str) -> Result<Option<PathBuf>> {
    let place = workspace().join("target/npm").join(package.replace(['/', '@'], "-"));
    let stamp = place.join("stamp");
    if stamp.exists() {
        return Ok(Some(place));
    }
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    match make(package, &place) {
        Ok(()) => {
            fs::write(&stamp, package)?;
            Ok(Some(place))
        }
        Err(error) => {
            skip_pythons(format!("no {package} from npm: {error:#}"));
            Ok(None)
        }
    }
}

fn make(package: &str, place: &Path) -> Result<()> {
    fs::create_dir_all(place)?;
    // No script of a package is run.
    let install = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
    let retries = ["--fetch-retries=1", "--fetch-timeout=20000"];
    let mut command = Command::new("npm");
    command.args(install).args(retries).arg(package).current_dir(place);
    run(&mut command).map(drop)
}

/// What a script prints that node runs, where it finds the package.
///
/// # Errors
/// If it fails.
pub fn node(place: &Path, script: &Path, arguments: &[&str], directory: &Path) -> Result<String> {
    let output = Command::new("node")
        .arg(script)
        .args(arguments)
        .env("NODE_PATH", place.join("node_modules"))
        .env("PROFILER_CLI_SESSION_DIR", place.join("sessions"))
        .current_dir(directory)
        .output()
        .context("cannot run node")?;
    ensure!(
        output.status.success(),
        "{} {arguments:?}: {}{}",
        script.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
