// A short process: some CPU time in a chain of functions, and no more. Every function could return, or the compiler would
// not make a frame for it.
#include <stdlib.h>
#include <time.h>

volatile unsigned long sink;

static long long cpu_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

__attribute__((noinline)) static void native_leaf(void) {
    for (unsigned long i = 0; i < 20000; i++)
        sink += i * i;
}

__attribute__((noinline)) static void native_middle(void) {
    native_leaf();
    sink++;
}

__attribute__((noinline)) static void native_outer(long long until) {
    while (cpu_ns() < until)
        native_middle();
    sink++;
}

int main(int argc, char **argv) {
    native_outer(argc > 1 ? atoll(argv[1]) * 1000000LL : 5000000LL);
    sink++;
    return 0;
}
