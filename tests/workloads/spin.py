# A chain of three functions that never ends.
import sys


def outer():
    middle()


def middle():
    inner()


def inner():
    while True:
        pass


sys.stdout.write("READY\n")
sys.stdout.flush()
outer()
