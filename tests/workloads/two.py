# For 2.7, 3.7 and other versions that are not understood: nothing that they do not have.
import sys


def old_work():
    while True:
        sum(range(1000))


sys.stdout.write("READY\n")
sys.stdout.flush()
old_work()
