# Reads a heap profile in pprof's format with nothing but the wire format of protocol buffers and the field numbers of
# profile.proto (github.com/google/pprof), and sums up by line what no other Python line was called from. Knows nothing of
# the profiler.
import collections
import gzip
import json
import os
import sys


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            # int64: what is negative takes all ten bytes.
            return value - (1 << 64) if value >> 63 else value, at


def fields(data):
    found, at = collections.defaultdict(list), 0
    while at < len(data):
        key, at = varint(data, at)
        assert key & 7 in (0, 2), "no other kinds are in this format"
        value, at = varint(data, at)
        if key & 7 == 2:
            value, at = data[at : at + value], at + value
        found[key >> 3].append(value)
    return found


def numbers(values):
    for value in values:
        if isinstance(value, int):
            yield value
            continue
        at = 0
        while at < len(value):
            number, at = varint(value, at)
            yield number


def one(message, field):
    return message[field][0] if message[field] else 0


with open(sys.argv[1], "rb") as file:
    profile = fields(gzip.decompress(file.read()))
strings = [text.decode("utf-8") for text in profile[6]]
kinds = [[strings[one(fields(kind), 1)], strings[one(fields(kind), 2)]] for kind in profile[1]]
functions = {one(f, 1): f for f in map(fields, profile[5])}
lines_of = {}
for location in map(fields, profile[4]):
    lines_of[one(location, 1)] = [
        (os.path.basename(strings[one(functions[one(line, 1)], 4)]), one(line, 2)) for line in map(fields, location[4])
    ]
totals, lines = collections.Counter(), collections.defaultdict(collections.Counter)
for sample in map(fields, profile[2]):
    values = dict(zip([kind for kind, _ in kinds], numbers(sample[2])))
    totals.update(values)
    # Leaf first.
    stack = [line for location in numbers(sample[1]) for line in lines_of[location]]
    innermost = next((line for line in stack if line[0].endswith(".py")), None)
    if innermost:
        lines["%s:%d" % innermost].update(values)
json.dump({"kinds": kinds, "default": strings[one(profile, 14)], "totals": totals, "lines": lines}, sys.stdout)
