# A process with three children that have a MemoryError when they are told to: one keeps ever more until its address space is
# used up, at a line that is told; one lives on after that; one raises an error of a class of its own, as numpy does.
import io
import os
import resource
import sys

from known import ready, tell, told

BLOCK = 1 << 20
ROOM = 256 << 20
kept = []


class NoRoom(MemoryError):
    pass


def keep():
    kept.append(b"k" * BLOCK)  # kept


def use_up():
    while True:
        keep()


def live_on():
    try:
        use_up()
    except MemoryError:
        kept.clear()


def refuse():
    raise NoRoom("no room for 12 GiB")


def child(work, limited):
    begin, go = os.pipe()
    pid = os.fork()
    if pid:
        os.close(begin)
        return pid, go
    os.close(go)
    os.read(begin, 1)
    if limited:
        resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
    # Nobody is to read what it says of its end.
    sys.stderr = io.StringIO()
    work()
    os._exit(0)


children = [child(use_up, True), child(live_on, True), child(refuse, False)]
tell(children=[pid for pid, _ in children], limit=ROOM)
ready()
while told():
    statuses = []
    for pid, go in children:
        os.write(go, b"x")
        statuses.append(os.waitpid(pid, 0)[1])
    tell(statuses=statuses)
