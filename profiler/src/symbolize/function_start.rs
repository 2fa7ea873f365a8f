//! Where functions without a name begin: a stripped file has no symbols, but it keeps its unwind tables, and those have
//! one entry per function. With it the samples of one function stay together under `[libfoo.so+0x1234]`, and do not
//! scatter over as many names as it has instructions.

use std::{fs::File, path::Path};

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, LittleEndian, UnwindSection as _};
use memmap2::Mmap;
use object::{Object as _, ObjectSection as _};

/// The start of the function that holds each address, as virtual addresses in the file; `None` where that is not known.
pub(super) fn find(path: &Path, addresses: &[u64]) -> Vec<Option<u64>> {
    let none = || vec![None; addresses.len()];
    let Ok(file) = File::open(path) else { return none() };
    // SAFETY: others can change the bytes under the map; every parser here takes them for foreign and checks what it has
    // read.
    let Ok(bytes) = (unsafe { Mmap::map(&file) }) else {
        return none();
    };
    starts(&bytes, addresses).unwrap_or_else(none)
}

fn starts(bytes: &[u8], addresses: &[u64]) -> Option<Vec<Option<u64>>> {
    let file = object::File::parse(bytes).ok()?;
    let section = |name: &str| {
        let section = file.section_by_name(name)?;
        Some((section.address(), section.data().ok()?))
    };
    let (header_address, header) = section(".eh_frame_hdr")?;
    let (frame_address, frame) = section(".eh_frame")?;
    let bases = BaseAddresses::default()
        .set_eh_frame_hdr(header_address)
        .set_eh_frame(frame_address);
    let header = EhFrameHdr::new(header, LittleEndian).parse(&bases, 8).ok()?;
    let table = header.table()?;
    let frame = EhFrame::new(frame, LittleEndian);
    let start = |&address: &u64| {
        let entry = table
            .fde_for_address(&frame, &bases, address, |frame, bases, at| {
                frame.cie_from_offset(bases, at)
            })
            .ok()?;
        entry.contains(address).then(|| entry.initial_address())
    };
    Some(addresses.iter().map(start).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_inside_a_function_leads_to_its_start() {
        let own = std::env::current_exe().expect("a path");
        let bytes = std::fs::read(&own).expect("our own file");
        let file = object::File::parse(&*bytes).expect("an ELF file");
        let entry = file.entry();
        // `_start` is the entry point, and has an entry of its own.
        assert_eq!(find(&own, &[entry, entry + 4, 1]), [Some(entry), Some(entry), None]);
    }

    #[test]
    fn what_is_no_elf_file_has_no_functions() {
        assert_eq!(find(Path::new("/etc/passwd"), &[1]), [None]);
        assert_eq!(find(Path::new("/nowhere"), &[1]), [None]);
    }
}
