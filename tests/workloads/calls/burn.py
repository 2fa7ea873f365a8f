"""A loop that calls and does nothing else, until it is ended."""

import sys
import time


def hot(n):
    total = 0
    for i in range(n):
        total += i
    return total


print("READY", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    hot(2000)
sys.exit(1)
