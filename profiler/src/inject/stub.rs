//! The stubs: machine code that takes the place of `_PyObject_Malloc` and its three siblings in CPython's table.
//!
//! The fast path of an allocation counts the call, takes its size off a countdown and jumps to the original; that of a free
//! looks at one byte. When the countdown has run out, the allocation is a *sample*: the original is called, the next distance
//! is drawn from an exponential distribution (so every byte has the same chance, whatever came before), the block's address is
//! remembered in a table of buckets, and `born` is run, whose first instruction a uprobe turns into a stack. A free of an
//! address that is in the table runs `died` before the original. Everything is integers: no register of the FPU or of vectors
//! is touched, which leaves programs alone that have floating-point exceptions turned on.
//!
//! The bytes are made by rustc's own assembler, and are the same in every process: what differs is in [`layout`]'s page of
//! facts. All that is called is called with the stack aligned as the ABI wants it, and no register that a callee must keep is
//! changed (tests run the code in this process).
//!
//! Under a GIL the domains `obj` and `mem` are called by one thread at a time (it is CPython's rule). A program that breaks it,
//! or has a second interpreter with a GIL of its own, can make counters lose updates and the table forget an address, but not
//! write outside the data: every index comes from a shift or a mask.
//!
//! The stubs go to sleep by themselves: each sample is one of an *allowance* that the profiler raises as long as it lives. When
//! that is used up, or in a child made by a fork (whose data the kernel has wiped, so that nothing is armed), the countdown is
//! set so far away (2^62 bytes) that there is no other sample in the life of the process. An allowance in samples, not in time,
//! bounds what a profiler that was killed can cost (100,000 slow paths of some 50 ns), and needs no clock that all machines have.

use super::layout;

/// Machine code for the code page, and where its parts are.
#[derive(Clone, Copy, Debug)]
pub struct Stub {
    pub code: &'static [u8],
    pub malloc: u64,
    pub calloc: u64,
    pub realloc: u64,
    pub free: u64,
    /// Run with the block's address and size in the first two registers of arguments; and with the address.
    pub born: u64,
    pub died: u64,
    /// Does the jobs that `r12` points to, `r13` of them, and says in `r14` which were done; ends in a system call.
    pub swap: u64,
    /// Its length in bytes.
    pub swap_bytes: u64,
}

/// What the stubs call and how far apart samples are, as bytes of the page of facts.
pub fn facts(originals: [u64; 4], bytes_per_sample: u64) -> Vec<u8> {
    let scale = (bytes_per_sample as f64 * std::f64::consts::LN_2).round() as u64;
    let mut page = vec![0; layout::PAGE as usize];
    let mut put = |at: u64, bytes: &[u8]| {
        let at = (at - layout::FACTS) as usize;
        page[at..at + bytes.len()].copy_from_slice(bytes);
    };
    for (number, original) in (0..).zip(originals) {
        put(layout::ORIGINAL_MALLOC + 8 * number, &u64::to_le_bytes(original));
    }
    put(layout::SCALE, &scale.to_le_bytes());
    for step in 0..=layout::LOGARITHM_STEPS {
        let logarithm = (1.0 + step as f64 / layout::LOGARITHM_STEPS as f64).log2();
        let logarithm = (logarithm * (1u64 << 31) as f64).round() as u32;
        put(layout::LOGARITHMS + 4 * step, &logarithm.to_le_bytes());
    }
    page
}

