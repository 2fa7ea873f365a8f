# So many seconds of CPU time in a chain of known functions, under a name of its own, then the end.
import sys
from time import thread_time

import steady

SECONDS = float(sys.argv[1])


def outer():
    inner()


def inner():
    end = thread_time() + SECONDS
    while thread_time() < end:
        pass


steady.name("steady")
outer()
steady.name("done")
