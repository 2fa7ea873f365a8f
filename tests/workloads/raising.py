"""Raises exceptions of every kind, and counts them: `raising.py ROUNDS`, then a line on standard input for each go.

After each go one line of JSON: by the type's name and the line that raises, how often; and by whom caught."""

import json
import sys

COUNTS = {}


class Own(Exception):
    pass


class Plain:
    pass


def count(kind, function, number=1):
    key = kind + " " + function
    COUNTS[key] = COUNTS.get(key, 0) + number


def here():
    try:
        raise Own  # here
    except Own:
        count("Own", "here")


def third():
    raise Own("deep")  # third


def second():
    try:
        third()
    finally:
        Plain()


def deep():
    try:
        second()  # deep
    except Own:
        count("Own", "third")


def missing():
    try:
        {}["x"]
    except KeyError:
        count("KeyError", "missing")


def no_attribute():
    try:
        Plain().nothing
    except AttributeError:
        count("AttributeError", "no_attribute")


def asks():
    # Nothing is raised that anybody sees.
    hasattr(Plain(), "nothing")
    getattr(Plain(), "nothing", None)
    for _ in generated():
        pass


def generated():
    yield 1


def number():
    # C code sets one ValueError in place of another.
    try:
        int("x")
    except ValueError:
        count("ValueError", "number")


def again():
    try:
        try:
            raise Own("again")
        except Own:
            count("Own", "again")
            raise
    except Own:
        pass


def other():
    try:
        try:
            raise Own("first")
        except Own as error:
            count("Own", "other")
            raise KeyError("second") from error
    except KeyError:
        count("KeyError", "other")


def failing():
    yield 1
    raise Own("from a generator")


def through():
    try:
        for _ in failing():
            pass
    except Own:
        count("Own", "failing")


def go(rounds):
    for _ in range(rounds):
        here()
        deep()
        missing()
        no_attribute()
        asks()
        number()
        again()
        other()
        through()


def main():
    rounds = int(sys.argv[1])
    go(3)
    print("READY", flush=True)
    for line in sys.stdin:
        COUNTS.clear()
        go(rounds)
        print(json.dumps(COUNTS), flush=True)


main()
