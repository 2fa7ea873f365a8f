"""Lines that keep what they make, amid lines that make as much of the same and let it go: 150 requests a second, until
it is ended. Those that keep have KEEPS behind them."""

import collections
import time


class Record:
    __slots__ = ("a", "b")

    def __init__(self, a, b):
        self.a = a
        self.b = b


HELD = [1, 2, 3]
RECORDS, LISTS = [], []
# Of constant size: what is in it stays for a while.
SESSIONS = collections.deque(maxlen=3000)


def request(number):
    held = [Record(number, HELD) for _ in range(200)], [[number, HELD] for _ in range(200)]
    for _ in range(60):
        RECORDS.append(Record(number, HELD))  # KEEPS records
    for _ in range(100):
        Record(number, HELD)
    for _ in range(60):
        LISTS.append([number, HELD])  # KEEPS lists
    for _ in range(20):
        SESSIONS.append([number, HELD])
    return len(held)


def main():
    for _ in range(200):
        request(0)
    print("READY", flush=True)
    number = 0
    while True:
        number += 1
        request(number)
        time.sleep(1 / 150)


main()
