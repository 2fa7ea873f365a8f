"""Calls a function a thousand times a second, on a machine that does a round of the rest in a millisecond.

Reads a number of rounds from each line of standard input and prints what they took: `often.py STEPS OTHERS`, where
`STEPS` says how much the rest is, and `OTHERS` how many calls nobody has chosen are in it.
"""

import json
import sys
import time

STEPS, OTHERS = int(sys.argv[1]), int(sys.argv[2])


def chosen(number):
    return number + 1


def other(number):
    return number * 3 % 7


def rest():
    total = 0
    for step in range(STEPS):
        total += step * 7 % 5
    for step in range(OTHERS):
        total += other(step)
    return total


def main():
    print("READY", flush=True)
    for line in sys.stdin:
        rounds = int(line)
        wall, cpu = time.perf_counter(), time.process_time()
        for number in range(rounds):
            rest()
            chosen(number)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps({"cpu_s": cpu, "wall_s": wall, "calls": rounds}), flush=True)


main()
