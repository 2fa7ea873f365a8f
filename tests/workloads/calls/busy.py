# Calls and little else, a known number of times, as often as it is told to: `busy.py`. Told a number of rounds it does
# them, says how often each function was called and how long it took, and waits to be told again. Told `THREADS rounds`,
# so many threads share them.
import json
import sys
import threading
import time


class Account:
    def __init__(self, balance):
        self.balance = balance

    def add(self, amount):
        self.balance += amount
        return one(self.balance)


def one(x):
    return x + 1


def numbers(n):
    for number in range(n):
        yield number


def descend(depth):
    return descend(depth - 1) + 1 if depth else 0


def one_round():
    account = Account(1)
    for number in numbers(20):
        account.add(number)
    descend(9)


def rounds(count):
    for _ in range(count):
        one_round()


EACH = {"one_round": 1, "__init__": 1, "add": 20, "one": 20, "numbers": 21, "descend": 10}

print("READY", flush=True)
for line in sys.stdin:
    threads, count = ([1] + [int(word) for word in line.split()])[-2:]
    started = time.perf_counter()
    if threads == 1:
        rounds(count)
    else:
        running = [threading.Thread(target=rounds, args=(count,)) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    calls = {name: threads * count * each for name, each in EACH.items()}
    print(json.dumps({"calls": calls, "wall_s": time.perf_counter() - started}), flush=True)
