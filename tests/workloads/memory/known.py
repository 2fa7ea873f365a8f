# How the workloads about memory talk: truths before READY, then one line of JSON for each line they are told.
#
# They never look at /proc themselves: some run in a root without one, and what is resident is asked by the test, from
# outside, while the workload waits.
import json
import os
import sys
import time

PAGE = 4096


def tell(**truth):
    print(json.dumps(truth), flush=True)


def ready():
    print("READY", flush=True)


def told():
    line = sys.stdin.readline()
    if not line:
        # Whoever tests has gone.
        os._exit(0)
    return line.strip()


def in_pool(size):
    # What a request of pymalloc's takes of its pool: 16 bytes are the unit since 3.7 on 64-bit machines.
    return (size + 15) // 16 * 16


def in_pages(size):
    # What a block takes that malloc maps by itself: 16 bytes for its header, then whole pages (glibc 2.28 to 2.42).
    return (size + 16 + PAGE - 1) // PAGE * PAGE


def pace(size):
    # Called for each piece of memory that is touched. Some thousands of faults a second are followed one by one, and the
    # numbers are exact; of more, samples are taken (leak.py has a test for these). How memory is accounted for can only be
    # told apart from luck with samples if none are: 3,400 pages a second at most, 1,024 at a time.
    global touched
    touched += size
    if touched >= 4 << 20:
        touched = 0
        time.sleep(0.3)


touched = 0
