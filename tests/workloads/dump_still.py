"""Threads that stand still, each for a reason of its own, and what the program itself says of them."""

import json
import os
import queue
import socket
import sys
import threading
import time

standing = threading.Semaphore(0)
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen()


class Pool:
    def __init__(self):
        self.work = queue.Queue()

    def member(self):
        standing.release()
        self.work.get()


def client():
    connection = socket.create_connection(server.getsockname())
    standing.release()
    connection.recv(1)


def pipe():
    ours, _ = os.pipe()
    standing.release()
    os.read(ours, 1)


def sleeper():
    standing.release()
    time.sleep(1000)


def locker(lock):
    standing.release()
    lock.acquire()


def handler(event):
    try:
        {}["missing"]
    except KeyError:
        standing.release()
        event.wait()


def deep(depth):
    if depth:
        deep(depth - 1)
    else:
        standing.release()
        threading.Event().wait()


def generator(event):
    standing.release()
    yield event.wait()


def generating(event):
    for _ in generator(event):
        pass


def comprehending(event):
    standing.release()
    [event.wait() for _ in range(1)]


def decorated(function):
    def wrapper(*args):
        return function(*args)

    return wrapper


@decorated
def inner(event):
    standing.release()
    event.wait()


lock = threading.Lock()
lock.acquire()
event = threading.Event()
pool = Pool()
targets = {
    "member_0": (pool.member, ()),
    "member_1": (pool.member, ()),
    "client": (client, ()),
    "pipe": (pipe, ()),
    "sleeper": (sleeper, ()),
    "locker": (locker, (lock,)),
    "handler": (handler, (event,)),
    "déép": (deep, (40,)),
    "generating": (generating, (event,)),
    "comprehending": (comprehending, (event,)),
    "lambda": (lambda: inner(event), ()),
}
threads = [threading.Thread(target=f, args=a, name=name, daemon=True) for name, (f, a) in targets.items()]


def places():
    """Where all threads are."""
    return {ident: (id(frame), frame.f_lasti) for ident, frame in sys._current_frames().items()}


def stand_still():
    """Whether no other thread has gone on for a while."""
    before = places()
    time.sleep(0.2)
    after = places()
    own = threading.get_ident()
    return all(after.get(ident) == place for ident, place in before.items() if ident != own)


def account(names):
    """What the program itself says of its threads."""
    told = {}
    frames = sys._current_frames()
    for thread in threading.enumerate():
        if thread.name not in names:
            continue
        frame, stack = frames[thread.ident], []
        while frame is not None:
            code = frame.f_code
            stack.append([getattr(code, "co_qualname", code.co_name), code.co_filename, frame.f_lineno])
            frame = frame.f_back
        told[thread.name] = {"tid": thread.native_id, "ident": thread.ident, "stack": stack}
    return told


for thread in threads:
    thread.start()
for thread in threads:
    standing.acquire()
accepted, peer = server.accept()
while not stand_still():
    pass
print(json.dumps({"threads": account(targets), "address": "127.0.0.1:%d" % server.getsockname()[1]}))
print("READY", flush=True)
sys.stdin.readline()
