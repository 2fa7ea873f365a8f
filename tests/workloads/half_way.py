# Works until told to end.
import os
import sys
import threading


def half_way():
    while True:
        pass


threading.Thread(target=half_way, daemon=True).start()
print("READY", flush=True)
sys.stdin.readline()
os._exit(0)
