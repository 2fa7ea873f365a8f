// Counts what goes through CPython's allocators, exactly, by wrapping them with PyMem_SetAllocator: what exact mode is held
// against. Loaded with ctypes.PyDLL, it needs no header of any version: the two functions and the structure are part of
// the stable documentation since 3.5 (https://docs.python.org/3/c-api/memory.html#customize-memory-allocators).
//
// A request may go through two of them: obj and mem pass what is larger than 512 bytes on to raw. A block that the
// program asked for is counted once, at the allocator that it was asked from; `nested` are the calls below another.
#include <stddef.h>

typedef struct {
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
} Allocator;

void PyMem_GetAllocator(int domain, Allocator *allocator);
void PyMem_SetAllocator(int domain, Allocator *allocator);

enum { RAW, MEM, OBJ, DOMAINS };

// A reallocation gives a block back and gives another one, wherever it lies. CPython's frees of NULL are none.
typedef struct {
    unsigned long long allocations, frees, bytes, reallocations;
} Counts;

// Raw calls may come without the GIL; every place is changed atomically.
static struct {
    Counts outer[DOMAINS], nested;
} counts;
static Allocator original[DOMAINS];
static __thread int depth;

static void add(unsigned long long *to, unsigned long long number) {
    __atomic_fetch_add(to, number, __ATOMIC_RELAXED);
}

static Counts *counts_of(Allocator *of) {
    return depth ? &counts.nested : &counts.outer[of - original];
}

static void allocated(Counts *counts, size_t bytes) {
    add(&counts->allocations, 1);
    add(&counts->bytes, bytes);
}

static void *count_malloc(void *context, size_t size) {
    Allocator *of = context;
    Counts *counts = counts_of(of);
    depth++;
    void *block = of->malloc(of->context, size);
    depth--;
    if (block)
        allocated(counts, size);
    return block;
}

static void *count_calloc(void *context, size_t number, size_t size) {
    Allocator *of = context;
    Counts *counts = counts_of(of);
    depth++;
    void *block = of->calloc(of->context, number, size);
    depth--;
    if (block)
        allocated(counts, number * size);
    return block;
}

static void *count_realloc(void *context, void *old, size_t size) {
    Allocator *of = context;
    Counts *counts = counts_of(of);
    depth++;
    void *block = of->realloc(of->context, old, size);
    depth--;
    if (block) {
        allocated(counts, size);
        if (old) {
            add(&counts->frees, 1);
            add(&counts->reallocations, 1);
        }
    }
    return block;
}

static void count_free(void *context, void *block) {
    Allocator *of = context;
    if (block)
        add(&counts_of(of)->frees, 1);
    depth++;
    of->free(of->context, block);
    depth--;
}

void counter_install(void) {
    for (int domain = 0; domain < DOMAINS; domain++) {
        PyMem_GetAllocator(domain, &original[domain]);
        Allocator counting = {&original[domain], count_malloc, count_calloc, count_realloc, count_free};
        PyMem_SetAllocator(domain, &counting);
    }
}

// Four numbers of each domain, and of nested calls.
void counter_read(unsigned long long *into) {
    const unsigned long long *from = (const unsigned long long *)&counts;
    for (size_t i = 0; i < sizeof counts / sizeof *from; i++)
        into[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
