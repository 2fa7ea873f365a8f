//! Files that shrink while they are read through memory.
//!
//! ELF files are foreign, and read through memory maps, ours and blazesym's: an upgrade that copies a new file over the
//! old one, or an attacker, can cut one short at any moment. Touching what was cut off raises SIGBUS, which would end the
//! recording. A page of zeroes in its place lets the parser go on: it checks what it reads, whoever has written it.

use std::{
    io, mem, ptr,
    sync::atomic::{AtomicU64, Ordering},
};

static PAGES: AtomicU64 = AtomicU64::new(0);

/// Pages that were missing so far.
pub fn pages() -> u64 {
    PAGES.load(Ordering::Relaxed)
}

/// Survives files that shrink, from here on.
///
/// # Errors
/// As sigaction(2).
pub fn survive() -> io::Result<()> {
    // SAFETY: all zeroes are a `sigaction`: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_bus_error as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` is whole, and the handler does nothing that a signal handler may not.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts a page of zeroes where a page of a file is missing. Anything else is what it was without us: the end.
extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    /// The pages of x86-64.
    const PAGE_BYTES: usize = 4096;

    // SAFETY: the kernel passes a valid `siginfo_t`, whose address is set for SIGBUS.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // The address lies beyond the end of the mapped file (BUS_ADRERR; the others are for alignment and for memory that
    // is broken).
    if code == libc::BUS_ADRERR {
        let page = address & !(PAGE_BYTES - 1);
        // SAFETY: the page is mapped and cannot be read, so nothing that is in use is replaced; a plain system call
        // touches no lock. Whoever unmaps the file later unmaps this page with it.
        let mapped = unsafe {
            libc::mmap(
                page as *mut libc::c_void,
                PAGE_BYTES,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if mapped as usize == page {
            PAGES.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    // SAFETY: a plain call; after the return the same access raises the signal again, and ends the process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::Mmap;
    use std::io::Write as _;

    #[test]
    fn a_file_that_shrinks_while_it_is_read_reads_as_zeroes() {
        survive().expect("sigaction");
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(&[7; 3 * 4096]).expect("write");
        // SAFETY: only read, and as bytes.
        let bytes = unsafe { Mmap::map(&file) }.expect("map");
        assert_eq!(bytes[2 * 4096], 7);
        file.set_len(4096).expect("truncate");
        let before = pages();
        assert_eq!((bytes[4095], bytes[4096], bytes[3 * 4096 - 1]), (7, 0, 0));
        assert_eq!(pages() - before, 2);
    }
}
