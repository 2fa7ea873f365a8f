"""Objects that are there to be a nuisance: endless, circular, huge, and with names that act on a terminal."""

import json
import sys
import threading


class Endless:
    pass


def victim():
    deep = []
    for _ in range(100000):
        deep = [deep]
    circle = {}
    circle["self"] = circle
    wide = [0] * 10_000_000
    table = {number: "x" * 50 for number in range(200_000)}
    text = "\x1b[2J\x1b]0;owned\x07" * 1000
    huge = 1 << 1_000_000
    chain = head = Endless()
    for _ in range(100000):
        head.next = Endless()
        head = head.next
    globals()["kept"] = chain
    standing.set()
    threading.Event().wait()


standing = threading.Event()
name = "\x1b[31mred\x1b[0m\u202e"
code = compile("def f():\n    victim()\n", "/tmp/\x1b[2Jevil.py", "exec")
exec(code)
threading.Thread(target=f, name=name, daemon=True).start()
standing.wait()
print(json.dumps({}))
print("READY", flush=True)
sys.stdin.readline()
# Unlinked one by one: a chain that is freed at once overflows the C stack of older versions.
import os

os._exit(0)
