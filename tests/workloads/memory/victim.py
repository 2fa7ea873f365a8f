# A process with a child that keeps ever more until the kernel ends it, at lines that are told. The child begins when it is
# told to, so that it can be put in a cgroup before.
import os
import sys

from known import ready, tell, told

BLOCK = 1 << 20
kept = []


def keep():
    kept.append(b"k" * BLOCK)  # kept


def give_back():
    return b"g" * (BLOCK // 4)


begin, go = os.pipe()
child = os.fork()
if child == 0:
    os.close(go)
    os.read(begin, 1)
    while True:
        keep()
        give_back()
tell(child=child)
ready()
while told():
    os.write(go, b"x")
    _, status = os.waitpid(child, 0)
    tell(signal=os.WTERMSIG(status))
