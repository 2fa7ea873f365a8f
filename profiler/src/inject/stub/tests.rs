//! The code itself is run, in this process, over allocators that count.

use std::{
    arch::{asm, naked_asm},
    cell::RefCell,
    collections::HashMap,
    ptr, slice,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::*;
use crate::inject::layout::{Job, bytes_of};

/// What the fake allocator was asked for, and what the stubs told.
#[derive(Default)]
struct Seen {
    calls: Vec<(&'static str, [u64; 3])>,
    born: Vec<(u64, u64)>,
    died: Vec<u64>,
    next: u64,
    fails: bool,
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::new(Seen::default());
}

const CONTEXT: u64 = 0x77;

fn give(seen: &mut Seen) -> u64 {
    if seen.fails {
        return 0;
    }
    seen.next += 64;
    seen.next
}

fn note(what: &'static str, arguments: [u64; 3]) -> u64 {
    SEEN.with_borrow_mut(|seen| {
        seen.calls.push((what, arguments));
        match what {
            "free" => 0,
            _ => give(seen),
        }
    })
}

/// A function that is entered with the stack as the ABI wants it, or ends the test by an instruction that does not exist.
macro_rules! aligned {
    ($name:ident, $function:path) => {
        #[unsafe(naked)]
        extern "C" fn $name() {
            naked_asm!(
                "lea rax, [rsp + 8]",
                "test al, 15",
                "jz 2f",
                "ud2",
                "2: jmp {}",
                sym $function,
            )
        }
    };
}

aligned!(aligned_malloc, malloc);
aligned!(aligned_calloc, calloc);
aligned!(aligned_realloc, realloc);
aligned!(aligned_free, free);
aligned!(aligned_born, born);
aligned!(aligned_died, died);

extern "C" fn malloc(context: u64, size: u64) -> u64 {
    note("malloc", [context, size, 0])
}

extern "C" fn calloc(context: u64, count: u64, size: u64) -> u64 {
    note("calloc", [context, count, size])
}

extern "C" fn realloc(context: u64, block: u64, size: u64) -> u64 {
    note("realloc", [context, block, size])
}

extern "C" fn free(context: u64, block: u64) {
    note("free", [context, block, 0]);
}

extern "C" fn born(block: u64, size: u64) {
    SEEN.with_borrow_mut(|seen| seen.born.push((block, size)));
}

extern "C" fn died(block: u64) {
    SEEN.with_borrow_mut(|seen| seen.died.push(block));
}

/// Stubs in memory of this process.
struct Placed {
    base: u64,
}

static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Placed {
    fn new(bytes_per_sample: u64, first: u64) -> Self {
        SEEN.set(Seen {
            next: 0x10_0000,
            ..Seen::default()
        });
        // SAFETY: a new mapping.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                layout::ALL as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        let placed = Self { base: at as u64 };
        let stub = stub();
        placed.put(layout::CODE, stub.code);
        let originals = [
            aligned_malloc as *const () as u64,
            aligned_calloc as *const () as u64,
            aligned_realloc as *const () as u64,
            aligned_free as *const () as u64,
        ];
        placed.put(layout::FACTS, &facts(originals, bytes_per_sample));
        for (place, function) in [
            (stub.born, aligned_born as *const () as u64),
            (stub.died, aligned_died as *const () as u64),
        ] {
            // movabs rax, function; jmp rax
            let jump = [&[0x48, 0xb8][..], &function.to_le_bytes(), &[0xff, 0xe0]].concat();
            placed.put(place, &jump);
        }
        placed.set(layout::ALLOWANCE, u64::MAX);
        placed.set(layout::COUNTDOWN, first);
        placed.set(layout::DRAWN, first);
        placed.set(layout::RANDOM, 0x1234_5678_9abc_def1);
        placed.set(layout::ARMED, 1);
        // SAFETY: two pages of the mapping.
        let protected = unsafe { libc::mprotect(at, layout::CONTROL as usize, libc::PROT_READ | libc::PROT_EXEC) };
        assert_eq!(protected, 0);
        placed
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= layout::ALL);
        // SAFETY: within the mapping, which is writable as yet.
        unsafe { slice::from_raw_parts_mut((self.base + offset) as *mut u8, bytes.len()).copy_from_slice(bytes) };
    }

    fn set(&self, offset: u64, value: u64) {
        // SAFETY: within the mapping.
        unsafe { ((self.base + offset) as *mut u64).write_volatile(value) };
    }

    fn get(&self, offset: u64) -> u64 {
        // SAFETY: within the mapping.
        unsafe { ((self.base + offset) as *const u64).read_volatile() }
    }

    /// Calls a stub as C code would, with known values in the registers that it must keep; says whether it has kept them,
    /// the stack pointer and what lies above it.
    fn call(&self, entry: u64, arguments: [u64; 3]) -> (u64, bool) {
        let (result, kept): (u64, u64);
        // SAFETY: the stub keeps the ABI; if it did not, this says so or crashes, and either fails the test.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "mov r12, rsp",
                "and rsp, -16",
                "mov rbx, 0x1111",
                "mov rbp, 0x2222",
                "mov r13, 0x3333",
                "mov r14, 0x4444",
                "mov r15, rsp",
                "call r10",
                "xor ecx, ecx",
                "cmp rbx, 0x1111",
                "setne cl",
                "cmp rbp, 0x2222",
                "setne dl",
                "or cl, dl",
                "cmp r13, 0x3333",
                "setne dl",
                "or cl, dl",
                "cmp r14, 0x4444",
                "setne dl",
                "or cl, dl",
                "cmp r15, rsp",
                "setne dl",
                "or cl, dl",
                "mov rsp, r12",
                "pop rbp",
                "pop rbx",
                in("r10") self.base + entry,
                inout("rdi") arguments[0] => _,
                inout("rsi") arguments[1] => _,
                inout("rdx") arguments[2] => _,
                out("rax") result,
                out("rcx") kept,
                out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                clobber_abi("C"),
            );
        }
        (result, kept == 0)
    }

    fn malloc(&self, size: u64) -> u64 {
        let (block, kept) = self.call(stub().malloc, [CONTEXT, size, 0]);
        assert!(kept);
        block
    }

    fn free(&self, block: u64) {
        assert!(self.call(stub().free, [CONTEXT, block, 0]).1);
    }

    /// Bytes that were asked for.
    fn bytes(&self) -> u64 {
        self.get(layout::DRAWN).wrapping_sub(self.get(layout::COUNTDOWN))
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it.
        unsafe { libc::munmap(self.base as *mut _, layout::ALL as usize) };
    }
}

