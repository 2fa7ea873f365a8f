# Memory that comes and goes, is held for a while, or stays: each line it is told is one of these. What stays at `old` and
# `young` differs only in when.
import sys

from known import in_pages, ready, tell, told

BLOCK = 1 << 20
kept = {"old": [], "young": [], "peak": []}


def come_and_go():
    for _ in range(64):
        block = b"t" * BLOCK  # comes and goes
        del block
    tell(bytes=64 * in_pages(sys.getsizeof(b"t" * BLOCK)))


def peak():
    for _ in range(48):
        kept["peak"].append(b"p" * BLOCK)  # the peak
    tell(bytes=48 * in_pages(sys.getsizeof(kept["peak"][0])))


def release():
    kept["peak"].clear()
    tell(released=True)


def old():
    for _ in range(16):
        kept["old"].append(b"o" * BLOCK)  # old
    tell(bytes=16 * in_pages(sys.getsizeof(kept["old"][0])))


def young():
    for _ in range(24):
        kept["young"].append(b"y" * BLOCK)  # young
    tell(bytes=24 * in_pages(sys.getsizeof(kept["young"][0])))


# A block that is freed raises malloc's threshold for mapping: from here on (glibc) blocks of this size come from the heap,
# and are mapped again only with the threshold held. mallopt(3): M_MMAP_THRESHOLD is -3.
try:
    import ctypes

    ctypes.CDLL(None).mallopt(-3, 128 << 10)
except ImportError:
    pass

tell(block=BLOCK)
ready()
while True:
    {"come and go": come_and_go, "peak": peak, "release": release, "old": old, "young": young}[told()]()
