"""Threads that run and wait in known parts, and measure how long they did. Whoever writes a line is told.

A line that ends in `!` has the program end afterwards.
"""

import json
import os
import sys
import threading
import time

spent = {}
reader, writer = os.pipe()
lock = threading.Lock()


def measured(function):
    """Adds up the time of its calls, up to now where one is under way."""
    sums = spent.setdefault(function.__name__, [0, 0])

    def call(*arguments):
        sums[1] = time.perf_counter_ns()
        function(*arguments)
        began, sums[1] = sums[1], 0
        sums[0] += time.perf_counter_ns() - began

    return call


@measured
def computes():
    end = time.thread_time_ns() + 30_000_000
    number = 0
    while time.thread_time_ns() < end:
        for i in range(1000):
            number = number * 3 % 7 + i


@measured
def naps():
    time.sleep(0.04)


@measured
def listens():
    os.read(reader, 1)


@measured
def holds():
    time.sleep(0.05)


@measured
def wants():
    with lock:
        pass


@measured
def rests():
    time.sleep(3600)


def works():
    while True:
        computes()
        naps()
        listens()


def talks():
    while True:
        time.sleep(0.13)
        os.write(writer, b"x")


def locks():
    while True:
        with lock:
            holds()
        time.sleep(0.05)


def waits():
    while True:
        wants()
        time.sleep(0.02)


for function in (works, talks, locks, waits, rests):
    threading.Thread(target=function, daemon=True, name=function.__name__).start()
print("READY", flush=True)
for line in sys.stdin:
    now = time.perf_counter_ns()
    answer = {name: total + (now - began if began else 0) for name, (total, began) in spent.items()}
    print(json.dumps({"spent": answer, "now": now}), flush=True)
    if line.endswith("!\n"):
        break
