"""Makes cycles until they are collected: `collecting.py CYCLES`, then a line on standard input for each go.

After each go one line of JSON: what gc.get_stats() says was added, and what gc.callbacks say of pauses."""

import gc
import json
import sys
import time


class Node:
    pass


PAUSES = [[0, 0.0] for _ in range(3)]
STARTED = [0.0]


def watch(phase, info):
    now = time.perf_counter()
    if phase == "start":
        STARTED[0] = now
    else:
        PAUSES[info["generation"]][0] += 1
        PAUSES[info["generation"]][1] += now - STARTED[0]


def cycles(number):
    for _ in range(number):
        one, other = Node(), Node()
        one.other, other.other = other, one  # cycle


def go(number):
    before = gc.get_stats()
    for pauses in PAUSES:
        pauses[:] = [0, 0.0]
    cycles(number)
    gc.collect()  # all
    after = gc.get_stats()
    return {
        "thresholds": gc.get_threshold(),
        "stats": [{key: b[key] - a[key] for key in a} for a, b in zip(before, after)],
        "pauses": PAUSES,
    }


def main():
    kept = [[index] for index in range(100_000)]
    gc.callbacks.append(watch)
    gc.collect()
    print("READY", flush=True)
    for line in sys.stdin:
        print(json.dumps(go(int(sys.argv[1]))), flush=True)
    return kept


main()
