# Python, C, Python, and then a system call that has much to do: 1 MiB of zeros at a time.
import json
import os
import threading

from tree_extension import call_back


def outer():
    middle()


def middle():
    call_back(inner)


def inner():
    innermost(os.open("/dev/zero", os.O_RDONLY), [bytearray(1 << 20)])


def innermost(zeros, buffers):
    read = os.readv
    print("READY", flush=True)
    while True:
        read(zeros, buffers)


print(json.dumps({"tid": threading.get_native_id()}))
outer()
