"""Runs a module of its own making: forty functions that nobody else has, calling each other in many ways.

Arguments: a number that tells this module from others, how deep calls go, how many successors a function chooses
from, and what share of the time to be busy.
"""

import importlib.util
import os
import random
import sys
import time

FUNCTIONS = 40

FUNCTION = '''
def work_{index}_{number}(depth, choose):
    total = depth
    for step in range({steps}):
        total += step * {number}
    if depth:
        total += NEXT_{number}[choose({ways})](depth - 1, choose)
    text = "{index}-{number}-%d" % total
    return len(text) + total % {modulus}
'''


def source(index, ways):
    parts = [f'"""Module {index}."""\n']
    for number in range(FUNCTIONS):
        parts.append(
            FUNCTION.format(index=index, number=number, steps=3 + number % 5, ways=ways, modulus=97 + number)
        )
    for number in range(FUNCTIONS):
        names = ", ".join(f"work_{index}_{(number * 3 + way * 7 + 1) % FUNCTIONS}" for way in range(ways))
        parts.append(f"NEXT_{number} = [{names}]\n")
    return "".join(parts)


def load(index, ways):
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"synthetic_{index}.py")
    with open(path, "w") as file:
        file.write(source(index, ways))
    spec = importlib.util.spec_from_file_location(f"synthetic_{index}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    index, depth, ways, busy = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    start = getattr(load(index, ways), f"work_{index}_0")
    choose = random.Random(index).randrange
    print("READY", flush=True)
    while True:
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            start(depth, choose)
        if busy < 1:
            time.sleep(0.02 * (1 - busy) / busy)


main()
