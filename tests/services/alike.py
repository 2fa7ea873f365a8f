"""How often `profiler diff` finds a difference between equal runs (A/A), and whether it finds one that is there (A/B).

    sudo python3 tests/services/alike.py target/release/profiler [--runs 16] [--keep DIR]

Seven minutes on a quiet machine; nothing but Python's standard library. Prints the tables of docs/diff.md. Each run is a
process of its own, recorded alone; with --keep, recordings that are there already are judged again. Pairs are drawn from
the runs (a fixed seed), so they are not independent of one another.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

LOOP = """
import sys, time
more, seconds = float(sys.argv[1]), float(sys.argv[2])
def fetch(n): return sum(i * i for i in range(n))
def render(n):
    total = 0
    for i in range(n): total ^= i * 3
    return total
def store(n): return [i for i in range(n)]
def route(n): return {i: None for i in range(n)}
end = time.monotonic() + seconds
while time.monotonic() < end:
    fetch(3000); render(int(2000 * more)); store(3000); route(500)
"""

MIX = """
import decimal, difflib, json, re, sys, time
seconds = float(sys.argv[2])
def encodes(): return json.loads(json.dumps({str(i): list(range(i % 20)) for i in range(300)}))
def matches(): return re.findall(r'(\\w+)@(\\w+)[.]com', 'some words and a.name@host.com ' * 200)
def builds(depth): return (builds(depth - 1), builds(depth - 1)) if depth else None
def counts(): return sum(decimal.Decimal(i) / 7 for i in range(1, 600))
def compares(): return difflib.SequenceMatcher(None, 'abcdefgh' * 20, 'abdcefhg' * 20).ratio()
end = time.monotonic() + seconds
while time.monotonic() < end:
    encodes(); matches(); builds(11); counts(); compares()
"""

# What comes and stays is what the command says, whatever the machine does meanwhile.
BYTES = """
import random, sys, time
more, seconds = float(sys.argv[1]), float(sys.argv[2])
kept = []
def rows(n):
    for i in range(n): kept.append({'id': i, 'name': 'x' * random.randrange(20, 400)})
def pages(n):
    for i in range(n): kept.append(bytearray(random.randrange(20_000, 200_000)))
def words(n):
    for i in range(n): kept.append([str(random.random()) for _ in range(random.randrange(5, 50))])
sys.stdin.readline()
for _ in range(40):
    rows(1500); pages(int(12 * more)); words(600); time.sleep(0.02)
print("done", flush=True)
time.sleep(60)
"""

# Waits that come by chance, of threads.
WAITS = """
import queue, random, sys, threading, time
more, seconds = float(sys.argv[1]), float(sys.argv[2])
lock = threading.Lock()
def asks(): time.sleep(random.expovariate(1 / 0.004))
def sleeps(): time.sleep(random.expovariate(1 / (0.002 * more)))
def locked():
    with lock: time.sleep(random.expovariate(1 / 0.0007))
def work():
    end = time.monotonic() + seconds + 60
    while time.monotonic() < end:
        random.choice((asks, sleeps, locked, locked))()
