# A page with 2,000 small calls in it, or as many resumptions of a generator, and nothing else: `page.py plain` or `page.py
# generator`. It says what a page takes as it serves some, half of them no longer than the first number and on average the
# second, in nanoseconds, and goes on serving them.
import json
import sys
import time
from time import perf_counter_ns


def small():
    pass


def turns():
    for _ in range(2000):
        yield


def plain():
    for _ in range(2000):
        small()


def generator():
    for _ in turns():
        pass


def page():
    work()


def serve():
    begin = perf_counter_ns()
    page()
    TIMES.append(perf_counter_ns() - begin)
    time.sleep(0.003)


work = {"plain": plain, "generator": generator}[sys.argv[1]]
TIMES = []
for _ in range(200):
    serve()
print(json.dumps([sorted(TIMES)[100], sum(TIMES) / 200]), flush=True)
print("READY", flush=True)
while True:
    serve()
