# Three functions that use 50, 30 and 20 % of the time, in slices of 10, 6 and 4 ms of this thread's CPU time.
from time import thread_time


def half():
    end = thread_time() + 0.010
    while thread_time() < end:
        pass


def third():
    end = thread_time() + 0.006
    while thread_time() < end:
        pass


def fifth():
    end = thread_time() + 0.004
    while thread_time() < end:
        pass


def turns():
    while True:
        half()
        third()
        fifth()


print("READY", flush=True)
turns()
