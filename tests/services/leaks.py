"""Has real services leak beside requests that do not, and holds what `profiler memory` says first against the line that leaks.
Run as root:

    python3.12 -m venv /tmp/trial && /tmp/trial/bin/pip install -r tests/services/requirements.txt
    sudo /tmp/trial/bin/python tests/services/leaks.py target/release/profiler

`--runs 10 --seconds 30` is what docs/real-services.md has; `--only django,fastapi,celery,nothing` runs some of the mixes, `--say`
prints the reports. Of each run: is the line that leaks the first one that the report names, is its holder named, is the holder in
the first row of those; of a service that keeps nothing: which lines are told to add to what became more?
"""

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import work
from trial import Service

LINE = re.compile(r"\(\S+?\.py:\d+\)")
# Name, service, what is asked in turns, the function that leaks and the variable that holds what it keeps.
MIXES = [
    ("django, a page, 1:1", "django", ["/leaky", "/page"], ("leaky", "views.KEPT")),
    ("django, a page, 1:10", "django", ["/leaky", *["/page"] * 10], ("leaky", "views.KEPT")),
    ("django, ORM, 1:1", "django", ["/leaky", "/rows"], ("leaky", "views.KEPT")),
    ("django, ORM, 1:10", "django", ["/leaky", *["/rows"] * 10], ("leaky", "views.KEPT")),
    ("fastapi, models, 1:1", "fastapi", ["/keep/1", "/models"], ("keep", "api.kept")),
    ("fastapi, models, 1:10", "fastapi", ["/keep/1", *["/models"] * 10], ("keep", "api.kept")),
    ("celery, 1 task of 3", "celery", [], ("remember", "jobs.KEPT")),
    ("django, nothing kept", "django", ["/page", "/rows"], None),
    ("fastapi, nothing kept", "fastapi", ["/models"], None),
]


def look(profiler, pid, seconds, *options):
    command = [profiler, "memory", "-p", str(pid), "-d", str(seconds), "--top", "3", *options]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"{command}\n{done.stderr}")
    return done.stdout, done.stderr


def run(profiler, kind, paths, seconds):
    with tempfile.TemporaryDirectory() as scratch:
        if kind == "celery":
            with work.Program("jobs", Path(scratch)) as program:
                return look(profiler, program.pid, seconds, "-s")
        with Service(kind, Path(scratch)) as service:
            load = service.load(seconds + 10, paths)
            time.sleep(2)
            said = look(profiler, service.pid, seconds)
            load.kill()
            load.wait()
            return said


def judged(table, leaks):
    """What is true of one report."""
    lines = table.splitlines()
    named = [line for line in lines if LINE.search(line)]
    ways = [at for at, line in enumerate(lines) if "who holds what became more" in line]
    added = []
    for at in (at for at, line in enumerate(lines) if "line that adds to what became more" in line):
        below = lines[at + 1 :]
        end = below.index("") if "" in below else len(below)
        added += [" ".join(line.split()) for line in below[:end]]
    if leaks is None:
        return [f"told: {line}" for line in added]
    function, holder = leaks
    facts = []
    if named and f"{function} (" in named[0]:
        facts.append("line first")
    if any(f"{function} (" in line for line in added):
        facts.append("line named")
    if holder in table:
        facts.append("holder named")
    if ways and holder in lines[ways[0] + 1]:
        facts.append("holder first")
    return facts


def main():
    arguments = sys.argv[1:]
    say = "--say" in arguments and not arguments.remove("--say")
    given = {"--runs": "10", "--seconds": "30", "--only": "django,fastapi,celery,nothing"}
    for option in given:
        if option in arguments:
            at = arguments.index(option)
            given[option] = arguments[at + 1]
            del arguments[at : at + 2]
    if len(arguments) != 1:
        sys.exit(__doc__)
    profiler, runs = str(Path(arguments[0]).resolve()), int(given["--runs"])
    for name, kind, paths, leaks in MIXES:
        if (kind if leaks else "nothing") not in given["--only"].split(","):
            continue
        sums = Counter()
        for _ in range(runs):
            table, said = run(profiler, kind, paths, int(given["--seconds"]))
            sums.update(judged(table, leaks))
            if say:
                print(table, said, flush=True)
        facts = [f"{fact} {count}" for fact, count in sums.most_common()]
        print(f"{name}, {runs} runs: {', '.join(facts) or 'no line is told'}", flush=True)


if __name__ == "__main__":
    main()
