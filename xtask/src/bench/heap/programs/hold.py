"""Allocates as many blocks as it is told, and holds them."""

import json
import sys
import time

held = []


def main():
    print("READY", flush=True)
    for line in sys.stdin:
        number = int(line)
        # One block itself: what is counted is objects and next to nothing else.
        blocks = [None] * number
        held.append(blocks)
        wall, cpu = time.perf_counter(), time.process_time()
        for index in range(number):
            blocks[index] = object()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps({"cpu_s": cpu, "wall_s": wall}), flush=True)


main()
