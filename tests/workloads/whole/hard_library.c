// A library for hard.c: a function that does nothing, a chain, and many functions to be resolved at each call.
volatile unsigned long library_sink;
volatile int library_forever = 1;

#define KEPT __attribute__((noinline, noclone))

// Not `static` and not hidden, so that `library_many` calls them through the procedure linkage table.
#define ONE(n) KEPT void library_one_##n(void) { library_sink += n; }
#define TEN(n) ONE(n##0) ONE(n##1) ONE(n##2) ONE(n##3) ONE(n##4) ONE(n##5) ONE(n##6) ONE(n##7) ONE(n##8) ONE(n##9)
#define HUNDRED(n) \
    TEN(n##0) TEN(n##1) TEN(n##2) TEN(n##3) TEN(n##4) TEN(n##5) TEN(n##6) TEN(n##7) TEN(n##8) TEN(n##9)
HUNDRED(1) HUNDRED(2) HUNDRED(3) HUNDRED(4)
#undef ONE
#define ONE(n) library_one_##n();

void library_many(void) {
    HUNDRED(1) HUNDRED(2) HUNDRED(3) HUNDRED(4)
    library_sink++;
}

// Forgets which functions were resolved. To be called before any was, the first time.
#define ENTRIES (3 + 400)
extern void *_GLOBAL_OFFSET_TABLE_[] __attribute__((visibility("hidden")));

void library_forget(void) {
    static void *unresolved[ENTRIES];
    static int known;
    void *volatile *from = known ? unresolved : _GLOBAL_OFFSET_TABLE_;
    void *volatile *to = known ? _GLOBAL_OFFSET_TABLE_ : unresolved;
    // The first three are the loader's.
    for (int i = 3; i < ENTRIES; i++)
        to[i] = from[i];
    known = 1;
}

KEPT void library_nothing(void) {
    __asm__ volatile("");
}

KEPT void library_spin(void) {
    while (library_forever)
        for (unsigned long i = 0; i < 1000; i++)
            library_sink += i;
    library_sink++;
}

void library_outer(void) {
    volatile char local[100];
    local[library_sink % sizeof local] = 1;
    library_spin();
    library_sink += local[library_sink % sizeof local];
}
