# Told to, it computes in one function and then in another, for as much CPU time each, and says when the second one began.
import json
import sys
import time

SECONDS = 0.8


def compute(end):
    while time.thread_time() < end:
        sum(range(2_000))


def opening(end):
    compute(end)


def closing(end):
    compute(end)


sys.stdout.write("READY\n")
sys.stdout.flush()
for _ in sys.stdin:
    moments = [time.time()]
    for phase in (opening, closing):
        phase(time.thread_time() + SECONDS)
        moments.append(time.time())
    sys.stdout.write(json.dumps(moments) + "\n")
    sys.stdout.flush()
