// A program without any Python that leaks through malloc: READY, then 16 MiB when it is told anything.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 1000
#define BYTES (16 << 20)
#define PACE (4 << 20)

static void *volatile last;

__attribute__((noinline)) void leaking(size_t size) {
    void **block = malloc(size);
    if (!block)
        abort();
    memset(block, 1, size);
    *block = last;
    last = block;
}

__attribute__((noinline)) void business(void) {
    for (int left = BYTES; left > 0; left -= BLOCK) {
        leaking(BLOCK);
        // As known.py paces itself: 1,024 pages at a time.
        if (left / PACE != (left - BLOCK) / PACE)
            usleep(300000);
    }
}

int main(void) {
    char line[64];
    // malloc's first call makes the heap.
    last = malloc(16);
    *(void **)last = NULL;
    // 1000 bytes and a header of 8 are 1008, a multiple of 16.
    printf("{\"bytes\": %d, \"block\": 1008}\nREADY\n", BYTES / BLOCK * 1008);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;
    business();
    printf("{\"done\": true}\n");
    fflush(stdout);
    return !fgets(line, sizeof line, stdin);
}
