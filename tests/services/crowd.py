"""What `top` and `dump` cost on a machine with fifty Pythons. Run as root, on a machine that is otherwise quiet:

    sudo python3 tests/services/crowd.py old=PATH/profiler new=target/release/profiler

Each argument is a name and a profiler; they take turns, `--runs 3` times (2), for `-d 30` seconds each (12). Fifty processes
(`--pythons 50`) have four threads each that wake ten times a second. Of `top`, CPU time is that of its threads by the scheduler's account,
from the eighth second on: before, it learns whom it watches. Of `dump`, the least and the median time of five, of all
of them (`-p`) and of the machine (`-a`).
"""

import collections
import os
import pty
import select
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

WARM = 8
WAKES = """
import threading, time
def wakes():
    while True:
        time.sleep(0.1)
        sum(range(200))
for _ in range(3):
    threading.Thread(target=wakes, daemon=True).start()
print("READY", flush=True)
wakes()
"""


def threads(pid):
    """CPU time by the name of the thread, in ns."""
    times = collections.Counter()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        times[(thread / "comm").read_text().strip()] += int((thread / "schedstat").read_bytes().split()[0])
    return times


def top(profiler, pids, seconds):
    """Its CPU time in percent of a CPU, by thread, and its memory in MiB."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", LC_ALL="C.UTF-8", LINES="24", COLUMNS="80")
        os.execv(profiler, [profiler, "top", "-p", ",".join(map(str, pids))])
    began, before = time.monotonic(), None
    try:
        while (now := time.monotonic() - began) < WARM + seconds:
            if before is None and now >= WARM:
                before = (time.monotonic(), threads(child))
            if select.select([terminal], [], [], 0.2)[0]:
                os.read(terminal, 65536)
        after = (time.monotonic(), threads(child))
        status = Path(f"/proc/{child}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        os.close(terminal)
    length = after[0] - before[0]
    used = {name: (ns - before[1][name]) / 1e7 / length for name, ns in after[1].items()}
    return used, resident / 1024


def dump(profiler, pids):
    """Milliseconds for all of these, and for the machine."""

    def once(options):
        began = time.monotonic()
        subprocess.run([profiler, "dump", *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return 1000 * (time.monotonic() - began)

    for options in (["-p", ",".join(map(str, pids))], ["-a"]):
        times = [once(options) for _ in range(5)]
        yield options[0], min(times), statistics.median(times)


def option(arguments, name, default):
    if name not in arguments:
        return default
    at = arguments.index(name)
    value = arguments[at + 1]
    del arguments[at : at + 2]
    return value


def main():
    arguments = sys.argv[1:]
    runs, seconds = int(option(arguments, "--runs", 2)), float(option(arguments, "-d", 12))
    pythons = int(option(arguments, "--pythons", 50))
    profilers = [argument.split("=", 1) for argument in arguments]
    if not profilers or any(len(pair) != 2 for pair in profilers):
        sys.exit(__doc__)
    crowd = []
    try:
        for _ in range(pythons):
            crowd.append(subprocess.Popen([sys.executable, "-c", WAKES], stdout=subprocess.PIPE, text=True))
        for process in crowd:
            process.stdout.readline()
        pids = [process.pid for process in crowd]
        for _ in range(runs):
            for name, profiler in profilers:
                used, resident = top(profiler, pids, seconds)
                by_thread = ", ".join(f"{thread} {percent:.2f}" for thread, percent in sorted(used.items()))
                load = os.getloadavg()[0]
                print(f"{name:8} top   {sum(used.values()):.2f} % ({by_thread}), {resident:.0f} MiB, load {load:.1f}", flush=True)
        for name, profiler in profilers:
            for whom, least, median in dump(profiler, pids):
                print(f"{name:8} dump {whom} {least:.0f} ms at least, {median:.0f} ms (median of 5)", flush=True)
    finally:
        for process in crowd:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
