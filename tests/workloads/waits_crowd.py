"""Computes on one CPU, for which another process competes all the time."""

import json
import os
import subprocess
import sys

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
print(json.dumps({"pid": os.getpid()}))
print("READY", flush=True)
while True:
    sum(range(1000))
