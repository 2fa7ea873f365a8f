// What a uprobe costs on this machine when nothing is done in it: it probes functions of its own with counting perf
// events and prints nanoseconds per call more than without. That is the floor of whatever is traced this way.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CALLS 100000

// The kernel emulates a `push`; a `mov` it must execute out of line, with a second trap after it (up to 6.17 and where the
// instruction is no nop of five bytes).
__asm__(".text\n"
        ".type emulated, @function\n"
        "emulated: push %rbp\n pop %rbp\n ret\n"
        ".size emulated, . - emulated\n"
        ".type stepped, @function\n"
        "stepped: mov %rdi, %rax\n ret\n"
        ".size stepped, . - stepped\n");
void emulated(void *) __attribute__((visibility("hidden")));
void stepped(void *) __attribute__((visibility("hidden")));

static double cpu(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static double nanoseconds(void (*function)(void *)) {
    double before = cpu();
    for (int i = 0; i < CALLS; i++)
        function(NULL);
    return (cpu() - before) * 1e9 / CALLS;
}

// Where in the file a function is: by the mapping it lies in.
static uint64_t file_offset(void *function) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long start, end, offset;
        if (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &offset) == 3 && (unsigned long)function >= start &&
            (unsigned long)function < end) {
            fclose(maps);
            return (unsigned long)function - start + offset;
        }
    }
    abort();
}

static int probe(const char *path, void (*function)(void *), int is_return) {
    FILE *file = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
    struct perf_event_attr attributes = {.size = sizeof attributes};
    if (!file || fscanf(file, "%u", &attributes.type) != 1)
        return -1;
    fclose(file);
    // config1 is the path, config2 the offset, bit 0 of config a return probe (perf_event_open(2)).
    attributes.config = is_return;
    attributes.config1 = (uint64_t)(uintptr_t)path;
    attributes.config2 = file_offset((void *)function);
    return (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

int main(void) {
    static char path[4096];
    if (readlink("/proc/self/exe", path, sizeof path - 1) < 0)
        return 1;
    struct {
        const char *name;
        void (*function)(void *);
        int is_return;
    } ways[] = {{"emulated", emulated, 0}, {"stepped", stepped, 0}, {"return", emulated, 1}};
    printf("{");
    for (int i = 0; i < 3; i++) {
        double without = nanoseconds(ways[i].function);
        int event = probe(path, ways[i].function, ways[i].is_return);
        if (event < 0) {
            fprintf(stderr, "cannot probe: %s\n", strerror(errno));
            return 1;
        }
        nanoseconds(ways[i].function);
        double with = nanoseconds(ways[i].function);
        uint64_t hits = 0;
        if (read(event, &hits, sizeof hits) != sizeof hits || hits != 2 * CALLS) {
            fprintf(stderr, "%llu hits, not %d\n", (unsigned long long)hits, 2 * CALLS);
            return 1;
        }
        close(event);
        printf("%s\"%s_ns\": %.1f", i ? ", " : "", ways[i].name, with - without);
    }
    puts("}");
    return 0;
}
