//! Which frame of a stack is responsible for the memory that was got there.
//!
//! Every allocation ends in an allocator, and every first touch of a page in `memset` or the like: those say nothing.
//! The innermost Python frame does; without one, the innermost machine code that is not there to serve others.
//!
//! Python that is installed (packages, the standard library) mostly allocates for whoever called it: where a frame of
//! the program's own lies further out, that one is responsible, and the library is told beside it.

use crate::profile::{Frame, FrameId, FrameKind, Profile, StackId, StringId, unseen};

use super::{
    memory,
    path::{self, extension, file_name, is_installed, is_interpreter},
};

/// Who a stack's memory is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    /// `None` for a stack without frames.
    pub(crate) frame: Option<FrameId>,
    /// The innermost Python frame, where that is a library's and `frame` is the program's own.
    pub(crate) library: Option<FrameId>,
    /// A frame of the extension module that a Python frame had called.
    pub(crate) via: Option<FrameId>,
    /// The leaf that says of what sort the pages are ([`SORTS`]).
    pub(crate) sort: Option<FrameId>,
}

/// Markers that are leaves of stacks whose pages are not just the process's own memory.
pub(super) const SORTS: [&str; 3] = [memory::PAGES_OF_FILES, memory::SHARED_MEMORY, memory::COPIES];

/// Finds owners, and remembers what it learnt of each frame.
pub(crate) struct Owners<'a> {
    profile: &'a Profile,
    roles: Vec<Option<Role>>,
}

/// What a frame is in its stack. Of frames without Python, the lowest is responsible, and of equals the innermost. The page
/// has them as numbers (`page/sums.js`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Python of the program's own.
    Python,
    /// Python that was installed.
    Library,
    /// An extension, a library or a program.
    Code,
    Interpreter,
    /// Calls other code for whoever calls it: ctypes and cffi.
    Glue,
    /// libc, the dynamic linker, the run-time libraries of C++.
    System,
    Allocator,
    Marker,
    Kernel,
}

/// Which function a stack's memory is told of.
pub struct Functions<'a>(Owners<'a>);

impl<'a> Functions<'a> {
    pub fn new(profile: &'a Profile) -> Self {
        Self(Owners::new(profile))
    }

    /// Its name and file; none if nothing is known of them.
    pub fn of(&mut self, stack: StackId) -> Option<(StringId, StringId)> {
        let frame = self.0.profile.frame(self.0.find(stack).frame?);
        match frame.kind {
            FrameKind::Python => Some((frame.function, frame.file)),
            FrameKind::Native if frame.function != Profile::EMPTY => Some((frame.function, Profile::EMPTY)),
            FrameKind::Native | FrameKind::Marker | FrameKind::Kernel => None,
        }
    }
}

impl<'a> Owners<'a> {
    pub(crate) fn new(profile: &'a Profile) -> Self {
        Self {
            profile,
            roles: vec![None; profile.frames().len()],
        }
    }

    pub(crate) fn find(&mut self, stack: StackId) -> Owner {
        let stack = self.profile.stack(stack);
        let is_sort = |id: &FrameId| {
            let frame = self.profile.frame(*id);
            frame.kind == FrameKind::Marker && SORTS.contains(&self.profile.string(frame.function))
        };
        let sort = stack.first().copied().filter(is_sort);
        let mut via = None;
        let mut library = None;
        let mut best: Option<(Role, FrameId)> = None;
        for id in stack {
            let role = self.role(*id);
            match role {
                Role::Python => {
                    let frame = Some(*id);
                    return Owner {
                        frame,
                        library,
                        via,
                        sort,
                    };
                }
                Role::Library => library = library.or(Some(*id)),
                // The last one before the Python frame is what that one called.
                Role::Code if library.is_none() => via = Some(*id),
                _ => {}
            }
            if best.is_none_or(|(lowest, _)| role < lowest) {
                best = Some((role, *id));
            }
        }
        Owner {
            frame: best.map(|(_, id)| id),
            library: None,
            via: via.filter(|_| library.is_some()),
            sort,
        }
    }

