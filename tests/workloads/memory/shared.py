# Memory that several have: a block of shared memory, a mapped file, and what a worker has inherited. Each line it is told is
# a step; the answer says how many bytes came by it.
import mmap
import os
import tempfile

from known import pace, ready, tell, told

PAGE = 4096
SIZE = 8 << 20
block = mmap.mmap(-1, SIZE)
heap = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, SIZE, PAGE):
    heap[at] = 1


def write_block():
    for at in range(0, SIZE, PAGE):
        block[at] = 1  # writes the block
        pace(PAGE)


def read_file(opened):
    memory = mmap.mmap(opened.fileno(), SIZE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    for at in range(0, SIZE, PAGE):
        memory[at]  # reads the file
        pace(PAGE)
    return memory


def read_block():
    for at in range(0, SIZE, PAGE):
        block[at]  # reads the block


def write_inherited():
    for at in range(0, SIZE, PAGE):
        heap[at] = 2  # copies
        pace(PAGE)


order, to_worker = os.pipe()
from_worker, answer = os.pipe()
worker = os.fork()
if worker == 0:
    while True:
        step = os.read(order, 1)
        if not step:
            os._exit(0)
        {b"r": read_block, b"w": write_inherited}[step]()
        os.write(answer, b".")
os.close(order)
with tempfile.TemporaryFile() as opened:
    opened.write(b"f" * SIZE)
    opened.flush()
    tell(worker=worker)
    ready()
    told()
    write_block()
    kept = read_file(opened)
    for step in b"r", b"w":
        os.write(to_worker, step)
        os.read(from_worker, 1)
    tell(bytes=SIZE)
    told()
