// Does nothing but to touch new memory: `touch` maps 64 MiB, writes a byte to each page and unmaps, for as many rounds as
// it is told; `touch hold` touches every other page of a mapping, as many as it is told, and keeps them.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096UL
#define SIZE (64UL << 20)

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static char *map(size_t size) {
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        abort();
    madvise(memory, size, MADV_NOHUGEPAGE);
    return memory;
}

static void touch(char *memory, size_t size, size_t step) {
    for (size_t at = 0; at < size; at += step)
        ((volatile char *)memory)[at] = 1;
}

int main(int count, char **arguments) {
    // The first argument is a script's place, which this has no use for.
    int hold = !strcmp(arguments[count - 1], "hold");
    char line[64];
    puts("READY");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        unsigned long number = strtoul(line, NULL, 10);
        double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
        if (hold)
            touch(map(number * 2 * PAGE), number * 2 * PAGE, 2 * PAGE);
        for (; !hold && number; number--) {
            char *memory = map(SIZE);
            touch(memory, SIZE, PAGE);
            munmap(memory, SIZE);
        }
        cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        wall = seconds(CLOCK_MONOTONIC) - wall;
        printf("{\"cpu_s\": %.9f, \"wall_s\": %.9f}\n", cpu, wall);
        fflush(stdout);
    }
    return 0;
}
