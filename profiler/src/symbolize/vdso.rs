//! Functions of the vDSO, the kernel's library in every process, which is not in any file.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use super::{Options, Symbol, native};
use crate::process::maps;

/// Names addresses, given as distances from the start of the vDSO.
pub(super) fn symbolize(addresses: &[u64], options: &Options) -> (Vec<Vec<Symbol>>, Option<String>) {
    if addresses.is_empty() {
        return (Vec::new(), None);
    }
    match own_image().and_then(|image| in_memory(&image)) {
        Ok(file) => native::symbolize(
            format!("/proc/self/fd/{}", file.as_raw_fd()).as_ref(),
            None,
            addresses,
            options,
        ),
        Err(error) => (
            vec![Vec::new(); addresses.len()],
            Some(format!("no symbols from [vdso]: {error}")),
        ),
    }
}

/// Our own vDSO's bytes. It is linked at address 0 (6.18, x86-64), so distances are its virtual addresses.
pub(super) fn own_image() -> io::Result<Vec<u8>> {
    /// It has two pages on x86-64 in Linux 6.18.
    const MOST_BYTES: u64 = 1 << 20;

    // SAFETY: a plain query.
    let start = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let maps = maps::read(std::process::id())?;
    let entry = maps.find(start).ok_or(io::ErrorKind::NotFound)?;
    let bytes = (entry.end - entry.start).min(MOST_BYTES);
    let mut image = vec![0; bytes as usize];
    File::open("/proc/self/mem")?.read_exact_at(&mut image, entry.start)?;
    Ok(image)
}

/// A file without a name.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    // SAFETY: a valid name.
    let descriptor = unsafe { libc::memfd_create(c"vdso".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just created and has no other owner.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    file.write_all(bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_named() {
        let image = own_image().expect("a vDSO");
        let file = object::File::parse(&*image).expect("ELF");
        let clock = object::Object::dynamic_symbols(&file)
            .find(|symbol| object::ObjectSymbol::name(symbol).is_ok_and(|name| name.ends_with("clock_gettime")))
            .map(|symbol| object::ObjectSymbol::address(&symbol))
            .expect("clock_gettime");
        let (symbols, warning) = symbolize(&[clock + 1, 0], &Options::default());
        assert_eq!(warning, None);
        assert!(symbols[0][0].function.ends_with("clock_gettime"), "{symbols:?}");
        assert!(symbols[1].is_empty());
    }
}
