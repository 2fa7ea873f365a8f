// Several ways to the same work, each taken so often that its share is known, in an order that no clock keeps step
// with. Each takes some milliseconds, so that two profilers that look at the same time see the same.
#include <stdio.h>
#include <stdlib.h>

#define KEPT __attribute__((noinline, noclone))

volatile unsigned long sink;
volatile int forever = 1;

KEPT static void work(void) {
    for (unsigned long i = 0; i < 2000000; i++)
        sink += i;
}

KEPT static void by_itself(void) {
    work();
    sink++;
}

KEPT static void inner(int keep) {
    volatile char local[64];
    local[keep] = 1;
    work();
    sink += local[keep];
}

KEPT static void through_two(int keep) {
    volatile char local[keep + 100];
    local[keep] = 1;
    inner(keep);
    sink += local[keep];
}

KEPT static void recursive(int depth) {
    if (depth == 0)
        work();
    else
        recursive(depth - 1);
    sink++;
}

KEPT static int compare(const void *a, const void *b) {
    work();
    return *(const int *)a - *(const int *)b;
}

/* One comparison. */
KEPT static void through_a_library(void) {
    int numbers[2] = {2, 1};
    qsort(numbers, 2, sizeof *numbers, compare);
    sink += numbers[0];
}

int main(void) {
    unsigned random = 1;
    puts("READY");
    fflush(stdout);
    while (forever) {
        random = random * 1103515245 + 12345;
        unsigned hundredth = (random >> 16) % 100;
        if (hundredth < 40)
            by_itself();
        else if (hundredth < 65)
            through_two(hundredth % 7);
        else if (hundredth < 85)
            recursive(hundredth % 2 ? 5 : 12);
        else
            through_a_library();
        sink++;
    }
    return (int)sink;
}
