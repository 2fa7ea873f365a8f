"""Profiles programs that work by themselves (celery's workers, pandas) and holds what each command says of their functions
against what these know of themselves by their own clocks. Run as root, on a machine that is otherwise quiet:

    python3.12 -m venv /tmp/trial && /tmp/trial/bin/pip install -r tests/services/requirements.txt
    sudo /tmp/trial/bin/python tests/services/work.py target/release/profiler

`--only jobs,frames` runs one of them, `--say` shows what the commands printed. Everything ends with the trial.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import truth

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
SECONDS = 8
# Of each program: what computes, what sleeps, what keeps, and how it is chosen.
PROGRAMS = {
    "jobs": {"computes": ["score", "rank"], "waits": "ask", "keeps": "remember", "options": ["-s"]},
    "frames": {"computes": ["summarize", "join", "label", "read", "keep"], "waits": "pause", "keeps": "keep", "options": []},
}


def children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split()
    return [int(child) for child in found]


class Program:
    def __init__(self, kind, scratch):
        self.kind, self.scratch = kind, scratch
        self.truth, self.queue = scratch / f"truth-{kind}", scratch / f"queue-{kind}"

    def __enter__(self):
        for folder in (self.truth, self.queue):
            folder.mkdir()
        environment = {**os.environ, "TRUTH": str(self.truth), "JOBS": str(self.queue), "C_FORCE_ROOT": "1"}
        commands = {
            "jobs": [
                [BIN / "celery", "-A", "jobs", "worker", "-c", "2", "-n", "a@here", "--loglevel", "error"],
                [sys.executable, "jobs.py", "1000"],
            ],
            "frames": [[sys.executable, "frames.py", self.scratch / "rows.csv"]],
        }[self.kind]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes = [
            subprocess.Popen(list(map(str, command)), cwd=HERE / self.kind, env=environment, **quiet) for command in commands
        ]
        self.pid = self.processes[0].pid
        waits = PROGRAMS[self.kind]["waits"]
        for _ in range(300):
            if waits in truth.read(self.truth):
                break
            time.sleep(0.1)
        time.sleep(3)
        return self

    def __exit__(self, *_):
        for process in self.processes[::-1]:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def cpu_ns(self):
        pids = [self.pid, *children(self.pid)]
        threads = [thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int((thread / "schedstat").read_bytes().split()[0]) for thread in threads)

    def now(self):
        return {"": [0, time.perf_counter_ns(), self.cpu_ns()], **truth.read(self.truth)}

    def meanwhile(self, profiler, *arguments):
        """What the profiler says, and what was true in that time: of the whole program its name is empty."""
        before = self.now()
        command = [profiler, *arguments, "-p", self.pid, *PROGRAMS[self.kind]["options"], "-d", SECONDS]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, stdin=subprocess.DEVNULL)
        after = self.now()
        if done.returncode != 0:
            sys.exit(f"{command}\n{done.stderr}")
        zero = [0, 0, 0]
        return done, {name: [b - a for a, b in zip(before.get(name, zero), row)] for name, row in after.items()}


def record(profiler, program, computes):
    """Shares of CPU time, of samples and by the program's own clocks."""
    done, true = program.meanwhile(profiler, "record", "-f", "folded", "-o", "-")
    stacks = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    total = sum(int(count) for _, count in stacks)
    facts = {}
    for name in computes:
        told = sum(int(count) for stack, count in stacks if f";{name} (" in stack) / max(total, 1)
        facts[name] = f"{100 * told:.1f} %, true {100 * true[name][2] / true[''][2]:.1f}"
    return done, {"samples": total, **facts}


def waits(profiler, program, waits):
    """How often and how long one function sleeps."""
    done, true = program.meanwhile(profiler, "waits", "-f", "json", "-o", "-")
    said = json.loads(done.stdout)
    rows = [row for row in said["rows"] if (row["function"], row["cause"]) == (waits, "sleep")]
    count, told = sum(row["count"] for row in rows), sum(row["total_ns"] for row in rows)
    first = said["rows"][0]
    return done, {
        waits: f"{told / max(count, 1) / 1e6:.2f} ms each, {count / said['length_ns'] * 1e9:.1f} a second, true"
        f" {true[waits][0] / true[''][1] * 1e9:.1f}",
        "first row": f"{first['cause']} {first['function']} {100 * first['total_ns'] / said['length_ns']:.0f} %",
        "accounted": f"{100 * said['accounted']:.1f} %",
    }


