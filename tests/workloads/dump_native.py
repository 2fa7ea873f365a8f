"""Computes in C, for good."""

import itertools
import json


def adding():
    sum(itertools.repeat(0))


print(json.dumps({}))
print("READY", flush=True)
adding()
