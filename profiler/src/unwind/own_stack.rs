//! The stack of the test itself, by the tables of its own files: everything between `/proc/PID/maps` and the addresses
//! of a sample, with the unwinder's own code, but no kernel. What is right says libgcc's unwinder, by which the C++ and
//! Rust run times unwind.

use std::{arch::asm, ffi::c_void, hint::black_box, sync::Arc, sync::Mutex, time::Duration, time::Instant};

use profiler_common::record::NATIVE_COMPLETE;
use profiler_common::unwind::{UnwindFile, UnwindMapping, UnwindPage, UnwindProcess, UnwindRule};
use profiler_ebpf::memory::ReadMemory;

use super::Unwinder;
use super::store::fake::{Fake, unwind};
use super::store::{Sizes, TableMemory};
use crate::recording::{Fact, Recording, Scope};

/// Memory that the test keeps a hand on.
#[derive(Clone)]
struct Shared(Arc<Mutex<Fake>>);

impl Shared {
    fn with<R>(&self, act: impl FnOnce(&mut Fake) -> R) -> R {
        act(&mut self.0.lock().expect("nobody panics meanwhile"))
    }
}

impl TableMemory for Shared {
    fn sizes(&self) -> Sizes {
        self.with(|fake| fake.sizes())
    }
    fn write_rows(&mut self, at: u32, rows: &[u32]) {
        self.with(|fake| fake.write_rows(at, rows));
    }
    fn write_pages(&mut self, at: u32, pages: &[UnwindPage]) {
        self.with(|fake| fake.write_pages(at, pages));
    }
    fn write_file(&mut self, at: u32, file: UnwindFile) {
        self.with(|fake| fake.write_file(at, file));
    }
    fn write_rule(&mut self, at: u32, rule: UnwindRule) {
        self.with(|fake| fake.write_rule(at, rule));
    }
    fn write_mappings(&mut self, at: u32, mappings: &[UnwindMapping]) {
        self.with(|fake| fake.write_mappings(at, mappings));
    }
    fn set_process(&mut self, pid: u32, process: UnwindProcess) -> bool {
        self.with(|fake| fake.set_process(pid, process))
    }
    fn remove_process(&mut self, pid: u32) {
        self.with(|fake| fake.remove_process(pid));
    }
}

/// What the kernel side would be told of this process.
fn tables() -> Fake {
    let memory = Shared(Arc::new(Mutex::new(Fake::new(Sizes::for_code(0), 16))));
    let mut unwinder = Unwinder::new(memory.clone()).expect("a thread");
    let mut recording = Recording::new(Scope::All, true);
    recording.adopt(std::process::id());
    for fact in recording.drain_facts() {
        if let Fact::Mappings { pid, mappings } = fact {
            unwinder.set_mappings(&recording.files, pid, &mappings);
        }
    }
    unwinder.install(Some(Instant::now() + Duration::from_secs(600)));
    assert_eq!(unwinder.waiting(), 0);
    memory.with(|fake| fake.clone())
}

/// This process's memory, read as another's is: an address that is wrong is an error and no crash.
struct Own;

impl ReadMemory for Own {
    unsafe fn read(&self, address: u64, into: *mut u8, len: u32) -> bool {
        let len = len as usize;
        let local = libc::iovec {
            iov_base: into.cast(),
            iov_len: len,
        };
        let remote = libc::iovec {
            iov_base: address as *mut c_void,
            iov_len: len,
        };
        // SAFETY: `into` is valid for `len` bytes by contract; the kernel checks the other address.
        let read = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
        read == len as isize
    }
}

/// A frame as libgcc's unwinder has it.
#[derive(Clone, Copy, Debug)]
struct Reference {
    address: u64,
    /// It is that of an instruction that was interrupted.
    exact: bool,
}

#[repr(C)]
struct UnwindContext {
    _opaque: [u8; 0],
}

// The Itanium C++ ABI's level I, and gcc's addition to it.
unsafe extern "C" {
    fn _Unwind_Backtrace(visit: extern "C" fn(*mut UnwindContext, *mut c_void) -> i32, argument: *mut c_void) -> i32;
    fn _Unwind_GetIPInfo(context: *mut UnwindContext, before: *mut i32) -> usize;
}

extern "C" fn visit(context: *mut UnwindContext, frames: *mut c_void) -> i32 {
    let mut before = 0;
    // SAFETY: the context is the unwinder's; `before` lives.
    let address = unsafe { _Unwind_GetIPInfo(context, &raw mut before) } as u64;
    // SAFETY: what `Both::here` passed.
    let frames = unsafe { &mut *frames.cast::<Vec<Reference>>() };
    frames.push(Reference {
        address,
        exact: before != 0,
    });
    0
}

/// One stack twice.
struct Both {
    ours: Vec<u64>,
    status: u32,
    reference: Vec<Reference>,
}

impl Both {
    /// The stack of the caller's frame upwards. Its own frame is the first: nothing of it changes while it is looked at.
    #[inline(never)]
    fn here(tables: &Fake) -> Self {
        let (pc, sp, fp): (u64, u64, u64);
        // SAFETY: reads three registers.
        unsafe {
            asm!(
                "lea {pc}, [rip]",
                "mov {sp}, rsp",
                "mov {fp}, rbp",
                pc = out(reg) pc,
                sp = out(reg) sp,
                fp = out(reg) fp,
                options(nomem, preserves_flags),
            );
        }
        let process = tables.processes[&std::process::id()];
        let (ours, status) = unwind(tables, &Own, process, (pc, sp, fp));
        let mut reference: Vec<Reference> = Vec::new();
        // SAFETY: `visit` takes what is passed.
        unsafe { _Unwind_Backtrace(visit, (&raw mut reference).cast()) };
        Self {
            ours,
            status,
            reference,
        }
    }

