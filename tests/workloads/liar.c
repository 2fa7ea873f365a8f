// A program that maps a CPython (its first argument, a libpython) and lies. With `all`, it runs none: all memory of the
// library that can be written, and 16 MiB beside it, lead to each other in circles, count to the end of the world, and change
// all the time. With `states`, an interpreter was started, and the states of its threads are what lies. Threads run the
// evaluation loop on that, and survive what comes of it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { WORDS = 2 << 20, THREADS = 3, MOST_RANGES = 16 };

static uint64_t *arena;
static struct { uint64_t *start; size_t words; } ranges[MOST_RANGES];
static int range_count;
static size_t tls_module;
static void *(*run)(void *, void *, int);
static int (*enter)(void);
static void *(*state_of)(void), *(*leave)(void);
static pthread_barrier_t begun;
static __thread sigjmp_buf back;

static uint64_t random_of(uint64_t *state) {
    uint64_t mixed = *state += 0x9e3779b97f4a7c15;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    return mixed ^ mixed >> 31;
}

static uint64_t lie(uint64_t *state) {
    static const uint64_t odd[] = {0, 1, 0xff, 0x7fffffff, 0xffffffff, INT64_MAX, UINT64_MAX, 0xffffffff81000000};
    uint64_t drawn = random_of(state);
    switch (drawn % 32) {
    case 0: return odd[drawn >> 8 & 7];
    case 1: return drawn >> (drawn >> 8 & 63);
    case 2: return (uint64_t)(arena + (drawn >> 16) % WORDS) + (drawn >> 8 & 7);
    // A key of thread-local storage that is there (`Py_tss_t`).
    case 3: return 1 | (drawn >> 8 & 31) << 32;
    default: return (uint64_t)(arena + (drawn >> 16) % WORDS);
    }
}

static void fill(uint64_t *words, size_t count, uint64_t *state) {
    for (size_t at = 0; at < count; at++) words[at] = lie(state);
}

static void *change(void *unused) {
    uint64_t state = 7;
    sigsetjmp(back, 1);
    for (;;) {
        arena[random_of(&state) % WORDS] = lie(&state);
        int range = random_of(&state) % range_count;
        ranges[range].start[random_of(&state) % ranges[range].words] = lie(&state);
    }
    return unused;
}

static void survive(int signal) { siglongjmp(back, signal); }

static void *work(void *number) {
    uint64_t state = (uint64_t)number;
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    sigaltstack(&stack, NULL);
    for (int key = 0; key < 64 && !enter; key++) pthread_setspecific(key, arena + random_of(&state) % WORDS);
    if (tls_module) {
        struct { size_t module, offset; } place = {tls_module, 0};
        extern void *__tls_get_addr(void *);
        *(uint64_t **)__tls_get_addr(&place) = arena + random_of(&state) % WORDS;
    }
    if (enter) {
        enter();
        // Up to where its frames are. Its neighbours, its interpreter and which thread it is of are true.
        uint64_t *words = (uint64_t *)state_of() + 3;
        leave();
        int range = __atomic_fetch_add(&range_count, 1, __ATOMIC_SEQ_CST);
        ranges[range].words = 9;
        ranges[range].start = words;
    }
    pthread_barrier_wait(&begun);
    for (;;) {
        sigsetjmp(back, 1);
        // Mostly it ends at once; what is counted is that there were samples in it.
        for (volatile int spin = 0; spin < 20000; spin++) {}
        run((void *)lie(&state), (void *)lie(&state), 0);
    }
    return NULL;
}

static int note(struct dl_phdr_info *info, size_t size, void *path) {
    (void)size;
    if (strcmp(info->dlpi_name, path) != 0) return 0;
    // What the loader has made read-only again is at the beginning.
    uint64_t kept = 0;
    for (int at = 0; at < info->dlpi_phnum; at++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[at];
        if (header->p_type == PT_GNU_RELRO) kept = (info->dlpi_addr + header->p_vaddr + header->p_memsz + 4095) & ~4095ULL;
    }
    for (int at = 0; at < info->dlpi_phnum && range_count < MOST_RANGES; at++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[at];
        uint64_t start = (info->dlpi_addr + header->p_vaddr + 7) & ~7ULL;
        uint64_t end = info->dlpi_addr + header->p_vaddr + header->p_memsz;
        if (header->p_type != PT_LOAD || !(header->p_flags & PF_W)) continue;
        if (start < kept) start = kept;
        if (end > start + 8) ranges[range_count].start = (uint64_t *)start, ranges[range_count++].words = (end - start) / 8;
    }
    return 1;
}

int main(int count, char **words) {
    void *library = count > 1 ? dlopen(words[1], RTLD_NOW) : NULL;
    run = library ? (void *(*)(void *, void *, int))dlsym(library, "_PyEval_EvalFrameDefault") : NULL;
    if (!run || count < 3) return 2;
    if (strcmp(words[2], "states") == 0) {
        void (*initialize)(int) = (void (*)(int))dlsym(library, "Py_InitializeEx");
        enter = (int (*)(void))dlsym(library, "PyGILState_Ensure");
        state_of = (void *(*)(void))dlsym(library, "PyGILState_GetThisThreadState");
        leave = (void *(*)(void))dlsym(library, "PyEval_SaveThread");
        initialize(0);
        leave();
    } else {
        dlinfo(library, RTLD_DI_TLS_MODID, &tls_module);
        dl_iterate_phdr(note, words[1]);
    }
    arena = mmap(NULL, WORDS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED) return 3;
    uint64_t state = 1;
    fill(arena, WORDS, &state);
    for (int range = 0; range < range_count; range++) fill(ranges[range].start, ranges[range].words, &state);
    for (int key = 0; key < 64; key++) {
        pthread_key_t made;
        pthread_key_create(&made, NULL);
    }
    struct sigaction action = {.sa_handler = survive, .sa_flags = SA_ONSTACK | SA_NODEFER};
    int deadly[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    for (int at = 0; at < 5; at++) sigaction(deadly[at], &action, NULL);
    pthread_barrier_init(&begun, NULL, THREADS + 1);
    for (uintptr_t number = 0; number < THREADS; number++) {
        pthread_t thread;
        pthread_create(&thread, NULL, work, (void *)(number + 11));
    }
    pthread_barrier_wait(&begun);
    puts("READY");
    fflush(stdout);
    // The library says a lot of what it finds.
    freopen("/dev/null", "w", stderr);
    change(NULL);
}
