"""Two threads compute, and one wants the GIL every 10 ms and measures how long it waits for it.

What is measured is by how much a sleep takes longer. `time.sleep` would not do: from 3.11 on it sleeps to a moment, and
before that can wait until somebody has taken the GIL that it gives up; `select` sleeps for as long as it is told.
"""

import json
import select
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
        select.select([], [], [], 0.01)  # line it waits at
        # Longer than it asked for: that is when the thread was awake, but could not go on.
        late = time.perf_counter_ns() - until
        waited += max(late, 0)
        turns.append(late)


threads = [threading.Thread(target=computes, name=f"computes-{n}") for n in range(2)]
wanting = threading.Thread(target=wants, name="wants")
with open(__file__) as source:
    line = next(number for number, text in enumerate(source, 1) if text.endswith("# line it waits at\n"))
print(json.dumps({"function": "wants", "line": line}))
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
