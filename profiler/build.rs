//! Builds the eBPF object that the binary carries.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, anyhow};
use aya_build::{Package, Toolchain};

/// What the crate for BPF makes, and what the profiler includes.
const OBJECT: &str = "profiler-ebpf";

fn main() -> anyhow::Result<()> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR")?);
    let workspace = manifest.parent().context("the workspace's folder")?.to_path_buf();
    let choice = workspace.join("target/ebpf-tools/toolchain");
    println!("cargo:rerun-if-env-changed=PROFILER_EBPF_TOOLCHAIN");
    println!("cargo:rerun-if-env-changed=PROFILER_SKIP_EBPF");
    println!("cargo:rerun-if-changed={}", choice.display());
    // aya-build watches the eBPF crate only; the records it shares with us would silently keep an old object.
    println!(
        "cargo:rerun-if-changed={}",
        workspace.join("profiler-common/src").display()
    );

    // Documentation and lints of the host side need no object. The stub is empty, and loading it says so.
    if env::var_os("PROFILER_SKIP_EBPF").is_some() {
        let out = PathBuf::from(env::var("OUT_DIR").context("OUT_DIR")?);
        return fs::write(out.join(OBJECT), b"").context("failed to write the stub");
    }

    let recorded = fs::read_to_string(&choice).unwrap_or_default();
    let mut lines = recorded.lines();
    let toolchain = env::var("PROFILER_EBPF_TOOLCHAIN")
        .ok()
        .or(lines.next().map(str::to_owned));
    let Some(toolchain) = toolchain else {
        return Err(anyhow!(
            "the eBPF build tools are not set up; run `cargo xtask setup` once (it says what it installs)"
        ));
    };
    if let Some(tools) = lines.next() {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut folders = vec![PathBuf::from(tools)];
        folders.extend(env::split_paths(&path));
        // SAFETY: a build script's main thread, before any other is started.
        unsafe { env::set_var("PATH", env::join_paths(folders).context("PATH")?) };
    }
    if !toolchain.starts_with("nightly") {
        // aya-ebpf uses an unstable feature (asm_experimental_arch). Naming the crates allows it to them alone, and,
        // unlike `1`, does not make aya-build ask for `-Z build-std`: these compilers come with a `core` for BPF.
        // SAFETY: as above.
        unsafe { env::set_var("RUSTC_BOOTSTRAP", "aya_ebpf,profiler_ebpf") };
    }
    let root = workspace.join(OBJECT);
    let root = root.to_str().context("the workspace's path is not UTF-8")?;
    once_for_all(&workspace.join("target/ebpf-tools/object"), || {
        aya_build::build_ebpf(
            [Package {
                name: OBJECT,
                root_dir: root,
                ..Package::default()
            }],
            Toolchain::Custom(&toolchain),
        )
        .context("failed to build the eBPF object; `cargo xtask setup` checks the tools it needs")
    })
}

/// Lets `build` work in `shared` instead of `OUT_DIR`, and copies the object from there.
///
/// The object does not depend on the profile nor on the features of the host's build, each of which has an `OUT_DIR` of
/// its own: it was compiled three times in a run of all tests, a minute each. In a folder that they share, the cargo
/// within sees that nothing has changed.
fn once_for_all(shared: &Path, build: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR")?);
    fs::create_dir_all(shared).with_context(|| format!("cannot make {}", shared.display()))?;
    // Two builds at once (lint beside tests) must not read an object that the other one writes.
    let lock = shared.join("lock");
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    lock.lock().context("cannot lock the folder of the eBPF object")?;
    // SAFETY: a build script's main thread, before any other is started.
    unsafe { env::set_var("OUT_DIR", shared) };
    build()?;
    let object = shared.join(OBJECT);
    fs::copy(&object, out.join(OBJECT)).with_context(|| format!("cannot copy {}", object.display()))?;
    Ok(())
}