    /// Whether it is a frame of the program's own Python.
    pub(super) fn is_own(&mut self, id: FrameId) -> bool {
        self.role(id) == Role::Python
    }

    fn role(&mut self, id: FrameId) -> Role {
        let profile = self.profile;
        *self.roles[id.index()].get_or_insert_with(|| role(profile, profile.frame(id)))
    }
}

pub(super) fn role(profile: &Profile, frame: &Frame) -> Role {
    match frame.kind {
        FrameKind::Python => {
            let file = profile.string(frame.file);
            // `<string>` and `<stdin>` are the program's; `<frozen importlib._bootstrap>` is CPython's.
            let is_launcher = profile.string(frame.function) == "<module>" && path::is_launcher(file);
            if is_installed(file) || file.starts_with("<frozen ") || is_launcher {
                Role::Library
            } else {
                Role::Python
            }
        }
        // Python of which nothing is known but that it ran.
        FrameKind::Marker if unseen::ALL.contains(&profile.string(frame.function)) => Role::Library,
        FrameKind::Marker => Role::Marker,
        FrameKind::Kernel => Role::Kernel,
        FrameKind::Native => {
            let path = frame
                .mapping
                .map_or("", |mapping| profile.string(profile.mapping(mapping).path));
            native(profile.string(frame.function), path)
        }
    }
}

fn native(function: &str, path: &str) -> Role {
    let file = file_name(path);
    if is_allocator(function) || ALLOCATOR_FILES.iter().any(|prefix| file.starts_with(prefix)) {
        return Role::Allocator;
    }
    let library = extension(path);
    if SYSTEM.contains(&library)
        || ["ld-", "libc-", "libpthread-"]
            .iter()
            .any(|start| file.starts_with(start))
    {
        return Role::System;
    }
    // What a program made of the C++ library's templates; a function template's name begins with its result.
    let template = function.strip_prefix("void ").unwrap_or(function);
    if template.starts_with("std::") || template.starts_with("__gnu_cxx::") {
        return Role::System;
    }
    if GLUE.contains(&library) {
        return Role::Glue;
    }
    match is_interpreter(path) {
        true => Role::Interpreter,
        false => Role::Code,
    }
}

/// Allocators that a program is linked with or has preloaded.
const ALLOCATOR_FILES: [&str; 6] = [
    "libjemalloc",
    "libtcmalloc",
    "libmimalloc",
    "libsnmalloc",
    "libtbbmalloc",
    "libhoard",
];

/// Without what follows the first dot of a file's name.
const SYSTEM: [&str; 10] = [
    "libc",
    "ld",
    "ld64",
    "libstdc++",
    "libc++",
    "libc++abi",
    "libgcc_s",
    "libpthread",
    "[vdso]",
    "linux-vdso",
];

const GLUE: [&str; 3] = ["_ctypes", "libffi", "_cffi_backend"];

