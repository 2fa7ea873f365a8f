# Waits as long as nobody says anything, then naps; says how long it measured either to take.
import json
import sys
import time

NAPS = 100


def long_wait():
    return sys.stdin.readline()


def naps():
    for _ in range(NAPS):
        time.sleep(0.02)


def measured(function):
    began = time.monotonic_ns()
    function()
    return time.monotonic_ns() - began


sys.stdout.write("READY\n")
sys.stdout.flush()
sys.stdin.readline()
sys.stdout.write("waiting\n")
sys.stdout.flush()
times = {"long_wait": measured(long_wait)}
times["naps"] = measured(naps)
sys.stdout.write(json.dumps(times) + "\n")
sys.stdout.flush()
sys.stdin.readline()
