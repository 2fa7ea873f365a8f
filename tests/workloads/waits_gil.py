"""Two threads compute, and one wants the GIL every 10 ms and measures how long it waits for it.

What is measured is the time from the end of a sleep to the next line of Python, so the sleep is to a known moment.
"""

import json
import sys
import threading
import time

SECONDS = float(sys.argv[1])
done = threading.Event()
turns = []
waited = 0


def computes():
    n = 0
    while not done.is_set():
        for i in range(1000):
            n += i * i


def wants():
    global waited
    end = time.perf_counter_ns() + int(SECONDS * 1e9)
    while time.perf_counter_ns() < end:
        until = time.perf_counter_ns() + 10_000_000
        time.sleep(0.01)
        # Later than it asked for: that is when the thread was awake, but had no GIL.
        late = time.perf_counter_ns() - until
        waited += max(late, 0)
        turns.append(late)


threads = [threading.Thread(target=computes, name=f"computes-{n}") for n in range(2)]
wanting = threading.Thread(target=wants, name="wants")
print("READY", flush=True)
sys.stdin.readline()
for thread in threads:
    thread.start()
wanting.start()
wanting.join()
done.set()
for thread in threads:
    thread.join()
print(json.dumps({"waited_ns": waited, "turns": len(turns)}), flush=True)
sys.stdin.readline()
