# Functions that are made, called and thrown away, one where the other was: `replaced.py ROUNDS`. Told to go, it says how
# often each was called, by file, and the largest number of functions at one address.
import gc
import json
import sys

ROUNDS = int(sys.argv[1])
CALLS = {}
HELD = {}


def rounds():
    for number in range(ROUNDS):
        which = number * 5 % 8
        scope = {}
        exec(compile("def f_%d(): pass" % which, "<replaced %d>" % which, "exec"), scope)
        function = scope["f_%d" % which]
        HELD.setdefault(id(function.__code__), set()).add(which)
        for _ in range(which + 1):
            function()
        CALLS["<replaced %d>" % which] = CALLS.get("<replaced %d>" % which, 0) + which + 1
        del function, scope
        gc.collect(0)


print("READY", flush=True)
sys.stdin.readline()
rounds()
print(json.dumps({"calls": CALLS, "most at an address": max(map(len, HELD.values()))}), flush=True)
sys.stdin.readline()
