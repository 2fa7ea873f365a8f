"""Is busy in every way that a profiler can disturb, and checks all that comes of it: threads, signals up to 2,000 times a second, and
children. Asked by a line, it says how much it has done, and what was wrong."""

import gc
import json
import os
import signal
import sys
import threading
import time
import warnings

warnings.simplefilter("ignore")  # From 3.12 on, about forks of a program with threads.
done = {"rounds": 0, "signals": 0, "children": 0, "wrong": []}


def add(a, b):
    return a + b


def steps(n):
    for i in range(n):
        yield i


def deep(n):
    return 0 if n == 0 else add(1, deep(n - 1))


def raised(n):
    try:
        if n:
            raise KeyError(n)
    except KeyError as error:
        return error.args[0]


def compute():
    rows = [{"number": i, "text": str(i) * 3} for i in range(200)]
    total = 0
    for i in steps(100):
        total = add(total, i)
    found = (total, deep(50), raised(7), sum(row["number"] for row in rows), len("".join(row["text"] for row in rows)))
    if found != (4950, 50, 7, 19900, 1470):
        done["wrong"].append(repr(found))


def works():
    while True:
        compute()
        done["rounds"] += 1


def has_children():
    while True:
        time.sleep(0.02)
        pid = os.fork()
        if pid == 0:
            compute()
            os._exit(7 + len(done["wrong"]))
        status = os.waitpid(pid, 0)[1]
        if status != 7 << 8:
            done["wrong"].append("a child ended with %#x" % status)
        done["children"] += 1


def collects():
    while True:
        time.sleep(0.05)
        kept = []
        kept.append(kept)
        del kept
        gc.collect(0)


def rings(_number, _frame):
    done["signals"] += 1


signal.signal(signal.SIGALRM, rings)
for target in (works, works, has_children, collects):
    threading.Thread(target=target, daemon=True).start()
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
print("READY", flush=True)
while True:
    # A signal that comes while it waits is no end of input.
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    print(json.dumps(done), flush=True)
