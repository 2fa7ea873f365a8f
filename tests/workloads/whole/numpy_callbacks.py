# numpy calls back into Python. In the words of interleaving.py.
import json
from time import thread_time

import numpy

SHAPES = []


def shape(*parts):
    def add(function):
        SHAPES.append((function, parts))
        return function

    return add


def name(part):
    code = getattr(part, "__code__", None)
    return part if code is None else getattr(code, "co_qualname", code.co_name)


def spin():
    end = thread_time() + 0.004
    while thread_time() < end:
        for _ in range(300):
            pass
    return 0


def callee(*_ignored):
    spin()
    return 0


class Compared:
    def __lt__(self, _other):
        spin()
        return False

    def __add__(self, other):
        spin()
        return other


UFUNC = numpy.frompyfunc(callee, 1, 1)
VECTORIZED = numpy.vectorize(callee, otypes=[int])
ONE = numpy.array([1])
OBJECTS = numpy.array([Compared(), Compared()], dtype=object)


@shape("{i}", "@_multiarray_umath", "{i}", callee, spin)
def by_frompyfunc():
    UFUNC(ONE)


def once_more(x):
    return UFUNC(x)


UFUNC_TWICE = numpy.frompyfunc(once_more, 1, 1)


@shape("{i}", "@_multiarray_umath", "{i}", once_more, "{i}", "@_multiarray_umath", "{i}", callee, spin)
def by_frompyfunc_twice():
    UFUNC_TWICE(ONE)


@shape("...", "@_multiarray_umath", "{i}", callee, spin)
def by_vectorize():
    VECTORIZED(ONE)


@shape("...", callee, spin)
def by_apply_along_axis():
    numpy.apply_along_axis(callee, 0, ONE)


@shape("{i}", "@_multiarray_umath", "{i}", Compared.__lt__, spin)
def by_sort():
    OBJECTS.argsort()


@shape("{i}", "@_multiarray_umath", "{i}", Compared.__add__, spin)
def by_reduce():
    numpy.add.reduce(OBJECTS)


for function, parts in SHAPES:
    print(json.dumps({"shape": name(function), "parts": [name(part) for part in (function,) + parts]}))
print("READY", flush=True)
while True:
    for function, _ in SHAPES:
        function()
