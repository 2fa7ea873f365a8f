//! What is picked out of stacks where there is no room for all of it: the line that is responsible, the frames that say
//! something, and whose code it was that ran.

use super::{Interpreter, label, machinery::Machinery, owner::Owners, path};
use crate::profile::{Frame, FrameId, FrameKind, Profile, StackId};

/// Whose code ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The interpreter's: its evaluation loop, or what of CPython that has called.
    Python,
    /// Other machine code: extensions, the C library, generated code.
    Native,
    Kernel,
    /// The stack does not say.
    Unknown,
}

pub struct Picked<'a> {
    profile: &'a Profile,
    owners: Owners<'a>,
    machinery: Machinery<'a>,
    shown: Vec<FrameId>,
}

impl<'a> Picked<'a> {
    pub fn new(profile: &'a Profile) -> Self {
        Self {
            profile,
            owners: Owners::new(profile),
            machinery: Machinery::new(profile, Interpreter::Work),
            shown: Vec::new(),
        }
    }

    /// The frames that say something, root first.
    pub fn frames(&mut self, stack: StackId) -> &[FrameId] {
        self.shown.clear();
        self.machinery.push_shown(self.profile.stack(stack), &mut self.shown);
        &self.shown
    }

    /// The frame that is responsible: the program's own innermost line, if there is one.
    pub fn line(&mut self, stack: StackId) -> Option<FrameId> {
        self.owners.find(stack).frame
    }

    pub fn text(&self, frame: FrameId) -> String {
        label::frame(self.profile, self.profile.frame(frame))
    }

    /// Whose code the innermost frame is.
    pub fn part(&self, stack: StackId) -> Part {
        let Some(&leaf) = self.profile.stack(stack).first() else {
            return Part::Unknown;
        };
        let frame = self.profile.frame(leaf);
        match frame.kind {
            FrameKind::Python => Part::Python,
            FrameKind::Kernel => Part::Kernel,
            FrameKind::Native if self.is_of_interpreter(frame) => Part::Python,
            FrameKind::Native => Part::Native,
            FrameKind::Marker => Part::Unknown,
        }
    }

    /// Whether the garbage collector is at work; `None` if no function of the interpreter's in this stack has a name, so
    /// that it would not be known.
    pub fn collects(&self, stack: StackId) -> Option<bool> {
        let own = self.profile.stack(stack).iter().map(|id| self.profile.frame(*id));
        let mut named = own
            .filter(|frame| frame.kind == FrameKind::Native && self.is_of_interpreter(frame))
            .map(|frame| self.profile.string(frame.function))
            .filter(|function| !function.is_empty() && !function.starts_with('['))
            .peekable();
        named.peek()?;
        Some(named.any(is_collector))
    }

    fn is_of_interpreter(&self, frame: &Frame) -> bool {
        let mapping = frame.mapping.map(|mapping| self.profile.mapping(mapping));
        mapping.is_some_and(|mapping| path::is_interpreter(self.profile.string(mapping.path)))
    }
}

/// What the collector begins with in `Modules/gcmodule.c` (3.8 – 3.12) and `Python/gc.c` (3.13 on). What was made static
/// and inlined lies below one of these.
fn is_collector(function: &str) -> bool {
    let plain = function.split('.').next().unwrap_or(function);
    matches!(
        plain,
        "collect"
            | "collect_generations"
            | "collect_with_callback"
            | "gc_collect_main"
            | "gc_collect_generations"
            | "gc_collect_with_callback"
            | "gc_collect_young"
            | "gc_collect_increment"
            | "gc_collect_full"
            | "gc_collect_region"
            | "_PyGC_Collect"
            | "_PyGC_CollectNoFail"
            | "_Py_RunGC"
            | "PyGC_Collect"
            | "deduce_unreachable"
            | "delete_garbage"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Mapping;

    fn profile(leaf_first: &[(FrameKind, &str, &str)]) -> (Profile, StackId) {
        let mut profile = Profile::new(Vec::new(), None);
        let frames: Vec<FrameId> = leaf_first
            .iter()
            .map(|(kind, function, file)| {
                let path = profile.intern_string(file);
                let mapping = Mapping {
                    path,
                    build_id: Profile::EMPTY,
                };
                let python = *kind == FrameKind::Python;
                let frame = Frame {
                    kind: *kind,
                    function: profile.intern_string(function),
                    file: if python { path } else { Profile::EMPTY },
                    line: 7,
                    first_line: 1,
                    mapping: (*kind == FrameKind::Native).then(|| profile.intern_mapping(mapping)),
                    address: 0,
                    inlined: false,
                };
                profile.intern_frame(frame)
            })
            .collect();
        let stack = profile.intern_stack(&frames);
        (profile, stack)
    }

    #[test]
    fn the_interpreters_own_code_is_pythons_and_that_of_others_is_native() {
        let python = (FrameKind::Python, "f", "/srv/app.py");
        for (leaf, part) in [
            (python, Part::Python),
            (
                (FrameKind::Native, "list_sort", "/usr/lib/libpython3.12.so.1.0"),
                Part::Python,
            ),
            ((FrameKind::Native, "dgemm", "/v/numpy/core.so"), Part::Native),
            ((FrameKind::Kernel, "do_sys_read", ""), Part::Kernel),
            ((FrameKind::Marker, "[truncated]", ""), Part::Unknown),
        ] {
            let (profile, stack) = profile(&[leaf, python]);
            assert_eq!(Picked::new(&profile).part(stack), part, "{leaf:?}");
        }
    }

    #[test]
    fn the_collector_is_known_by_name_and_without_names_nothing_is_said() {
        let python = (FrameKind::Python, "f", "/srv/app.py");
        let file = "/usr/bin/python3.11";
        for (native, collects) in [
            (vec![("visit", file), ("gc_collect_main.constprop.0", file)], Some(true)),
            (vec![("list_sort", file)], Some(false)),
            (vec![("", file)], None),
            // Somebody else's `collect`.
            (vec![("collect", "/v/metrics.so")], None),
            (vec![], None),
        ] {
            let mut leaf_first: Vec<_> = native
                .iter()
                .map(|(name, file)| (FrameKind::Native, *name, *file))
                .collect();
            leaf_first.push(python);
            let (profile, stack) = profile(&leaf_first);
            assert_eq!(Picked::new(&profile).collects(stack), collects, "{native:?}");
        }
    }

    #[test]
    fn the_line_is_the_programs_own_and_not_that_of_a_library_it_called() {
        let library = (FrameKind::Python, "get", "/v/lib/python3.12/site-packages/orm/query.py");
        let (profile, stack) = profile(&[library, (FrameKind::Python, "page", "/srv/shop/views.py")]);
        let mut picked = Picked::new(&profile);
        let line = picked.line(stack).map(|line| picked.text(line));
        assert_eq!(line.as_deref(), Some("page (srv/shop/views.py:7)"));
        assert_eq!(picked.frames(stack).len(), 2);
    }
}
