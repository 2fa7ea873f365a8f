# Three functions that use 50, 30 and 20 % of the time, in slices of this thread's CPU time. Their lengths vary by chance:
# a pattern that repeats every 17 ms would be met by a clock of 2.14 ms at nearly the same places each time, and no number
# of samples would make up for that.
from random import random
from time import thread_time


def half():
    end = thread_time() + 0.0085 * (0.5 + random())
    while thread_time() < end:
        pass


def third():
    end = thread_time() + 0.0051 * (0.5 + random())
    while thread_time() < end:
        pass


def fifth():
    end = thread_time() + 0.0034 * (0.5 + random())
    while thread_time() < end:
        pass


def turns():
    while True:
        half()
        third()
        fifth()


print("READY", flush=True)
turns()
