"""Starts as many sleeping processes as the argument says; they and it end when standard input does."""

import os
import sys

reading, writing = os.pipe()
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.close(writing)
        # Sleeps until its parent is gone or closes the other end, so that none is left behind.
        os.read(reading, 1)
        os._exit(0)
print("READY", flush=True)
sys.stdin.read()
os.close(writing)
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
