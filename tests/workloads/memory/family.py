# A process that forks, executes another program, or ends half-way: it is told which. What a child says comes through the
# same standard output.
import mmap
import os
import sys

from known import PAGE, pace, ready, tell, told

SIZE = 12 << 20
# Before anybody looks, and in both after a fork.
inherited = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, SIZE, PAGE):
    inherited[at] = 1
kept = []


def leak_in_parent():
    for _ in range(12):
        kept.append(b"p" * (1 << 20))  # in the parent
        pace(1 << 20)


def leak_at_once():
    for _ in range(4):
        kept.append(b"a" * (1 << 20))  # in a child that is new


def leak_in_child():
    for _ in range(12):
        kept.append(b"c" * (1 << 20))  # in the child
        pace(1 << 20)


def copy_in_child():
    # Copies pages that count for the child since the fork: no growth.
    for at in range(0, SIZE, PAGE):
        inherited[at] = 2  # copied on write
        pace(PAGE)


def fork():
    reader, writer = os.pipe()
    done_reader, done_writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        leak_at_once()
        # Some 300 ms, and by then it is no news any more.
        pace(4 << 20)
        leak_in_child()
        copy_in_child()
        tell(child=os.getpid())
        os.write(done_writer, b"d")
        # Until the parent has gone.
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    kept.append(writer)
    # One after the other: both at once would be more than is followed.
    os.read(done_reader, 1)
    leak_in_parent()
    tell(parent=os.getpid())


def execute():
    leak_in_parent()
    os.execv(sys.executable, [sys.executable, os.path.join(os.path.dirname(__file__), "executed.py")])


def end():
    leak_in_parent()
    tell(ending=True)
    os._exit(7)


tell(inherited=SIZE)
ready()
while True:
    what = told()
    if what == "hello":
        # Nothing but a sign of life.
        tell(hello=os.getpid())
    else:
        {"fork": fork, "exec": execute, "end": end}[what]()
