// An extension module without frame pointers: `call_back(function)` calls it, two C functions deep.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

volatile unsigned long extension_sink;

__attribute__((noinline)) static PyObject *extension_inner(PyObject *function, PyObject *arguments) {
    PyObject *result = PyObject_Call(function, arguments, NULL);
    extension_sink++;
    return result;
}

__attribute__((noinline)) static PyObject *extension_call(PyObject *module, PyObject *function) {
    (void)module;
    PyObject *arguments = PyTuple_New(0);
    if (!arguments)
        return NULL;
    PyObject *result = extension_inner(function, arguments);
    Py_DECREF(arguments);
    return result;
}

static PyMethodDef methods[] = {{"call_back", extension_call, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "tree_extension", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_tree_extension(void) {
    return PyModule_Create(&definition);
}
