# Workers that give themselves names nobody expects: cut by the kernel in the middle of a character, no characters at all, and
# with what means something to a path, a line, a folded stack or /proc/PID/stat. It has such a name itself.
import ctypes
import json
import os
import time

NAMES = ["обработчик".encode(), b"\xff", b"../x/\n", b"a;b", b") R 1 (x"]
libc = ctypes.CDLL(None)


def spin():
    while True:
        pass


def work(name, ready):
    libc.prctl(15, name, 0, 0, 0)
    os.write(ready, b".")
    spin()


reading, writing = os.pipe()
workers = []
for name in NAMES:
    pid = os.fork()
    if pid == 0:
        work(name, writing)
    workers.append(pid)
libc.prctl(15, "начальник".encode(), 0, 0, 0)
named = 0
while named < len(NAMES):
    named += len(os.read(reading, len(NAMES)))
print(json.dumps(workers))
print("READY", flush=True)
while True:
    time.sleep(100)
