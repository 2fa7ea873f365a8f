//! The interpreter's own machinery: what CPython runs to get from one Python function to the next.
//!
//! A call from Python to Python that goes through C passes `_PyObject_Call`, `method_vectorcall`, `slot_tp_call` and the
//! like, and a thread's first Python function lies above `Py_RunMain` and `_start`. They are more than half of the rows of
//! a picture, and say nothing that the Python frames around them do not say. What does work stays: extension modules,
//! the C library, the kernel, and whatever of CPython is not listed here (`list_sort_impl`, `dict_merge`, the garbage
//! collector, waiting for the GIL).
//!
//! The names are those of CPython 3.8 to 3.15 (`Objects/call.c`, `descrobject.c`, `methodobject.c`, `typeobject.c`,
//! `genobject.c`, `classobject.c`, `Python/ceval.c`, `pythonrun.c`, `import.c`, `Modules/main.c`), and count in
//! CPython's own files only. Code without a name is shown where it is the innermost, because then it is what worked.

use super::{Interpreter, path};
use crate::profile::{Frame, FrameId, FrameKind, Profile, unseen};

/// Leaves out of stacks what a view does not show, and remembers what it learnt of each frame.
pub(super) struct Machinery<'a> {
    profile: &'a Profile,
    shown: Interpreter,
    roles: Vec<Option<Role>>,
}

/// What a frame is to the Python functions around it. The page has them as numbers, and `push_shown` once more
/// (`page/tree.js`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Python,
    /// Of CPython's, and certainly nothing but machinery.
    Machinery,
    /// How a process or a thread begins, where it goes on to Python.
    Start,
    /// Of CPython's, without a name.
    Unnamed,
    /// Of CPython's, and does something.
    Builtin,
    Other,
}

impl<'a> Machinery<'a> {
    pub(super) fn new(profile: &'a Profile, shown: Interpreter) -> Self {
        Self {
            profile,
            shown,
            roles: vec![None; profile.frames().len()],
        }
    }

    /// Appends to `shown` the frames of a stack (leaf first) that are shown, root first.
    pub(super) fn push_shown(&mut self, stack: &[FrameId], shown: &mut Vec<FrameId>) {
        let root_first = stack.iter().rev().copied();
        if self.shown == Interpreter::Full {
            shown.extend(root_first);
            return;
        }
        let outermost = stack.iter().rposition(|id| self.role(*id) == Role::Python);
        let Some(outermost) = outermost else {
            // A thread of the interpreter's that runs no Python, or a program that is none.
            shown.extend(root_first);
            return;
        };
        let innermost_native = stack
            .iter()
            .position(|id| matches!(self.profile.frame(*id).kind, FrameKind::Native | FrameKind::Python));
        for (at, id) in stack.iter().enumerate().rev() {
            let stays = match (self.role(*id), self.shown) {
                (Role::Machinery | Role::Unnamed | Role::Builtin, Interpreter::Hidden) => false,
                (Role::Machinery, _) => false,
                (Role::Start, _) => at < outermost,
                (Role::Unnamed, _) => Some(at) == innermost_native,
                _ => true,
            };
            // Each of the loops of another interpreter has a marker of its own.
            let again = || self.profile.frame(*id).kind == FrameKind::Marker && shown.last() == Some(id);
            if stays && !again() {
                shown.push(*id);
            }
        }
    }

    fn role(&mut self, id: FrameId) -> Role {
        let profile = self.profile;
        *self.roles[id.index()].get_or_insert_with(|| role(profile, profile.frame(id)))
    }
}

pub(super) fn role(profile: &Profile, frame: &Frame) -> Role {
    match frame.kind {
        FrameKind::Python => Role::Python,
        FrameKind::Marker if unseen::ALL.contains(&profile.string(frame.function)) => Role::Python,
        FrameKind::Kernel | FrameKind::Marker => Role::Other,
        FrameKind::Native => {
            let file = frame
                .mapping
                .map_or("", |mapping| profile.string(profile.mapping(mapping).path));
            native(profile.string(frame.function), file)
        }
    }
}

