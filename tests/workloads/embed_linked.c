// A program that is linked with libpython.
#include <Python.h>

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    Py_Initialize();
    FILE *script = fopen(argv[1], "r");
    return script ? PyRun_SimpleFile(script, argv[1]) : 1;
}
