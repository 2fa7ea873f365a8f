"""Code objects that come to lie where others were: text that is compiled, run and thrown away, again and again.

Which frames may follow the three functions is known: `tests/e2e/renewed.rs` says it.
"""
import time


def same_text():
    eval("sum(i * i for i in range(3000))")


def own_names():
    for text in ("[(lambda heavy: sum(range(heavy)))(9000) for row in (1,)]", "sum(y for y in range(2000))"):
        eval(text)


def own_files(number):
    # Names, files and tables of lines are of the same length each time, and so are at the same addresses.
    text = "def outer_%03d():\n    return inner_%03d()\ndef inner_%03d():\n" % (number, number, number)
    text += "\n" * (number % 7) + "    return sum(j * j for j in range(2000))\n"
    space = {}
    exec(compile(text, "file_%03d.py" % number, "exec"), space)
    space["outer_%03d" % number]()


def in_turn():
    number = 0
    while True:
        for work in (same_text, own_names):
            until = time.perf_counter() + 0.02
            while time.perf_counter() < until:
                work()
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            number = (number * 5 + 7) % 251
            own_files(number)


print("READY", flush=True)
in_turn()