#[test]
fn the_code_fits_into_its_page() {
    let stub = stub();
    assert!(stub.code.len() <= layout::PAGE as usize, "{}", stub.code.len());
    // A push, which the kernel emulates.
    for place in [stub.born, stub.died] {
        assert_eq!(stub.code[place as usize], 0x57);
    }
    let end = (stub.swap + stub.swap_bytes) as usize;
    assert_eq!(stub.code[end - 2..end], [0x0f, 0x05]);
}

#[test]
fn every_call_reaches_the_original_with_its_arguments_and_is_counted() {
    let _alone = alone();
    for first in [1 << 40, 1] {
        let placed = Placed::new(1 << 19, first);
        let stub = stub();
        let (block, kept) = placed.call(stub.malloc, [CONTEXT, 100, 0]);
        assert!(kept && block != 0);
        assert!(placed.call(stub.calloc, [CONTEXT, 7, 9]).1);
        let (moved, kept) = placed.call(stub.realloc, [CONTEXT, block, 300]);
        assert!(kept && moved != block);
        placed.free(moved);
        placed.free(0);
        SEEN.with_borrow(|seen| {
            let expected = [
                ("malloc", [CONTEXT, 100, 0]),
                ("calloc", [CONTEXT, 7, 9]),
                ("realloc", [CONTEXT, block, 300]),
                ("free", [CONTEXT, moved, 0]),
                ("free", [CONTEXT, 0, 0]),
            ];
            assert_eq!(seen.calls, expected);
        });
        let counts = [layout::MALLOCS, layout::CALLOCS, layout::REALLOCS, layout::FREES].map(|at| placed.get(at));
        assert_eq!(counts, [1, 1, 1, 1]);
        assert_eq!(placed.bytes(), 100 + 63 + 300);
    }
}

