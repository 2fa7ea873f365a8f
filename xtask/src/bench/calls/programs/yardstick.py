"""Calls a function and does little else, in portions of fixed work: the worst case of whoever counts calls.

Reads `ROUNDS`, or `cprofile ROUNDS` to do them under cProfile, from each line of standard input, and prints what they
took and how many calls they were.
"""

import cProfile
import json
import sys
import time

NUMBERS = range(1000)


def called(number):
    return number


def one_round():
    for number in NUMBERS:
        called(number)


def main():
    print("READY", flush=True)
    for line in sys.stdin:
        *how, rounds = line.split()
        rounds = int(rounds)
        profile = cProfile.Profile() if how else None
        if profile:
            profile.enable()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            one_round()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        if profile:
            profile.disable()
        calls = rounds * (len(NUMBERS) + 1)
        print(json.dumps({"cpu_s": cpu, "wall_s": wall, "calls": calls}), flush=True)


main()
