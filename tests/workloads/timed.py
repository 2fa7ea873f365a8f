# Three seconds of CPU time in a chain of known functions, then the end.
import sys
from time import thread_time

SECONDS = float(sys.argv[1])


def outer():
    inner()


def inner():
    end = thread_time() + SECONDS
    while thread_time() < end:
        pass


outer()