for _ in range(4): threading.Thread(target=work, daemon=True).start()
time.sleep(seconds + 60)
"""


# What a profiler says when it has begun.
ATTACHED = ("watching ", "recording ", "tracing ", "sampling ", "following ")


class Program:
    def __init__(self, source, command, rate=None, seconds=3.0, whole=True, ends=False):
        self.source, self.command, self.rate, self.seconds = source, command, rate, seconds
        # Recorded from its beginning to its end; or until it says that it has done all it does.
        self.whole, self.ends = whole, ends


PROGRAMS = {
    "loop, whole runs": Program(LOOP, "record", 499),
    "mix, having begun": Program(MIX, "record", 499, whole=False),
    "bytes (memory)": Program(BYTES, "memory", whole=False, ends=True),
    "waits": Program(WAITS, "waits", whole=False),
}
# Three recordings a side have what one a side is divided by as well.
WAYS = {
    "record": (["--normalize", "samples"], ["--normalize", "time"]),
    "memory": (["--value", "inuse_space"], ["--value", "alloc_space", "--normalize", "recording"]),
    "waits": (["--value", "wait", "--normalize", "samples"], ["--value", "wait", "--normalize", "time"]),
}


def record(profiler, program, to, more=1.0, rate=None):
    seconds = program.seconds
    run = [sys.executable, "-c", program.source, str(more), str(seconds)]
    base = [profiler, program.command, "-q", "--force", "-o", str(to)]
    if program.command == "record":
        base += ["-r", str(rate or program.rate)]
    if program.whole:
        subprocess.run([*base, "--", *run], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return
    child = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        asked = [part for part in base if part != "-q"] + ["-p", str(child.pid)]
        if not program.ends:
            asked += ["-d", f"{seconds:.1f}"]
        recording = subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in recording.stderr:
            if any(word in line for word in ATTACHED):
                break
        # What allocates does so from here on.
        child.stdin.write(b"\n")
        child.stdin.flush()
        if program.ends:
            child.stdout.readline()
            recording.send_signal(signal.SIGINT)
        told = recording.stderr.read()
        if recording.wait() != 0:
            raise SystemExit(f"{asked}: {told}")
    finally:
        child.kill()
        child.wait()


def diff(profiler, before, after, options):
    sides = [",".join(map(str, side)) for side in (before, after)]
    output = subprocess.run([profiler, "diff", *sides, "-f", "json", *options], capture_output=True, text=True)
    if output.returncode != 0:
        raise SystemExit(f"diff {sides}: {output.stderr}")
    return json.loads(output.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiler")
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=pathlib.Path)
    arguments = parser.parse_args()
    profiler = str(pathlib.Path(arguments.profiler).resolve())
    temporary = tempfile.TemporaryDirectory()
    place = arguments.keep or pathlib.Path(temporary.name)
    place.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    chosen = {name: program for name, program in PROGRAMS.items() if arguments.only in name}
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; {arguments.runs} runs of each\n")
    print("| equal runs | one a side | otherwise | three a side | otherwise | of |\n|---|---|---|---|---|---|")
    wrong = []
    for name, program in chosen.items():
        files = [place / f"{name.split(',')[0].split()[0]}{i}.pb.gz" for i in range(arguments.runs)]
        for file in files:
            if not file.exists():
                record(profiler, program, file)
        pick = random.Random(1)
        cells = []
        for number, pairs in ((1, 40), (3, 20)):
            for options in WAYS[program.command]:
                found = 0
                for _ in range(pairs):
                    some = pick.sample(files, 2 * number)
                    told = diff(profiler, some[:number], some[number:], options)
                    if told["differs"]:
                        found += 1
                        wrong.append(f"{name}, {number} a side, {' '.join(options)}: {told['verdict']}")
                cells.append(str(found))
        print(f"| {name} | {' | '.join(cells)} | 40, 40, 20, 20 |", flush=True)
    print("\n| a part that takes more | | verdict |\n|---|---|---|")
    for name, program in chosen.items():
        if program.source is MIX:
            continue
        more, rate = (1.1, 4999) if program.command == "record" else (1.5, None)
        sides = ([], [])
        # In turns, as no two minutes of a machine are alike.
        for i in range(3):
            for side, factor in ((0, 1.0), (1, more)):
                sides[side].append(place / f"ab-{program.command}-{side}-{i}.pb.gz")
                if not sides[side][-1].exists():
                    record(profiler, program, sides[side][-1], factor, rate)
        options = WAYS[program.command][0]
        for number in (1, 3):
            told = diff(profiler, sides[0][:number], sides[1][:number], options)
            print(f"| {name}, {more} times | {number} a side | {told['verdict']} |", flush=True)
    print(f"\n{time.monotonic() - began:.0f} s")
    for line in wrong:
        print("false:", line)


main()
