# So many frames of descend(), then a leaf, in a thread with a large enough stack.
import sys
import threading

DEPTH = int(sys.argv[1])
sys.setrecursionlimit(DEPTH + 100)
threading.stack_size(512 << 20)


def descend(left):
    if left > 1:
        return descend(left - 1)
    return leaf()


def leaf():
    print("READY", flush=True)
    while True:
        pass


def root():
    descend(DEPTH)


thread = threading.Thread(target=root)
thread.start()
thread.join()
