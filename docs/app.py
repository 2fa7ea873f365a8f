"""The program in the README's flame graph: four threads that take orders, price them, store them and answer.

    python3 docs/app.py 30 &
    target/release/profiler record -p $! -d 10 -o flame.svg
"""

import hashlib
import json
import os
import re
import socket
import sqlite3
import sys
import tempfile
import threading
import time
import zlib

SKU = re.compile(r"^(?P<shop>[a-z]{2})-(?P<kind>[a-z]+)-(?P<number>\d{4})$")


class Shop:
    def __init__(self, folder):
        self.database = sqlite3.connect(os.path.join(folder, f"{threading.get_ident()}.db"))
        self.database.execute("create table orders (id, sku, cents)")
        self.ours, self.theirs = socket.socketpair()

    def handle(self, request):
        order = json.loads(request)
        lines = self.validate(order)
        total = self.price(lines)
        self.store(order["id"], lines)
        self.answer(self.render(order["id"], lines, total))

    def validate(self, order):
        return [line for line in order["lines"] if SKU.match(line["sku"])]

    def price(self, lines):
        return sum(discounted(line["cents"], line["count"]) for line in lines)

    def store(self, number, lines):
        rows = [(number, line["sku"], line["cents"]) for line in lines]
        self.database.executemany("insert into orders values (?, ?, ?)", rows)
        if number % 4 == 0:
            self.database.commit()

    def render(self, number, lines, total):
        text = json.dumps({"order": number, "total": total, "lines": lines}, indent=2)
        return {"body": zlib.compress(text.encode()), "etag": hashlib.sha256(text.encode()).hexdigest()}

    def answer(self, response):
        self.ours.sendall(response["body"])
        self.theirs.recv(1 << 20)


def discounted(cents, count):
    for least, percent in ((50, 12), (20, 8), (5, 3)):
        if count >= least:
            return cents * count * (100 - percent) // 100
    return cents * count


def worker(folder, stop):
    shop = Shop(folder)
    lines = [{"sku": f"de-lamp-{n:04}", "count": n % 70, "cents": 100 + n} for n in range(200)]
    number = 0
    while time.monotonic() < stop:
        number += 1
        shop.handle(json.dumps({"id": number, "lines": lines}))


def main():
    stop = time.monotonic() + float(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        threads = [threading.Thread(target=worker, args=(folder, stop), name=f"worker-{n}") for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
