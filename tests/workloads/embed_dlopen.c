// A program that becomes a Python only later: it loads libpython by name, in a thread, and runs a script in it.
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static char **arguments;

static void *host_thread(void *unused) {
    void *python = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
    if (!python) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    void (*initialize)(void) = (void (*)(void))dlsym(python, "Py_Initialize");
    int (*run)(FILE *, const char *) = (int (*)(FILE *, const char *))dlsym(python, "PyRun_SimpleFile");
    FILE *script = fopen(arguments[2], "r");
    if (!initialize || !script)
        exit(1);
    initialize();
    // PyRun_SimpleFile is a macro up to 3.9, for a function with one argument more.
    if (run) {
        run(script, arguments[2]);
    } else {
        int (*run_ex)(FILE *, const char *, int) =
            (int (*)(FILE *, const char *, int))dlsym(python, "PyRun_SimpleFileEx");
        run_ex(script, arguments[2], 0);
    }
    return unused;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    arguments = argv;
    pthread_t thread;
    if (pthread_create(&thread, NULL, host_thread, NULL))
        return 1;
    pthread_join(thread, NULL);
}
