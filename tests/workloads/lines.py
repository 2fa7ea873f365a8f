# One function in which three lines use 50, 30 and 20 % of the time. The slices are those of shares.py.
from random import random
from time import thread_time


def lines():
    while True:
        end = thread_time() + 0.0085 * (0.5 + random())
        while thread_time() < end: pass  # half
        end += 0.0051 * (0.5 + random())
        while thread_time() < end: pass  # third
        end += 0.0034 * (0.5 + random())
        while thread_time() < end: pass  # fifth


print("READY", flush=True)
lines()
