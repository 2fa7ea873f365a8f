"""Programs with something wrong, and others that look like them and have it not: `why_cases.py CASE`.

Each runs until its standard input is closed. What it is called by is a line that ends in `# here`, in a function `wrong`.
"""

import asyncio
import atexit
import ctypes
import gc
import json
import mmap
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

SERVER = """
import socket, sys, threading, time
delay = float(sys.argv[1])
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
def one(connection):
    while connection.recv(100):
        time.sleep(delay)
        connection.sendall(b"answer")
while True:
    connection, _ = server.accept()
    threading.Thread(target=one, args=(connection,), daemon=True).start()
"""


def peer(delay):
    """A program that answers after so long, and a connection to it. It ends with us."""
    command = [sys.executable, "-c", SERVER, str(delay)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=lambda: ctypes.CDLL(None).prctl(1, 9))
    return socket.create_connection(("127.0.0.1", int(child.stdout.readline())))


def in_threads(count, *functions):
    for function in functions:
        for _ in range(count):
            threading.Thread(target=function, daemon=True).start()


def cpu():
    def wrong():
        n = 0
        while True:
            n = (n * 31 + 7) % 1000003  # here

    in_threads(1, wrong)


def cpu_now_and_then():
    def right():
        while True:
            n = 0
            for i in range(20000):
                n += i * i
            time.sleep(0.1)

    in_threads(1, right)


def gil():
    def wrong():
        n = 0
        while True:
            n = (n * 31 + 7) % 1000003  # here

    in_threads(4, wrong)


def pool():
    """Threads that wait for work, and get some now and then."""
    work = queue.Queue()

    def worker():
        while True:
            work.get()()

    in_threads(8, worker)
    from concurrent.futures import ThreadPoolExecutor

    executor = ThreadPoolExecutor(8)

    def feeds():
        while True:
            time.sleep(0.05)
            work.put(lambda: sum(range(1000)))
            executor.submit(sum, range(1000))

    in_threads(1, feeds)


def gil_held_blocked():
    held = ctypes.PyDLL(None)

    def wrong():
        while True:
            held.usleep(50000)  # here
            time.sleep(0.001)

    def wants():
        n = 0
        while True:
            n = (n * 31 + 7) % 1000003

    in_threads(1, wrong, wants)


def gil_released():
    released = ctypes.CDLL(None)

    def right():
        while True:
            released.usleep(50000)
            time.sleep(0.001)

    in_threads(1, right)


def lock():
    lock = threading.Lock()

    def wrong():
        while True:
            with lock:  # here
                time.sleep(0.02)

    in_threads(4, wrong)


def slow_peer():
    connection = peer(0.1)

    def wrong():
        while True:
            connection.sendall(b"question")
            connection.recv(100)  # here

    in_threads(1, wrong)


def slow_peer_with_time_out():
    connection = peer(0.1)
    connection.settimeout(5)
    file = connection.makefile("rb")

    def wrong():
        while True:
            connection.sendall(b"question")
            file.read(6)  # here

    in_threads(1, wrong)


def quick_peer():
    connection = peer(0.001)

    def right():
        while True:
            connection.sendall(b"question")
            connection.recv(100)
            time.sleep(0.1)

    in_threads(1, right)


def n_plus_one():
    """A service that asks another one forty times for each request, and its client."""
    connection = peer(0.0005)
    server = socket.create_server(("127.0.0.1", 0))

    def wrong():
        for _ in range(40):
            connection.sendall(b"question")
            connection.recv(100)  # here

    def serves():
        while True:
            client, _ = server.accept()
            with client:
                client.recv(100)
                wrong()
                client.sendall(b"page")

    in_threads(1, serves)
    asks(server)


def one_question():
    """The same with one question for each request."""
    connection = peer(0.02)
    server = socket.create_server(("127.0.0.1", 0))

    def serves():
        while True:
            client, _ = server.accept()
            with client:
                client.recv(100)
                connection.sendall(b"question")
                connection.recv(100)
                client.sendall(b"page")

    in_threads(1, serves)
    asks(server)


def orders():
    """A file of SQLite's with a page for each of its rows."""
    import sqlite3

    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, True)
    path = os.path.join(folder, "orders.sqlite3")
    with sqlite3.connect(path) as connection:
        connection.execute("create table orders (number integer primary key, text text)")
        connection.executemany("insert into orders values (?, ?)", ((i, "x" * 3000) for i in range(60)))
    return sqlite3.connect(path, check_same_thread=False, isolation_level=None)


def serves_pages(make):
    server = socket.create_server(("127.0.0.1", 0))

    def serves():
        while True:
            client, _ = server.accept()
            with client:
                client.recv(100)
                make()
                client.sendall(b"page")

    in_threads(1, serves)
    asks(server)


