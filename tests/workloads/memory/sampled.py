# Allocates under an exact account of its own, and says what stands in CPython's table of allocators: `sampled.py [TURNS]`.
# Told `slots`, it says the words of the table; told `go`, it works and says what it has asked for and kept.
import ctypes
import itertools
import sys

from known import ready, tell

# Not literals: the compiler would make one object of all.
LARGE, KEPT, BIG = 4000, 367, 300_000
TURNS = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
kept, big = [None] * 200_000, [None] * 100
# Numbers that are there already.
INDICES = list(range(len(kept)))


def churn():
    # No numbers are made on the way: each turn is one block.
    for _ in itertools.repeat(None, TURNS):
        bytes(LARGE)


def keep():
    for at in INDICES:
        kept[at] = bytes(KEPT)  # kept


def keep_big():
    for at in INDICES[: len(big)]:
        big[at] = bytes(BIG)  # big


def slots():
    found = []
    for domain in (1, 2):
        words = (ctypes.c_void_p * 5)()
        ctypes.pythonapi.PyMem_GetAllocator(ctypes.c_int(domain), ctypes.byref(words))
        found.extend(word or 0 for word in words)
    return found


churn()
ready()
for line in sys.stdin:
    if line.strip() == "slots":
        tell(slots=slots())
        continue
    churn()
    keep()
    keep_big()
    size = sys.getsizeof(bytes(LARGE))
    tell(
        churned={"count": TURNS, "bytes": TURNS * size},
        kept={"count": len(kept), "bytes": len(kept) * sys.getsizeof(kept[0])},
        big={"count": len(big), "bytes": len(big) * sys.getsizeof(big[0])},
    )
