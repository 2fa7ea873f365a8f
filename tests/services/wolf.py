"""Does `why` cry wolf? Looks at pyperformance's programs, each by itself, and at two healthy services, and holds whatever is
called critical against another witness. Run as root, on a machine that is otherwise quiet (ten seconds for each of some 90 programs):

    python3.12 -m venv /tmp/wolf
    /tmp/wolf/bin/pip install -r tests/services/requirements.txt pyperformance==1.14.0
    /tmp/wolf/bin/python tests/services/wolf.py --install
    sudo /tmp/wolf/bin/python tests/services/wolf.py target/release/profiler

`--only nbody,fastapi,django-service` looks at some, `-d 6` is how long `why` looks at each, `--json FILE` keeps its answers. The exit status is
1 if something critical is contradicted, or if nobody could say.

Witnesses: for `cpu` py-spy, for `gc` the program's own `gc.callbacks`, for `run-queue` and `oversubscribed` the kernel's count of
the time in which its threads were ready and did not run, for `serialization` what the program is called.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

import trial

BIN = Path(sys.executable).parent
# What the programs whose name has one of these do for a living.
SERIALIZES = ("json", "pickle", "yaml", "toml", "logging", "xml")
# A witness need not agree to the percent: it looks at other seconds.
SLACK = 0.15

# Counts, in memory that we share, for how long this process has collected garbage.
CALLBACKS = """
import atexit, gc, mmap, os, struct, time
path = os.environ.pop("WOLF_GC", None)
if path:
    with open(path, "r+b") as file:
        shared = mmap.mmap(file.fileno(), 16)
    state = [0, 0]
    def told(phase, info):
        now = time.monotonic_ns()
        if phase == "start":
            state[0] = now
        else:
            state[1] += now - state[0]
            shared[:8] = struct.pack("q", state[1])
    gc.callbacks.append(told)
