# Two functions, of which one uses three times the CPU time of the other, in slices of this thread's CPU time. Their
# lengths vary by chance: in a pattern that repeats, a clock that ticks every 10.1 ms would meet the same places again.
from random import random
from time import monotonic, thread_time

# Longer than everything that is done here takes, also where the guest is slow: it is killed in the end.
END = monotonic() + 600


def three():
    end = thread_time() + 0.015 * (0.5 + random())
    while thread_time() < end:
        for _ in range(200):
            pass


def one():
    end = thread_time() + 0.005 * (0.5 + random())
    while thread_time() < end:
        for _ in range(200):
            pass


def turns():
    while monotonic() < END:
        three()
        one()


print("READY", flush=True)
turns()
