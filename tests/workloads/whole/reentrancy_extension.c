// An extension module without frame pointers: two ways, of different depth, to one instruction.
//
// The instruction is a function of its own, left as soon as it is entered, so that the clock finds the thread in it only
// while the kernel is at work there. (Two functions that do the same would be made one: hence `+=` and `-=`.)
#include <Python.h>

#define BEATS 20
// Work between two beats: 20 microseconds or so.
#define SPIN 40000

volatile unsigned long extension_sink;

__asm__(".text\n"
        ".type probed, @function\n"
        "probed:\n"
        "    .cfi_startproc\n"
        "    nop\n"
        "    .cfi_endproc\n"
        ".size probed, . - probed\n"
        ".type after_probed, @function\n"
        "after_probed:\n"
        "    .cfi_startproc\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size after_probed, . - after_probed\n");

void probed(void) __attribute__((visibility("hidden")));

__attribute__((noinline)) static void left_leaf(void) {
    for (int i = 0; i < SPIN; i++)
        extension_sink += i;
    probed();
    extension_sink++;
}

__attribute__((noinline)) static void right_leaf(void) {
    for (int i = 0; i < SPIN; i++)
        extension_sink -= i;
    probed();
    extension_sink++;
}

__attribute__((noinline)) static void right_middle(void) {
    right_leaf();
    extension_sink++;
}

__attribute__((noinline)) static PyObject *beat_left(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    for (int i = 0; i < BEATS; i++)
        left_leaf();
    Py_RETURN_NONE;
}

__attribute__((noinline)) static PyObject *beat_right(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    for (int i = 0; i < BEATS; i++)
        right_middle();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"beat_left", beat_left, METH_NOARGS, NULL}, {"beat_right", beat_right, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "reentrancy_extension", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_reentrancy_extension(void) {
    return PyModule_Create(&definition);
}