"""


class Taskstats:
    """What the kernel has of a process, with its threads that have ended: /proc has only those that live."""

    GENERIC, CONTROL, GET_FAMILY, GET = 16, 16, 3, 1

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, self.GENERIC)
        self.socket.settimeout(5)
        (family,) = struct.unpack("H", self.ask(self.CONTROL, self.GET_FAMILY, 2, b"TASKSTATS\0")[1])
        self.family = family

    @staticmethod
    def attributes(data):
        found = {}
        while len(data) >= 4:
            length, kind = struct.unpack("HH", data[:4])
            found[kind & 0x3FFF] = data[4:length]
            data = data[(max(length, 4) + 3) & ~3 :]
        return found

    def ask(self, family, command, kind, value):
        attribute = struct.pack("HH", 4 + len(value), kind) + value
        body = struct.pack("BBH", command, 1, 0) + attribute + bytes(-len(attribute) % 4)
        self.socket.send(struct.pack("IHHII", 16 + len(body), family, 1, 1, 0) + body)
        answer = self.socket.recv(65536)
        if struct.unpack("H", answer[4:6])[0] == 2:
            raise OSError(-struct.unpack("i", answer[16:20])[0], "taskstats")
        return self.attributes(answer[20:])

    def ready_ns(self, pid):
        """How long all its threads were ready and did not run; 0 if it is gone."""
        try:
            stats = self.attributes(self.ask(self.family, self.GET, 2, struct.pack("I", pid))[5])[3]
        except (OSError, KeyError):
            return 0
        # Behind version, exit code, flags and niceness: `cpu_count`, `cpu_delay_total` (include/uapi/linux/taskstats.h).
        return struct.unpack("Q", stats[24:32])[0]


def benchmarks():
    """Name, script, and what it is called with, of each program."""
    import pyperformance

    folder = Path(pyperformance.__file__).parent / "data-files" / "benchmarks"
    for program in sorted(folder.glob("bm_*")):
        for described in sorted(program.glob("*.toml")):
            with open(described, "rb") as file:
                tool = tomllib.load(file).get("tool", {}).get("pyperformance", {})
            name = tool.get("name", program.name.removeprefix("bm_"))
            yield name, program / "run_benchmark.py", tool.get("extra_opts", [])


def install():
    """What the programs need, each by itself: some want other releases of the same."""
    import pyperformance

    for needed in sorted((Path(pyperformance.__file__).parent / "data-files").glob("benchmarks/*/requirements.txt")):
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(needed)]
        print(needed.parent.name, "ok" if subprocess.run(command).returncode == 0 else "FAILED", flush=True)


class Program:
    """A benchmark that goes on until the block ends."""

    def __init__(self, script, options, scratch):
        self.counts = scratch / "collected"
        self.counts.write_bytes(bytes(16))
        (scratch / "site").mkdir(exist_ok=True)
        (scratch / "site" / "sitecustomize.py").write_text(CALLBACKS)
        self.environment = {**os.environ, "PYTHONPATH": str(scratch / "site"), "WOLF_GC": str(self.counts)}
        self.command = [sys.executable, str(script), "--worker", "--worker-task=0", "-l1", "-w0", "-n1000000", *options]
        self.folder = scratch

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, start_new_session=True,
        )
        self.pid = self.process.pid
        # Until it has begun its work, by what it has used of a CPU; one that waits for others has little.
        for _ in range(100):
            if self.process.poll() is not None or self.used_ns() > 1_500_000_000:
                break
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process.stderr.close()

    def ended(self):
        return self.process.poll() is not None

    def schedstat(self, field):
        try:
            threads = list(Path(f"/proc/{self.pid}/task").iterdir())
            return sum(int((thread / "schedstat").read_bytes().split()[field]) for thread in threads)
        except OSError:
            return 0

    def used_ns(self):
        return self.schedstat(0)

    def collected_ns(self):
        return struct.unpack("q", self.counts.read_bytes()[:8])[0]


def why(profiler, pid, seconds):
    """What is found, and how much of the time was spent in what the kernel and the program count themselves."""
    command = [profiler, "why", "-j", "-q", "-d", str(seconds), "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        return None, done.stderr.strip().splitlines()[-1:]
    return json.loads(done.stdout), []


def by_py_spy(pid, function, seconds=4):
    """In which part of its samples of a process this function is."""
    with tempfile.NamedTemporaryFile(suffix=".folded") as out:
        command = [str(BIN / "py-spy"), "record", "-p", str(pid), "-d", str(seconds), "-r", "100", "-f", "raw", "-o", out.name]
        if subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode != 0:
            return None
        # It writes a new file of that name.
        lines = Path(out.name).read_text(errors="replace").splitlines()
    name = function.rpartition(".")[2]
    hits = all_samples = 0
    for line in lines:
        stack, _, count = line.rpartition(" ")
        all_samples += int(count)
        hits += int(count) * any(frame.split(" (")[0].rpartition(".")[2] == name for frame in stack.split(";"))
    return hits / all_samples if all_samples else None


def judge(finding, name, facts, pid):
    """What another witness says of it: `agrees`, `DISAGREES` or `?`, and in what words."""
    kind, share = finding["kind"], finding["share"]
    if kind == "cpu":
        found = by_py_spy(pid, finding["function"])
        said = found is not None and found + SLACK >= share
        return ("?", "py-spy failed") if found is None else (said, f"py-spy {found:.0%}")
    if kind == "gc":
        found = facts["gc"]
        return found is not None and found + SLACK >= share, f"gc.callbacks {found:.0%}"
    if kind in ("run-queue", "oversubscribed", "throttled"):
        return facts["ready"] + SLACK >= share, f"taskstats {facts['ready']:.0%}"
    if kind == "serialization":
        return any(part in name for part in SERIALIZES), "by its name"
    return "?", finding["sentence"]


def look(profiler, name, program, seconds, answers):
    taskstats = Taskstats()
    before = (time.monotonic_ns(), program.collected_ns(), taskstats.ready_ns(program.pid))
    report, said = why(profiler, program.pid, seconds)
    after = (time.monotonic_ns(), program.collected_ns(), taskstats.ready_ns(program.pid))
    if report is None or program.ended():
        words = (program.process.stderr.read() or b"").decode(errors="replace").strip().splitlines()[-1:] if program.ended() else said
        return [(name, "did not run", "", *words)]
    answers[name] = report
    length = after[0] - before[0]
    facts = {"gc": (after[1] - before[1]) / length, "ready": (after[2] - before[2]) / length}
    found = [finding for finding in report["findings"] if finding["severity"] != "info"]
    told = ", ".join(f"{finding['kind']} {finding['severity']} {finding['share']:.0%}" for finding in found) or "nothing"
    rows = [(name, "ok", told, "")]
    for finding in found:
        if finding["severity"] == "critical":
            verdict, words = judge(finding, name, facts, program.pid)
            verdict = {True: "agrees", False: "DISAGREES"}.get(verdict, verdict)
            rows.append((name, verdict, f"critical {finding['kind']} {finding['share']:.0%} ± {finding['error']:.0%}", words))
    return rows


class Healthy(trial.Service):
    """A service that is asked now and then, and has nothing wrong."""

    PATHS = {"django": "/page", "fastapi": "/models"}

    def __enter__(self):
        super().__enter__()
        command = [sys.executable, "-c", ASKS, str(self.port), self.PATHS[self.kind], "10"]
        self.client = subprocess.Popen(command)
        return self

    def __exit__(self, *exit):
        self.client.kill()
        self.client.wait()
        super().__exit__(*exit)

    def ended(self):
        return self.process.poll() is not None

    collected_ns = staticmethod(lambda: 0)
    schedstat = Program.schedstat


# So many requests a second.
ASKS = """
import http.client, sys, time
port, path, rate = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
while True:
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    connection.getresponse().read()
    connection.close()
    time.sleep(max(0, 1 / rate - (time.monotonic() - began)))
"""


def option(arguments, name, default=None):
    if name not in arguments:
        return default
    at = arguments.index(name)
    value = arguments[at + 1]
    del arguments[at : at + 2]
    return value


def main():
    arguments = sys.argv[1:]
    if arguments == ["--install"]:
        return install()
    only, seconds, kept = option(arguments, "--only"), float(option(arguments, "-d", "6")), option(arguments, "--json")
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.exit(__doc__)
    profiler = str(Path(arguments[0]).resolve())
    wanted = only and only.split(",")
    counts, criticals, answers = Counter(), Counter(), {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        programs = [(name, lambda script=script, options=options: Program(script, options, scratch))
                    for name, script, options in benchmarks()]
        programs += [(f"{kind}-service", lambda kind=kind: Healthy(kind, scratch)) for kind in Healthy.PATHS]
        for name, make in programs:
            if wanted and name not in wanted:
                continue
            with make() as program:
                rows = look(profiler, name, program, seconds, answers)
            for name, verdict, told, words in rows:
                print(f"{name:28} {verdict:11} {told:36} {words}".rstrip(), flush=True)
                counts[verdict] += 1
                if told.startswith("critical"):
                    criticals[told.split()[1], verdict] += 1
    print(f"\n{counts['ok']} programs looked at, {counts['did not run']} did not run (load {os.getloadavg()[0]:.1f}).")
    for (kind, verdict), times in sorted(criticals.items()):
        print(f"critical {kind}: {times} ({verdict})")
    if kept:
        Path(kept).write_text(json.dumps(answers))
    sys.exit(1 if counts["DISAGREES"] or counts["?"] else 0)


if __name__ == "__main__":
    main()