    /// They are the same, from the function that looked to the thread's first.
    fn check(&self) {
        assert_eq!(self.status, NATIVE_COMPLETE, "after {} frames", self.ours.len());
        let mut expected: Vec<u64> = Vec::new();
        for (index, frame) in self.reference.iter().enumerate() {
            // Before what was interrupted lies the trampoline, which nobody called: its first instruction is meant.
            let is_trampoline = self.reference.get(index + 1).is_some_and(|next| next.exact);
            // It counts one more, which is no function.
            if frame.address != 0 {
                expected.push(frame.address - u64::from(!frame.exact && !is_trampoline));
            }
        }
        // Both looked from the same function, but not from the same place of it.
        assert_eq!(self.ours[1..], expected[1..], "{:x?}\n{:x?}", self.ours, self.reference);
        assert!(self.ours[0].abs_diff(expected[0]) < 0x1000);
    }
}

/// Frames of different shapes, `depth` of them, and then `last`.
#[inline(never)]
fn plain(depth: u32, last: &mut dyn FnMut()) {
    match depth {
        0 => last(),
        _ => large(black_box(depth) - 1, last),
    }
    black_box(depth);
}

#[inline(never)]
fn large(depth: u32, last: &mut dyn FnMut()) {
    let mut bytes = [0u8; 5000];
    black_box(&mut bytes);
    match depth {
        0 => last(),
        _ => realigned(depth - 1, last),
    }
    black_box(&bytes);
}

/// Its frame is found through the frame pointer or a register.
#[inline(never)]
fn realigned(depth: u32, last: &mut dyn FnMut()) {
    #[repr(align(128))]
    struct Aligned([u8; 256]);
    let mut aligned = Aligned([1; 256]);
    black_box(&mut aligned.0);
    match depth {
        0 => last(),
        _ => through_libc(depth - 1, last),
    }
    black_box(&aligned.0);
}

/// Called back by glibc's `qsort`.
#[inline(never)]
fn through_libc(depth: u32, last: &mut dyn FnMut()) {
    type Rest<'a, 'b> = (u32, &'a mut (dyn FnMut() + 'b));
    thread_local! {
        static REST: std::cell::Cell<*mut c_void> = const { std::cell::Cell::new(std::ptr::null_mut()) };
    }
    extern "C" fn compare(_: *const c_void, _: *const c_void) -> i32 {
        let rest = REST.replace(std::ptr::null_mut()).cast::<Rest<'_, '_>>();
        // SAFETY: null, or what is on the stack of `through_libc` below.
        if let Some((depth, last)) = unsafe { rest.as_mut() } {
            plain(*depth, *last);
        }
        0
    }
    let mut rest: Rest<'_, '_> = (depth, last);
    REST.set((&raw mut rest).cast());
    let mut values = [2, 1];
    // SAFETY: two values of four bytes.
    unsafe { libc::qsort(values.as_mut_ptr().cast(), 2, 4, Some(compare)) };
}

#[test]
fn our_own_stack_is_what_libgcc_says_from_here_to_the_threads_first_function() {
    let tables = tables();
    for depth in [0, 1, 2, 3, 4, 5, 17, 100] {
        let mut both = None;
        plain(depth, &mut || both = Some(Both::here(&tables)));
        let both = both.expect("it was called");
        both.check();
        assert!(both.ours.len() > depth as usize);
    }
}

/// What the handler needs and finds. Only one thread looks.
static SIGNALLED: Mutex<Option<(Fake, Option<Both>)>> = Mutex::new(None);

extern "C" fn on_signal(_: i32) {
    // In a test that raises it itself, nothing is interrupted that allocates.
    if let Ok(mut signalled) = SIGNALLED.lock()
        && let Some((tables, both)) = &mut *signalled
    {
        *both = Some(Both::here(tables));
    }
}

#[test]
fn through_a_signal_handler_too_also_on_a_stack_of_its_own() {
    for flags in [0, libc::SA_ONSTACK] {
        *SIGNALLED.lock().expect("unpoisoned") = Some((tables(), None));
        let mut stack = vec![0u64; 1 << 16];
        let alternative = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: 8 << 16,
        };
        // SAFETY: the stack lives until it is given up below; the handler is a function of the right type; SIGURG is
        // ignored by default, and used by nobody else here.
        unsafe {
            assert_eq!(libc::sigaltstack(&raw const alternative, std::ptr::null_mut()), 0);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = flags;
            assert_eq!(
                libc::sigaction(libc::SIGURG, &raw const action, std::ptr::null_mut()),
                0
            );
        }
        plain(7, &mut || {
            // SAFETY: handled above. To this thread.
            unsafe { libc::raise(libc::SIGURG) };
        });
        let none = libc::stack_t {
            ss_sp: std::ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: 0,
        };
        // SAFETY: nothing runs on it any more.
        unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) };
        let (_, both) = SIGNALLED.lock().expect("unpoisoned").take().expect("put there");
        let both = both.expect("the handler ran");
        both.check();
        assert!(
            both.reference.iter().any(|frame| frame.exact),
            "something was interrupted"
        );
    }
}
