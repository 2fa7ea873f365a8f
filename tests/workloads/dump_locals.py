"""A function with variables of every kind, and what `repr` says of each."""

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import sys


@dataclasses.dataclass
class Point:
    x: int
    label: str


class Slotted:
    __slots__ = ("a", "b", "c")

    def __init__(self):
        self.a = 1
        self.c = "c"

    def __repr__(self):
        return "Slotted(a=1, c='c')"


class Plain:
    def __init__(self):
        self.items = [1, 2]
        self.none = None
        self.rate = 3.5

    def __repr__(self):
        return "%s(%s)" % (type(self).__name__, ", ".join("%s=%r" % pair for pair in told_of(self).items()))


def told_of(value):
    names = getattr(type(value), "__slots__", ()) + ("items", "none", "rate", "more")
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


class Derived(Plain):
    __slots__ = ("extra",)

    def __init__(self):
        super().__init__()
        self.extra = 9


class Wide:
    def __init__(self):
        for number in range(60):
            setattr(self, "k%d" % number, number)

    def __repr__(self):
        return "Wide(%s)" % ", ".join("k%d=%d" % (number, number) for number in range(60))


class OwnList(list):
    pass


class OwnText(str):
    pass


class OwnInt(int):
    pass


class OwnDict(dict):
    pass


class Color(enum.Enum):
    RED = 1

    def __repr__(self):
        return "<Color.RED: 1>"


Pair = collections.namedtuple("Pair", "left right")


def everything(first, *rest, keyword=5, **others):
    zero = 0
    minus = -1
    large = 2**100
    low = -(2**62)
    two_digits = 2**30
    quarter = 1.25
    tiny = 1e-07
    huge = 1e300
    not_a_number = float("nan")
    true = True
    false = False
    nothing = None
    empty = ""
    ascii_text = "ascii"
    latin = "caf\xe9"
    cyrillic = "агент"
    emoji = "😀x"
    quotes = "it's \"so\"\n\t\\"
    long_text = "q" * 300
    some_bytes = b"\x00abc'"
    nested = (1, (2, ("x",)))
    no_tuple = ()
    one_tuple = (5,)
    items = [1, 2.5, "x", None]
    many = list(range(1000))
    mixed = {"a": 1, 2: "b", None: (3,)}
    holey = {number: number for number in range(6)}
    del holey[2]
    tree = {"x": 1, "y": {"z": [2]}}
    one_set = {1}
    several = set(range(5))
    several.discard(3)
    no_set = set()
    frozen = frozenset(["q"])
    point = Point(1, "two")
    slotted = Slotted()
    plain = Plain()
    materialized = Plain()
    materialized.__dict__
    extended = Plain()
    extended.__dict__["more"] = 1
    shortened = Plain()
    del shortened.none
    derived = Derived()
    wide = Wide()
    own_list = OwnList([1, 2])
    own_list.attribute = "at"
    own_text = OwnText("own")
    own_int = OwnInt(7)
    own_dict = OwnDict(a=1)
    color = Color.RED
    pair = Pair(1, "v")
    cell = [9]
    error = ValueError("boom", 3)
    counter = collections.Counter("aab")
    queue = collections.deque([1, 2])
    some_range = range(5)
    stepped = range(1, 9, 2)
    imaginary = 1 + 2j
    growing = bytearray(b"xyz")
    circle = [1]
    circle.append(circle)
    ellipsis = ...
    # Told otherwise than `repr` does, by design: it would have to run code, or says where things are.
    function = everything
    closure = lambda: first
    ordered = collections.OrderedDict(a=1)
    default = collections.defaultdict(int, {"k": 1})
    date = datetime.date(2024, 1, 2)
    price = decimal.Decimal("1.50")

    def stop():
        nonlocal cell
        truth = {name: repr(value) for name, value in sys._getframe(1).f_locals.items() if name != "stop"}
        print(json.dumps(truth))
        print("READY", flush=True)
        sys.stdin.readline()

    unset = 1
    del unset
    stop()


def secrets(password, user="me"):
    api_key = "sk-12345"
    settings = {"db_password": "hunter2", "host": "db", "url": "postgres://me:hunter3@db/x"}
    headers = [(b"host", b"example"), (b"authorization", b"Bearer hunter4")]
    evil = "\x1b[2J\x1b]0;owned\x07\u202e"
    everything([1], 2, 3, keyword=6, more=7)


secrets("hunter1")
