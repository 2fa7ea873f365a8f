# Allocates under an exact count: `counted.py COUNTER.so TURNS`. Told `go`, it works and says what was counted since it
# began to listen. What lies between looking at the counter and waiting in read() is a dozen calls.
import ctypes
import sys

from known import ready, tell, told

NAMES = ("allocations", "frees", "bytes", "reallocations")
counter = ctypes.PyDLL(sys.argv[1])
counter.counter_read.argtypes = [ctypes.c_void_p]
turns = int(sys.argv[2])
# Not a literal: the compiler would make one object of all.
KEPT = 67
kept = [None] * turns
before, after = (ctypes.c_ulonglong * 16)(), (ctypes.c_ulonglong * 16)()


class Thing:
    def __init__(self, number):
        self.number = number


def work():
    for turn in range(turns):
        bytes(turn % 400 + 1)
        b"x" * (600 + turn % 1000)
        things = [Thing(turn), {turn: turn}, (turn, turn), str(turn)]
        things.extend(range(20))
        things.clear()


def keep():
    for turn in range(turns):
        kept[turn] = b"k" * KEPT  # kept


def counted():
    counts = [now - then for now, then in zip(after, before)]
    domains = ("raw", "mem", "obj", "nested")
    by_domain = {name: dict(zip(NAMES, counts[4 * at : 4 * at + 4])) for at, name in enumerate(domains)}
    outer = {name: sum(by_domain[domain][name] for domain in ("raw", "mem", "obj")) for name in NAMES}
    tell(outer=outer, kept={"count": turns, "bytes": turns * sys.getsizeof(kept[0])}, **by_domain)


work()
if "uncounted" not in sys.argv:
    counter.counter_install()
tell(turns=turns)
ready()
counter.counter_read(before)
told()
work()
keep()
counter.counter_read(after)
counted()
told()
