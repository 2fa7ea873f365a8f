//! The .deb, as `[package.metadata.deb]` of `profiler/Cargo.toml` describes it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Built, TARGET};
use crate::{cargo, command, workspace};

/// The version of cargo-deb that is installed when there is none.
const CARGO_DEB_VERSION: &str = "3.8.0";

pub fn make(built: &Built) -> Result<PathBuf> {
    let tool = cargo_deb()?;
    let deb = built.folder.join(format!("profiler_{}_amd64.deb", built.version));
    command::run(
        Command::new(tool)
            .current_dir(workspace::root())
            .args([
                "--package",
                "profiler",
                "--no-build",
                "--no-strip",
                "--target",
                TARGET,
                "--output",
            ])
            .arg(&deb),
    )?;
    Ok(deb)
}

fn cargo_deb() -> Result<PathBuf> {
    let tools = workspace::root().join("target/dist-tools");
    let tool = tools.join("bin/cargo-deb");
    if tool.exists() {
        return Ok(tool);
    }
    eprintln!(
        "xtask: about to install cargo-deb {CARGO_DEB_VERSION} into {}",
        tools.display()
    );
    command::run(
        cargo::command("install")
            .args(["cargo-deb", "--version", CARGO_DEB_VERSION, "--locked", "--root"])
            .arg(&tools),
    )
    .context("cargo-deb makes the .deb")?;
    Ok(tool)
}
