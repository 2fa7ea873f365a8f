# Takes memory of three kinds and gives it back in steps: told `hold`, `drop` and `trim`.
#
# - Small objects: a class of their own (see leak.py), so that their arenas are empty when they go, and unmapped.
# - Mapped: blocks that malloc maps and unmaps one by one.
# - Heap: blocks below 128 KiB, from the heap that `brk` extends. free() gives nothing back while something lies above
#   them, and the last block stays for that purpose; malloc_trim(3) hands their pages back with madvise(MADV_DONTNEED).
import ctypes
import gc
import sys

from known import in_pages, in_pool, pace, ready, tell, told

MIB = 16
SMALL, MAPPED, HEAP = 330, 2 << 20, 60_000
# As from the shell `MALLOC_MMAP_THRESHOLD_=131072`: the threshold must not rise when mapped blocks are freed.
M_MMAP_THRESHOLD = -3
libc = ctypes.CDLL(None)
libc.mallopt(M_MMAP_THRESHOLD, 128 << 10)

small_objects = [None] * ((MIB << 20) // in_pool(sys.getsizeof(bytes(SMALL))))
mapped = [None] * (MIB // 2)
heap = [None] * ((MIB << 20) // HEAP)


def hold():
    for index in range(len(small_objects)):
        small_objects[index] = bytes(SMALL)  # small objects
        pace(SMALL)
    for index in range(len(mapped)):
        mapped[index] = b"m" * MAPPED  # mapped
        pace(MAPPED)
    for index in range(len(heap)):
        heap[index] = b"h" * HEAP  # heap
        pace(HEAP)
    tell(
        small={"bytes": len(small_objects) * in_pool(sys.getsizeof(small_objects[0]))},
        mapped={"bytes": len(mapped) * in_pages(sys.getsizeof(mapped[0]))},
        heap={"bytes": len(heap) * sys.getsizeof(heap[0])},
    )


def drop():
    small_objects[:] = [None] * len(small_objects)
    mapped[:] = [None] * len(mapped)
    heap[:-1] = [None] * (len(heap) - 1)
    gc.collect()
    tell(kept=sys.getsizeof(heap[-1]))


def trim():
    tell(trimmed=libc.malloc_trim(0))


tell(mib=MIB)
ready()
while True:
    {"hold": hold, "drop": drop, "trim": trim}[told()]()
