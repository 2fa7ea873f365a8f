// Stacks that are hard to unwind: `hard MODE`. Built without frame pointers unless a test says otherwise.
//
// Every mode ends in a loop whose stack is known. Nothing here is a tail call: after each call there is work to do, and
// the loops could end.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define KEPT __attribute__((noinline, noclone))

volatile unsigned long sink;
volatile int forever = 1;

static void ready(void) {
    puts("READY");
    fflush(stdout);
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Waits until the test has begun to record. */
static void wait_for_go(void) {
    char line[16];
    if (!fgets(line, sizeof line, stdin))
        fail("no go");
}

KEPT void spin(void) {
    while (forever)
        for (unsigned long i = 0; i < 1000; i++)
            sink += i;
#ifdef WITH_FRAMES
    // A leaf that asks for its frame has one, whatever the compiler thinks of frames in leaves.
    sink += (unsigned long)__builtin_frame_address(0);
#endif
    sink++;
}

KEPT void spin_a_little(void) {
    for (unsigned long i = 0; i < 20000; i++)
        sink += i;
}

// A chain of calls, for the modes that are about how the program was built.

KEPT void chain_inner(void) {
    spin();
    sink++;
}

KEPT void chain_outer(void) {
    volatile char local[100];
    local[sink % sizeof local] = 1;
    chain_inner();
    sink += local[sink % sizeof local];
}

KEPT void hard_chain(void) {
    // So that the functions can be found again when the file's symbols are gone.
    extern char __executable_start;
    extern int main(int, char **);
    const void *functions[] = {main, hard_chain, chain_outer, chain_inner, spin};
    const char *names[] = {"main", "hard_chain", "chain_outer", "chain_inner", "spin"};
    for (int i = 0; i < 5; i++)
        printf("{\"name\": \"%s\", \"offset\": %lu}\n", names[i],
               (unsigned long)((const char *)functions[i] - &__executable_start));
    ready();
    chain_outer();
    sink++;
}

// Signals. `interrupted` faults at its very first instruction: what lies before it is another function.

__asm__(".text\n"
        ".globl interrupted\n"
        ".type interrupted, @function\n"
        "interrupted:\n"
        ".cfi_startproc\n"
        "ud2\n"
        "push %rbx\n"
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_offset %rbx, -16\n"
        "pop %rbx\n"
        ".cfi_adjust_cfa_offset -8\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size interrupted, . - interrupted\n");
void interrupted(void);

KEPT void handler_inner(void) {
    ready();
    spin();
    sink++;
}

static void handler(int number) {
    sink += number;
    handler_inner();
    sink++;
}

static void catch (int number, int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    if (sigaction(number, &action, NULL))
        fail("sigaction");
}

static void other_stack(void) {
    size_t size = 1 << 16;
    stack_t stack = {.ss_sp = malloc(size), .ss_size = size};
    if (sigaltstack(&stack, NULL))
        fail("sigaltstack");
}

KEPT void hard_fault(void) {
    catch (SIGILL, 0);
    interrupted();
    sink++;
}

KEPT void hard_fault_on_other_stack(void) {
    other_stack();
    catch (SIGILL, SA_ONSTACK);
    interrupted();
    sink++;
}

KEPT void spin_until_interrupted(void) {
    while (forever)
        sink++;
    sink++;
}

KEPT void hard_timer(void) {
    other_stack();
    catch (SIGALRM, SA_ONSTACK);
    struct itimerval soon = {.it_value = {.tv_usec = 20000}};
    if (setitimer(ITIMER_REAL, &soon, NULL))
        fail("setitimer");
    spin_until_interrupted();
    sink++;
}

// Jumps out of functions that have not returned, again and again.

static jmp_buf back;

KEPT void jump_deep(int depth) {
    volatile char local[64];
    local[depth] = 1;
    if (depth == 0) {
        spin_a_little();
        if (forever)
            longjmp(back, 1);
        return;
    }
    jump_deep(depth - 1);
    sink += local[depth];
}

KEPT void after_jump(void) {
    spin_a_little();
    sink++;
}

KEPT void hard_jump(void) {
    ready();
    while (forever) {
        if (setjmp(back) == 0)
            jump_deep(9);
        else
            after_jump();
    }
    sink++;
}

// Another stack, made by makecontext.

static ucontext_t here, there;

static void context_outer(void) {
    ready();
    chain_inner();
    sink++;
}

KEPT void hard_context(void) {
    size_t size = 1 << 16;
    if (getcontext(&there))
        fail("getcontext");
    there.uc_stack.ss_sp = malloc(size);
    there.uc_stack.ss_size = size;
    there.uc_link = &here;
    makecontext(&there, context_outer, 0);
    swapcontext(&here, &there);
    sink++;
}

// Functions that realign their stack: the caller's frame is found through a register that was saved.

KEPT __attribute__((force_align_arg_pointer)) void realigned_by_attribute(void) {
    chain_inner();
    sink++;
}

// Arguments on the stack and an array of variable length: GCC keeps the caller's frame in r10 and then in memory.
KEPT __attribute__((target("avx"))) void realigned_for_vectors(int a, int b, int c, int d, int e, int f,
                                                               long on_stack) {
    volatile __attribute__((aligned(64))) char vector[64];
    volatile char variable[a + 10];
    vector[b] = 1;
    variable[c] = 2;
    realigned_by_attribute();
    sink += vector[d] + variable[e] + f + on_stack;
}

KEPT void variable_length(unsigned long length) {
    volatile char local[length];
    local[0] = 1;
    realigned_for_vectors(1, 2, 3, 4, 5, 6, 7);
    sink += local[0];
}

KEPT void hard_realigned(void) {
    ready();
    variable_length(100 + sink % 10);
    sink++;
}

// A function that does little more than save and restore registers: samples are in its prologue and epilogue.

__asm__(".text\n"
        ".globl prologue_only\n"
        ".type prologue_only, @function\n"
        "prologue_only:\n"
        ".cfi_startproc\n"
        "push %r15\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset %r15, 0\n"
        "push %r14\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset %r14, 0\n"
        "push %r13\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset %r13, 0\n"
        "push %rbp\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset %rbp, 0\n"
        "sub $72, %rsp\n.cfi_adjust_cfa_offset 72\n"
        "mov $1234, %rbp\n"
        "add $72, %rsp\n.cfi_adjust_cfa_offset -72\n"
        "pop %rbp\n.cfi_adjust_cfa_offset -8\n.cfi_restore %rbp\n"
        "pop %r13\n.cfi_adjust_cfa_offset -8\n.cfi_restore %r13\n"
        "pop %r14\n.cfi_adjust_cfa_offset -8\n.cfi_restore %r14\n"
        "pop %r15\n.cfi_adjust_cfa_offset -8\n.cfi_restore %r15\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size prologue_only, . - prologue_only\n");
void prologue_only(void);

KEPT void prologue_caller(void) {
    for (int i = 0; i < 1000; i++)
        prologue_only();
    sink++;
}

KEPT void hard_prologue(void) {
    ready();
    while (forever)
        prologue_caller();
    sink++;
}

// The base pointer is an ordinary register, and holds no address: whoever believes it goes astray.

#ifdef __GCC_HAVE_DWARF2_CFI_ASM
KEPT void hard_base_pointer(void) {
    ready();
    __asm__ volatile("push %%rbp\n"
                     ".cfi_adjust_cfa_offset 8\n"
                     ".cfi_rel_offset %%rbp, 0\n"
                     "mov $0x5a5a5a5a5a5a5a58, %%rbp\n"
                     "sub $128, %%rsp\n"
                     ".cfi_adjust_cfa_offset 128\n"
                     "and $-1, %%rbx\n"
                     "call chain_outer\n"
                     "add $128, %%rsp\n"
                     ".cfi_adjust_cfa_offset -128\n"
                     "pop %%rbp\n"
                     ".cfi_adjust_cfa_offset -8\n"
                     ".cfi_restore %%rbp\n" ::
                         : "memory", "cc", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11");
    sink++;
}
#endif

// A call that does not return is the last instruction of its function: the return address belongs to the next one.

KEPT __attribute__((noreturn)) void never_returns(void) {
    spin();
    _exit((int)sink);
}

KEPT __attribute__((noreturn)) void ends_in_a_call(void) {
    sink++;
    never_returns();
}

KEPT void hard_noreturn(void) {
    ready();
    if (forever)
        ends_in_a_call();
    sink++;
}

// Stubs of the procedure linkage table, in which a third of the samples are.

#ifdef WITH_LIBRARY
void library_nothing(void);
void library_forget(void);
void library_many(void);

KEPT void hard_plt(void) {
    ready();
    while (forever)
        library_nothing();
    sink++;
}

// The loader, at work between a caller and a function that is called for the first time.
KEPT void hard_resolve(void) {
    library_forget();
    ready();
    while (forever) {
        library_many();
        library_forget();
    }
    sink++;
}
#endif

// Code that is loaded when the recording has begun.

KEPT static void hard_dlopen(const char *path) {
    ready();
    wait_for_go();
    void *library = dlopen(path, RTLD_LAZY);
    if (!library)
        fail(dlerror());
    void (*outer)(void) = (void (*)(void))dlsym(library, "library_outer");
    puts("LOADED");
    fflush(stdout);
    outer();
    sink++;
}

// Functions of glibc that are written in assembler.

KEPT void hard_strings(void) {
    static char from[1 << 16], to[1 << 16];
    size_t (*volatile length)(const char *) = strlen;
    void *(*volatile copy)(void *, const void *, size_t) = memmove;
    memset(from, 'x', sizeof from - 1);
    ready();
    while (forever) {
        for (int i = 0; i < 100; i++) {
            copy(to, from + i, sizeof from - 100);
            sink += length(to);
        }
    }
    sink++;
}

KEPT void hard_vdso(void) {
    struct timespec now;
    ready();
    while (forever) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        sink += now.tv_nsec;
    }
    sink++;
}

// A child that goes on without exec.

KEPT void forked_child(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    chain_outer();
    sink++;
}

KEPT void hard_fork(int early) {
    pid_t child = early ? fork() : 1;
    if (child > 0) {
        if (early)
            printf("{\"child\": %d}\n", child);
        ready();
        wait_for_go();
        if (!early)
            child = fork();
        if (child > 0) {
            if (!early)
                printf("{\"child\": %d}\n", child);
            fflush(stdout);
            waitpid(child, NULL, 0);
        }
    }
    if (child == 0)
        forked_child();
    sink++;
}

// Generated code: it keeps frame pointers, belongs to no file, and calls C.

KEPT void jit_callback(void) {
    chain_inner();
    sink++;
}

KEPT void hard_jit(int with_map) {
    // Two functions, the first of which calls the second, which calls what is in rdi.
    static const unsigned char code[] = {
        // 0: push %rbp; mov %rsp,%rbp; sub $32,%rsp; call 32; leave; ret
        0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20, 0xe8, 19, 0, 0, 0, 0xc9, 0xc3, //
        0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
        // 32: push %rbp; mov %rsp,%rbp; call *%rdi; pop %rbp; ret
        0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
    unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        fail("mmap");
    memcpy(page, code, sizeof code);
    if (mprotect(page, 4096, PROT_READ | PROT_EXEC))
        fail("mprotect");
    if (with_map) {
        char path[64];
        snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
        FILE *map = fopen(path, "w");
        if (!map)
            fail(path);
        fprintf(map, "%lx 20 jitted_outer\n%lx 8 jitted_inner(int) [tier 1]\n", (unsigned long)page,
                (unsigned long)page + 32);
        fclose(map);
    }
    ready();
    ((void (*)(void (*)(void)))page)(jit_callback);
    sink++;
}

// Deep recursion.

KEPT unsigned long descend(int depth) {
    if (depth == 0) {
        spin();
        return sink;
    }
    return descend(depth - 1) + sink;
}

KEPT void hard_deep(int depth) {
    ready();
    sink += descend(depth - 1);
}

// A thread.

static void *thread_entry(void *argument) {
    prctl(PR_SET_NAME, "hard-thread");
    ready();
    chain_outer();
    sink++;
    return argument;
}

KEPT void hard_thread(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, thread_entry, NULL))
        fail("pthread_create");
    pthread_join(thread, NULL);
    sink++;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "chain";
    const char *argument = argc > 2 ? argv[2] : "";
    struct {
        const char *name;
        void (*run)(void);
    } modes[] = {
        {"chain", hard_chain},
        {"fault", hard_fault},
        {"fault-on-other-stack", hard_fault_on_other_stack},
        {"timer", hard_timer},
        {"jump", hard_jump},
        {"context", hard_context},
        {"realigned", hard_realigned},
        {"prologue", hard_prologue},
#ifdef __GCC_HAVE_DWARF2_CFI_ASM
        {"base-pointer", hard_base_pointer},
#endif
        {"noreturn", hard_noreturn},
        {"strings", hard_strings},
        {"vdso", hard_vdso},
        {"thread", hard_thread},
#ifdef WITH_LIBRARY
        {"plt", hard_plt},
        {"resolve", hard_resolve},
#endif
    };
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(mode, modes[i].name) == 0) {
            modes[i].run();
            return (int)sink;
        }
    }
    if (strcmp(mode, "fork") == 0)
        hard_fork(*argument == 'e');
    else if (strcmp(mode, "jit") == 0)
        hard_jit(*argument == 'm');
    else if (strcmp(mode, "deep") == 0)
        hard_deep(atoi(argument));
    else if (strcmp(mode, "dlopen") == 0)
        hard_dlopen(argument);
    else
        return 2;
    return (int)sink;
}
