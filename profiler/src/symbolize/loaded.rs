//! What code has been loaded into the running kernel: as long as that is the same, its functions lie where they did.

use std::{fs, io};

/// `BPF_PROG_GET_NEXT_ID` (include/uapi/linux/bpf.h).
const NEXT_PROGRAM: libc::c_long = 11;

/// More programs than these are not listed: then it is not known.
const MOST_PROGRAMS: usize = 1 << 14;

/// What is loaded at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    /// A number is given again only after two billion others (`idr_alloc_cyclic` in kernel/bpf/syscall.c, 4.13 – 7.2).
    programs: Vec<u32>,
    modules: Vec<String>,
}

impl Loaded {
    /// `None` if it cannot be told: without CAP_SYS_ADMIN nobody lists programs.
    pub(super) fn now() -> Option<Self> {
        let modules = match fs::read("/proc/modules") {
            Ok(modules) => String::from_utf8_lossy(&modules).into_owned(),
            // A kernel that has none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(_) => return None,
        };
        Some(Self::of(programs()?, &modules))
    }

    /// `name size users by,whom state address`: of these, users come and go.
    pub(super) fn of(programs: Vec<u32>, modules: &str) -> Self {
        let module = |line: &str| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            [0, 1, 5].map(|at| words.get(at).copied().unwrap_or_default()).join(" ")
        };
        Self {
            programs,
            modules: modules.lines().map(module).collect(),
        }
    }
}

/// The numbers of all BPF programs.
fn programs() -> Option<Vec<u32>> {
    let mut programs = Vec::new();
    // `union bpf_attr`: `start_id`, `next_id`, `open_flags`.
    let mut attributes = [0u32; 3];
    while programs.len() < MOST_PROGRAMS {
        // SAFETY: the attributes are as long as is said, and outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                NEXT_PROGRAM,
                attributes.as_mut_ptr(),
                size_of_val(&attributes),
            )
        };
        if result < 0 {
            // After the last one.
            return (io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT)).then_some(programs);
        }
        programs.push(attributes[1]);
        attributes = [attributes[1], 0, 0];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_somebody_uses_is_the_same_and_one_that_lies_elsewhere_is_not() {
        let loaded = |text| Loaded::of(vec![1, 2], text);
        let before = loaded("ext4 900 1 - Live 0xffffffffc0100000\nloop 30 0 - Live 0xffffffffc0200000\n");
        let used = loaded("ext4 900 7 jbd2, Live 0xffffffffc0100000\nloop 30 0 - Live 0xffffffffc0200000\n");
        let again = loaded("ext4 900 1 - Live 0xffffffffc0300000\nloop 30 0 - Live 0xffffffffc0200000\n");
        assert_eq!(before, used);
        assert_ne!(before, again);
        assert_ne!(before, loaded("ext4 900 1 - Live 0xffffffffc0100000\n"));
        assert_ne!(Loaded::of(vec![1], ""), Loaded::of(vec![2], ""));
    }

    #[test]
    fn programs_are_listed_in_order_where_they_may_be() {
        if let Some(programs) = programs() {
            assert!(programs.is_sorted_by(|a, b| a < b), "{programs:?}");
        }
    }
}
