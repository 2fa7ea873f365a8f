//! `cargo xtask setup`: the tools that build the eBPF object.

use anyhow::{Result, anyhow, bail};
use clap::Args;

use crate::browser;
use crate::debian;
use crate::ebpf_tools::{self, BPF_LINKER_VERSION, DEBIAN_TOOLCHAIN, EbpfTools, Machine, choose};

/// Find the tools that build the eBPF object, or install them
///
/// Either a rustup nightly with rust-src and a bpf-linker of the same LLVM major, or Debian's rustc-web (installed with
/// apt-get, through sudo unless this is run as root) and a bpf-linker built below target/ebpf-tools. The first that
/// the machine has is used; if it has neither, the second is installed. PROFILER_EBPF_TOOLCHAIN names another rustup
/// toolchain to be used instead.
#[derive(Args)]
pub struct Options {
    /// Only tell what would be used: change nothing, and fail if something is missing
    #[arg(long)]
    check: bool,

    /// Also install the browser that the end-to-end tests of the page look at it with
    #[arg(long, conflicts_with = "check")]
    browser: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let tools = if options.check { check()? } else { ensure()? };
    let EbpfTools {
        toolchain,
        core: _,
        linker,
    } = tools;
    eprintln!(
        "xtask: the eBPF object is built with toolchain {toolchain} and {}/bpf-linker",
        linker.display()
    );
    if options.browser {
        browser::ensure()?;
    }
    Ok(())
}

/// Makes sure that the tools are there, and records which they are. Quick if they are.
pub fn ensure() -> Result<EbpfTools> {
    let insisted = ebpf_tools::insisted();
    let tools = match choose(&Machine, insisted.as_deref()) {
        Ok(tools) => tools,
        // What the user insists on is not replaced by something else.
        Err(refusals) if insisted.is_some() => bail!(neither(&refusals, None)),
        Err(refusals) => {
            eprintln!(
                "xtask: the tools that build the eBPF object are missing ({})",
                refusals.join("; ")
            );
            if let Err(error) = debian::install() {
                bail!(neither(&refusals, Some(&format!("{error:#}"))));
            }
            choose(&Machine, None).map_err(|refusals| anyhow!(neither(&refusals, None)))?
        }
    };
    ebpf_tools::write(&tools)?;
    Ok(tools)
}

fn check() -> Result<EbpfTools> {
    choose(&Machine, ebpf_tools::insisted().as_deref()).map_err(|refusals| anyhow!(neither(&refusals, None)))
}

/// The one error for a machine where the eBPF object cannot be built: why, and both remedies.
fn neither(refusals: &[String], installation: Option<&str>) -> String {
    let refusals = refusals.join("; ");
    let installation = installation
        .map(|error| format!("; installing them: {error}"))
        .unwrap_or_default();
    let packages = debian::packages(22).join(" ");
    format!(
        "the eBPF object cannot be built here ({refusals}{installation}); one of these makes it possible:
  with rustup, N being the LLVM major that `rustc +nightly -vV` prints:
    rustup toolchain install nightly --component rust-src
    LLVM_PREFIX=/usr/lib/llvm-N cargo install bpf-linker --version {BPF_LINKER_VERSION} --no-default-features --features llvm-N --locked
  with Debian's packages:
    apt-get install --no-install-recommends {packages}
    LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version {BPF_LINKER_VERSION} --no-default-features --features llvm-22 --locked --root target/ebpf-tools
    rustup toolchain link {DEBIAN_TOOLCHAIN} /usr"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_reasons_and_both_ways() {
        let text = neither(&["nightly: no rust-src".to_owned()], Some("no apt-get"));
        for part in [
            "nightly: no rust-src",
            "no apt-get",
            "rustup toolchain install nightly --component rust-src",
            "apt-get install --no-install-recommends rustc-web libstd-rust-web-dev-bpf llvm-22-dev",
            "rustup toolchain link profiler-ebpf /usr",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
