"""Two threads that wait for each other's lock, for good."""

import threading

first, second = threading.Lock(), threading.Lock()
both = threading.Barrier(3)


def take(mine, other):
    with mine:
        both.wait()
        other.acquire()


threads = [threading.Thread(target=take, args=pair) for pair in [(first, second), (second, first)]]
for thread in threads:
    thread.start()
both.wait()
print("READY", flush=True)
threads[0].join()
