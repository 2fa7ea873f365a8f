# Three functions that use 50, 30 and 20 % of the time, in slices of this thread's CPU time that do not keep step with the
# 4 ms (or 10, or 1) at which the kernel lets tasks take turns.
from time import thread_time


def half():
    end = thread_time() + 0.0085
    while thread_time() < end:
        pass


def third():
    end = thread_time() + 0.0051
    while thread_time() < end:
        pass


def fifth():
    end = thread_time() + 0.0034
    while thread_time() < end:
        pass


def turns():
    while True:
        half()
        third()
        fifth()


print("READY", flush=True)
turns()
