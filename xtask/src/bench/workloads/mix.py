"""A mix of what Python programs do, in portions of fixed work.

Reads a number of rounds from each line of standard input, does that much work, and prints what it took.
"""

import json
import sys
import time


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def arithmetic(steps):
    x, y, whole = 0.5, 0.25, 1
    for step in range(1, steps):
        x, y = x * y + 0.75, y / (x + step)
        whole = (whole * 31 + step) % 1_000_003
    return x + y + whole


def dictionaries(size):
    counts = {}
    for number in range(size):
        key = number * 7919 % 251
        counts[key] = counts.get(key, 0) + 1
    return sum(key * count for key, count in counts.items())


def lists(size):
    numbers = [number * 7919 % 1009 for number in range(size)]
    numbers.sort()
    return sum(number for number in numbers if number % 3)


def strings(size):
    words = [f"word-{number % 97}" for number in range(size)]
    text = " ".join(words).replace("word", "w").upper()
    return len(text.split("-")) + text.count("7")


class Account:
    def __init__(self):
        self.balance = 0
        self.moves = []

    def add(self, amount):
        self.balance += amount
        self.moves.append(amount)

    @property
    def length(self):
        return len(self.moves)


def objects(size):
    account = Account()
    for number in range(size):
        account.add(number)
        if account.length > 50:
            account.moves.clear()
    return account.balance


def descend(depth):
    """Thirty frames of it, and some work at the bottom."""
    if depth > 1:
        return descend(depth - 1) + 1
    return arithmetic(300)


def one_round():
    fibonacci(12)
    arithmetic(800)
    dictionaries(800)
    lists(800)
    strings(300)
    objects(500)
    for _ in range(4):
        descend(28)


def main():
    print("READY", flush=True)
    for line in sys.stdin:
        rounds = int(line)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            one_round()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps({"cpu_s": cpu, "wall_s": wall}), flush=True)


main()
