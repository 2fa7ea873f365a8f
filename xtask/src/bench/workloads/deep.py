"""Busy for ever at the bottom of exactly as many Python frames as the argument says."""

import sys


def leaf():
    print("READY", flush=True)
    while True:
        total = 0
        for number in range(1000):
            total = (total + number * 31) % 1_000_003


def descend(more):
    if more:
        descend(more - 1)
    else:
        leaf()


depth = int(sys.argv[1])
sys.setrecursionlimit(depth + 200)
# `<module>`, the leaf and the last `descend` are three of them.
descend(depth - 3)
