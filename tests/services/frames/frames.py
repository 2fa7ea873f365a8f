"""Work with pandas, round after round: columns are grouped and joined in C, rows are labelled in Python, a table is read, a
copy of some rows is kept, and a while is waited."""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).resolve().parent.parent))
from truth import measured  # noqa: E402

FILE = Path(sys.argv[1])
KEPT = []


@measured
def summarize(frame):
    return frame.groupby("customer")["price"].agg(["mean", "sum", "count"])


@measured
def join(frame, other):
    return frame.merge(other, on="customer", how="left")


def price_class(price):
    return "dear" if price > 90 else "cheap" if price < 10 else "usual"


@measured
def label(frame):
    return frame["price"].map(price_class)


@measured
def read():
    return pd.read_csv(FILE)


@measured
def keep(frame):
    KEPT.append(frame[["customer", "price"]].copy())


@measured
def pause():
    time.sleep(0.05)


def main():
    random = np.random.default_rng(1)
    frame = pd.DataFrame({"customer": random.integers(0, 5000, 100_000), "price": random.random(100_000) * 100})
    other = pd.DataFrame({"customer": range(5000), "town": [f"town {n % 97}" for n in range(5000)]})
    frame.head(20_000).to_csv(FILE, index=False)
    while True:
        summarize(frame)
        join(frame, other)
        label(frame.head(20_000))
        read()
        keep(frame.head(10_000))
        pause()


main()
