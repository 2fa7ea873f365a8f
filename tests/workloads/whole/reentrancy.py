# Two ways to one instruction, taken in turn, as often each as is asked for: 20 times a turn.
import os

from reentrancy_extension import beat_left, beat_right


def left():
    beat_left()


def right():
    right_inner()


def right_inner():
    beat_right()


def turns(count):
    for _ in range(count):
        left()
        right()


# Without Python code of the library's, whose stacks would be others.
os.write(1, b"READY\n")
asked = b""
while not asked.endswith(b"\n"):
    asked += os.read(0, 32)
turns(int(asked))
os.write(1, b"DONE\n")
os.read(0, 32)
