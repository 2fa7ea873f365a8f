"""A fixed amount of work: pages are fetched, rendered and stored. Argument: how many times as much `render` does."""

import sys


def fetch(n):
    total = 0
    for i in range(n):
        total += i * i
    return total


def render(n):
    total = 0
    for i in range(n):
        total ^= i * 3
    return total


def store(n):
    kept = []
    for i in range(n):
        kept.append(i)
    return kept


def main():
    times = int(sys.argv[1])
    for _ in range(int(sys.argv[2])):
        fetch(3000)
        render(1500 * times)
        store(3000)


main()
