"""Profiles real services (Django behind gunicorn, FastAPI behind uvicorn) and holds what the profiler says against what
is true. Run as root, on a machine that is otherwise quiet:

    python3.12 -m venv /tmp/trial && /tmp/trial/bin/pip install -r tests/services/requirements.txt
    sudo /tmp/trial/bin/python tests/services/trial.py old=PATH/profiler new=target/release/profiler

Each argument is a name and a profiler; the trials alternate between them. `--only picture,calls,slowdown,memory` runs
some of them, `--runs N` repeats, `--suite DIR` is an unpacked source distribution with tests for pytest. Everything listens on the loopback address and ends with the trial.
"""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
OWN = ("catalog/views.py", "views.py", "api.py")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    body = connection.getresponse().read()
    connection.close()
    return body


class Service:
    """One service with one process that does the work; ends with the block."""

    def __init__(self, kind, scratch):
        self.kind, self.scratch, self.port = kind, scratch, free_port()

    def __enter__(self):
        environment = {**os.environ, "SHOP_DATABASE": str(self.scratch / "shop.sqlite3")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if self.kind == "django":
            if not (self.scratch / "shop.sqlite3").exists():
                subprocess.run([sys.executable, "fill.py"], cwd=HERE / "shop", env=environment, check=True)
            command = [str(BIN / "gunicorn"), "-w", "1", "-b", f"127.0.0.1:{self.port}", "shop.wsgi"]
            folder = HERE / "shop"
        else:
            command = [str(BIN / "uvicorn"), "--port", str(self.port), "--log-level", "warning", "api:app"]
            folder = HERE / "api"
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        path = "/truth" if self.kind == "django" else "/models"
        for _ in range(200):
            try:
                get(self.port, path)
                break
            except OSError:
                time.sleep(0.05)
        self.pid = self.process.pid
        if self.kind == "django":
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_bytes().split()
            self.pid = int(children[0])
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def load(self, seconds, paths, clients=2):
        command = [sys.executable, str(HERE / "load.py"), str(self.port), str(seconds), str(clients), *paths]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def cpu_ns(self):
        """CPU time of the process that does the work, which others' work on the machine is not in."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_bytes().split()[0]) for thread in threads)

    def asked(self, seconds, path, meanwhile=lambda: None):
        """What one client felt, what a request took of CPU time, and what came of `meanwhile`."""
        load, before = self.load(seconds, [path], clients=1), self.cpu_ns()
        time.sleep(0.3)
        result = meanwhile()
        felt = json.loads(load.communicate()[0])[path]
        return felt, (self.cpu_ns() - before) / felt["count"], result

    def truth(self):
        return json.loads(get(self.port, "/truth"))

    def mean_ns(self, view, seconds=3):
        """What a view takes by the program's own clock, with one client."""
        before = self.truth().get(view, {"calls": 0, "ns": 0})
        self.load(seconds, ["/" + view], clients=1).wait()
        after = self.truth()[view]
        return (after["ns"] - before["ns"]) / (after["calls"] - before["calls"])


def run(profiler, *arguments, seconds=60):
    done = subprocess.run(
        [profiler, *map(str, arguments)], capture_output=True, text=True, timeout=seconds + 120, stdin=subprocess.DEVNULL
    )
    return done.stdout, done.stderr


def rows(svg):
    """(row counted from the root, text) of each frame of a flame graph by inferno or py-spy."""
    frames = []
    for group in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}g"):
        title = group.find("{http://www.w3.org/2000/svg}title")
        box = group.find("{http://www.w3.org/2000/svg}rect")
        if title is not None and box is not None and box.get("y") is not None:
            frames.append((float(box.get("y")), title.text or ""))
    places = sorted({place for place, _ in frames})
    root = next(place for place, text in frames if text.startswith("all "))
    places = places if root == places[0] else places[::-1]
    return [(places.index(place), text) for place, text in frames]


def first_own(svg):
    own = [(row, text) for row, text in rows(svg) if any(name in text for name in OWN) and "measured" not in text]
    return min(own)[0] if own else None


