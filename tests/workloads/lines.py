# One function in which three lines use 50, 30 and 20 % of the time.
from time import thread_time


def lines():
    while True:
        end = thread_time() + 0.010
        while thread_time() < end: pass  # half
        end += 0.006
        while thread_time() < end: pass  # third
        end += 0.004
        while thread_time() < end: pass  # fifth


print("READY", flush=True)
lines()
