# Calls, and between them other things: `other_things.py`. Told a number of rounds it does them, in each of which it calls
# a function and works for some 20 microseconds, and says how often it called.
import json
import sys


def called():
    return WORK


WORK = range(1500)

print("READY", flush=True)
for line in sys.stdin:
    rounds = int(line)
    for _ in range(rounds):
        sum(called())
    print(json.dumps({"calls": {"called": rounds}}), flush=True)
