"""Two threads hand a lock to each other, as fast as they can.

Reads a number of hand-overs from each line of standard input, makes them, and prints what that took.
"""

import json
import sys
import threading
import time


def hand_over(rounds):
    to, fro = threading.Lock(), threading.Lock()
    to.acquire()
    fro.acquire()

    def other():
        for _ in range(rounds):
            to.acquire()
            fro.release()

    thread = threading.Thread(target=other)
    thread.start()
    for _ in range(rounds):
        to.release()
        fro.acquire()
    thread.join()


def main():
    print("READY", flush=True)
    for line in sys.stdin:
        rounds = int(line)
        wall, cpu = time.perf_counter(), time.process_time()
        hand_over(rounds // 2)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps({"cpu_s": cpu, "wall_s": wall}), flush=True)


main()
