"""Two threads that wait for each other's lock, for good; the main thread waits for both."""

import json
import sys
import threading

first, second = threading.Lock(), threading.Lock()
both = threading.Barrier(3)


def one_way():
    with first:
        both.wait()
        second.acquire()  # line one


def other_way():
    with second:
        both.wait()
        first.acquire()  # line other


threads = [threading.Thread(target=one_way, daemon=True), threading.Thread(target=other_way, daemon=True)]
for thread in threads:
    thread.start()
both.wait()
print(json.dumps({"one_way": 14, "other_way": 20}))
print("READY", flush=True)
sys.stdin.readline()
