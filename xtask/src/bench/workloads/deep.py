"""Busy for ever at the bottom of exactly as many Python frames as the argument says.

A second argument says how many of them are called by C code.
"""

import sys


def leaf():
    print("READY", flush=True)
    while True:
        total = 0
        for number in range(1000):
            total = (total + number * 31) % 1_000_003


def descend(more):
    if more == 0:
        leaf()
    elif more <= callbacks:
        list(map(descend, [more - 1]))
    else:
        descend(more - 1)


depth = int(sys.argv[1])
callbacks = int(sys.argv[2]) if len(sys.argv) > 2 else 0
sys.setrecursionlimit(depth + 200)
# `<module>`, the leaf and the last `descend` are three of them.
descend(depth - 3)
