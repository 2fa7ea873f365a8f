//! What a stack says of what its thread is doing, besides the line: whether it serves, imports, collects garbage, runs an
//! event loop, or waits inside a library that waits for work.
//!
//! By names of functions and files, which are those of the standard library and of well-known servers. What is not known
//! is nothing: a name that is missing here makes a finding weaker, or leaves it out.

use crate::{
    profile::{Frame, FrameKind, Profile, StackId},
    report::path::{extension, file_name, is_installed, is_interpreter},
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub has_python: bool,
    /// The innermost Python frame is one of those that wait for work, or for their own threads.
    pub innermost: Innermost,
    /// Nearer the leaf than any of the program's own functions, a server waits for a request.
    pub serving: bool,
    /// It was called by an event loop.
    pub in_loop: bool,
    /// It is an event loop that polls.
    pub is_polling_loop: bool,
    pub importing: bool,
    pub collecting: bool,
    pub serializing: bool,
    pub logging: bool,
    pub raising: bool,
    /// What is raised is how a generator says what it returns; nobody catches it in Python.
    pub returning: bool,
    pub paging: bool,
    /// Machine code that is neither the interpreter's nor the system's, called by the innermost Python frame.
    pub in_extension: bool,
    /// It takes a lock of CPython's, by the names of its functions: none are known where it is stripped.
    pub takes_lock: bool,
    /// It takes something from a queue of C.
    pub takes_item: bool,
    /// A library that talks to a peer, and polls while it waits for the answer.
    pub in_client: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Innermost {
    #[default]
    Other,
    /// A queue, a condition, an event: what waits there has nothing to do.
    Queue,
    /// It waits for threads, futures or children of its own.
    Own,
    /// Reads of a socket that has a timeout poll it first.
    Socket,
}

/// Of a stack, leaf first.
pub fn facts(profile: &Profile, stack: StackId) -> Facts {
    let mut facts = Facts::default();
    let mut own_seen = false;
    for &id in profile.stack(stack) {
        let frame = profile.frame(id);
        match frame.kind {
            FrameKind::Kernel => facts.paging |= PAGING.contains(&base(profile.string(frame.function))),
            FrameKind::Native => native(&mut facts, profile, frame),
            FrameKind::Python => {
                let (function, file) = (name(profile.string(frame.function)), profile.string(frame.file));
                if !facts.has_python {
                    facts.innermost = innermost(function, file);
                    facts.is_polling_loop = is_selector(file);
                }
                facts.has_python = true;
                own_seen |= is_own(function, file);
                facts.serving |= !own_seen && SERVERS.iter().any(|part| file.contains(part));
                facts.in_loop |= function == "_run_once" && file.ends_with("asyncio/base_events.py");
                facts.importing |= (file.starts_with("<frozen importlib") || file.ends_with("importlib/_bootstrap.py"))
                    // `from package import name` begins with it each time, also if both are there.
                    && function != "_handle_fromlist";
                facts.serializing |= !own_seen && SERIALIZERS.iter().any(|part| file.contains(part));
                facts.logging |= !own_seen && file.ends_with("/logging/__init__.py");
            }
            FrameKind::Marker => {}
        }
    }
    facts.is_polling_loop &= facts.in_loop;
    facts.raising &= !facts.returning;
    facts
}

fn native(facts: &mut Facts, profile: &Profile, frame: &Frame) {
    let function = base(profile.string(frame.function));
    let path = frame
        .mapping
        .map_or("", |mapping| profile.string(profile.mapping(mapping).path));
    if path.contains("/uvloop/") {
        // Between it and the leaf there is a callback, or it polls.
        facts.in_loop |= facts.has_python;
    }
    if facts.has_python {
        return;
    }
    let library = extension(path);
    facts.collecting |= COLLECTING.contains(&function);
    facts.raising |= RAISING.contains(&function);
    facts.returning |= RETURNING.contains(&function);
    facts.takes_lock |= LOCKING.contains(&function);
    facts.takes_item |= function.starts_with("_queue_SimpleQueue_get") || function == "simplequeue_get";
    facts.serializing |= SERIALIZING_LIBRARIES.contains(&library);
    let is_client = CLIENTS.iter().any(|prefix| library.starts_with(prefix));
    facts.in_client |= is_client;
    let is_system = is_interpreter(path) || SYSTEM.iter().any(|start| file_name(path).starts_with(start));
    facts.in_extension |= !is_system && !is_client && !path.is_empty();
}

fn innermost(function: &str, file: &str) -> Innermost {
    let ends = |endings: &[&str]| endings.iter().any(|ending| file.ends_with(ending));
    let contains = |parts: &[&str]| parts.iter().any(|part| file.contains(part));
    if ends(&["/threading.py"]) && matches!(function, "join" | "_wait_for_tstate_lock" | "_shutdown")
        || ends(&["/concurrent/futures/_base.py", "/subprocess.py"])
    {
        return Innermost::Own;
    }
    if ends(&["/threading.py", "/queue.py", "/sched.py"])
        || contains(&[
            "/concurrent/futures/",
            "/multiprocessing/",
            "/asyncio/",
            "/trio/",
            "/anyio/",
            "/billiard/",
            "/gevent/",
            "/eventlet/",
        ])
    {
        return Innermost::Queue;
    }
    match ends(&["/socket.py", "/ssl.py", "/http/client.py"]) {
        true => Innermost::Socket,
        false => Innermost::Other,
    }
}

fn is_selector(file: &str) -> bool {
    file.ends_with("/selectors.py")
}

fn is_own(function: &str, file: &str) -> bool {
    !(is_installed(file) || file.starts_with("<frozen ") || function.is_empty())
}

/// Without `.part.0` and the like, and without a version (`read@GLIBC_2.2.5`).
fn base(function: &str) -> &str {
    let end = function.find(['.', '@']).unwrap_or(function.len());
    &function[..end]
}

/// Without the class: a name that is qualified from 3.11 on.
fn name(function: &str) -> &str {
    function.rsplit_once('.').map_or(function, |(_, name)| name)
}

/// Code that waits for requests.
const SERVERS: [&str; 25] = [
    "/http/server.py",
    "/socketserver.py",
    "/wsgiref/",
    "/xmlrpc/server.py",
    "/gunicorn/",
    "/werkzeug/serving.py",
    "/waitress/",
    "/cheroot/",
    "/cherrypy/",
    "/uvicorn/",
    "/hypercorn/",
    "/granian/",
    "/daphne/",
    "/twisted/internet/",
    "/tornado/",
    "/celery/",
    "/kombu/",
    "/amqp/",
    "/rq/",
    "/dramatiq/",
    "/billiard/",
    "/grpc/",
    "/multiprocessing/",
    "/django/core/servers/",
    "/zmq/",
];

const SERIALIZERS: [&str; 9] = [
    "/json/",
    "/pickle.py",
    "/simplejson/",
    "/yaml/",
    "/msgpack/",
    "/cbor2/",
    "/toml",
    "/csv.py",
    "/marshal",
];

const SERIALIZING_LIBRARIES: [&str; 8] = [
    "_pickle",
    "_json",
    "orjson",
    "_cmsgpack",
    "_speedups",
    "ujson",
    "_csv",
    "rapidjson",
];

/// Client libraries that poll until the answer is there.
const CLIENTS: [&str; 9] = [
    "libpq",
    "_psycopg",
    "psycopg",
    "libmysqlclient",
    "libmariadb",
    "_mysql",
    "libclntsh",
    "_ssl",
    "_socket",
];

const SYSTEM: [&str; 9] = [
    "libc.",
    "libc-",
    "ld-",
    "ld.",
    "libpthread",
    "[vdso]",
    "libm.",
    "libgcc_s",
    "libstdc++",
];

/// Of the cyclic collector (Python/gc.c, Modules/gcmodule.c, 3.8 – 3.15).
const COLLECTING: [&str; 22] = [
    "collect",
    "collect_with_callback",
    "collect_generations",
    "gc_collect",
    "gc_collect_main",
    "gc_collect_young",
    "gc_collect_increment",
    "gc_collect_full",
    "gc_collect_region",
    "gc_collect_generations",
    "gc_collect_with_callback",
    "_PyGC_Collect",
    "_PyGC_CollectNoFail",
    "_PyObject_GC_Collect",
    "_Py_RunGC",
    "PyGC_Collect",
    "deduce_unreachable",
    "update_refs",
    "subtract_refs",
    "move_unreachable",
    "delete_garbage",
    "mark_at_start",
];

/// `acquire` and `__enter__` of locks (Modules/_threadmodule.c, Modules/_multiprocessing/semaphore.c, 3.8 – 3.15).
const LOCKING: [&str; 12] = [
    "acquire_timed",
    "lock_PyThread_acquire_lock",
    "lock_acquire",
    "lock__enter__",
    "rlock_acquire",
    "_thread_lock_acquire",
    "_thread_lock___enter__",
    "_thread_RLock_acquire",
    "_thread_RLock___enter__",
    "_thread__RLock_acquire",
    "_multiprocessing_SemLock_acquire",
    "_multiprocessing_SemLock___enter__",
];

/// What makes and passes on exceptions; of a raise nothing else shows in a stack.
const RAISING: [&str; 14] = [
    "PyTraceBack_Here",
    "_PyTraceBack_FromFrame",
    "PyErr_SetObject",
    "_PyErr_SetObject",
    "_PyErr_SetString",
    "PyErr_SetString",
    "PyErr_Format",
    "_PyErr_Format",
    "_PyErr_FormatV",
    "_PyErr_CreateException",
    "_PyErr_NormalizeException",
    "PyErr_NormalizeException",
    "do_raise",
    "BaseException_new",
];

/// `StopIteration` with a value, which a coroutine's or an asynchronous generator's caller in C takes back itself
/// (Objects/genobject.c, Modules/_asynciomodule.c, 3.8 – 3.15).
const RETURNING: [&str; 12] = [
    "_PyGen_SetStopIterationValue",
    "_PyGen_FetchStopIterationValue",
    "async_gen_unwrap_value",
    "async_gen_asend_send",
    "async_gen_asend_iternext",
    "async_gen_athrow_send",
    "gen_send_ex",
    "gen_send_ex2",
    "gen_set_stop_iteration",
    "FutureIter_iternext",
    "FutureIter_send",
    "FutureIter_am_send",
];

/// The kernel's side of memory that is had and given back.
const PAGING: [&str; 14] = [
    "asm_exc_page_fault",
    "exc_page_fault",
    "do_user_addr_fault",
    "handle_mm_fault",
    "__x64_sys_munmap",
    "__x64_sys_mmap",
    "__x64_sys_brk",
    "__x64_sys_madvise",
    "__x64_sys_mremap",
    "do_munmap",
    "unmap_region",
    "do_anonymous_page",
    "clear_page_erms",
    "zap_page_range_single",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Mapping;

    /// Of a stack's functions, innermost first, and the Python function that has called them.
    fn of(native: &[&str]) -> Facts {
        let mut profile = Profile::new(Vec::new(), None);
        let path = profile.intern_string("/usr/lib/libpython3.12.so.1.0");
        let mapping = Mapping {
            path,
            build_id: Profile::EMPTY,
        };
        let mapping = profile.intern_mapping(mapping);
        let mut frame = |kind: FrameKind, function: &str| {
            let frame = Frame {
                kind,
                function: profile.intern_string(function),
                file: Profile::EMPTY,
                line: 0,
                first_line: 0,
                mapping: (kind == FrameKind::Native).then_some(mapping),
                address: 0,
                inlined: false,
            };
            profile.intern_frame(frame)
        };
        let mut frames: Vec<_> = native.iter().map(|name| frame(FrameKind::Native, name)).collect();
        frames.push(frame(FrameKind::Python, "page"));
        frames.push(frame(FrameKind::Native, "gen_send_ex2"));
        let stack = profile.intern_stack(&frames);
        facts(&profile, stack)
    }

    #[test]
    fn what_is_there_already_is_not_imported_again() {
        let of = |innermost_first: &[&str]| {
            let mut profile = Profile::new(Vec::new(), None);
            let file = profile.intern_string("<frozen importlib._bootstrap>");
            let frames: Vec<_> = (innermost_first.iter())
                .map(|function| {
                    let frame = Frame {
                        kind: FrameKind::Python,
                        function: profile.intern_string(function),
                        file,
                        line: 1,
                        first_line: 1,
                        mapping: None,
                        address: 0,
                        inlined: false,
                    };
                    profile.intern_frame(frame)
                })
                .collect();
            let stack = profile.intern_stack(&frames);
            facts(&profile, stack).importing
        };
        assert!(of(&["_find_and_load"]));
        assert!(!of(&["_handle_fromlist"]));
        assert!(
            of(&["_find_and_load", "_call_with_frames_removed", "_handle_fromlist"]),
            "a submodule"
        );
    }

    #[test]
    fn what_a_generator_returns_is_no_exception_that_is_raised() {
        assert!(of(&["_PyErr_CreateException", "_PyErr_SetObject", "do_raise"]).raising);
        assert!(
            of(&["PyTraceBack_Here"]).raising,
            "a generator's own exceptions are some"
        );
        for how in [
            &["_PyErr_SetObject", "_PyGen_SetStopIterationValue", "gen_send_ex2"][..],
            &["PyErr_SetObject.part.0", "async_gen_unwrap_value"],
            &["_PyErr_SetObject", "gen_send_ex"],
        ] {
            assert!(!of(how).raising, "{how:?}");
        }
        assert!(!of(&["list_sort"]).raising);
    }
}
