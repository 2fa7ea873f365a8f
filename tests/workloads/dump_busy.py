"""Eight threads that call all the time. Which function calls which is in their names: `a_b` calls what begins with `b_`."""

import json
import sys
import threading
import time

counts = [0] * 8


def c_end(number):
    return sum(range(number % 7))


def b_c(number):
    return c_end(number) + c_end(number + 1)


def a_b(number):
    return b_c(number)


def d_end(number):
    return [c for c in str(number)]


def a_d(number):
    return d_end(number)


def top_a(at):
    while True:
        for number in range(100):
            a_b(number)
            a_d(number)
        counts[at] += 1


for at in range(8):
    threading.Thread(target=top_a, args=(at,), name="busy-%d" % at, daemon=True).start()
print(json.dumps({}))
print("READY", flush=True)
for line in sys.stdin:
    print(json.dumps({"count": sum(counts), "time": time.monotonic()}), flush=True)
