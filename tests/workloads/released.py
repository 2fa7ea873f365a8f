# Two threads compute in C with the GIL released, while the main thread keeps it busy.
import hashlib
import json
import threading
import zlib

DATA = bytes(range(256)) * 40000


def hashing():
    while True:
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 200000)  # hash


def compressing():
    while True:
        zlib.compress(DATA, 9)  # compress


def hogging():
    number = 0
    while True:
        number = number * 3 % 7


threads = [threading.Thread(target=function, daemon=True) for function in (hashing, compressing)]
for thread in threads:
    thread.start()
print(json.dumps({"hashing": threads[0].native_id, "compressing": threads[1].native_id}))
print("READY", flush=True)
hogging()
