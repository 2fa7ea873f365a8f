"""Waits twenty times for long and a thousand times for a short while."""

import json
import sys
import time

LONG, SHORT = float(sys.argv[1]), float(sys.argv[2])


def waits_long():
    time.sleep(LONG)


def waits_briefly():
    time.sleep(SHORT)


def around(function, rounds):
    began = time.perf_counter_ns()
    for _ in range(rounds):
        function()
    took = time.perf_counter_ns() - began
    return {"line": function.__code__.co_firstlineno + 1, "ns": took, "count": rounds}


print("READY", flush=True)
sys.stdin.readline()
measured = {"waits_long": around(waits_long, 20), "waits_briefly": around(waits_briefly, 1000)}
print(json.dumps(measured), flush=True)
sys.stdin.readline()
