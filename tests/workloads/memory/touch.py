# Touches memory in every way that the kernel tells apart. Each line it is told is a function of it; the answer says how
# many bytes became resident by that.
import ctypes
import mmap
import os
import tempfile

from known import pace, ready, tell, told

try:
    import numpy
except ImportError:
    numpy = None

PAGE = 4096
HUGE = 2 << 20
SIZE = 16 << 20
# include/uapi/asm-generic/mman-common.h
MADV_DONTNEED, MADV_HUGEPAGE = 4, 14
MADV_POPULATE_WRITE = 23  # Linux 5.14
MAP_NONBLOCK = 0x10000
MAP_POPULATE = 0x8000  # mmap.MAP_POPULATE since 3.10
libc = ctypes.CDLL(None, use_errno=True)
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
kept = {}


def region(size=SIZE):
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def advise(memory, advice):
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.madvise(start, len(memory), advice) == 0, os.strerror(ctypes.get_errno())


def huge():
    memory = kept["huge"] = region()
    advise(memory, MADV_HUGEPAGE)
    for at in range(0, SIZE, PAGE):
        memory[at] = 1  # huge pages
    tell(bytes=SIZE)


def array():
    # From 4 MiB on numpy (1.22 on) asks for huge pages itself.
    kept["array"] = numpy.arange(SIZE / 8)  # an array of huge pages
    tell(bytes=SIZE)


def zero():
    memory = kept["zero"] = region()
    for at in range(0, SIZE, PAGE):
        memory[at]  # reads what nobody has written
        pace(PAGE)
    # All of it is one page of the kernel's, which is nobody's memory (do_anonymous_page, ZERO_PAGE).
    tell(bytes=0)


def write():
    memory = kept["zero"]
    for at in range(0, SIZE, PAGE):
        memory[at] = 1  # writes what was only read
        pace(PAGE)
    tell(bytes=SIZE)


def file():
    with tempfile.TemporaryFile() as opened:
        for _ in range(0, SIZE, PAGE):
            opened.write(b"f" * PAGE)
        opened.flush()
        memory = kept["file"] = mmap.mmap(opened.fileno(), SIZE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    for at in range(0, SIZE, PAGE):
        memory[at]  # reads a mapped file
        pace(PAGE)
    tell(bytes=SIZE)


def kernel():
    memory = kept["kernel"] = region()
    with open("/dev/zero", "rb", buffering=0) as zeros:
        for at in range(0, SIZE, HUGE):
            zeros.readinto(memoryview(memory)[at : at + HUGE])  # the kernel writes
            pace(HUGE)
    tell(bytes=SIZE)


def populated():
    # The kernel maps all of it within the system call: no page has a fault.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_POPULATE
    kept["populated"] = mmap.mmap(-1, SIZE, flags=flags)  # mapped with its pages
    tell(bytes=SIZE)


def populated_in_name():
    # What may not be touched is not populated, what may be read only is the page of zeros, and with MAP_NONBLOCK nothing is.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_POPULATE
    kept["name"] = [
        mmap.mmap(-1, SIZE, flags=flags, prot=prot) for prot in (0, mmap.PROT_READ)
    ]  # populated in name
    kept["name"].append(mmap.mmap(-1, SIZE, flags=flags | MAP_NONBLOCK))
    tell(bytes=0)


def populated_by_advice():
    memory = kept["advice"] = region()
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for _ in range(3):
        assert libc.madvise(start, SIZE, MADV_POPULATE_WRITE) == 0  # populated by advice
    tell(bytes=SIZE)


def populated_and_gone():
    for _ in range(SIZE // HUGE):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_POPULATE
        memory = mmap.mmap(-1, HUGE, flags=flags)  # populated and given back
        memory.close()
        pace(HUGE)
    tell(bytes=0)


def advised():
    memory = region()
    kept["advised"] = memory
    for at in range(0, SIZE, PAGE):
        memory[at] = 1  # given back by advice
        pace(PAGE)
    advise(memory, MADV_DONTNEED)
    tell(bytes=0)


def moved():
    # mremap: smaller by half, then larger again, which may move it.
    memory = kept["moved"] = region()
    for at in range(0, SIZE, PAGE):
        memory[at] = 1  # moved
        pace(PAGE)
    memory.resize(SIZE // 2)
    kept["wall"] = region(PAGE)
    memory.resize(2 * SIZE)
    tell(bytes=SIZE // 2)


def cycle():
    for _ in range(SIZE // HUGE):
        memory = region(HUGE)
        for at in range(0, HUGE, PAGE):
            memory[at] = 1  # comes and goes
        memory.close()
        pace(HUGE)
    tell(bytes=0)


tell(numpy=bool(numpy))
ready()
while True:
    globals()[told()]()
