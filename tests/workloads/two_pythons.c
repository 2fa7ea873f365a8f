// A program with two CPythons, as one with two plug-ins has: neither sees the other's symbols. One thread runs a function
// of the first, which calls C, which calls a function of the second; another thread runs the second alone.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct python {
    int (*run)(const char *, void *);
    int (*ensure)(void);
    void (*release)(int);
    void *(*save)(void);
    void *library;
};

struct method {
    const char *name;
    void *(*function)(void *, void *);
    int flags;
    const char *doc;
};

static struct python first, second;
static void *none;

static void *symbol(struct python *python, const char *name) {
    void *found = dlsym(python->library, name);
    if (!found) {
        fprintf(stderr, "no %s\n", name);
        exit(1);
    }
    return found;
}

static void load(struct python *python, const char *path, const char *home) {
    python->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!python->library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    python->run = symbol(python, "PyRun_SimpleStringFlags");
    python->ensure = symbol(python, "PyGILState_Ensure");
    python->release = symbol(python, "PyGILState_Release");
    python->save = symbol(python, "PyEval_SaveThread");
    setenv("PYTHONHOME", home, 1);
    ((void (*)(int))symbol(python, "Py_InitializeEx"))(0);
}

static void run(struct python *python, const char *source) {
    if (python->run(source, NULL))
        exit(1);
}

static void in_second(void) {
    int state = second.ensure();
    run(&second, "outer_of_second()");
    second.release(state);
}

static void *host_callback(void *self, void *arguments) {
    in_second();
    ((void (*)(void *))symbol(&first, "Py_IncRef"))(none);
    return none;
}

static void *alone(void *unused) {
    for (;;)
        in_second();
    return unused;
}

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    char source[1024];
    const char *spin = "import time\n"
                       "def inner_of_%s():\n"
                       "    end = time.thread_time() + 0.02\n"
                       "    while time.thread_time() < end:\n"
                       "        pass\n"
                       "def outer_of_%s():\n"
                       "    inner_of_%s()\n";
    load(&first, argv[1], argv[2]);
    snprintf(source, sizeof source, spin, "first", "first", "first");
    run(&first, source);
    static struct method method = {"host_callback", host_callback, 4, NULL};
    none = symbol(&first, "_Py_NoneStruct");
    void *(*import)(const char *) = symbol(&first, "PyImport_ImportModule");
    void *(*make)(struct method *, void *, void *) = symbol(&first, "PyCFunction_NewEx");
    int (*set)(void *, const char *, void *) = symbol(&first, "PyObject_SetAttrString");
    set(import("builtins"), "host_callback", make(&method, NULL, NULL));
    run(&first, "def calls_host():\n    outer_of_first()\n    host_callback()\n");
    first.save();
    load(&second, argv[3], argv[4]);
    snprintf(source, sizeof source, spin, "second", "second", "second");
    run(&second, source);
    second.save();
    pthread_t thread;
    if (pthread_create(&thread, NULL, alone, NULL))
        return 1;
    pthread_setname_np(thread, "alone");
    puts("READY");
    fflush(stdout);
    for (;;) {
        int state = first.ensure();
        run(&first, "calls_host()");
        first.release(state);
    }
}
