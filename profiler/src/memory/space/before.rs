//! Which pages of a process others have as well, when it is first looked at.

use std::{fs::File, os::unix::fs::FileExt as _};

use super::super::event::MapKind;
use super::copies::Before;
use super::mappings::Mapping;
use super::pages::PAGE;

/// Documentation/admin-guide/mm/pagemap.rst
mod bits {
    pub const PRESENT: u64 = 1 << 63;
    pub const EXCLUSIVE: u64 = 1 << 56;
    pub const FRAME: u64 = (1 << 55) - 1;
    /// Of `/proc/kpageflags`.
    pub const ZERO_PAGE: u64 = 1 << 24;
}

/// Pages of address space that are looked at, of one process: eight bytes each, and 32 GiB. Those of a mapping that does not
/// fit are not known.
const MOST_PAGES: u64 = 1 << 23;
const CHUNK: u64 = 1 << 13;

/// What the private memory of a process is, in runs of pages (first page, and how many), from `/proc/PID/pagemap`. Of what
/// cannot be read nothing is known. Some 10 ms for each GiB that is mapped, most of it for the kernel to write it.
pub fn look(pid: u32, mappings: &[Mapping]) -> Vec<(u64, u64, Before)> {
    let mut runs = Vec::new();
    let Ok(pagemap) = File::open(format!("/proc/{pid}/pagemap")) else {
        return runs;
    };
    let mut zeros = Zeros::open();
    let mut left = MOST_PAGES;
    for mapping in mappings.iter().filter(|mapping| mapping.kind == MapKind::Anonymous) {
        let (mut at, end) = (mapping.start / PAGE, mapping.end / PAGE);
        if end.saturating_sub(at) > left {
            continue;
        }
        left -= end.saturating_sub(at);
        while at < end {
            let pages = CHUNK.min(end - at);
            let mut bytes = vec![0; 8 * pages as usize];
            if pagemap.read_exact_at(&mut bytes, 8 * at).is_err() {
                break;
            }
            let (words, _) = bytes.as_chunks();
            for (page, word) in (at..).zip(words) {
                if let Some(what) = what(u64::from_le_bytes(*word), &mut zeros) {
                    push(&mut runs, page, what);
                }
            }
            at += pages;
        }
    }
    runs
}

fn what(entry: u64, zeros: &mut Zeros) -> Option<Before> {
    let frame = entry & bits::FRAME;
    match (entry & bits::PRESENT != 0, entry & bits::EXCLUSIVE != 0) {
        (false, _) => None,
        (true, true) => Some(Before::Own),
        // Without the right to know it, it is 0.
        (true, false) if frame == 0 => None,
        (true, false) => Some(match zeros.is(frame) {
            true => Before::Zeros,
            false => Before::Shared,
        }),
    }
}

fn push(runs: &mut Vec<(u64, u64, Before)>, page: u64, what: Before) {
    match runs.last_mut() {
        Some((first, pages, last)) if *first + *pages == page && *last == what => *pages += 1,
        _ => runs.push((page, 1, what)),
    }
}

/// The kernel's page of zeros. There is one, which is asked for when the same page comes twice in a row: asking for each
/// takes half a microsecond. (One alone counts as shared.)
struct Zeros {
    flags: Option<File>,
    found: Option<u64>,
    last: u64,
}

impl Zeros {
    fn open() -> Self {
        Self {
            flags: File::open("/proc/kpageflags").ok(),
            found: None,
            last: 0,
        }
    }

    fn is(&mut self, frame: u64) -> bool {
        let again = std::mem::replace(&mut self.last, frame) == frame;
        if let Some(found) = self.found {
            return found == frame;
        }
        let mut bytes = [0; 8];
        let read = |flags: &File| flags.read_exact_at(&mut bytes, frame * 8).is_ok();
        let is_zero =
            again && self.flags.as_ref().is_some_and(read) && u64::from_le_bytes(bytes) & bits::ZERO_PAGE != 0;
        if is_zero {
            self.found = Some(frame);
        }
        is_zero
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_mappings;
    use super::*;

    #[test]
    fn what_is_this_process_s_own_is_known() {
        let pid = std::process::id();
        let maps = std::fs::read("/proc/self/maps").expect("own mappings");
        let memory = vec![1_u8; 1 << 20];
        let runs = look(pid, &parse_mappings(&maps, &[]));
        let own: u64 = runs
            .iter()
            .filter(|(.., what)| *what == Before::Own)
            .map(|(_, pages, _)| pages)
            .sum();
        // Whether a page is exclusive, the kernel says to everybody.
        assert!(own > 16, "{runs:?}");
        drop(memory);
        assert!(look(0x7fff_ffff, &[]).is_empty());
    }

    #[test]
    fn neighbours_are_one_run() {
        let mut runs = Vec::new();
        for (page, what) in [
            (5, Before::Own),
            (6, Before::Own),
            (7, Before::Shared),
            (9, Before::Shared),
        ] {
            push(&mut runs, page, what);
        }
        assert_eq!(
            runs,
            [(5, 2, Before::Own), (7, 1, Before::Shared), (9, 1, Before::Shared)]
        );
    }
}