#[cfg(target_arch = "x86_64")]
pub fn stub() -> Stub {
    // Labels in the block of assembly below: only their addresses are taken.
    let [start, malloc, calloc, realloc, free, born, died, swap, swap_end, end] = [
        &raw const profiler_stub_start,
        &raw const profiler_stub_malloc,
        &raw const profiler_stub_calloc,
        &raw const profiler_stub_realloc,
        &raw const profiler_stub_free,
        &raw const profiler_stub_born,
        &raw const profiler_stub_died,
        &raw const profiler_stub_swap,
        &raw const profiler_stub_swap_end,
        &raw const profiler_stub_end,
    ];
    let offset = |label: *const u8| (label as u64).wrapping_sub(start as u64);
    // SAFETY: the bytes between the labels are this program's own code, which is readable and never changes.
    let code = unsafe { std::slice::from_raw_parts(start, offset(end) as usize) };
    Stub {
        code,
        malloc: offset(malloc),
        calloc: offset(calloc),
        realloc: offset(realloc),
        free: offset(free),
        born: offset(born),
        died: offset(died),
        swap: offset(swap),
        swap_bytes: offset(swap_end) - offset(swap),
    }
}

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    static profiler_stub_start: u8;
    static profiler_stub_malloc: u8;
    static profiler_stub_calloc: u8;
    static profiler_stub_realloc: u8;
    static profiler_stub_free: u8;
    static profiler_stub_born: u8;
    static profiler_stub_died: u8;
    static profiler_stub_swap: u8;
    static profiler_stub_swap_end: u8;
    static profiler_stub_end: u8;
}

// Arguments, here and in the originals: rdi the context, then malloc(size), calloc(count, size), realloc(block, size),
// free(block). `{label}` and what follows is an address in the target: the code lies at the start of the range.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    r#"
    .pushsection .text.profiler_stub, "ax", @progbits
    .globl profiler_stub_start, profiler_stub_malloc, profiler_stub_calloc, profiler_stub_realloc, profiler_stub_free
    .globl profiler_stub_born, profiler_stub_died, profiler_stub_swap, profiler_stub_swap_end, profiler_stub_end
    .hidden profiler_stub_start, profiler_stub_malloc, profiler_stub_calloc, profiler_stub_realloc, profiler_stub_free
    .hidden profiler_stub_born, profiler_stub_died, profiler_stub_swap, profiler_stub_swap_end, profiler_stub_end
    .p2align 6
profiler_stub_start:
.Lstub:

profiler_stub_malloc:
    endbr64
    add qword ptr [rip + .Lstub + {mallocs}], 1
    sub qword ptr [rip + .Lstub + {countdown}], rsi
    jle .Lsample_malloc
    jmp qword ptr [rip + .Lstub + {original_malloc}]

    .p2align 5
profiler_stub_free:
    endbr64
    // One more, unless the block is null.
    cmp rsi, 1
    sbb qword ptr [rip + .Lstub + {frees}], -1
    movabs rax, {multiplier}
    lea rcx, [rip + .Lstub + {occupancy}]
    imul rax, rsi
    shr rax, 48
    cmp byte ptr [rcx + rax], 0
    jne .Lcheck_free
.Lfree:
    jmp qword ptr [rip + .Lstub + {original_free}]

    .p2align 5
profiler_stub_realloc:
    endbr64
    add qword ptr [rip + .Lstub + {reallocs}], 1
    sub qword ptr [rip + .Lstub + {countdown}], rdx
    jle .Lsample_realloc
    movabs rax, {multiplier}
    lea rcx, [rip + .Lstub + {occupancy}]
    imul rax, rsi
    shr rax, 48
    cmp byte ptr [rcx + rax], 0
    jne .Lcheck_realloc
    jmp qword ptr [rip + .Lstub + {original_realloc}]

    .p2align 5
profiler_stub_calloc:
    endbr64
    add qword ptr [rip + .Lstub + {callocs}], 1
    mov rax, rsi
    imul rax, rdx
    sub qword ptr [rip + .Lstub + {countdown}], rax
    jle .Lsample_calloc
    jmp qword ptr [rip + .Lstub + {original_calloc}]

    // An odd number of registers is saved: then the stack is aligned for calls.
.Lsample_malloc:
    push rbx
    push r12
    push r13
    mov r12, rdi
    mov rbx, rsi
    call .Ldraw
    mov r13d, eax
    mov rdi, r12
    mov rsi, rbx
    call qword ptr [rip + .Lstub + {original_malloc}]
    test r13d, r13d
    jz 2f
    mov rdi, rax
    mov rsi, rbx
    call .Lremember