/// Functions that give memory, or fill it, for whoever calls them, wherever they are linked into.
fn is_allocator(function: &str) -> bool {
    const EXACT: [&str; 26] = [
        "malloc",
        "calloc",
        "realloc",
        "reallocarray",
        "free",
        "cfree",
        "memalign",
        "posix_memalign",
        "aligned_alloc",
        "valloc",
        "pvalloc",
        "strdup",
        "strndup",
        "memset",
        "memcpy",
        "memmove",
        "mempcpy",
        "bzero",
        "mmap",
        "mmap64",
        "mremap",
        "brk",
        "sbrk",
        "sysmalloc",
        "new_arena",
        "allocate_from_new_pool",
    ];
    // A prefix is a family's own name space, so that nobody else's function is taken for one of it.
    const PREFIXES: [&str; 32] = [
        "operator new",
        "operator delete",
        "_Znw",
        "_Zna",
        "__libc_malloc",
        "__libc_calloc",
        "__libc_realloc",
        "__libc_memalign",
        "_int_malloc",
        "_int_realloc",
        "_int_memalign",
        "__memset_",
        "__memcpy_",
        "__memmove_",
        "je_",
        "tc_",
        "tcmalloc::",
        "mi_",
        "_mi_",
        "PyObject_Malloc",
        "PyObject_Calloc",
        "PyObject_Realloc",
        "_PyObject_Malloc",
        "_PyObject_Calloc",
        "_PyObject_Realloc",
        "_PyObject_Arena",
        "PyMem_",
        "_PyMem_",
        "pymalloc_",
        "_PyMimalloc_",
        "__rust_",
        "alloc::alloc::",
    ];
    // glibc's symbols carry a version where the table of dynamic symbols is all there is: `malloc@@GLIBC_2.2.5`. gcc
    // splits functions (`sysmalloc.part.0`).
    let plain = function.split(['@', '.']).next().unwrap_or(function);
    EXACT.contains(&plain.trim_start_matches("__")) || PREFIXES.iter().any(|prefix| function.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_told_by_function_and_file() {
        let cases = [
            ("malloc", "/opt/app/server", Role::Allocator),
            ("malloc@@GLIBC_2.2.5", "/lib/libc.so.6", Role::Allocator),
            ("sysmalloc.part.0", "/lib/libc.so.6", Role::Allocator),
            ("operator new(unsigned long)", "/lib/libstdc++.so.6", Role::Allocator),
            ("__memset_avx2_unaligned_erms", "/lib/libc.so.6", Role::Allocator),
            ("extent_alloc", "/usr/lib/libjemalloc.so.2", Role::Allocator),
            ("getaddrinfo", "/lib/x86_64-linux-gnu/libc.so.6", Role::System),
            ("start_thread", "/lib/libc-2.31.so", Role::System),
            ("_dl_map_object", "/lib64/ld-linux-x86-64.so.2", Role::System),
            ("", "/lib/ld-musl-x86_64.so.1", Role::System),
            ("void std::vector<int>::reserve", "/opt/app/server", Role::System),
            ("ffi_call", "/lib/libffi.so.8", Role::Glue),
            ("PyDict_New", "/usr/bin/python3.12", Role::Interpreter),
            ("PyDict_New", "/usr/lib/libpython3.12.so.1.0", Role::Interpreter),
            ("PyObject_Malloc", "/usr/bin/python3.12", Role::Allocator),
            ("python_call", "/srv/pythonic.so", Role::Code),
            (
                "array_zeros",
                "/x/_multiarray_umath.cpython-312-x86_64-linux-gnu.so",
                Role::Code,
            ),
            ("mallocator", "/opt/app/server", Role::Code),
            ("", "", Role::Code),
        ];
        for (function, path, expected) in cases {
            assert_eq!(native(function, path), expected, "{function} {path}");
        }
    }

    #[test]
    fn frames_that_are_not_shown_are_a_librarys_and_own_what_nobody_else_does() {
        let mut profile = Profile::new(Vec::new(), None);
        let mut frame = |kind, function: &str| {
            let frame = Frame {
                kind,
                function: profile.intern_string(function),
                file: profile.intern_string(if kind == FrameKind::Python { "/srv/own.py" } else { "" }),
                line: 0,
                first_line: 0,
                mapping: None,
                address: 0,
                inlined: false,
            };
            profile.intern_frame(frame)
        };
        let own = frame(FrameKind::Python, "own");
        let host = frame(FrameKind::Native, "host");
        let missing = frame(FrameKind::Marker, unseen::OTHER_CPYTHON);
        let fill = frame(FrameKind::Native, "fill");
        let alone = profile.intern_stack(&[fill, missing, host]);
        let below = profile.intern_stack(&[fill, missing, host, own]);
        let mut owners = Owners::new(&profile);
        assert_eq!(owners.find(alone).frame, Some(missing));
        let owner = owners.find(below);
        assert_eq!(
            (owner.frame, owner.library, owner.via),
            (Some(own), Some(missing), Some(fill))
        );
    }
}
