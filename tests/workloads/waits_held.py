"""Sleeps in C functions that keep the GIL and in some that let it go, and says how long each took; somebody else wants it.

With `for good`, it keeps the GIL and never comes back.
"""

import ctypes
import json
import sys
import threading
import time

ROUNDS = int(sys.argv[1])
PAUSE = float(sys.argv[2])
keeps = ctypes.PyDLL(None)
lets_go = ctypes.CDLL(None)
microseconds = int(PAUSE * 1e6)
measured = {}
done = threading.Event()
waited = 0


def sleeps_with_it():
    keeps.usleep(microseconds)


def sleeps_without_it():
    lets_go.usleep(microseconds)


def wants():
    """Waits for the GIL whenever somebody keeps it: what its sleeps take longer than they should."""
    global waited
    while not done.is_set():
        until = time.perf_counter_ns() + 1_000_000
        time.sleep(0.001)
        waited += max(time.perf_counter_ns() - until - 100_000, 0)


def around(function):
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        function()
        took.append(time.perf_counter_ns() - began)
        # Lets the other one have it in between.
        time.sleep(0.005)
    measured[function.__name__] = {"line": function.__code__.co_firstlineno + 1, "ns": sum(took)}


# What the first call does is found out before.
keeps.usleep(1)
lets_go.usleep(1)
wanting = threading.Thread(target=wants, name="wants", daemon=True)
print(json.dumps({"forever": 59}))
print("READY", flush=True)
if sys.argv[3:]:
    wanting.start()
    time.sleep(0.05)
    keeps.pause()
sys.stdin.readline()
wanting.start()
around(sleeps_with_it)
kept = waited
around(sleeps_without_it)
done.set()
wanting.join()
print(json.dumps({"measured": measured, "others_ns": kept}), flush=True)
sys.stdin.readline()
