# Notes every signal that reaches it, and tells when asked.
import os
import signal
import sys
import threading

RECEIVED = []


def note(number, _frame):
    RECEIVED.append(int(number))


for number in set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, note)
    except (OSError, ValueError):
        pass  # The C library keeps it for itself.


def work():
    number = 0
    while True:
        number = (number * 31 + 7) % 1000003


# The main thread listens; signal handlers run there as well.
threading.Thread(target=work, daemon=True).start()
print("READY", flush=True)
for line in sys.stdin:
    print(RECEIVED, flush=True)
