# A child before READY, and one for each line on standard input.
import os
import sys


def spin():
    while True:
        pass


def early_child():
    spin()


def late_child():
    spin()


def grandchild():
    spin()


def parent():
    spin()


def fork(work, *also):
    pid = os.fork()
    if pid == 0:
        if also:
            fork(*also)
        work()
    return pid


print('{"early": %d}' % fork(early_child))
print("READY", flush=True)
sys.stdin.readline()
print(fork(late_child, grandchild), flush=True)
parent()
