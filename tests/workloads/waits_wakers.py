"""Waits for a lock that another thread releases, for a peer that sends, and for a time; says where each happens."""

import json
import socket
import subprocess
import sys
import threading
import time

ROUNDS = int(sys.argv[1])
PAUSE = float(sys.argv[2])

HELPER = """
import socket, sys, time
def answers():
    connection.sendall(b"x")
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
while connection.recv(1):
    time.sleep(float(sys.argv[1]))
    answers()
"""

helper = subprocess.Popen([sys.executable, "-c", HELPER, str(PAUSE)], stdout=subprocess.PIPE, bufsize=0)
peer = socket.create_connection(("127.0.0.1", int(helper.stdout.readline())))
lock = threading.Lock()
lock.acquire()
measured = {}


def acquires():
    lock.acquire()


def releases():
    time.sleep(PAUSE)
    lock.release()


def receives():
    peer.recv(1)


def sleeps():
    time.sleep(PAUSE)


def around(function, prepare=lambda: None):
    total = 0
    for _ in range(ROUNDS):
        prepare()
        began = time.perf_counter_ns()
        function()
        total += time.perf_counter_ns() - began
    measured[function.__name__] = {"line": function.__code__.co_firstlineno + 1, "ns": total}


def releases_soon():
    threading.Thread(target=releases, name="releases").start()


print(json.dumps({"helper": helper.pid, "released": releases.__code__.co_firstlineno + 2}))
print("READY", flush=True)
sys.stdin.readline()
around(acquires, prepare=releases_soon)
around(receives, prepare=lambda: peer.sendall(b"x"))
around(sleeps)
print(json.dumps(measured), flush=True)
sys.stdin.readline()
