"""Waits at known lines for each cause, and says how long each took, measured around it.

Whoever is waited for is another process, so that it does not matter who has the GIL.
"""

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROUNDS = int(sys.argv[1])
PAUSE = float(sys.argv[2])

HELPER = """
import fcntl, os, socket, sys, time
pause = float(sys.argv[1])
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
lock = open(sys.argv[2], "w")
while True:
    asked = connection.recv(1)
    if not asked:
        break
    if asked == b"l":
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection.sendall(b"x")
    time.sleep(pause)
    if asked == b"s":
        connection.sendall(b"x")
    elif asked == b"p":
        os.write(1, b"x")
    elif asked == b"l":
        fcntl.flock(lock, fcntl.LOCK_UN)
"""

lock_file = tempfile.NamedTemporaryFile(prefix="waits-", suffix=".lock")
helper = subprocess.Popen(
    [sys.executable, "-c", HELPER, str(PAUSE), lock_file.name], stdout=subprocess.PIPE, bufsize=0
)
port = int(helper.stdout.readline())
peer = socket.create_connection(("127.0.0.1", port))
measured = {}


def around(cause, function, prepare=lambda: None, afterwards=lambda: None):
    total = 0
    for _ in range(ROUNDS):
        prepare()
        began = time.perf_counter_ns()
        function()
        took = time.perf_counter_ns() - began
        afterwards()
        total += took
    measured[cause] = {
        "function": function.__name__,
        "line": function.__code__.co_firstlineno + 1,
        "ns": total,
        "count": ROUNDS,
    }


def ask(what):
    return lambda: peer.sendall(what)


def sleeps():
    time.sleep(PAUSE)


def receives():
    peer.recv(1)


def receives_or_gives_up():
    peer.recv(1)


def reads():
    os.read(helper.stdout.fileno(), 1)


def selects():
    select.select([helper.stdout, peer], [], [])


def polls():
    poll.poll()


def locks_a_file():
    fcntl.flock(own_lock, fcntl.LOCK_EX)


def waits_for_a_signal():
    signal.sigtimedwait({signal.SIGUSR1}, PAUSE)


def waits_for_a_child():
    child.wait()


def acquires():
    lock.acquire()


# A child for each round, asleep until it is waited for.
def new_child():
    global child
    child = subprocess.Popen(["sleep", str(PAUSE)])


def hold():
    lock.acquire(False)
    threading.Timer(PAUSE, lock.release).start()


def lock_elsewhere():
    peer.sendall(b"l")
    peer.recv(1)


def unlock():
    fcntl.flock(own_lock, fcntl.LOCK_UN)


lock = threading.Lock()
own_lock = open(lock_file.name, "w")
poll = select.poll()
poll.register(helper.stdout, select.POLLIN)
poll.register(peer, select.POLLIN)

print(json.dumps({"port": port, "lock": lock_file.name}))
print("READY", flush=True)
sys.stdin.readline()

around("sleep", sleeps)
around("other, a signal", waits_for_a_signal)
around("socket", receives, prepare=ask(b"s"))
peer.settimeout(60)
around("socket, with a timeout", receives_or_gives_up, prepare=ask(b"s"))
peer.settimeout(None)
around("pipe", reads, prepare=ask(b"p"))


around("poll, by select", selects, prepare=ask(b"s"), afterwards=lambda: peer.recv(1))
around("poll", polls, prepare=ask(b"s"), afterwards=lambda: peer.recv(1))
around("child", waits_for_a_child, prepare=new_child)
around("lock", acquires, prepare=hold)


def locked_elsewhere():
    unlock()
    lock_elsewhere()


around("file", locks_a_file, prepare=locked_elsewhere)
unlock()

print(json.dumps(measured), flush=True)
sys.stdin.readline()
