"""Pages that ask a database, through a library that lies where Django does: told `orders N` or `helpers N`, serves so many.

A page of orders asks once, and then once more for each of 120 rows, from one line. A page of helpers asks twice, and calls
a small function of its own 2,000 times. Prints how often the library was called."""

import json
import os
import sys
import tempfile

LIBRARY = """
import sqlite3

class CursorWrapper:
    def __init__(self):
        self.connection = sqlite3.connect(":memory:")
        self.asked = 0

    def execute(self, statement):
        self.asked += 1
        return self.connection.execute(statement).fetchall()
"""

directory = tempfile.mkdtemp(prefix="profiler-e2e-")
package = os.path.join(directory, "site-packages", "django", "db", "backends")
os.makedirs(package)
with open(os.path.join(package, "utils.py"), "w") as file:
    file.write(LIBRARY)
sys.path.insert(0, os.path.join(directory, "site-packages"))

from django.db.backends.utils import CursorWrapper  # noqa: E402

SLOW = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 300) select max(i) from n"
cursor = CursorWrapper()


def small(x):
    return x + 1


def orders():
    cursor.execute(SLOW)
    for _ in range(120):
        cursor.execute(SLOW)


def helpers():
    total = len(cursor.execute(SLOW)) + len(cursor.execute(SLOW))
    for _ in range(2000):
        total = small(total)


print("READY", flush=True)
for line in sys.stdin:
    name, times = line.split()
    page = {"orders": orders, "helpers": helpers}[name]
    before = cursor.asked
    for _ in range(int(times)):
        page()
    print(json.dumps({"asked": cursor.asked - before}), flush=True)
