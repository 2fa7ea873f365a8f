// A chain of native functions that never ends, or one that lives in the kernel. Every function could return, or the
// compiler would not make a frame for it.
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

volatile unsigned long sink;
volatile int forever = 1;

__attribute__((noinline)) static void native_leaf(void) {
    for (unsigned long i = 0; i < 1000000; i++)
        sink += i * i;
    // A leaf that asks for its frame has one, whatever the compiler thinks of frames in leaves.
    sink += (unsigned long)__builtin_frame_address(0);
}

__attribute__((noinline)) static void native_middle(void) {
    native_leaf();
    sink++;
}

__attribute__((noinline)) static void native_outer(void) {
    while (forever)
        native_middle();
    sink++;
}

__attribute__((noinline)) static void kernel_work(void) {
    static char buffer[256];
    while (forever)
        sink += getrandom(buffer, sizeof buffer, 0);
    sink++;
}

int main(int argc, char **argv) {
    puts("READY");
    fflush(stdout);
    if (argc > 1 && strcmp(argv[1], "kernel") == 0)
        kernel_work();
    else
        native_outer();
    return (int)sink;
}
