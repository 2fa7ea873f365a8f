# Imported by the short-lived interpreters: 100 ms of CPU time, all of it in one function.
from time import thread_time


def burn():
    end = thread_time() + 0.1
    while thread_time() < end:
        pass
