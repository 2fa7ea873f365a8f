"""A celery application: a task that computes, one that waits, one that keeps what it is given. `jobs.py SECONDS` asks for them
in turns, always some ahead of the workers."""

import os
import sys
import time
from pathlib import Path

from celery import Celery

sys.path.append(str(Path(__file__).resolve().parent.parent))
from truth import measured  # noqa: E402

FOLDER = os.environ["JOBS"]
app = Celery("jobs", broker="filesystem://")
app.conf.update(
    broker_transport_options={"data_folder_in": FOLDER, "data_folder_out": FOLDER},
    task_ignore_result=True,
    worker_prefetch_multiplier=8,
)
KEPT = []


@measured
def score(words):
    return sum(hash(word * 3) % 7 for word in words)


@measured
def rank(rows):
    return sorted(rows, key=lambda row: (row["weight"], row["name"]))


@measured
def ask():
    time.sleep(0.01)


@measured
def remember(name):
    KEPT.append({"name": name, "rows": [{"number": n, "text": f"{name} {n}"} for n in range(40)]})


@app.task
def compute(count):
    words = [f"word {n}" for n in range(count)]
    return score(words) + len(rank([{"weight": n * 7919 % 101, "name": n} for n in range(count)]))


@app.task
def wait():
    ask()


@app.task
def keep(name):
    remember(name)


if __name__ == "__main__":
    end = time.monotonic() + float(sys.argv[1])
    turn = 0
    while time.monotonic() < end:
        while len(os.listdir(FOLDER)) < 200:
            compute.delay(3000)
            wait.delay()
            keep.delay(f"customer {turn}")
            turn += 1
        time.sleep(0.02)
