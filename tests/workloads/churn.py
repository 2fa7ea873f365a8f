# Functions that are made, run and thrown away one after another, so that the next one's code is where the last one's
# was. Function f_3 runs for as long as its number says; all else is equal.
import gc
import json
import sys
from time import thread_time

ROUNDS, UNIT = int(sys.argv[1]), float(sys.argv[2])
SOURCE = """
def f_%d(length):
    end = thread_time() + length
    while thread_time() < end:
        pass
"""


def churn():
    addresses = []
    spent = [0.0] * 8
    for number in range(ROUNDS):
        which = number * 5 % 8
        scope = {"thread_time": thread_time}
        exec(compile(SOURCE % which, "<churn %d>" % which, "exec"), scope)
        function = scope["f_%d" % which]
        code = function.__code__
        assert (code.co_name, code.co_filename) == ("f_%d" % which, "<churn %d>" % which)
        addresses.append([which, id(code)])
        start = thread_time()
        function(UNIT * (which + 1))
        spent[which] += thread_time() - start
        del function, scope, code
        gc.collect(0)
    return addresses, spent


print("READY", flush=True)
sys.stdin.readline()
addresses, spent = churn()
held = {}
for which, address in addresses:
    held.setdefault(address, set()).add(which)
print(json.dumps({"spent": spent, "most functions at an address": max(map(len, held.values()))}), flush=True)
sys.stdin.readline()