fn native(function: &str, file: &str) -> Role {
    // `list_sort_impl.constprop.0` of gcc's, `clone@@GLIBC_2.2.5` of the table of dynamic symbols.
    let plain = function.split(['.', '@']).next().unwrap_or(function);
    let is_unnamed = plain.is_empty() || plain.starts_with('[');
    // From an event loop to the coroutine that it goes on with.
    if path::extension(file) == "_asyncio" {
        return match is_unnamed {
            true => Role::Unnamed,
            false if TASKS.contains(&plain) => Role::Machinery,
            false => Role::Other,
        };
    }
    if !path::is_interpreter(file) {
        let is_libc = ["libc", "libpthread", "ld-musl-x86_64", "ld-musl-aarch64"].contains(&path::extension(file))
            || ["libc-", "libpthread-"]
                .iter()
                .any(|start| path::file_name(file).starts_with(start));
        // What calls `main` has no name in a C library without a table of symbols.
        return match is_libc && (STARTS.contains(&plain) || is_unnamed) {
            true => Role::Start,
            false => Role::Other,
        };
    }
    if is_unnamed {
        Role::Unnamed
    } else if STARTS.contains(&plain) || BEFORE_PYTHON.iter().any(|start| plain.starts_with(start)) {
        Role::Start
    } else if EXACT.contains(&plain) || TASKS.contains(&plain) || is_of_a_family(plain) {
        Role::Machinery
    } else {
        Role::Builtin
    }
}

fn is_of_a_family(function: &str) -> bool {
    FAMILIES.iter().any(|start| function.starts_with(start))
        && !NOT_MACHINERY.iter().any(|start| function.starts_with(start))
}

/// How processes and threads begin, in the C library and in programs.
const STARTS: [&str; 13] = [
    "_start",
    "__libc_start_main",
    "__libc_start_main_impl",
    "__libc_start_call_main",
    "libc_start_main_stage2",
    "main",
    "clone",
    "clone3",
    "__clone",
    "__clone3",
    "__clone_internal",
    "start_thread",
    "start",
];

/// The same in CPython.
const BEFORE_PYTHON: [&str; 8] = [
    "Py_RunMain",
    "Py_BytesMain",
    "Py_Main",
    "_Py_UnixMain",
    "pymain_",
    "thread_run",
    "t_bootstrap",
    "pythread_wrapper",
];

/// A step of a task (`Modules/_asynciomodule.c`, 3.8 – 3.15; part of the interpreter's file where that has its modules).
const TASKS: [&str; 7] = [
    "task_step",
    "task_step_impl",
    "task_wakeup",
    "task_wakeup_lock_held",
    "task_eager_start",
    "TaskStepMethWrapper_call",
    "TaskWakeupMethWrapper_call",
];

const EXACT: [&str; 81] = [
    // Calls.
    "method_vectorcall",
    "method_call",
    "method_descriptor_call",
    "instancemethod_call",
    "function_code_fastcall",
    "call_function",
    "call_method",
    "call_unbound",
    "call_unbound_noarg",
    "call_attribute",
    "call_trampoline",
    "do_call_core",
    "do_call",
    "fast_function",
    "object_vacall",
    "vectorcall_method",
    "vectorcall_maybe",
    "vectorcall_unbound",
    "lookup_maybe_method",
    "lookup_method",
    "partial_call",
    "partial_vectorcall",
    "partial_fastcall",
    "partial_vectorcall_fallback",
    "type_call",
    "wrapper_call",
    "wrapperdescr_call",
    "wrapperdescr_raw_call",
    "classmethoddescr_call",
    "cfunction_call",
    "cfunction_call_varargs",
    "wrap_call",
    "wrap_init",
    "wrap_next",
    "tp_new_wrapper",
    "context_run",
    // Frames of Python functions, and references.
    "clear_thread_frame",
    "clear_gen_frame",
    "initialize_locals",
    "_PyThreadState_GET",
    "_PyThreadState_UncheckedGet",
    "_PyInterpreterState_GET",
    "_PyType_HasFeature",
    "Py_INCREF",
    "Py_DECREF",
    "Py_XINCREF",
    "Py_XDECREF",
    "_Py_NewRef",
    "_Py_XNewRef",
    "_Py_Dealloc",
    // Attributes and operators, on the way to a method in Python.
    "property_descr_get",
    "property_descr_set",
    "_Py_slot_tp_getattr_hook",
    "_Py_slot_tp_getattro",
    "binary_op1",
    "binary_iop1",
    "binary_op",
    "ternary_op",
    "do_richcompare",
    "object_isinstance",
    "object_recursive_isinstance",
    "object_issubclass",
    "recursive_isinstance",
    // Generators and coroutines.
    "gen_send",
    "gen_send_ex",
    "gen_send_ex2",
    "gen_iternext",
    "gen_throw",
    "_gen_throw",
    "gen_close",
    "coro_wrapper_send",
    "coro_wrapper_throw",
    "async_gen_asend_send",
    "async_gen_asend_iternext",
    "async_gen_anext",
    // Modules.
    "run_mod",
    "run_eval_code_obj",
    "import_name",
    "import_find_and_load",
    "builtin_exec",
    "builtin_exec_impl",
];

