# Functions that take a known time: `timed.py CALLS`. Each looks at the clock first and last, and so does who calls it:
# its time is between the two, whoever else runs on this machine meanwhile. Told to go, it calls them and says what was
# measured, in nanoseconds: {"name": {"within": [time of each call], "around": [time of each call]}}.
import json
import sys
import time
from time import perf_counter_ns

CALLS = int(sys.argv[1])
MICROSECOND = 1000
TIMES = {}


def spin(start, length):
    end = start + length * MICROSECOND
    while True:
        now = perf_counter_ns()
        if now >= end:
            return now


def around(name, function, *arguments):
    start = perf_counter_ns()
    try:
        function(*arguments)
    finally:
        TIMES[name]["around"].append(perf_counter_ns() - start)


def sleeps():
    start = perf_counter_ns()
    time.sleep(0.002)
    SLEPT.append(perf_counter_ns() - start)


def spins():
    start = perf_counter_ns()
    SPUN.append(spin(start, 300) - start)


def uneven(length):
    start = perf_counter_ns()
    LONG_AND_SHORT.append(spin(start, length) - start)


def fails():
    start = perf_counter_ns()
    FAILED.append(spin(start, 300) - start)
    raise KeyError


class Service:
    def handles(self):
        start = perf_counter_ns()
        around("asks", self.asks)
        HANDLED.append(perf_counter_ns() - start)

    def asks(self):
        start = perf_counter_ns()
        ASKED.append(spin(start, 200) - start)


def often():
    for _ in range(CALLS):
        start = perf_counter_ns()
        spins()
        AROUND_SPINS.append(perf_counter_ns() - start)


def rarely():
    for _ in range(CALLS // 4):
        start = perf_counter_ns()
        spins()
        AROUND_SPINS.append(perf_counter_ns() - start)


def not_chosen(service):
    for _ in range(CALLS):
        around("sleeps", sleeps)
    often()
    rarely()
    for turn in range(CALLS):
        around("uneven", uneven, 4000 if turn % 10 == 9 else 250)
        try:
            around("fails", fails)
        except KeyError:
            pass
        around("handles", service.handles)


def within(name):
    TIMES[name] = {"within": [], "around": []}
    return TIMES[name]["within"]


SLEPT = within("sleeps")
SPUN = within("spins")
AROUND_SPINS = TIMES["spins"]["around"]
LONG_AND_SHORT = within("uneven")
FAILED = within("fails")
HANDLED = within("handles")
ASKED = within("asks")
SERVICE = Service()

print("READY", flush=True)
sys.stdin.readline()
not_chosen(SERVICE)
print(json.dumps(TIMES), flush=True)
sys.stdin.readline()
