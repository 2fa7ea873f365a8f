"""Text that is given to eval() again and again: compiled, run and thrown away each time.

The argument says which: `same`, one text; `named`, two in turn, each with a function of its own, which run 3 : 1.
Which frames may follow one another is known: `tests/e2e/renewed.rs` says it.
"""
import sys

NAMED = ("[(lambda heavy_x: sum(range(heavy_x)))(30000) for row in (1,)]", "sum(y for y in range(4000))")


def run_rule(text):
    return eval(text)


def same():
    while True:
        eval("sum(i * i for i in range(20000))")


def named():
    while True:
        for text in NAMED:
            run_rule(text)


print("READY", flush=True)
{"same": same, "named": named}[sys.argv[1]]()