def picture(profilers, scratch, _runs):
    """In which row of the picture the first function of the program's own is, and how high the picture is."""
    with Service("django", scratch) as service:
        load = service.load(14 * (len(profilers) + 1), ["/orders", "/page"])
        tools = dict(profilers)
        for name, profiler in tools.items():
            svg = scratch / f"{name}.svg"
            run(profiler, "record", "-p", service.pid, "-d", 8, "-o", svg, "--force")
            yield name, "picture", {"row of the first own function": first_own(svg), "rows": max(r for r, _ in rows(svg))}
        if (BIN / "py-spy").exists():
            svg = scratch / "py-spy.svg"
            run(str(BIN / "py-spy"), "record", "-p", service.pid, "-d", 8, "-o", svg)
            yield "py-spy", "picture", {"row of the first own function": first_own(svg), "rows": max(r for r, _ in rows(svg))}
        load.kill()


def numbers(text):
    """`12.5 ms` and the like in ns."""
    unit = {"ns": 1, "µs": 1e3, "us": 1e3, "ms": 1e6, "s": 1e9}
    found = re.search(r"mean (?:at most )?([\d.,]+) (ns|µs|us|ms|s)", text)
    return float(found[1].replace(",", "")) * unit[found[2]] if found else None


def calls(profilers, scratch, runs):
    """Times of one view, calls for each request, and the slow-down that is stated against the one that is measured."""
    with Service("django", scratch) as service:
        service.mean_ns("orders", 2)
        for _ in range(runs):
            for name, profiler in profilers:
                true_ns = service.mean_ns("orders")
                load = service.load(9, ["/orders"], clients=1)
                time.sleep(1)
                table, said = run(
                    profiler, "calls", "-p", service.pid, "-d", 5, "--function", "catalog.views:orders",
                    "--summary-json", scratch / "calls.json",
                )
                load.wait()
                stated = numbers(table)
                yield name, "calls", {
                    "orders, true": f"{true_ns / 1e6:.2f} ms",
                    "stated mean": f"{stated / 1e6:.2f} ms" if stated else "none",
                    "off by": f"{100 * (stated / true_ns - 1):+.0f} %" if stated else "-",
                }
                free, free_ns, _ = service.asked(5, "/orders")
                held, held_ns, (table, said) = service.asked(
                    5, "/orders", lambda: run(profiler, "calls", "-p", service.pid, "-d", 4.5)
                )
                # Sentences go on over several lines.
                text = " ".join((table + said).split())
                sentence = next(iter(re.findall(r"took (?:about )?([^.]+(?:\.\d[^.]*)*times as long)", text)), "")
                finding = next(iter(re.findall(r"N\+1: .*? query each", text)), "none")
                yield name, "budget", {
                    "measured slow-down": f"{held['mean_ms'] / free['mean_ms']:.2f} (CPU {held_ns / free_ns:.2f})",
                    **{
                        name: f"{free[f'{name}_ms']:.1f} -> {held[f'{name}_ms']:.1f} ms"
                        for name in ("p50", "p95", "p99")
                    },
                    "stated": sentence,
                    "N+1": finding,
                }


# What a program says of its own time: a test suite, and a process that waits nearly all the time.
SUITE = """
import sys, time
began = time.perf_counter()
import pytest
said = pytest.main(["-q", "-p", "no:cacheprovider", "tests"])
print("TOOK", time.perf_counter() - began, time.process_time(), flush=True)
sys.exit(said)
"""
IDLE = """
import json, time
def turn():
    return json.loads(json.dumps([{"a": n} for n in range(20)]))
began = time.perf_counter()
for _ in range(200):
    turn()
    time.sleep(0.02)
print("TOOK", time.perf_counter() - began, time.process_time(), flush=True)
"""


