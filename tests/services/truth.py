"""What is true of a program's own functions, by its own clocks: `measured` adds up calls, time and CPU time of each and writes
them, now and then, into a file of this process in the folder that `TRUTH` names."""

import functools
import json
import os
import time
from pathlib import Path

EVERY_S = 0.1
ROWS = {}
WRITTEN = [0.0]


def measured(function):
    @functools.wraps(function)
    def run(*arguments, **named):
        began, worked = time.perf_counter_ns(), time.thread_time_ns()
        try:
            return function(*arguments, **named)
        finally:
            row = ROWS.setdefault(function.__name__, [0, 0, 0])
            row[0] += 1
            row[1] += time.perf_counter_ns() - began
            row[2] += time.thread_time_ns() - worked
            if time.monotonic() - WRITTEN[0] > EVERY_S:
                WRITTEN[0] = time.monotonic()
                write()

    return run


def write():
    place = Path(os.environ["TRUTH"], f"{os.getpid()}.json")
    unfinished = place.with_suffix(".part")
    unfinished.write_text(json.dumps(ROWS))
    unfinished.rename(place)


def read(folder):
    """[calls, ns, ns of CPU time] of each function, of all processes."""
    sums = {}
    for place in Path(folder).glob("*.json"):
        for name, row in json.loads(place.read_text()).items():
            sums[name] = [a + b for a, b in zip(sums.get(name, [0, 0, 0]), row)]
    return sums
