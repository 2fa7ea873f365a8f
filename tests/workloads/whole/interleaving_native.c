// What Cython and the like make: C that is called by Python and calls Python. Of the limited API, so that one build is
// for every interpreter; without frame pointers.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x03080000
#include <Python.h>

volatile unsigned long native_sink;

#define KEPT __attribute__((noinline, noclone))

KEPT static PyObject *native_through(PyObject *function) {
    PyObject *arguments = PyTuple_New(0);
    if (!arguments)
        return NULL;
    PyObject *result = PyObject_Call(function, arguments, NULL);
    Py_DECREF(arguments);
    native_sink++;
    return result;
}

KEPT static PyObject *native_call(PyObject *module, PyObject *function) {
    (void)module;
    PyObject *result = native_through(function);
    native_sink++;
    return result;
}

KEPT static PyObject *native_method(PyObject *module, PyObject *object) {
    (void)module;
    PyObject *result = PyObject_CallMethod(object, "called_from_c", NULL);
    native_sink++;
    return result;
}

KEPT static PyObject *native_deep(PyObject *function, long depth) {
    PyObject *result = depth == 0 ? native_through(function) : native_deep(function, depth - 1);
    native_sink++;
    return result;
}

static PyObject *native_recursive(PyObject *module, PyObject *function) {
    (void)module;
    PyObject *result = native_deep(function, 20);
    native_sink++;
    return result;
}

// An iterator that yields what a function returns, once.

typedef struct {
    PyObject_HEAD
    PyObject *function;
} Iterator;

static int iterator_init(PyObject *self, PyObject *arguments, PyObject *keywords) {
    (void)keywords;
    PyObject *function;
    if (!PyArg_ParseTuple(arguments, "O", &function))
        return -1;
    Py_INCREF(function);
    ((Iterator *)self)->function = function;
    return 0;
}

static void iterator_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((Iterator *)self)->function);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF((PyObject *)type);
}

KEPT static PyObject *native_next(PyObject *self) {
    PyObject *function = ((Iterator *)self)->function;
    if (!function)
        return NULL;
    PyObject *result = native_through(function);
    ((Iterator *)self)->function = NULL;
    Py_DECREF(function);
    return result;
}

static PyType_Slot iterator_slots[] = {{Py_tp_init, iterator_init},
                                       {Py_tp_dealloc, iterator_dealloc},
                                       {Py_tp_iter, PyObject_SelfIter},
                                       {Py_tp_iternext, native_next},
                                       {0, NULL}};
static PyType_Spec iterator_spec = {"interleaving_native.Iterator", sizeof(Iterator), 0, Py_TPFLAGS_DEFAULT,
                                    iterator_slots};

static PyMethodDef methods[] = {{"call", native_call, METH_O, NULL},
                                {"call_method", native_method, METH_O, NULL},
                                {"call_deep", native_recursive, METH_O, NULL},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "interleaving_native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_interleaving_native(void) {
    PyObject *module = PyModule_Create(&definition);
    PyObject *iterator = PyType_FromSpec(&iterator_spec);
    if (!module || !iterator || PyModule_AddObject(module, "Iterator", iterator))
        return NULL;
    return module;
}
