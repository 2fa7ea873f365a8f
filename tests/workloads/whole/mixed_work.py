# What Python programs do all day: a bit of everything in the standard library, in three threads.
import decimal
import hashlib
import io
import json
import os
import pickle
import re
import sqlite3
import sys
import tempfile
import threading
import zlib

TEXT = " ".join("word%d, and another %d;" % (n, n * n) for n in range(300))
DATA = {"numbers": list(range(200)), "text": TEXT, "nested": [{"a": n, "b": [n] * 3} for n in range(100)]}


class Tree:
    def __init__(self, depth):
        self.children = [Tree(depth - 1) for _ in range(3)] if depth else []

    def count(self):
        return 1 + sum(child.count() for child in self.children)


def formats():
    text = json.dumps(DATA)
    assert json.loads(text) == DATA
    assert pickle.loads(pickle.dumps(DATA)) == DATA
    repr(DATA)


def texts():
    re.sub(r"\b(\w+)\b", lambda match: match.group(1).upper(), TEXT)
    sorted(TEXT.split(), key=str.lower)
    "".join(reversed(TEXT)).encode("utf-16")


def bytes_and_hashes():
    packed = zlib.compress(TEXT.encode())
    zlib.decompress(packed)
    hashlib.sha256(TEXT.encode() * 5).hexdigest()


def numbers():
    decimal.getcontext().prec = 200
    sum(decimal.Decimal(n).sqrt() for n in range(50))
    3**4000 % 10**300
    str(3**2000)


def files():
    with tempfile.TemporaryFile() as file:
        for _ in range(50):
            file.write(b"x" * 10_000)
        file.seek(0)
        while file.read(8192):
            pass
    [os.stat(entry.path) for entry in os.scandir("/usr/lib") if entry.is_dir()]
    io.StringIO(TEXT).readlines()


def tables():
    with sqlite3.connect(":memory:") as connection:
        connection.create_function("twice", 1, lambda x: 2 * x)
        connection.execute("create table t (a, b)")
        connection.executemany("insert into t values (?, ?)", [(n, str(n)) for n in range(500)])
        connection.execute("select sum(twice(a)) from t where b like '%7%' order by b").fetchall()


def errors():
    for _ in range(200):
        try:
            int("no number")
        except ValueError:
            pass


def work():
    while True:
        for job in (formats, texts, bytes_and_hashes, numbers, files, tables, errors, lambda: Tree(5).count()):
            job()


print("READY", flush=True)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
work()
