"""Containers that become more by one line each, when it is told to (`grow`). Lines that add have ADDS and the container behind
them; the others only look, or add to something else."""

import collections
import sys

APPENDED, EXTENDED, OTHER, TOP = [], [], [], []
ITEMS, GROUPS, SEEN = {}, {}, {}
QUEUE = collections.deque()
HEAD = LAST = None


class Service:
    shared = set()

    def __init__(self):
        self.rows = []
        self.table = {}

    def keep(self, number):
        self.rows.append([number, self])  # ADDS service: __main__.Service.rows
        self.table[number] = [number, self]  # ADDS service: __main__.Service.table

    @classmethod
    def share(cls, number):
        cls.shared.add((number, cls))  # ADDS Service: type.shared

    def look(self):
        return len(self.rows), [number for number in self.table], self.shared.copy()


class Node:
    def __init__(self, number, before):
        self.number = [number]
        self.before = before


class Another:
    def __init__(self):
        self.rows = []

    def keep(self, number):
        self.rows.append(number)


service, another = Service(), Another()


def request(number):
    APPENDED.append([number, ITEMS])  # ADDS APPENDED
    ITEMS[number, "key"] = [number, ITEMS]  # ADDS ITEMS
    GROUPS.setdefault(number % 5, []).append([number, ITEMS])  # ADDS GROUPS
    QUEUE.appendleft([number, ITEMS])  # ADDS QUEUE
    global EXTENDED, HEAD, LAST
    EXTENDED += [[number, ITEMS]]  # ADDS EXTENDED
    HEAD = [number, HEAD]  # ADDS HEAD
    LAST = Node(number, LAST)  # ADDS LAST
    service.keep(number)
    Service.share(number)


def look(number):
    SEEN[len(APPENDED) and APPENDED[0][0]] = APPENDED
    OTHER.append(ITEMS)
    if number in ITEMS or QUEUE.count(number) or EXTENDED[-1:] == [number]:
        OTHER.append(GROUPS.get(number))
    service.look()
    another.keep(0)
    del OTHER[:], another.rows[:]


def inner():
    local = []

    def keep(number):
        def deeper():
            local.append(number)

        deeper()
        return TOP

    return keep


def run():
    kept = []
    keep = inner()
    for line in sys.stdin:
        if line.strip() != "grow":
            continue
        for number in range(2000):
            kept.append([number, ITEMS])  # ADDS kept in run()
            request(number)
            look(number % 3)
            keep(number)
            (lambda: TOP.append([number, ITEMS]))()  # ADDS TOP
        print("GREW", flush=True)


print("READY", flush=True)
run()
