# Computes, waits and grows, all the time: some of each in every window.
import time

kept = []


def compute():
    end = time.thread_time() + 0.01
    while time.thread_time() < end:
        pass


def nap():
    time.sleep(0.01)


def keep():
    # Written to, or it would not be resident.
    kept.append(bytearray(b"x" * 100_000))


print("READY", flush=True)
for _ in range(20_000):
    compute()
    nap()
    keep()
