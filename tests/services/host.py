"""A host with a mix of services (Django, FastAPI, celery) and an agent beside them: what the agent takes, what the services feel
of it, and whether anything is lost. Run as root, on a machine that is otherwise quiet:

    python3.12 -m venv /tmp/trial && /tmp/trial/bin/pip install -r tests/services/requirements.txt
    sudo /tmp/trial/bin/python tests/services/host.py target/release/profiler

Rounds with and without an agent alternate (`--pairs N`, `--seconds S` each, `--window 20s`); the ratio is of CPU time a request.
`--soak MINUTES` has one agent run all the time instead, with `--execs N` short-lived processes a second, and a receiver that is
down for a third of the time: what the agent has resident is told each minute, and at the end how many windows arrived.
"""

import argparse
import contextlib
import gzip
import http.server
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import work
from trial import Service, free_port

PATHS = {"django": ["/page", "/rows", "/orders"], "fastapi": ["/models"]}
TICK = os.sysconf("SC_CLK_TCK")


class Receiver:
    """Takes OTLP, counts messages by when their window began, and is away for a third of every minute if it is to be."""

    def __init__(self, is_away):
        self.taken, self.refused, self.bytes = [], 0, 0
        began, outer = time.monotonic(), self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                away = is_away and (time.monotonic() - began) % 60 < 20
                if away:
                    outer.refused += 1
                else:
                    outer.taken.append(len(gzip.decompress(body)))
                    outer.bytes += len(body)
                self.send_response(503 if away else 200)
                self.send_header("content-length", "0")
                self.end_headers()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Agent:
    def __init__(self, profiler, scratch, window, receiver, options):
        self.port = free_port()
        command = [profiler, "agent", "-w", window, "--spool", str(scratch / "spool"), "--otlp", receiver.url]
        command += ["--store", str(scratch / "store"), "--listen", f"127.0.0.1:{self.port}", *options]
        self.said = open(scratch / "agent.log", "a+")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=self.said)
        while "profiler_windows" not in self.metrics():
            if self.process.poll() is not None:
                self.said.seek(0)
                sys.exit(self.said.read())
            time.sleep(0.2)
        # Tables of what runs already are made.
        time.sleep(3)
        self.began = self.now()

    def metrics(self):
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5).read().decode()
        return ""

    def value(self, name):
        return sum(float(line.rsplit(" ", 1)[1]) for line in self.metrics().splitlines() if line.startswith(name))

    def now(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return time.monotonic(), (int(fields[11]) + int(fields[12])) / TICK

    def resident_mib(self):
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4 / 1024

    def share(self):
        """Of a CPU, since it began to look."""
        (before, cpu_before), (now, cpu) = self.began, self.now()
        return (cpu - cpu_before) / (now - before)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@contextlib.contextmanager
def mix(scratch):
    with Service("django", scratch) as django, Service("fastapi", scratch) as fastapi, work.Program("jobs", scratch) as jobs:
        yield {"django": django, "fastapi": fastapi}, jobs


def costs(services, seconds):
    """CPU time a request of each service, in ms, with one client each."""
    loads = {name: service.load(seconds, PATHS[name], clients=1) for name, service in services.items()}
    before = {name: service.cpu_ns() for name, service in services.items()}
    said = {name: json.loads(load.communicate()[0]) for name, load in loads.items()}
    return {
        name: (service.cpu_ns() - before[name]) / 1e6 / sum(path["count"] for path in said[name].values())
        for name, service in services.items()
    }


def pairs(arguments, scratch, services):
    receiver, ratios = Receiver(False), {name: [] for name in services}
    shares, resident, kernel = [], [], []
    costs(services, 5)
    for number in range(arguments.pairs):
        without = costs(services, arguments.seconds)
        agent = Agent(arguments.profiler, scratch, arguments.window, receiver, arguments.options)
        began = time.monotonic()
        with_it = costs(services, arguments.seconds)
        shares.append(agent.share())
        resident.append(agent.resident_mib())
        kernel.append(agent.value("profiler_agent_kernel_cpu_seconds_total") / max(1, time.monotonic() - began))
        agent.end()
        for name in services:
            ratios[name].append(with_it[name] / without[name])
        print(number + 1, {name: round(ratio[-1], 4) for name, ratio in ratios.items()}, f"{shares[-1]:.2%}", flush=True)
    for name, ratio in ratios.items():
        print(f"{name}: a request takes {statistics.median(ratio):.4f} of its CPU time ({min(ratio):.3f} - {max(ratio):.3f})")
    print(f"the agent: {statistics.median(shares):.2%} of a CPU, {max(resident):.0f} MiB; in the kernel {max(kernel):.2%}")
    print(f"messages taken: {len(receiver.taken)}, {receiver.bytes / 1e6:.1f} MB")


def soak(arguments, scratch, services):
    receiver = Receiver(True)
    agent = Agent(arguments.profiler, scratch, arguments.window, receiver, arguments.options)
    ended = threading.Event()

    def churn():
        while not ended.is_set():
            began = time.monotonic()
            for _ in range(arguments.execs):
                os.posix_spawn("/bin/true", ["/bin/true"], os.environ)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            ended.wait(max(0, 1 - (time.monotonic() - began)))

    if arguments.execs:
        threading.Thread(target=churn, daemon=True).start()
    resident = []
    for minute in range(arguments.soak):
        loads = [service.load(58, PATHS[name], clients=1) for name, service in services.items()]
        time.sleep(60)
        [load.kill() for load in loads]
        resident.append(agent.resident_mib())
        windows, lost = agent.value("profiler_windows_total"), agent.value("profiler_output_lost_total")
        print(
            f"minute {minute + 1}: {resident[-1]:.0f} MiB, {agent.share():.2%} of a CPU, {windows:.0f} windows, "
            f"{len(receiver.taken)} messages taken, {receiver.refused} refused, {lost:.0f} lost, "
            f"{agent.value('profiler_output_waiting{'):.0f} wait",
            flush=True,
        )
    ended.set()
    samples_lost = [line for line in agent.metrics().splitlines() if line.startswith("profiler_samples_lost_total")]
    agent.end()
    print("samples lost:", samples_lost)
    print(f"at most {max(resident):.0f} MiB; {receiver.bytes / 1e6:.1f} MB sent")
    said = (scratch / "agent.log").read_text()
    print(said[-2000:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiler")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--window", default="20s")
    parser.add_argument("--soak", type=int, default=0)
    parser.add_argument("--execs", type=int, default=0)
    parser.add_argument("options", nargs="*", help="of the agent, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        with mix(scratch) as (services, _jobs):
            (soak if arguments.soak else pairs)(arguments, scratch, services)


main()