/// What all of these begin with.
const FAMILIES: [&str; 29] = [
    "PyObject_",
    "_PyObject_",
    "PyNumber_",
    "PyEval_Eval",
    "_PyEval_Eval",
    "_PyEval_Vector",
    "_PyEvalFramePushAndInit",
    "_PyEvalFrameClearAndPop",
    "_PyFunction_",
    "_PyFunctionFastCall",
    "_PyMethodDef_Raw",
    "_PyMethodDescr_",
    "_PyCFunction",
    "PyCFunction_Call",
    "PyVectorcall_Call",
    "_PyVectorcall_Call",
    "_PyStack_",
    "_PyFrame_",
    "_PyThreadState_PushFrame",
    "slot_",
    "method_vectorcall_",
    "cfunction_vectorcall_",
    "PyIter_",
    "PyGen_",
    "_PyGen_",
    "PyImport_Import",
    "PyRun_",
    "_PyRun_",
    "pyrun_",
];

/// The exceptions among them: memory, and the loop itself, which is shown only where its frames are not known.
const NOT_MACHINERY: [&str; 22] = [
    "_PyEval_EvalFrameDefault",
    "PyObject_Malloc",
    "PyObject_Calloc",
    "PyObject_Realloc",
    "PyObject_Free",
    "_PyObject_Malloc",
    "_PyObject_Calloc",
    "_PyObject_Realloc",
    "_PyObject_Free",
    "_PyObject_Alloc",
    "_PyObject_Arena",
    "_PyObject_GC_",
    "PyObject_GC_",
    "_PyObject_New",
    "PyObject_Init",
    "PyObject_Print",
    "_PyObject_Dump",
    "PyObject_ClearWeakRefs",
    "PyObject_CallFinalizer",
    "_PyObject_ClearFreeLists",
    "PyObject_CopyData",
    "PyObject_CopyToObject",
];

#[cfg(test)]
mod tests {
    use super::*;

    const PYTHON: &str = "/usr/bin/python3.12";
    const LIBC: &str = "/lib/x86_64-linux-gnu/libc.so.6";
    const ASYNCIO: &str = "/usr/lib/python3.12/lib-dynload/_asyncio.cpython-312-x86_64-linux-gnu.so";

    /// Frames leaf first: Python in upper case, the kernel as `k…`, CPython's otherwise, and `…@libc` of libc.
    fn shown(interpreter: Interpreter, leaf_first: &[&str]) -> String {
        let mut profile = Profile::new(Vec::new(), None);
        let stack: Vec<FrameId> = leaf_first
            .iter()
            .map(|text| {
                let (function, file) = match text.split_once('@') {
                    Some((function, _)) => (function, LIBC),
                    None => (*text, PYTHON),
                };
                let kind = match function.as_bytes().first() {
                    Some(b'A'..=b'Z') if function.len() == 1 => FrameKind::Python,
                    Some(b'k') => FrameKind::Kernel,
                    _ if unseen::ALL.contains(&function) => FrameKind::Marker,
                    _ => FrameKind::Native,
                };
                let mapping = crate::profile::Mapping {
                    path: profile.intern_string(file),
                    build_id: Profile::EMPTY,
                };
                let frame = Frame {
                    kind,
                    function: profile.intern_string(function),
                    file: Profile::EMPTY,
                    line: 0,
                    first_line: 0,
                    mapping: (kind == FrameKind::Native).then(|| profile.intern_mapping(mapping)),
                    address: 0,
                    inlined: false,
                };
                profile.intern_frame(frame)
            })
            .collect();
        let mut shown = Vec::new();
        Machinery::new(&profile, interpreter).push_shown(&stack, &mut shown);
        let names: Vec<&str> = shown
            .iter()
            .map(|id| profile.string(profile.frame(*id).function))
            .collect();
        names.join(" ")
    }

