# Functions that take a known time: `timed.py CALLS`. Each looks at the clock first and last. Told to go, it calls them
# and says what it measured, in nanoseconds: {"name": [time of each call]}.
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
        self.asks()
        HANDLED.append(perf_counter_ns() - start)

    def asks(self):
        start = perf_counter_ns()
        ASKED.append(spin(start, 200) - start)


def often():
    for _ in range(CALLS):
        spins()


def rarely():
    for _ in range(CALLS // 4):
        spins()


def not_chosen(service):
    for _ in range(CALLS):
        sleeps()
    often()
    rarely()
    for turn in range(CALLS):
        uneven(4000 if turn % 10 == 9 else 250)
        try:
            fails()
        except KeyError:
            pass
        service.handles()


SLEPT = TIMES["sleeps"] = []
SPUN = TIMES["spins"] = []
LONG_AND_SHORT = TIMES["uneven"] = []
FAILED = TIMES["fails"] = []
HANDLED = TIMES["handles"] = []
ASKED = TIMES["asks"] = []
SERVICE = Service()

print("READY", flush=True)
sys.stdin.readline()
not_chosen(SERVICE)
print(json.dumps(TIMES), flush=True)
sys.stdin.readline()
