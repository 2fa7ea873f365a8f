"""Asks for URLs on loopback, in turns, for some seconds, and says what that was like as JSON: count, mean and percentiles in ms."""

import http.client
import json
import sys
import threading
import time

port, seconds, clients = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
paths = sys.argv[4:]
taken = {path: [] for path in paths}
end = time.perf_counter() + seconds


def ask():
    turn = 0
    while time.perf_counter() < end:
        path = paths[turn % len(paths)]
        turn += 1
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", path)
        connection.getresponse().read()
        connection.close()
        taken[path].append(time.perf_counter() - began)


threads = [threading.Thread(target=ask) for _ in range(clients)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
report = {}
for path, times in taken.items():
    times.sort()
    if times:
        report[path] = {
            "count": len(times),
            "mean_ms": 1000 * sum(times) / len(times),
            "p50_ms": 1000 * times[len(times) // 2],
            "p95_ms": 1000 * times[int(len(times) * 0.95)],
            "p99_ms": 1000 * times[int(len(times) * 0.99)],
        }
print(json.dumps(report))