#[test]
fn a_sampled_block_is_told_once_and_so_is_its_end() {
    let _alone = alone();
    let placed = Placed::new(1 << 19, 1);
    let sampled = placed.malloc(50);
    let other = placed.malloc(1);
    placed.free(other);
    placed.free(sampled);
    placed.free(sampled);
    SEEN.with_borrow(|seen| {
        assert_eq!(seen.born, [(sampled, 50)]);
        assert_eq!(seen.died, [sampled]);
    });
}

#[test]
fn what_realloc_moves_ends_and_begins_and_where_it_fails_nothing_does() {
    let _alone = alone();
    let placed = Placed::new(1 << 50, 1);
    let realloc = |block, size| placed.call(stub().realloc, [CONTEXT, block, size]);
    let sampled = placed.malloc(50);
    SEEN.with_borrow_mut(|seen| seen.fails = true);
    assert_eq!(realloc(sampled, 60), (0, true));
    SEEN.with_borrow(|seen| assert!(seen.died.is_empty()));
    SEEN.with_borrow_mut(|seen| seen.fails = false);
    let (moved, kept) = realloc(sampled, 70);
    assert!(kept && moved != sampled);
    SEEN.with_borrow(|seen| assert_eq!((&*seen.died, &*seen.born), (&[sampled][..], &[(sampled, 50)][..])));
    // A sample that replaces a sample, and one that replaces nothing.
    placed.set(layout::COUNTDOWN, 1);
    let first = placed.malloc(10);
    placed.set(layout::COUNTDOWN, 1);
    let second = realloc(first, 20).0;
    placed.set(layout::COUNTDOWN, 1);
    let third = realloc(0, 30).0;
    SEEN.with_borrow(|seen| {
        assert_eq!(seen.died, [sampled, first]);
        assert_eq!(seen.born, [(sampled, 50), (first, 10), (second, 20), (third, 30)]);
    });
}

#[test]
fn an_allocation_that_fails_is_no_sample() {
    let _alone = alone();
    let placed = Placed::new(1 << 19, 1);
    SEEN.with_borrow_mut(|seen| seen.fails = true);
    assert_eq!(placed.malloc(50), 0);
    SEEN.with_borrow(|seen| assert!(seen.born.is_empty()));
}

/// How many samples of blocks of `size` there should be, and how many there were, in standard deviations.
fn deviation(size: u64, blocks: u64, bytes_per_sample: u64) -> f64 {
    let placed = Placed::new(bytes_per_sample, bytes_per_sample);
    // So that what the first distance was does not matter.
    while SEEN.with_borrow(|seen| seen.born.is_empty()) {
        placed.malloc(size);
    }
    SEEN.with_borrow_mut(|seen| seen.born.clear());
    for _ in 0..blocks {
        let block = placed.malloc(size);
        placed.free(block);
        SEEN.with_borrow_mut(|seen| seen.calls.clear());
    }
    let found = SEEN.with_borrow(|seen| seen.born.len()) as f64;
    SEEN.with_borrow(|seen| assert!(seen.died.len() >= seen.born.len()));
    let chance = crate::inject::weight::chance(size, bytes_per_sample);
    let expected = blocks as f64 * chance;
    (found - expected) / (expected * (1.0 - chance)).sqrt()
}

#[test]
fn a_block_is_sampled_with_the_chance_that_its_weight_supposes() {
    let _alone = alone();
    for (size, blocks, mean) in [
        (48, 400_000, 4096),
        (1000, 100_000, 4096),
        (4096, 50_000, 4096),
        (20_000, 50_000, 4096),
        (1, 300_000, 64),
    ] {
        let deviation = deviation(size, blocks, mean);
        assert!(deviation.abs() < 4.0, "{size} bytes: {deviation} standard deviations");
    }
}

#[test]
fn distances_are_exponential() {
    let _alone = alone();
    let mean = 1u64 << 19;
    let placed = Placed::new(mean, 1);
    let (mut sum, mut squares, mut below) = (0.0, 0.0, 0);
    let turns = 100_000;
    for _ in 0..turns {
        placed.set(layout::COUNTDOWN, 1);
        placed.malloc(1);
        SEEN.with_borrow_mut(|seen| (seen.calls.clear(), seen.born.clear()));
        let distance = placed.get(layout::COUNTDOWN) as f64 / mean as f64;
        (sum, squares) = (sum + distance, squares + distance * distance);
        below += u32::from(distance < std::f64::consts::LN_2);
    }
    let turns = f64::from(turns);
    assert!((sum / turns - 1.0).abs() < 0.015, "mean {}", sum / turns);
    assert!((squares / turns - 2.0).abs() < 0.08, "square {}", squares / turns);
    assert!((f64::from(below) / turns - 0.5).abs() < 0.007, "median {below}");
}