2:  pop r13
    pop r12
    pop rbx
    ret

.Lsample_calloc:
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov r12, rdi
    mov r14, rsi
    mov r15, rdx
    mov rbx, rax
    call .Ldraw
    mov r13d, eax
    mov rdi, r12
    mov rsi, r14
    mov rdx, r15
    call qword ptr [rip + .Lstub + {original_calloc}]
    test r13d, r13d
    jz 2f
    mov rdi, rax
    mov rsi, rbx
    call .Lremember
2:  pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

.Lsample_realloc:
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov r12, rdi
    mov r14, rsi
    mov rbx, rdx
    call .Ldraw
    mov r13d, eax
    jmp 3f
.Lcheck_realloc:
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov r12, rdi
    mov r14, rsi
    mov rbx, rdx
    xor r13d, r13d
3:  mov rdi, r12
    mov rsi, r14
    mov rdx, rbx
    call qword ptr [rip + .Lstub + {original_realloc}]
    mov r15, rax
    // Where there is no new block, the old one stays what it is.
    test rax, rax
    jz 2f
    mov rdi, r14
    call .Lforget
    test r13d, r13d
    jz 2f
    mov rdi, r15
    mov rsi, rbx
    call .Lremember
2:  mov rax, r15
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

.Lcheck_free:
    push rdi
    push rsi
    sub rsp, 8
    mov rdi, rsi
    call .Lforget
    add rsp, 8
    pop rsi
    pop rdi
    jmp .Lfree

    // The next distance. In eax, whether what has just come is a sample.
.Ldraw:
    cmp qword ptr [rip + .Lstub + {armed}], 0
    je .Lsleep
    mov rax, [rip + .Lstub + {spent}]
    inc rax
    mov [rip + .Lstub + {spent}], rax
    cmp rax, [rip + .Lstub + {allowance}]
    ja .Lsleep
    // xorshift64 (Marsaglia, 13, 7, 17): never 0.
    mov rax, [rip + .Lstub + {random}]
    mov rcx, rax
    shl rcx, 13
    xor rax, rcx
    mov rcx, rax
    shr rcx, 7
    xor rax, rcx
    mov rcx, rax
    shl rcx, 17
    xor rax, rcx
    mov [rip + .Lstub + {random}], rax
    // -log2(random / 2^64) in units of 2^-31: 1 + (the zeros in front), without the logarithm of what follows them.
    bsr rcx, rax
    jz .Lsleep
    mov r8d, 64
    sub r8d, ecx
    shl r8, 31
    not ecx
    and ecx, 63
    shl rax, cl
    add rax, rax
    mov r9, rax
    shr r9, 56
    lea r10, [rip + .Lstub + {logarithms}]
    mov ecx, [r10 + 4*r9]
    mov edx, [r10 + 4*r9 + 4]
    sub edx, ecx
    sub r8, rcx
    // Between two steps of the table it is straight.
    shl rax, 8
    shr rax, 32
    imul rax, rdx
    shr rax, 32
    sub r8, rax
    mov rax, r8
    mul qword ptr [rip + .Lstub + {scale}]
    shrd rax, rdx, 31
    inc rax
    mov rcx, [rip + .Lstub + {countdown}]
    mov [rip + .Lstub + {countdown}], rax
    sub rax, rcx
    add [rip + .Lstub + {drawn}], rax
    mov eax, 1
    ret
.Lsleep:
    mov rcx, [rip + .Lstub + {countdown}]
    mov rax, 1
    shl rax, 62
    mov [rip + .Lstub + {countdown}], rax
    sub rax, rcx
    add [rip + .Lstub + {drawn}], rax
    mov qword ptr [rip + .Lstub + {dormant}], 1
    mov qword ptr [rip + .Lstub + {armed}], 0
    xor eax, eax
    ret

    // Takes rdi out of the table and tells, if it is there. Changes nothing but what a callee may.
