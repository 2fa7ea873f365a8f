"""Known numbers of objects, and what the interpreter says of them itself.

Prints one line of JSON: by type its objects and their bytes, as gc.get_objects() and sys.getsizeof() have them; which
classes are counted by hand as the collector does not know them; and what holds some. With "grow" it adds a known number of
objects for each line that it reads, and says what they come to.
"""

import collections
import gc
import json
import sys
import threading
import time
import types

N = 20_000


class Plain:
    def __init__(self, number):
        self.number = number
        self.other = None


class Slots:
    __slots__ = ("x", "y")

    def __init__(self, number):
        self.x = float(number)
        self.y = number


class Node:
    def __init__(self, next):
        self.next = next


class InClass:
    pass


class InClosure:
    pass


class InLocal:
    pass


class Text(str):
    __slots__ = ()


class Items(list):
    pass


class Table(dict):
    pass


class Some(set):
    pass


class Queue(collections.deque):
    pass


class Pair(tuple):
    pass


class Registry:
    items = {}


app = types.ModuleType("app")
sys.modules["app"] = app
app.cache = {"plain": [Plain(number + 10**6) for number in range(N)]}
slots = [Slots(number + 10**7) for number in range(N)]
tables = [Table((str(key), key) for key in range(number % 60)) for number in range(1000)]
items = [Items(range(number % 100)) for number in range(1000)]
some = [Some(range(number % 60)) for number in range(1000)]
queues = [Queue(range(number * 3)) for number in range(200)]
pairs = [Pair(range(number % 100)) for number in range(1000)]
texts = [Text("x" * (number * 3)) for number in range(1000)]
for number in range(50):
    Registry.items["key %d" % number] = [InClass()]
head = None
for _ in range(1000):
    head = Node(head)


def closure():
    hidden = [InClosure() for _ in range(30)]
    return lambda: hidden


app.function = closure()
ready = threading.Event()


def in_local():
    kept = {"deep": [InLocal() for _ in range(40)]}
    ready.set()
    time.sleep(600)
    return kept


threading.Thread(target=in_local, daemon=True).start()
ready.wait()


def name(kind):
    return kind.__name__ if kind.__module__ == "builtins" else kind.__module__ + "." + kind.__name__


def said():
    kinds = {}
    for one in gc.get_objects():
        kind = kinds.setdefault(name(type(one)), [0, 0])
        kind[0] += 1
        kind[1] += sys.getsizeof(one)
    for one in (slots, texts, pairs):
        kinds[name(type(one[0]))] = [len(one), sum(map(sys.getsizeof, one))]
    return kinds


gc.collect()
gc.disable()
print(json.dumps(said()))
print("READY", flush=True)
kept = []
app.kept = kept
for line in sys.stdin:
    if line.strip() == "grow":
        for number in range(5000):
            kept.append({"a": number + 0.5, "b": "text %d" % number, "c": b"bytes %d" % number, "d": (number, kept)})
        print("GREW", flush=True)
    elif line.strip() == "churn":
        threading.Thread(target=lambda: [None for _ in iter(lambda: [Plain(n) for n in range(500)], None)], daemon=True).start()
        print("CHURNS", flush=True)
