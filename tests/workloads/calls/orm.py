# An N+1 query: `orm.py PAGES`. A page of orders is one query, and then one more for each order's customer. Told to go,
# it serves so many pages and says how many statements that took.
import json
import sqlite3
import sys

PAGES = int(sys.argv[1])
ORDERS = 100


class Row:
    def __init__(self, cells):
        self.cells = cells


class Session:
    def __init__(self):
        self.connection = sqlite3.connect(":memory:")
        self.statements = 0

    def execute(self, statement, *arguments):
        self.statements += 1
        return self.connection.execute(statement, arguments).fetchall()

    def customer_of(self, order):
        return self.execute("select name from customer where id = ?", order[1])[0][0]


def page(session):
    orders = session.execute("select id, customer from purchase")
    return [(order[0], session.customer_of(order)) for order in orders]


def serve(session):
    for _ in range(PAGES):
        shown = page(session)
        assert len(shown) == ORDERS


SESSION = Session()
SESSION.connection.execute("create table customer (id integer primary key, name text)")
SESSION.connection.execute("create table purchase (id integer primary key, customer integer)")
SESSION.connection.executemany("insert into customer values (?, ?)", [(n, "customer %d" % n) for n in range(ORDERS)])
SESSION.connection.executemany("insert into purchase values (?, ?)", [(n, ORDERS - n - 1) for n in range(ORDERS)])

print("READY", flush=True)
sys.stdin.readline()
serve(SESSION)
print(json.dumps({"statements": SESSION.statements, "pages": PAGES}), flush=True)
sys.stdin.readline()