.Lforget:
    test rdi, rdi
    jz 5f
    movabs rax, {multiplier}
    imul rax, rdi
    shr rax, 48
    lea rcx, [rip + .Lstub + {occupancy}]
    add rcx, rax
    cmp byte ptr [rcx], 0
    je 5f
    shl rax, 5
    lea r8, [rip + .Lstub + {table}]
    add r8, rax
    cmp [r8], rdi
    je 4f
    add r8, 8
    cmp [r8], rdi
    je 4f
    add r8, 8
    cmp [r8], rdi
    je 4f
    add r8, 8
    cmp [r8], rdi
    jne 5f
4:  mov qword ptr [r8], 0
    dec byte ptr [rcx]
    cmp qword ptr [rip + .Lstub + {armed}], 0
    je 5f
    sub rsp, 8
    call profiler_stub_died
    add rsp, 8
5:  ret

    // Enters rdi, a block of rsi bytes, into the table and tells, unless it is null. Returns rdi.
.Lremember:
    test rdi, rdi
    jz 6f
    push rdi
    push rsi
    sub rsp, 8
    // It can still be there, if somebody freed it behind our back.
    call .Lforget
    add rsp, 8
    pop rsi
    pop rdi
    movabs rax, {multiplier}
    imul rax, rdi
    shr rax, 48
    lea rcx, [rip + .Lstub + {occupancy}]
    add rcx, rax
    shl rax, 5
    lea r8, [rip + .Lstub + {table}]
    add r8, rax
    cmp qword ptr [r8], 0
    je 7f
    add r8, 8
    cmp qword ptr [r8], 0
    je 7f
    add r8, 8
    cmp qword ptr [r8], 0
    je 7f
    add r8, 8
    cmp qword ptr [r8], 0
    je 7f
    add qword ptr [rip + .Lstub + {unremembered}], 1
6:  mov rax, rdi
    ret
7:  mov [r8], rdi
    inc byte ptr [rcx]
    push rdi
    call profiler_stub_born
    pop rax
    ret

    // Where uprobes go. The kernel emulates a push: the process neither single-steps nor gets another page for that.
    .p2align 4
profiler_stub_born:
    push rdi
    pop rdi
    ret
    .p2align 4
profiler_stub_died:
    push rdi
    pop rdi
    ret

    // Run by the thread that the profiler has stopped. Neither stack nor vectors are used.
    .p2align 4
profiler_stub_swap:
    xor r14d, r14d
    mov ebx, 1
8:  mov rcx, [r12]
    mov rax, [r12 + 8]
    mov rdx, [r12 + 16]
    lock cmpxchg [rcx], rdx
    jne 9f
    or r14, rbx
9:  shl rbx, 1
    add r12, 24
    dec r13
    jnz 8b
    // getpid: where the profiler stops it again.
    mov eax, 39
    syscall
profiler_stub_swap_end:
    ud2
profiler_stub_end:
    .popsection
    "#,
    mallocs = const layout::MALLOCS,
    callocs = const layout::CALLOCS,
    reallocs = const layout::REALLOCS,
    frees = const layout::FREES,
    countdown = const layout::COUNTDOWN,
    drawn = const layout::DRAWN,
    random = const layout::RANDOM,
    armed = const layout::ARMED,
    spent = const layout::SPENT,
    dormant = const layout::DORMANT,
    unremembered = const layout::UNREMEMBERED,
    allowance = const layout::ALLOWANCE,
    scale = const layout::SCALE,
    logarithms = const layout::LOGARITHMS,
    original_malloc = const layout::ORIGINAL_MALLOC,
    original_calloc = const layout::ORIGINAL_CALLOC,
    original_realloc = const layout::ORIGINAL_REALLOC,
    original_free = const layout::ORIGINAL_FREE,
    occupancy = const layout::OCCUPANCY,
    table = const layout::TABLE,
    multiplier = const layout::MULTIPLIER as i64,
);

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
