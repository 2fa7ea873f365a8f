"""Does little else than to allocate small objects and to free them, in portions of fixed work: the worst case.

Thousands are held at a time, so that whole pools are filled and emptied, and free lists do not help. Reads a number of
rounds from each line of standard input and prints what they took.
"""

import json
import sys
import time

NUMBERS = range(4000)


class Point:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x = x
        self.y = y


def one_round():
    [object() for _ in NUMBERS]
    [[number] for number in NUMBERS]
    [b"%d" % number for number in NUMBERS]
    [Point(number, number) for number in NUMBERS]
    {number: (number, number) for number in NUMBERS}
    [object() for _ in NUMBERS]
    [str(number) for number in NUMBERS]
    [{number} for number in NUMBERS]


def main():
    print("READY", flush=True)
    for line in sys.stdin:
        rounds = int(line)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            one_round()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps({"cpu_s": cpu, "wall_s": wall}), flush=True)


main()
