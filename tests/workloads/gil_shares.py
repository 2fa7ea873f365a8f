"""A thread that computes in Python, and one that does so half of its time and hashes with the GIL released else.

Each measures its CPU time with the GIL and without. Whoever writes a line is told what they came to so far.
"""

import hashlib
import json
import sys
import threading
import time

held = {"hogs": 0, "mixes": 0}
released = {"mixes": 0}


def python(n):
    number = 0
    for i in range(n):
        number = number * 3 % 7 + i
    return number


def hogs():
    while True:
        before = time.thread_time_ns()
        python(20000)
        held["hogs"] += time.thread_time_ns() - before


def hashes():
    before = time.thread_time_ns()
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 8000)
    released["mixes"] += time.thread_time_ns() - before


def mixes():
    while True:
        before = time.thread_time_ns()
        python(20000)
        held["mixes"] += time.thread_time_ns() - before
        hashes()


for function in (hogs, mixes):
    threading.Thread(target=function, daemon=True, name=function.__name__).start()
print("READY", flush=True)
for _ in sys.stdin:
    print(json.dumps({"held": held, "released": released}), flush=True)
