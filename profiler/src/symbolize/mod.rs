//! Names for addresses of machine code, after the recording: [`Symbol`]s of ELF files, the kernel and the vDSO.
//!
//! The one place that names blazesym. Results are owned, and nothing is kept between calls but the kernel's functions, so
//! memory is bounded by the largest file: give all addresses of a file in one call.
//!
//! **Return addresses:** an address that was found on a stack is where a call returns to, which can be the next line or
//! even the next function. The caller passes such addresses less one, and only the sampled instruction itself as it is.

mod debug_file;
mod demangle;
#[cfg(test)]
mod fixtures;
mod function_start;
mod kernel;
mod loaded;
mod native;
mod vdso;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use self::kernel::is_kernel_text;

/// The bytes of the vDSO: the same in every 64-bit process.
pub fn vdso_image() -> std::io::Result<Vec<u8>> {
    vdso::own_image()
}

/// One function at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Demangled.
    pub function: String,
    /// Source file, as far as the debug information knows its path.
    pub file: Option<String>,
    /// The line being executed, or the line of the call if another function was inlined there.
    pub line: Option<u32>,
    /// This function was inlined into the next one.
    pub inlined: bool,
    /// From where to where the function is in its file, if that is known.
    pub extent: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Look for source lines and inlined functions in debug information.
    ///
    /// Measured for 2,000 addresses all over a libpython3.12 with 14 MiB of `.debug_info`: 75 ms and 21 MiB with, 2 ms
    /// and 1 MiB without, when only symbol tables are read.
    pub debug_info: bool,
    /// Where separate debug files are looked for, by build id (`DIR/.build-id/xx/yyyy.debug`) and by debug link.
    pub debug_dirs: Vec<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            debug_info: true,
            debug_dirs: vec!["/usr/lib/debug".into()],
        }
    }
}

/// The debug file of `file`, which process `pid` calls `path`, where the process would find it: below its own
/// `/usr/lib/debug`, or beside the file.
///
/// To be called while the process lives, for its mount namespace goes with it. `None` if it has our own root directory,
/// where the debug file can be found whenever it is needed.
pub fn debug_file_in_container(pid: u32, path: &Path, file: &File) -> Option<File> {
    debug_file::in_container(pid, path, file, &Options::default().debug_dirs)
}

/// Finds names for addresses.
///
/// Each address gets a list of functions, innermost first: those that were inlined there, then the one that has the
/// code. The list is empty if no symbol covers the address.
#[derive(Debug, Default)]
pub struct Symbolizer {
    options: Options,
    kernel: kernel::Kernel,
    warnings: Vec<String>,
}

impl Symbolizer {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Names kernel addresses from `/proc/kallsyms`, which has functions only, and is kept for the next call.
    ///
    /// A vmlinux with debug information is not looked for: it takes many seconds and gigabytes.
    pub fn kernel(&mut self, addresses: &[u64]) -> Vec<Vec<Symbol>> {
        let (symbols, warning) = self.kernel.symbolize(addresses);
        self.warn(warning);
        symbols
    }

    /// Names addresses of the ELF file at `file`, given as the file's own virtual addresses (what `addr2line` takes).
    ///
    /// For a file that cannot be found by its path any more, `/proc/self/fd/N` does as well. `debug_file` is what
    /// [`debug_file_in_container`] has found for it; our own mount namespace is searched anyway.
    pub fn native(&mut self, file: &Path, debug_file: Option<&File>, addresses: &[u64]) -> Vec<Vec<Symbol>> {
        let (symbols, warning) = native::symbolize(file, debug_file, addresses, &self.options);
        self.warn(warning);
        symbols
    }

    /// Where the functions that hold `addresses` begin, for those that have no name.
    pub fn function_starts(&self, file: &Path, addresses: &[u64]) -> Vec<Option<u64>> {
        function_start::find(file, addresses)
    }

    /// Names addresses in `[vdso]`, given as distances from the start of its mapping.
    ///
    /// The kernel has one vDSO for all 64-bit processes, so our own serves for them all.
    pub fn vdso(&mut self, addresses: &[u64]) -> Vec<Vec<Symbol>> {
        let (symbols, warning) = vdso::symbolize(addresses, &self.options);
        self.warn(warning);
        symbols
    }

    /// What went wrong so far, a line each, every line once: why names or lines are missing.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The same, to be said once.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn warn(&mut self, warning: Option<String>) {
        if let Some(warning) = warning.filter(|warning| !self.warnings.contains(warning)) {
            self.warnings.push(warning);
        }
    }
}