def sqlite_n_plus_one():
    """A service that asks SQLite forty times for each request."""
    connection = orders()

    def wrong():
        for number in range(40):
            connection.execute("select number from orders where number = ?", (number,)).fetchall()  # here

    serves_pages(wrong)


def sqlite_one_question():
    """The same with one question that reads all pages."""
    connection = orders()
    # Nothing is kept, so pages are read again.
    connection.execute("pragma cache_size=1")
    serves_pages(lambda: connection.execute("select length(text) from orders").fetchall())


def sqlite_in_a_transaction():
    """Forty questions which nothing shows from outside."""
    connection = orders()

    def asks_again():
        connection.execute("begin")
        for number in range(40):
            connection.execute("select number from orders where number = ?", (number,)).fetchall()
        connection.execute("commit")

    serves_pages(asks_again)


CLIENT = """
import socket, sys
while True:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
        connection.sendall(b"get")
        connection.recv(100)
"""


def asks(server):
    command = [sys.executable, "-c", CLIENT, str(server.getsockname()[1])]
    subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=lambda: ctypes.CDLL(None).prctl(1, 9))


def in_loop(*coroutines):
    async def main():
        await asyncio.gather(*(coroutine() for coroutine in coroutines))

    in_threads(1, lambda: asyncio.run(main()))


def blocked_loop():
    async def wrong():
        while True:
            time.sleep(0.02)  # here
            await asyncio.sleep(0.005)

    in_loop(wrong)


def loop():
    async def right():
        while True:
            await asyncio.sleep(0.02)

    async def asks_in_a_thread():
        while True:
            await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.02)

    in_loop(right, right, asks_in_a_thread)


def starved_loop():
    def wrong():
        n = 0
        while True:
            n = (n * 31 + 7) % 1000003  # here

    async def wants():
        while True:
            await asyncio.sleep(0.001)

    in_threads(2, wrong)
    in_loop(wants)


def growth():
    kept = []

    def wrong():
        while True:
            kept.append(b"%d" % len(kept) * 50000)  # here
            time.sleep(0.01)

    in_threads(1, wrong)


def grown():
    """It has grown already, and uses again what it has."""
    kept = [bytearray(200000) for _ in range(100)]

    def right():
        n = 0
        while True:
            n += 1
            kept[n % 100][:] = b"%d" % (n % 10) * 200000
            time.sleep(0.01)

    in_threads(1, right)


def churn():
    kept = [None]

    def wrong():
        while True:
            # More than the C library ever keeps.
            b"x" * len(kept) * (40 << 20)  # here

    in_threads(1, wrong)


def gc_thrash():
    kept = [[i] for i in range(400000)]

    def wrong():
        while kept:
            gc.collect()  # here

    gc.set_threshold(100000)
    in_threads(1, wrong)


def gc_off():
    def right():
        gc.disable()
        while True:
            [[i] for i in range(1000)]

    in_threads(1, right)


def gc_seldom():
    """It collects all, as `gc_thrash` does, ten times a second, and has little to look through."""

    def right():
        while True:
            gc.collect()
            time.sleep(0.1)

    gc.freeze()
    in_threads(1, right)


def exceptions():
    def raises_wrong(n):
        raise ValueError(n)

    def wrong():
        n = 0
        while True:
            n += 1
            try:
                raises_wrong(n)  # here
            except ValueError:
                pass

    in_threads(1, wrong)


def exceptions_expected():
    """The same with nothing to catch: `try`, attributes that are not there, and iterators that end."""

    def raises_nothing(n):
        return n

    def right():
        while True:
            for n in range(2000):
                try:
                    raises_nothing(n)
                except ValueError:
                    pass
                getattr(right, "nothing", None)
                for _ in (i for i in range(3)):
                    pass
            # Others are looked at beside it.
            time.sleep(0.002)

    in_threads(1, right)


def serialization():
    rows = [{"name": "a" * 20, "price": i * 1.5, "tags": ["x", "y"]} for i in range(500)]

    def wrong():
        while True:
            json.loads(json.dumps(rows))  # here

    in_threads(1, wrong)


def serialization_now_and_then():
    rows = [{"name": "a" * 20, "price": i * 1.5} for i in range(20)]

    def right():
        while True:
            json.loads(json.dumps(rows))
            time.sleep(0.01)

    in_threads(1, right)


def imports_what_it_has():
    """Statements that import what is there already."""

    def right():
        while True:
            for _ in range(2000):
                import decimal
                from json import decoder

                decimal, decoder
            time.sleep(0.002)

    in_threads(1, right)


