# Leaks at three lines, a known number of bytes at each, while it churns: `leak.py ROUNDS [MIB [CHURNS [storm]]]`.
#
# A page can only be charged to a line if that is the line whose memory it holds. So that 5 % are a question of the
# profiler and not of what "whose" means:
# - Each line leaks tens of MiB. What lies between the lines (part of a last pool, a last page, list slots) is kilobytes.
# - The small objects are of a size class (353 to 368 bytes) that nothing else here uses: a pool that the churn began and
#   the leak went on to fill would hold memory of both. 11 such blocks fill 4,048 of a 4 KiB pool (up to 3.9), 44 fill
#   16,192 of one of 16 KiB (3.10 on): the pages are 1.2 % more than the blocks.
# - Large bytes and arrays are so large that malloc maps each by itself. Blocks of the heap that the churn has touched and
#   freed would serve the leak, and the leaked bytes would lie in pages that came by the churn.
# - malloc is told not to give the churn's pages back and fault them in again, and the arenas are fragmented, as in a
#   process that has run for a while: 100,000 faults a second can only be sampled, and then 32 MiB are known to 10 %. With
#   `storm` things are left alone, and do just that.
# - Arrays stay below the 4 MiB from which on numpy asks for huge pages.
# - The lists that hold the leak are as long as they get from the beginning on.
# - The churn has run, and so has what it needs, before anybody looks.
import ctypes
import gc
import sys
import time

from known import in_pages, in_pool, ready, tell, told

try:
    import numpy
except ImportError:
    numpy = None

ROUNDS = int(sys.argv[1])
MIB = int(sys.argv[2]) if len(sys.argv) > 2 else 48
CHURNS = int(sys.argv[3]) if len(sys.argv) > 3 else 16

# Of 300 rounds or more each lasts so long at least: on a machine that is faster than those it was made on, faults would come too
# fast to be followed one by one.
ROUND = 0.012

SMALL = 330
LARGE = 1 << 20
ARRAY = (2 << 20) - 4096

smalls_per_round = (MIB << 20) // in_pool(sys.getsizeof(bytes(SMALL))) // ROUNDS
# mallopt(3): M_TRIM_THRESHOLD and M_MMAP_THRESHOLD. Neither moves by itself once it is set.
if "storm" not in sys.argv:
    libc = ctypes.CDLL(None)
    libc.mallopt(-1, 64 << 20)
    libc.mallopt(-3, 512 << 10)

small_objects = [None] * (smalls_per_round * ROUNDS)
large_bytes = [None] * MIB
arrays = [None] * (MIB // 2)


def churn():
    words = [str(number) for number in range(2000)]
    table = {word: [word] for word in words}
    text = " ".join(words)
    parts = [part.upper() for part in text.split()]
    buffers = [b"y" * 20_000 for _ in range(8)]
    mapped = b"z" * 300_000
    return len(table) + len(parts) + len(buffers) + len(mapped)


def leak_small(first):
    for index in range(first, first + smalls_per_round):
        small_objects[index] = bytes(SMALL)  # small objects


def leak_large(index):
    large_bytes[index] = b"x" * LARGE  # large bytes


def leak_array(index):
    if numpy:
        arrays[index] = numpy.arange(ARRAY / 8)  # arrays of numpy
    else:
        arrays[index] = bytearray(b"x") * ARRAY  # arrays of bytes


def round_of(number):
    leak_small(number * smalls_per_round)
    # As many of each in all, evenly spread over the rounds.
    for index in range(number * len(large_bytes) // ROUNDS, (number + 1) * len(large_bytes) // ROUNDS):
        leak_large(index)
    for index in range(number * len(arrays) // ROUNDS, (number + 1) * len(arrays) // ROUNDS):
        leak_array(index)
    for _ in range(CHURNS):
        churn()


def fragmented():
    # No arena that the churn takes place in ever becomes empty: up to 3.9 they are 256 KiB, and each would be unmapped and
    # mapped again, page by page.
    scaffold = [[str(number), [number]] for number in range(8000)]
    return scaffold[::16]


def main():
    pins = None if "storm" in sys.argv else fragmented()
    for _ in range(20):
        churn()
    leak_small(0)
    leak_large(0)
    leak_array(0)
    # Kept: freed, the array would raise malloc's threshold to its own size, if that is left alone.
    before = [small_objects[0], large_bytes[0], arrays[0]]
    small_objects[:smalls_per_round] = [None] * smalls_per_round
    gc.collect()
    tell(numpy=bool(numpy))
    ready()
    told()
    began = time.monotonic()
    for number in range(ROUNDS):
        round_of(number)
        if ROUNDS >= 300 and "storm" not in sys.argv:
            time.sleep(max(0, began + (number + 1) * ROUND - time.monotonic()))
    pool = 4096 if sys.version_info < (3, 10) else 16384
    size = in_pool(sys.getsizeof(small_objects[0]))
    pools = -(-len(small_objects) // ((pool - 48) // size))
    array = ARRAY if numpy else sys.getsizeof(arrays[0])
    tell(
        # What was asked for, with each object's header, and the pages that takes.
        small={"bytes": len(small_objects) * size, "pages": pools * pool, "count": len(small_objects)},
        large={
            "bytes": sum(map(sys.getsizeof, large_bytes)),
            "pages": len(large_bytes) * in_pages(sys.getsizeof(large_bytes[0])),
            "count": len(large_bytes),
        },
        arrays={"bytes": len(arrays) * array, "pages": len(arrays) * in_pages(array), "count": len(arrays)},
    )
    told()
    del before, pins


main()
