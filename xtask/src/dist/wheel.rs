//! The wheel: `pip install` puts the binary beside python. It is packed by PyPA's `wheel` from an unpacked folder, so it
//! holds the very binary of the other packages, which a build by maturin would not.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Built;
use crate::{command, workspace};

/// A binary that asks for no library fits every Linux: glibc's from 2.17 on (manylinux2014 is the same), and musl's.
/// <https://packaging.python.org/en/latest/specifications/platform-compatibility-tags/>
const PLATFORMS: [&str; 3] = ["manylinux_2_17_x86_64", "manylinux2014_x86_64", "musllinux_1_1_x86_64"];

pub fn make(built: &Built) -> Result<PathBuf> {
    let version = &built.version;
    let folder = built.folder.join("wheel");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let unpacked = folder.join(format!("profiler-{version}"));
    let scripts = unpacked.join(format!("profiler-{version}.data/scripts"));
    let about = unpacked.join(format!("profiler-{version}.dist-info"));
    for folder in [&scripts, &about.join("licenses")] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let script = scripts.join("profiler");
    std::fs::copy(&built.binary, &script).with_context(|| format!("cannot copy to {}", script.display()))?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    write(&about.join("METADATA"), &metadata(version)?)?;
    write(&about.join("WHEEL"), &tags())?;
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        std::fs::copy(workspace::root().join(licence), about.join("licenses").join(licence))?;
    }
    command::run(
        Command::new(packer()?)
            // Times in the archive are this one, not those of this machine.
            .env("SOURCE_DATE_EPOCH", "315532800")
            .args(["-m", "wheel", "pack", "--dest-dir"])
            .arg(&built.folder)
            .arg(&unpacked),
    )?;
    let wheel = built
        .folder
        .join(format!("profiler-{version}-py3-none-{}.whl", packed_platforms()));
    wheel
        .exists()
        .then_some(wheel.clone())
        .with_context(|| format!("wheel pack made something, but not {}", wheel.display()))
}

/// As `wheel pack` joins them.
fn packed_platforms() -> String {
    let mut platforms = PLATFORMS;
    platforms.sort_unstable();
    platforms.join(".")
}

fn metadata(version: &str) -> Result<String> {
    let readme = workspace::root().join("README.md");
    let readme = std::fs::read_to_string(&readme).with_context(|| format!("cannot read {}", readme.display()))?;
    Ok(format!(
        "Metadata-Version: 2.4
Name: profiler
Version: {version}
Summary: System-wide eBPF profiler that understands CPython
License-Expression: MIT OR Apache-2.0
License-File: LICENSE-MIT
License-File: LICENSE-APACHE
Classifier: Operating System :: POSIX :: Linux
Classifier: Topic :: Software Development :: Debuggers
Description-Content-Type: text/markdown

{readme}"
    ))
}

fn tags() -> String {
    let tags: String = PLATFORMS
        .iter()
        .map(|platform| format!("Tag: py3-none-{platform}\n"))
        .collect();
    format!("Wheel-Version: 1.0\nGenerator: profiler xtask\nRoot-Is-Purelib: false\n{tags}")
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A python3 that has `wheel`.
fn packer() -> Result<PathBuf> {
    let venv = workspace::root().join("target/dist-tools/python");
    let python = venv.join("bin/python");
    if !venv.join("bin/wheel").exists() {
        eprintln!("xtask: about to install PyPA's wheel into {}", venv.display());
        command::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))
            .context("a wheel needs python3 with venv")?;
        command::run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "wheel==0.45.1"]))?;
    }
    Ok(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_platform_has_a_tag() {
        assert_eq!(
            tags().lines().filter(|line| line.starts_with("Tag: py3-none-")).count(),
            3
        );
    }
}
