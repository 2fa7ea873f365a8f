# Computes in one function or another, as it is told.
import select
import sys


def first():
    return sum(range(20_000))


def second():
    return sum(range(20_000))


phases = {"first": first, "second": second}
phase = first
sys.stdout.write("READY\n")
sys.stdout.flush()
while True:
    phase()
    if select.select([sys.stdin], [], [], 0)[0]:
        line = sys.stdin.readline().strip()
        if not line:
            break
        phase = phases[line]
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
