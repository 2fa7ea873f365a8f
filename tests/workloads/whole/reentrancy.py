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


print("READY", flush=True)
turns(int(os.read(0, 32)))
print("DONE", flush=True)
os.read(0, 32)