def calls(profiler, program, computes, scratch):
    """Calls a second, mean times, and the slow-down by the CPU time of a call."""
    idle = program.now()
    time.sleep(4)
    free = {name: [b - a for a, b in zip(idle[name], row)] for name, row in program.now().items() if name in idle}
    summary = scratch / "calls.json"
    chosen = [word for name in computes for word in ("--function", f"{program.kind}:{name}")]
    facts = {}
    for what, options in (("all", []), ("chosen", chosen)):
        done, true = program.meanwhile(
            profiler, "calls", *options, "-f", "json", "-o", "-", "--summary-json", summary, "--force"
        )
        told = {row["function"]: row for row in json.loads(done.stdout)["functions"] if row["function"] in computes
                and row["file"].endswith(f"{program.kind}.py")}
        slow = json.loads(summary.read_text())["calls"]["slow_down"]
        for name in computes:
            row = told.get(name, {})
            error = row.get("calls_error")
            if row.get("ncalls") is None:
                facts[f"{what}: {name}"] = f"not counted, true {true[name][0] / true[''][1] * 1e9:.1f} a second"
                continue
            calls = f"{row['calls_per_s']:.1f}" + (f" (± {100 * error / max(row['ncalls'], 1):.0f} %)" if error else "")
            fact = f"{calls} calls a second, true {true[name][0] / true[''][1] * 1e9:.1f}"
            timed = row.get("timed") or {}
            if timed.get("mean_ns"):
                error = timed["error_ns"] / max(timed["count"], 1)
                most = " at most" if timed.get("at_most") else ""
                fact += (f", mean{most} {timed['mean_ns'] / 1e6:.2f} ms ± {error / 1e6:.2f}, true"
                         f" {true[name][1] / max(true[name][0], 1) / 1e6:.2f}, {free[name][1] / free[name][0] / 1e6:.2f} before")
            facts[f"{what}: {name}"] = fact
        work = [sum(span[name][2] for name in computes) / max(sum(span[name][0] for name in computes), 1) for span in (free, true)]
        facts[f"{what}: slow-down"] = (f"told {slow['factor']:.2f} ({slow['least']:.2f} to {slow['most']:.2f}), CPU time of a call"
                                       f" {work[1] / work[0]:.2f}")
    return done, facts


def memory(profiler, program, keeps):
    """Whether the line that keeps is in the first row, and who holds what it keeps in the first block."""
    done, true = program.meanwhile(profiler, "memory", "--top", "3")
    lines = done.stdout.splitlines()
    head = next((i for i, line in enumerate(lines) if "where" in line and "share" in line), None)
    first = " ".join(lines[head + 1].split()) if head is not None else "none"
    return done, {"first row": first, "marked": " ? " in first, "calls that kept": true[keeps][0], "holder": "KEPT" in done.stdout}


def main():
    arguments = sys.argv[1:]
    say = "--say" in arguments and not arguments.remove("--say")
    only = list(PROGRAMS)
    if "--only" in arguments:
        at = arguments.index("--only")
        only = arguments[at + 1].split(",")
        del arguments[at : at + 2]
    if len(arguments) != 1:
        sys.exit(__doc__)
    profiler = Path(arguments[0]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for kind in only:
            what = PROGRAMS[kind]
            with Program(kind, scratch) as program:
                for name, trial in (
                    ("record", lambda: record(profiler, program, what["computes"])),
                    ("waits", lambda: waits(profiler, program, what["waits"])),
                    ("calls", lambda: calls(profiler, program, what["computes"], scratch)),
                    ("memory", lambda: memory(profiler, program, what["keeps"])),
                ):
                    done, facts = trial()
                    load = os.getloadavg()[0]
                    print(f"{kind} {name} (load {load:.1f})", *(f"\n    {key}: {value}" for key, value in facts.items()), sep="", flush=True)
                    if say:
                        print(done.stdout if name == "memory" else "", done.stderr, sep="", flush=True)


if __name__ == "__main__":
    main()
