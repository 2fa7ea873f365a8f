"""Does nothing but to touch new memory: 64 MiB that malloc maps, fills and unmaps (its threshold ends at 32 MiB)."""

import json
import sys
import time

SIZE = 64 << 20
BYTE = bytearray(b"x")


def main():
    print("READY", flush=True)
    for line in sys.stdin:
        rounds = int(line)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            BYTE * SIZE
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps({"cpu_s": cpu, "wall_s": wall}), flush=True)


main()