def took(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = re.search(r"TOOK ([\d.]+) ([\d.]+)", done.stdout)
    if not found:
        sys.exit(f"{command} ended without its time:\n{done.stdout}\n{done.stderr}")
    return float(found[1]), float(found[2])


def slowdown(profilers, scratch, runs):
    """How many times as long a test suite takes (`--suite DIR`), and an idle process, by their own clocks and as told."""
    programs = [("idle", IDLE, HERE)]
    if SUITES:
        programs += [(f"pytest of {suite.name}", SUITE, suite) for suite in SUITES]
    for what, text, folder in programs:
        command = [sys.executable, "-c", text]
        for _ in range(runs):
            for name, profiler in profilers:
                for options in ([], ["--max-overhead", "1.5"], ["--max-overhead", "1000"]):
                    free = min(took(command, folder) for _ in range(2))
                    summary = scratch / "slowdown.json"
                    held = took(
                        [profiler, "calls", "--summary-json", summary, "-o", scratch / "slowdown.csv", "--force",
                         *options, "--", *command],
                        folder,
                    )
                    calls = json.loads(summary.read_text())["calls"]
                    told = calls["slow_down"]
                    yield name, what, {
                        "options": " ".join(options) or "none",
                        "alone": f"{free[0]:.2f} s ({free[1]:.2f} of CPU)",
                        "measured": f"{held[0] / free[0]:.2f} (CPU {held[1] / free[1]:.2f})",
                        "told": f"{told['factor']:.2f} ({told['least']:.2f} to {told['most']:.2f})",
                        "windows": calls["windows"],
                    }


def memory(profilers, scratch, runs):
    """Whether the first row is the line that leaks (`views.py`'s leaky, `api.py`'s keep)."""
    mixes = [
        ("django", ["/leaky", "/page"], "leaky", "KEPT"),
        ("django", ["/leaky", *["/rows"] * 10], "leaky", "KEPT"),
        ("fastapi", ["/keep/1", "/models"], "keep", "kept"),
        ("fastapi", ["/keep/1", *["/models"] * 10], "keep", "kept"),
    ]
    for kind, paths, leaking, holder in mixes:
        for _ in range(runs):
            for name, profiler in profilers:
                with Service(kind, scratch) as service:
                    load = service.load(16, paths)
                    time.sleep(2)
                    table, said = run(profiler, "memory", "-p", service.pid, "-d", 10, "--top", 3)
                    load.kill()
                Path(os.environ.get("TRIAL_TABLES", scratch), f"{kind}-{len(paths) - 1}-{name}.txt").write_text(table)
                lines = table.splitlines()
                head = next((i for i, line in enumerate(lines) if "where" in line and "share" in line), None)
                first = " ".join(lines[head + 1].split()) if head is not None else "none"
                yield name, f"memory {kind} {len(paths) - 1}:1", {
                    "first row": first,
                    "right": leaking in first,
                    "marked": "?" in first,
                    "holder named": holder in table,
                }


TRIALS = {"picture": picture, "calls": calls, "slowdown": slowdown, "memory": memory}
SUITES = []


def main():
    arguments = sys.argv[1:]
    only, runs = list(TRIALS), 1
    if "--only" in arguments:
        at = arguments.index("--only")
        only = arguments[at + 1].split(",")
        del arguments[at : at + 2]
    if "--runs" in arguments:
        at = arguments.index("--runs")
        runs = int(arguments[at + 1])
        del arguments[at : at + 2]
    while "--suite" in arguments:
        at = arguments.index("--suite")
        SUITES.append(Path(arguments[at + 1]).resolve())
        del arguments[at : at + 2]
    profilers = [tuple(argument.split("=", 1)) for argument in arguments]
    if not profilers or any(len(pair) != 2 for pair in profilers):
        sys.exit(__doc__)
    profilers = [(name, str(Path(profiler).resolve())) for name, profiler in profilers]
    with tempfile.TemporaryDirectory() as scratch:
        for trial in only:
            for name, what, facts in TRIALS[trial](profilers, Path(scratch), runs):
                told = "; ".join(f"{key}: {value}" for key, value in facts.items())
                print(f"{what:24} {name:8} {told}", flush=True)


if __name__ == "__main__":
    main()
