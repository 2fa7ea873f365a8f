# Memory that comes and goes, is held for a while, or stays: each line it is told is one of these. What stays at `old` and
# `young` differs only in when.
import ctypes
import sys

from known import in_pages, pace, ready, tell, told

BLOCK = 1 << 20
kept = {"old": [], "young": [], "peak": []}


def come_and_go():
    for _ in range(16):
        block = b"t" * BLOCK  # comes and goes
        del block
        pace(BLOCK)
    tell(bytes=16 * in_pages(sys.getsizeof(b"t" * BLOCK)))


def peak():
    for _ in range(12):
        kept["peak"].append(b"p" * BLOCK)  # the peak
        pace(BLOCK)
    tell(bytes=12 * in_pages(sys.getsizeof(kept["peak"][0])))


def release():
    kept["peak"].clear()
    tell(released=True)


def old():
    for _ in range(8):
        kept["old"].append(b"o" * BLOCK)  # old
        pace(BLOCK)
    tell(bytes=8 * in_pages(sys.getsizeof(kept["old"][0])))


def young():
    for _ in range(10):
        kept["young"].append(b"y" * BLOCK)  # young
        pace(BLOCK)
    tell(bytes=10 * in_pages(sys.getsizeof(kept["young"][0])))


# A block that is freed would raise malloc's threshold for mapping (M_MMAP_THRESHOLD in mallopt(3)): from there on blocks
# would come from the heap, in pages that others have touched.
ctypes.CDLL(None).mallopt(-3, 128 << 10)

tell(block=BLOCK)
ready()
while True:
    {"come and go": come_and_go, "peak": peak, "release": release, "old": old, "young": young}[told()]()