def oversubscribed():
    """More threads than CPUs, and none of them needs the GIL."""
    import hashlib

    block = bytes(1 << 20)

    def wrong():
        while True:
            hashlib.sha256(block).digest()  # here

    in_threads(8 * (os.cpu_count() or 1), wrong)


def many_threads():
    """As many threads, each of which wants a CPU a hundredth of the time."""

    def right():
        while True:
            sum(range(100))
            time.sleep(0.05)

    in_threads(8 * (os.cpu_count() or 1), right)


def beside_another(nice):
    """A CPU for this process and another that wants all of it."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    command = [sys.executable, "-c", "while True: pass"]
    subprocess.Popen(command, preexec_fn=lambda: ctypes.CDLL(None).prctl(1, 9))
    os.setpriority(os.PRIO_PROCESS, 0, nice)


def run_queue():
    def wrong():
        n = 0
        while True:
            n = (n * 31 + 7) % 1000003  # here

    beside_another(0)
    in_threads(1, wrong)


def goes_first():
    """The same, and it hardly waits: a millisecond or two, for the other's turn to end, ten times a second."""

    def right():
        while True:
            sum(range(1000))
            time.sleep(0.1)

    beside_another(-20)
    in_threads(1, right)


def disk():
    directory = os.environ.get("WHY_DISK") or tempfile.gettempdir()
    descriptor, path = tempfile.mkstemp(dir=directory)
    os.unlink(path)

    def wrong():
        while True:
            os.pwrite(descriptor, bytes(4096), 0)
            os.fsync(descriptor)  # here

    in_threads(1, wrong)


def writes_without_waiting():
    """As much, and the kernel writes it when it likes."""
    directory = os.environ.get("WHY_DISK") or tempfile.gettempdir()
    descriptor, path = tempfile.mkstemp(dir=directory)
    os.unlink(path)

    def right():
        while True:
            os.pwrite(descriptor, bytes(4096), 0)
            time.sleep(0.001)

    in_threads(1, right)


def pages_in_memory():
    """Maps and reads a file again and again that is in memory."""
    directory = os.environ.get("WHY_DISK") or tempfile.gettempdir()
    descriptor, path = tempfile.mkstemp(dir=directory)
    os.unlink(path)
    os.write(descriptor, os.urandom(256 * 4096))

    def right():
        while True:
            with mmap.mmap(descriptor, 256 * 4096, prot=mmap.PROT_READ) as memory:
                for page in range(256):
                    memory[page * 4096]
            time.sleep(0.01)

    in_threads(1, right)


def faults():
    """Reads pages of a file that nobody keeps in memory."""
    directory = os.environ.get("WHY_DISK") or tempfile.gettempdir()
    descriptor, path = tempfile.mkstemp(dir=directory)
    os.unlink(path)
    pages = 4096
    for _ in range(pages):
        os.write(descriptor, os.urandom(4096))
    os.fsync(descriptor)

    def wrong():
        while True:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            with mmap.mmap(descriptor, pages * 4096, prot=mmap.PROT_READ) as memory:
                memory.madvise(mmap.MADV_RANDOM)
                for page in range(0, pages, 7):
                    memory[page * 4096]  # here

    in_threads(1, wrong)


def waits_for_items_with():
    """`with` of what a queue has: no lock."""
    items = queue.SimpleQueue()

    def waits():
        while True:
            with items.get() as item:
                item.closed

    def feeds():
        while True:
            time.sleep(0.02)
            items.put(open(os.devnull))

    in_threads(3, waits)
    in_threads(1, feeds)


def stuck():
    one, other = threading.Lock(), threading.Lock()
    met = threading.Barrier(2)

    def wrong(first, second):
        with first:
            met.wait()
            with second:  # here
                pass

    threading.Thread(target=wrong, args=(one, other), daemon=True).start()
    threading.Thread(target=wrong, args=(other, one), daemon=True).start()
    time.sleep(0.1)


def waits_for_items():
    """Nothing is stuck: there is nothing to do."""
    simple, items, event, condition = queue.SimpleQueue(), queue.Queue(), threading.Event(), threading.Condition()

    def waits():
        with condition:
            condition.wait()

    in_threads(2, simple.get, items.get, event.wait, waits)


def stuck_child():
    child = subprocess.Popen(["sleep", "600"], preexec_fn=lambda: ctypes.CDLL(None).prctl(1, 9))

    def wrong():
        print("READY", flush=True)
        child.wait()  # here

    wrong()


def idle():
    server = socket.create_server(("127.0.0.1", 0))

    def serves():
        while True:
            server.accept()

    in_threads(4, serves)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    with open(__file__) as source:
        lines = [number for number, text in enumerate(source, 1) if text.rstrip().endswith("# here")]
    print(json.dumps({"lines": lines}))
    print("READY", flush=True)
    sys.stdin.readline()
