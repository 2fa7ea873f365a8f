# Reads a pprof file with nothing but the wire format of protocol buffers and the field numbers of profile.proto
# (github.com/google/pprof), and prints its stacks, root first, as JSON. Knows nothing of the profiler.
import collections
import gzip
import json
import sys


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(data):
    found, at = collections.defaultdict(list), 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
            assert len(value) == length, "a field is cut short"
        else:
            size = {1: 8, 5: 4}[kind]
            value, at = data[at : at + size], at + size
        found[key >> 3].append(value)
    return found


def numbers(values):
    for value in values:
        if isinstance(value, int):
            yield value
            continue
        at = 0  # packed
        while at < len(value):
            number, at = varint(value, at)
            yield number


def one(message, field):
    return message[field][0] if message[field] else 0


with open(sys.argv[1], "rb") as file:
    profile = fields(gzip.decompress(file.read()))
strings = [text.decode("utf-8") for text in profile[6]]
assert strings[0] == ""
kinds = [strings[one(fields(kind), 1)] for kind in profile[1]]
functions = {one(f, 1): f for f in map(fields, profile[5])}
mappings = {one(m, 1): m for m in map(fields, profile[3])}
frames = {}
for location in map(fields, profile[4]):
    lines = []
    for line in map(fields, location[4]):
        function = functions[one(line, 1)]
        lines.append([strings[one(function, 2)], strings[one(function, 4)], one(line, 2), one(function, 5)])
    mapping = mappings.get(one(location, 2))
    frames[one(location, 1)] = lines or [["", "", 0, 0]]
    assert one(location, 2) == 0 or mapping is not None, "a location without its mapping"
stacks, labels = [], set()
for sample in map(fields, profile[2]):
    values = list(numbers(sample[2]))
    assert len(values) == len(kinds)
    stack = [frame for location in numbers(sample[1]) for frame in frames[location]]
    labels.update(strings[one(label, 1)] for label in map(fields, sample[3]))
    stacks.append({"frames": stack[::-1], "count": values[kinds.index("samples")]})
paths = [[strings[one(m, 5)], strings[one(m, 6)]] for m in mappings.values()]
comments = [strings[number] for number in numbers(profile[13])]
json.dump({"kinds": kinds, "stacks": stacks, "labels": sorted(labels), "mappings": paths, "comments": comments}, sys.stdout)
