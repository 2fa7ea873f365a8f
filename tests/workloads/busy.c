// A chain of native functions that never ends, or one that lives in the kernel.
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

volatile unsigned long sink;

__attribute__((noinline)) static void native_leaf(void) {
    for (;;)
        for (unsigned long i = 0; i < 1000; i++)
            sink += i * i;
}

__attribute__((noinline)) static void native_middle(void) {
    native_leaf();
    sink++;
}

__attribute__((noinline)) static void native_outer(void) {
    native_middle();
    sink++;
}

__attribute__((noinline)) static void kernel_work(void) {
    static char buffer[256];
    for (;;)
        sink += getrandom(buffer, sizeof buffer, 0);
}

int main(int argc, char **argv) {
    puts("READY");
    fflush(stdout);
    if (argc > 1 && strcmp(argv[1], "kernel") == 0)
        kernel_work();
    native_outer();
}
