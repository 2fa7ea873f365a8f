# Python that calls C that calls Python, in every way there is. Each shape ends in spin() and says what its stack looks
# like, in the words of the harness's pattern.rs, from its own function to spin():
#   `a b` is a direct call: from 3.11 on there is no native frame in between;
#   `{i}` stands for the interpreter's own code, any amount of it.
import asyncio
import ctypes
import functools
import json
import os
import pickle
import re
import sys
import threading
import weakref
from time import thread_time

import interleaving_native as native

SHAPES = []


def shape(*parts):
    def add(function):
        SHAPES.append((function, parts))
        return function

    return add


def name(part):
    # From 3.11 on functions are known by their qualified names.
    code = getattr(part, "__code__", None)
    return part if code is None else getattr(code, "co_qualname", code.co_name)


def spin(*_ignored, **_ignored_too):
    end = thread_time() + 0.004
    while thread_time() < end:
        for _ in range(300):
            pass
    return 0


def through():
    spin()
    return 0


def callee(*_ignored, **_ignored_too):
    spin()
    return 0


@shape(through, spin)
def by_call():
    through()


@shape("+", spin)
def by_map():
    list(map(spin, [1]))


@shape("+", callee, spin)
def by_filter():
    list(filter(callee, [1]))


@shape("+", callee, spin)
def by_reduce():
    functools.reduce(callee, [1, 2])


@shape("+", callee, spin)
def by_sorted():
    sorted([1], key=callee)


@shape("+", callee, spin)
def by_list_sort():
    [1].sort(key=callee)


@shape("+", callee, spin)
def by_max():
    max([1], key=callee)


@shape("+", callee, spin)
def by_partial():
    functools.partial(callee, 1, a=2)(3, b=4)


def compare(_a, _b):
    spin()
    return 0


COMPARE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(compare)
LIBC = ctypes.CDLL(None)
NUMBERS = (ctypes.c_int * 2)(2, 1)


@shape("{i}", "@_ctypes", "@libffi", "@libc.so", "@libffi", "@_ctypes", "{i}", compare, spin)
def by_ctypes():
    LIBC.qsort(NUMBERS, ctypes.c_size_t(2), ctypes.c_size_t(4), COMPARE)


def generate():
    spin()
    yield 0


def delegate():
    yield from generate()


@shape("+", generate, spin)
def by_sum_of_generator():
    sum(generate())


@shape("+", delegate, "{i}", generate, spin)
def by_sum_of_delegating_generator():
    sum(delegate())


@shape("{i}", generate, spin)
def by_loop_over_generator():
    for _ in generate():
        pass


class Finalized:
    def __del__(self):
        spin()


@shape("+", Finalized.__del__, spin)
def by_del():
    Finalized()


class Compared:
    def __eq__(self, _other):
        spin()
        return False

    def __hash__(self):
        return 0


@shape("+", Compared.__eq__, spin)
def by_eq():
    Compared() in [1]


class Hashed:
    def __hash__(self):
        spin()
        return 0


@shape("+", Hashed.__hash__, spin)
def by_hash():
    {Hashed(): 1}


class Made:
    def __init__(self):
        spin()


@shape("{i}", Made.__init__, spin)
def by_init():
    Made()


class Looked:
    def __getattr__(self, _name):
        spin()
        return 0

    @property
    def computed(self):
        spin()
        return 0


@shape("+", Looked.__getattr__, spin)
def by_getattr():
    getattr(Looked(), "missing")


@shape("{i}", Looked.computed.fget, spin)
def by_property():
    Looked().computed


class Called:
    def __call__(self):
        spin()

    def called_from_c(self):
        spin()


@shape("{i}", Called.__call__, spin)
def by_call_operator():
    Called()()


def callback(_reference):
    spin()


@shape("+", callback, spin)
def by_weakref():
    finalized = Made.__new__(Made)
    reference = weakref.ref(finalized, callback)
    del finalized
    return reference


def replacement(_match):
    spin()
    return ""


PATTERN = re.compile("a")


@shape("+", replacement, spin)
def by_re():
    PATTERN.sub(replacement, "a")


@shape("...", "+", callee, spin)
def by_json():
    json.loads('{"a": 1}', object_hook=callee)


class Reduced:
    def __reduce__(self):
        spin()
        return int, ()


@shape("+", Reduced.__reduce__, spin)
def by_pickle():
    pickle.dumps(Reduced())


CODE = compile("spin()", "<code>", "exec")


@shape("+", "<module>", spin)
def by_exec():
    exec(CODE)


@shape("{i}", "native_call", "native_through", "{i}", callee, spin)
def by_extension():
    native.call(callee)


@shape("{i}", "native_method", "{i}", Called.called_from_c, spin)
def by_method_from_extension():
    native.call_method(Called())


@shape("{i}", "native_recursive", *["native_deep"] * 21, "native_through", "{i}", callee, spin)
def by_deep_extension():
    native.call_deep(callee)


@shape("{i}", "native_next", "native_through", "{i}", callee, spin)
def by_iterator_of_extension():
    for _ in native.Iterator(callee):
        pass


def once_more():
    native.call(callee)


@shape(
    "{i}", "native_call", "native_through", "{i}", once_more,
    "{i}", "native_call", "native_through", "{i}", callee, spin,
)  # fmt: skip
def by_extension_twice():
    native.call(once_more)


def nested_map(_ignored):
    sorted([1], key=nested_key)
    return 0


def nested_key(_ignored):
    functools.partial(nested_partial, 1)(a=2)
    return 0


def nested_partial(_ignored, a):
    sum(nested_generator())


def nested_generator():
    native.call(nested_callee)
    yield 0


def nested_callee():
    nested_direct()


def nested_direct():
    [Compared()].count(None)


@shape(
    "+", nested_map, "+", nested_key, "+", nested_partial, "+", nested_generator,
    "{i}", "native_call", "native_through", "{i}", nested_callee, nested_direct, "+", Compared.__eq__, spin,
)  # fmt: skip
def by_everything_at_once():
    list(map(nested_map, [1]))


async def coroutine_outer():
    await coroutine_inner()


async def coroutine_inner():
    spin()


@shape("...", "+", coroutine_outer, "{i}", coroutine_inner, spin)
def by_asyncio():
    LOOP.run_until_complete(coroutine_outer())


def run():
    global LOOP
    LOOP = asyncio.new_event_loop()
    for function, parts in SHAPES:
        print(json.dumps({"shape": name(function), "parts": [name(part) for part in (function,) + parts]}))
    print("READY", flush=True)
    while True:
        for function, _ in SHAPES:
            function()


if len(sys.argv) > 1 and sys.argv[1] == "thread":
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
run()
