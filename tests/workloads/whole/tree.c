// A program without frame pointers that embeds CPython and runs a script: `tree SCRIPT EXTENSION_FOLDER [thread]`.
//
// main -> tree_run -> tree_enter -> CPython -> the script. No call here is a tail call: each is followed by work.
#include <Python.h>
#include <pthread.h>
#include <string.h>

volatile unsigned long sink;

__attribute__((noinline)) static int tree_enter(const char *path) {
    FILE *script = fopen(path, "r");
    if (!script)
        return 1;
    int result = PyRun_SimpleFile(script, path);
    sink++;
    return result;
}

__attribute__((noinline)) static int tree_run(const char *path) {
    // Large enough to be addressed relative to the stack pointer, and kept.
    volatile char local[200];
    local[sink % sizeof local] = 1;
    int result = tree_enter(path);
    sink += local[sink % sizeof local];
    return result;
}

static char *path;

static void *tree_thread(void *unused) {
    PyGILState_STATE state = PyGILState_Ensure();
    int result = tree_run(path);
    PyGILState_Release(state);
    return result ? path : unused;
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    setenv("PYTHONPATH", argv[2], 1);
    Py_Initialize();
    path = argv[1];
    if (argc < 4) {
        int result = tree_run(path);
        sink++;
        return result;
    }
    pthread_t thread;
    PyThreadState *state = PyEval_SaveThread();
    if (pthread_create(&thread, NULL, tree_thread, NULL))
        return 1;
    pthread_join(thread, NULL);
    PyEval_RestoreThread(state);
    return 0;
}
