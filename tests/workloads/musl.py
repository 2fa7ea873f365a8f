# Work in two threads, much of it inside the C library: big blocks that are mapped and unmapped, copies, numbers as text.
import json
import threading
import time

DATA = {"numbers": [n / 7 for n in range(300)], "text": "word " * 300}


def big_blocks():
    for n in range(40):
        bytearray(200_000 + n * 4096)[::512]


def texts():
    json.loads(json.dumps(DATA))
    time.strftime("%Y-%m-%d %H:%M:%S")
    "%.17g %r" % (1 / 3, 2 / 3)


def calculate():
    return sum(n * n for n in range(3000))


def main_work():
    while True:
        big_blocks()
        texts()
        calculate()


def other_work():
    while True:
        texts()
        big_blocks()
        calculate()


threading.Thread(target=other_work, daemon=True).start()
print("READY", flush=True)
main_work()
