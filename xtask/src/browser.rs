//! A browser for the end-to-end tests of the page: Debian's chromium.

use std::ffi::OsStr;

use anyhow::{Result, bail};

use crate::debian;

/// As `tests/src/browser.rs` looks for it.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// Makes sure that there is one.
pub fn ensure() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsStr::new("/usr/bin").to_owned());
    let is_there = |name: &&str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    if NAMES.iter().any(is_there) {
        return Ok(());
    }
    if !std::path::Path::new("/usr/bin/apt-get").exists() {
        bail!("this machine has neither chromium nor apt-get: the page is not tested");
    }
    eprintln!("xtask: about to install Debian's chromium, for the tests of the page (half a minute, 400 MB)");
    debian::apt_install(["chromium"])
}