    #[test]
    fn what_works_is_shown_and_what_leads_to_it_is_not() {
        let sorting = [
            "slot_tp_richcompare",
            "A",
            "_PyObject_Call",
            "list_sort_impl",
            "B",
            "Py_RunMain",
            "main",
            "_start@libc",
        ];
        assert_eq!(shown(Interpreter::Work, &sorting), "B list_sort_impl A");
        assert_eq!(shown(Interpreter::Hidden, &sorting), "B A");
        assert!(shown(Interpreter::Full, &sorting).starts_with("_start main Py_RunMain B"));
        let reading = [
            "kread",
            "read@libc",
            "os_read",
            "method_vectorcall_NOARGS",
            "A",
            "thread_run",
            "start_thread@libc",
        ];
        assert_eq!(shown(Interpreter::Work, &reading), "A os_read read kread");
    }

    #[test]
    fn what_begins_a_process_is_known_in_a_c_library_without_names_as_well() {
        let reading = [
            "kread",
            "@libc",
            "read@libc",
            "A",
            "main",
            "[libc.so.6+0x29f40]@libc",
            "_start",
        ];
        assert_eq!(shown(Interpreter::Work, &reading), "A read  kread");
        // Without Python, it is all there is.
        assert_eq!(shown(Interpreter::Work, &["main", "@libc", "_start"]), "_start  main");
    }

    #[test]
    fn of_code_without_names_the_innermost_is_shown() {
        assert_eq!(
            shown(Interpreter::Work, &["", "[python3.11+0x9]", "A", "", "B", ""]),
            "B A "
        );
        assert_eq!(
            shown(Interpreter::Work, &["kfault", "[python3.11+0x9]", "", "A"]),
            "A [python3.11+0x9] kfault"
        );
        assert_eq!(
            shown(Interpreter::Work, &["read@libc", "[python3.11+0x9]", "A"]),
            "A read"
        );
    }

    #[test]
    fn a_thread_without_python_is_shown_whole() {
        let whole = ["take_gil", "PyEval_RestoreThread", "thread_run", "start_thread@libc"];
        assert_eq!(
            shown(Interpreter::Work, &whole),
            "start_thread thread_run PyEval_RestoreThread take_gil"
        );
    }

    #[test]
    fn frames_of_another_interpreter_are_one_marker_and_count_as_python() {
        let other = unseen::OTHER_CPYTHON;
        let mixed = [
            "read@libc",
            other,
            "_PyObject_Call",
            other,
            "host@libc",
            other,
            "A",
            "Py_RunMain",
        ];
        assert_eq!(shown(Interpreter::Work, &mixed), format!("A {other} host {other} read"));
        let alone = ["read@libc", other, "run_mod", "main"];
        assert_eq!(shown(Interpreter::Work, &alone), format!("{other} read"));
        assert_eq!(shown(Interpreter::Full, &alone), format!("main run_mod {other} read"));
    }

    #[test]
    fn machinery_is_told_by_name_and_file() {
        let cases = [
            ("_PyObject_Call", PYTHON, Role::Machinery),
            (
                "method_vectorcall_FASTCALL_KEYWORDS.lto_priv.0",
                PYTHON,
                Role::Machinery,
            ),
            ("slot_tp_richcompare", "/usr/lib/libpython3.11.so.1.0", Role::Machinery),
            // A frame of the loop that stands for frames which are not known.
            ("_PyEval_EvalFrameDefault", PYTHON, Role::Builtin),
            ("list_sort_impl", PYTHON, Role::Builtin),
            ("PyObject_Malloc", PYTHON, Role::Builtin),
            ("take_gil", PYTHON, Role::Builtin),
            ("tuple_vectorcall", PYTHON, Role::Builtin),
            ("", PYTHON, Role::Unnamed),
            ("[python3.12+0x1234]", PYTHON, Role::Unnamed),
            ("Py_RunMain", PYTHON, Role::Start),
            ("main", PYTHON, Role::Start),
            ("clone3@@GLIBC_2.34", LIBC, Role::Start),
            ("[libc.so.6+0x271d0]", LIBC, Role::Start),
            ("read", LIBC, Role::Other),
            ("main", "/usr/bin/uwsgi", Role::Other),
            ("slot_of_mine", "/srv/mine.so", Role::Other),
            ("task_step", ASYNCIO, Role::Machinery),
            ("task_step_impl.isra.0", PYTHON, Role::Machinery),
            ("[_asyncio.so+0x1234]", ASYNCIO, Role::Unnamed),
            ("future_schedule_callbacks", ASYNCIO, Role::Other),
        ];
        for (function, file, expected) in cases {
            assert_eq!(native(function, file), expected, "{function} {file}");
        }
    }
}
