"""A thread that is not the first one execs what naps twenty times; when it is told to."""

import os
import sys
import threading

NAPS = """
import json, time
def naps():
    for _ in range(20):
        time.sleep(0.05)
began = time.monotonic_ns()
naps()
print(json.dumps({"ns": time.monotonic_ns() - began}), flush=True)
input()
"""


def execs():
    sys.stdin.readline()
    os.execv(sys.executable, [sys.executable, "-c", NAPS])


thread = threading.Thread(target=execs)
thread.start()
print("READY", flush=True)
thread.join()
