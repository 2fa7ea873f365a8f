"""Moves known numbers of bytes in known numbers of calls, each at a line of its own, and says so."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

PAUSE = float(sys.argv[1])

HELPER = """
import socket, sys, time
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
while True:
    asked = connection.recv(1 << 16)
    if not asked:
        break
    if asked == b"?":
        time.sleep(float(sys.argv[1]))
        connection.sendall(b"x" * 1000)
"""

helper = subprocess.Popen([sys.executable, "-c", HELPER, str(PAUSE)], stdout=subprocess.PIPE, bufsize=0)
port = int(helper.stdout.readline())
peer = socket.create_connection(("127.0.0.1", port))
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
other = socket.create_server(("127.0.0.1", 0))
file = tempfile.NamedTemporaryFile(prefix="waits-", suffix=".data")
source, sink = os.pipe()
block = b"b" * 65536
measured = {}


def writes():
    return os.write(file.fileno(), block)


def reads():
    return len(os.pread(file.fileno(), 4096, 0))


def syncs():
    os.fsync(file.fileno())


def asks():
    return peer.send(b"?")


def receives():
    return len(peer.recv(4096))


def is_not_answered():
    with suppress(BlockingIOError): peer.recv(4096, socket.MSG_DONTWAIT)


def writes_little():
    return os.write(sink, b"1")


def reads_little():
    return len(os.read(source, 1))


def connects():
    socket.create_connection(other.getsockname()).close()


def accepts():
    other.accept()[0].close()


def sends_little():
    return peer.send(b"!!")


def sends_much():
    return peer.send(block[:50000])


def without_a_cpu():
    """How long the kernel has let this thread wait for a CPU in all."""
    with open("/proc/thread-self/schedstat") as accounts:
        return int(accounts.read().split()[1])


def once(function):
    lacked = without_a_cpu()
    began = time.perf_counter_ns()
    moved = function()
    took = time.perf_counter_ns() - began
    lacked = without_a_cpu() - lacked
    one = measured.setdefault(
        function.__name__,
        {"line": function.__code__.co_firstlineno + 1, "calls": 0, "bytes": 0, "ns": 0, "max_ns": 0, "lacked_ns": 0},
    )
    one["lacked_ns"] += lacked
    one["calls"] += 1
    one["bytes"] += moved or 0
    one["ns"] += took
    one["max_ns"] = max(one["max_ns"], took)


print(json.dumps({"port": port, "file": file.name}))
print("READY", flush=True)
sys.stdin.readline()
for _ in range(40):
    once(writes)
    once(syncs)
for _ in range(30):
    once(connects)
    once(accepts)
for _ in range(50):
    once(asks)
    once(receives)
    once(is_not_answered)
for _ in range(300):
    once(sends_much)
    for _ in range(10):
        once(sends_little)
for _ in range(3000):
    once(reads)
for _ in range(2000):
    once(writes_little)
    once(reads_little)
print(json.dumps(measured), flush=True)
sys.stdin.readline()
