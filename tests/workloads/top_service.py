"""A service that uses a share of a CPU, whatever else runs beside it, has threads that wait, and memory.

Arguments: its name, which is for others to read, and the share.
"""

import json
import os
import sys
import threading
import time

# Others may have all CPUs.
os.setpriority(os.PRIO_PROCESS, 0, -15)
SHARE = float(sys.argv[2])
WAITING = 3
memory = bytearray(b"x" * (40 << 20))


def idle(ready):
    ready.wait()
    threading.Event().wait()


def work():
    """Uses as much as it is behind."""
    number = 0
    began = time.monotonic()
    used = time.thread_time()
    while True:
        while time.thread_time() - used < SHARE * (time.monotonic() - began):
            for i in range(500):
                number = number * 3 % 7 + i
        time.sleep(0.005)


ready = threading.Barrier(WAITING + 1)
for at in range(WAITING):
    threading.Thread(target=idle, args=(ready,), name="idle-%d" % at, daemon=True).start()
ready.wait()
print(json.dumps({"threads": WAITING + 1}), flush=True)
print("READY", flush=True)
work()
