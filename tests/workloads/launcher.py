"""A process that only waits, and three below it that work: two children, and a child of one of them.

Each works for a part of the time. Ends when its standard input does.
"""

import json
import os
import sys
import time


def work(share):
    while True:
        end = time.thread_time() + 0.02 * share
        start = time.monotonic()
        while time.thread_time() < end:
            pass
        time.sleep(max(0.0, 0.02 - (time.monotonic() - start)))


def child(share, below=None):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return [pid, *json.loads(os.read(reader, 1000))]
    sys.stdin.close()
    os.close(reader)
    pids = child(below) if below else []
    os.write(writer, json.dumps(pids).encode())
    os.close(writer)
    work(share)


pids = child(0.1, below=0.2) + child(0.1)
print(json.dumps({"pids": pids}), flush=True)
print("READY", flush=True)
sys.stdin.read()
