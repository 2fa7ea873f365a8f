"""Computes on one CPU, all the time, or (`naps`) takes naps on it beside a process that computes in the same cgroup."""

import json
import os
import subprocess
import sys
import time

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def computes():
    while True:
        sum(range(1000))


def naps():
    late, count = 0, 0
    while True:
        began = time.monotonic_ns()
        time.sleep(0.003)
        late += time.monotonic_ns() - began - 3_000_000
        count += 1


pids = [os.getpid()]
if "naps" in sys.argv:
    pids.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]).pid)
function = naps if "naps" in sys.argv else computes
line = function.__code__.co_firstlineno + (4 if function is naps else 2)
print(json.dumps({"pids": pids, "line": line}))
print("READY", flush=True)
function()