#[test]
fn the_table_forgets_what_ends_and_counts_what_it_has_no_room_for() {
    let _alone = alone();
    let placed = Placed::new(1 << 50, 1);
    let mut blocks = HashMap::new();
    for turn in 0..150_000_u64 {
        placed.set(layout::COUNTDOWN, 1);
        blocks.insert(placed.malloc(turn % 100 + 1), ());
    }
    let unremembered = placed.get(layout::UNREMEMBERED);
    let told = SEEN.with_borrow(|seen| seen.born.len()) as u64;
    assert_eq!(told + unremembered, 150_000);
    placed.set(layout::COUNTDOWN, 1 << 40);
    for &block in blocks.keys() {
        placed.free(block);
    }
    SEEN.with_borrow(|seen| assert_eq!(seen.died.len(), seen.born.len()));
    let occupied = (0..layout::BUCKETS / 8).any(|word| placed.get(layout::OCCUPANCY + 8 * word) != 0);
    assert!(!occupied);
}

#[test]
fn the_stubs_sleep_when_the_allowance_is_used_up() {
    let _alone = alone();
    let placed = Placed::new(64, 1);
    placed.set(layout::ALLOWANCE, 10);
    let blocks: Vec<u64> = (0..1000).map(|_| placed.malloc(100)).collect();
    let told = SEEN.with_borrow(|seen| seen.born.len());
    assert_eq!(
        (told, placed.get(layout::DORMANT), placed.get(layout::ARMED)),
        (10, 1, 0)
    );
    blocks.into_iter().for_each(|block| placed.free(block));
    SEEN.with_borrow(|seen| {
        assert!(seen.died.is_empty());
        assert_eq!(seen.calls.len(), 2000);
    });
    // They still count.
    assert_eq!((placed.bytes(), placed.get(layout::FREES)), (100_000, 1000));
}

#[test]
fn what_finds_zeros_in_its_data_calls_the_original_and_no_more() {
    let _alone = alone();
    let placed = Placed::new(64, 1);
    // As in a child that a fork has made.
    // SAFETY: anonymous pages of the mapping.
    let wiped = unsafe {
        libc::madvise(
            (placed.base + layout::DATA) as *mut _,
            layout::DATA_BYTES as usize,
            libc::MADV_DONTNEED,
        )
    };
    assert_eq!(wiped, 0);
    for _ in 0..100 {
        let block = placed.malloc(100);
        placed.free(block);
    }
    SEEN.with_borrow(|seen| assert!(seen.born.is_empty() && seen.died.is_empty() && seen.calls.len() == 200));
}

#[test]
fn jobs_are_done_only_where_what_is_expected_stands() {
    let _alone = alone();
    let placed = Placed::new(1 << 19, 1 << 40);
    let mut slots = [5u64, 6, 7];
    let at = |slots: &mut [u64; 3], slot: usize| &raw mut slots[slot] as u64;
    let jobs = [(0, 5, 50), (1, 60, 61), (2, 7, 70)].map(|(slot, expected, new)| Job {
        address: at(&mut slots, slot),
        expected,
        new,
    });
    placed.put(layout::INSTALL, &bytes_of(&jobs));
    let done: u64;
    // SAFETY: three jobs on memory of this function; then the routine asks for the number of this process, and runs into an
    // instruction that does not exist, which is why it is left by a jump that stands in its place.
    unsafe {
        libc::mprotect(placed.base as *mut _, 4096, libc::PROT_READ | libc::PROT_WRITE);
        placed.put(stub().swap + stub().swap_bytes, &[0xc3]);
        libc::mprotect(placed.base as *mut _, 4096, libc::PROT_READ | libc::PROT_EXEC);
        asm!(
            "push rbx", "call r10", "pop rbx",
            in("r10") placed.base + stub().swap,
            inout("r12") placed.base + layout::INSTALL => _,
            inout("r13") 3_u64 => _,
            out("r14") done,
            clobber_abi("C"),
        );
    }
    assert_eq!((slots, done), ([50, 6, 70], 0b101));
}
