"""Busy for ever at the bottom of exactly as many Python frames as the argument says.

A second argument says how many of them are called by C code, a third makes each of them a function of its own.
"""

import marshal
import sys


def leaf():
    print("READY", flush=True)
    while True:
        total = 0
        for number in range(1000):
            total = (total + number * 31) % 1_000_003


def descend(more):
    if more == 0:
        leaf()
    elif more <= callbacks:
        list(map(descend, [more - 1]))
    else:
        descend(more - 1)


OWN = """
def step_{0}(more, seen=None):
    names = []
    for index in range(2):
        if index:
            names.append(index)
        else:
            names.extend(())
    if seen is None:
        seen = {{}}
    if more == 0:
        return leaf()
    result = step_{1}(more - 1, seen)
    seen["result"] = result
    return len(names), seen
"""


def define(functions):
    """As from a module's file: what is compiled here has been asked for hashes that what is loaded has not."""
    text = "".join(OWN.format(number, number + 1) for number in range(functions))
    code = compile(text, __file__, "exec")
    exec(marshal.loads(marshal.dumps(code)), globals())


depth = int(sys.argv[1])
callbacks = int(sys.argv[2]) if len(sys.argv) > 2 else 0
sys.setrecursionlimit(depth + 200)
# `<module>`, the leaf and the last `descend` are three of them.
if len(sys.argv) > 3:
    define(depth)
    step_0(depth - 3)
else:
    descend(depth - 3)
