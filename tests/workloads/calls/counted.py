# Calls of many kinds, a known number of times, each to a function in a line of its own.
#
#     counted.py ROUNDS          says READY, waits to be told, does the rounds, says DONE, waits, and ends
#     counted.py ROUNDS alone    does the rounds and ends
#     counted.py ROUNDS profile  does the rounds under cProfile and says what it has counted:
#                                [file, line, name, calls, primitive calls] of each function of this file
#
# Nothing is run before it is counted: code that is not specialized yet is counted, too. What waits is in no function of
# this file. `closed`, `freed` and `cancelled` leave generators suspended: from 3.12 on, those are resumed to be closed
# only if somebody looks on, and cProfile does.
import asyncio
import contextlib
import functools
import re
import sys

ROUNDS = int(sys.argv[1])
HOW = sys.argv[2] if len(sys.argv) > 2 else ""
ITEMS = range(25)


# Recursion.

def factorial(n):
    return n * factorial(n - 1) if n > 1 else 1


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def even(n):
    return n == 0 or odd(n - 1)


def odd(n):
    return n != 0 and even(n - 1)


def tree(depth):
    if depth:
        yield from tree(depth - 1)
        yield depth
        yield from tree(depth - 1)


def recursion():
    factorial(30)
    fibonacci(11)
    even(40)
    even(17)
    for _ in tree(5):
        pass


# Generators.

def counting(n):
    for number in range(n):
        yield number


def echo():
    said = None
    while said != "end":
        said = yield said


def patient():
    while True:
        try:
            yield
        except KeyError:
            pass


def impatient():
    yield


def careful():
    try:
        yield 1
        yield 2
    finally:
        tidy()


def tidy():
    pass


def finished():
    yield 1
    return 2


def delegating():
    return (yield from finished())


def never():
    yield


def failing():
    yield
    raise KeyError


def closed():
    yield 1
    yield 2


def freed():
    yield 1
    yield 2


@contextlib.contextmanager
def managed():
    yield


def generators():
    for _ in counting(10):
        pass
    list(counting(10))
    sum(counting(10))
    first, *rest = counting(4)
    echoing = echo()
    next(echoing)
    for item in ITEMS:
        echoing.send(item)
    try:
        echoing.send("end")
    except StopIteration:
        pass
    waiting = patient()
    next(waiting)
    for _ in ITEMS:
        waiting.throw(KeyError())
    leaving = impatient()
    next(leaving)
    try:
        leaving.throw(KeyError())
    except KeyError:
        pass
    unbegun = impatient()
    try:
        unbegun.throw(KeyError())
    except KeyError:
        pass
    tidying = careful()
    next(tidying)
    tidying.close()
    list(delegating())
    never()
    never().close()
    try:
        list(failing())
    except KeyError:
        pass
    with managed():
        pass
    sum(
        item for item in ITEMS)
    any(
        item > 300 for item in ITEMS)


def suspended():
    closing = closed()
    next(closing)
    closing.close()
    dropped = freed()
    next(dropped)
    del dropped


# Classes.

class Point:
    def __init__(self, x, y):
        self.x = x
        self.y = y

    def __eq__(self, other):
        return self.x == other.x

    def __hash__(self):
        return self.x

    def __lt__(self, other):
        return self.x < other.x

    def __len__(self):
        return self.x

    def __getitem__(self, index):
        if index > 3:
            raise IndexError
        return index

    def __getattr__(self, name):
        return name

    def __call__(self, value):
        return value

    def __format__(self, spec):
        return spec

    def __del__(self):
        pass

    @property
    def length(self):
        return self.x

    @classmethod
    def origin(cls):
        return cls(0, 0)

    @staticmethod
    def unit():
        return 1

    def method(self):
        return self.length


class Solid(Point):
    def __init__(self, x, y, z):
        super().__init__(x, y)
        self.z = z


class Refused:
    def __init__(self):
        raise ValueError


class Single:
    def __new__(cls):
        return object.__new__(cls)


class Meta(type):
    def __new__(meta, name, bases, scope):
        return type.__new__(meta, name, bases, scope)

    def __call__(cls):
        return type.__call__(cls)


class Plain:
    pass


def classes():
    for item in ITEMS:
        point = Point(item, 2)
        point.method()
        point.unit()
        point(1)
        point.missing
        point.length
        point == point
        len(point)
        if point:
            pass
        list(point)
        f"{point:x}"
        {point: 1}
    Point.origin()
    Solid(1, 2, 3)
    Plain()
    Single()
    list(map(Point, ITEMS, ITEMS))
    try:
        Refused()
    except ValueError:
        pass

    class Local(metaclass=Meta):
        def local(self):
            return 1

    Local().local()


# Called from C.

def negative(x):
    return -x


def doubled(x):
    return x + x


def is_odd(x):
    return x % 2


def added(x, y):
    return x + y


def replaced(match):
    return match.group().upper()


def ordered(x, y):
    return x - y


@functools.lru_cache(maxsize=None)
def cached(x):
    return x


def partially(x, y):
    return x


def traced(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)
    return wrapper


@traced
def decorated(x):
    return x


def callbacks():
    sorted(ITEMS, key=negative)
    max(ITEMS, key=negative)
    list(map(doubled, ITEMS))
    list(filter(is_odd, ITEMS))
    functools.reduce(added, ITEMS)
    re.sub("[a-c]", replaced, "abcdabcd")
    sorted(ITEMS, key=functools.cmp_to_key(ordered))
    sorted([Point(2, 0), Point(1, 0), Point(3, 0)])
    cached.cache_clear()
    for item in ITEMS:
        cached(item)
        cached(item)
        decorated(item)
    list(map(functools.partial(partially, 1), ITEMS))
    list(iter(functools.partial(next, counting(5), None), None))
    anonymous = [
        lambda x: x,
        lambda x: x + 1,
        lambda x: (lambda: x)(),
    ]
    for function in anonymous:
        list(map(function, ITEMS))


# Exceptions.

def raising():
    raise KeyError


def passing():
    raising()


def passing_on():
    try:
        passing()
    finally:
        tidy()


def raising_again():
    try:
        passing_on()
    except KeyError as error:
        raise ValueError from error


def catching():
    try:
        raising_again()
    except ValueError:
        return 1


def demanding(argument):
    return argument


class Context:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return True


def exceptions():
    catching()
    try:
        passing()
    except KeyError:
        pass
    try:
        demanding()
    except TypeError:
        pass
    try:
        sorted(ITEMS, key=demanding.missing)
    except AttributeError:
        pass
    with Context():
        raising()
    try:
        list(map(lambda x: raising(), ITEMS))
    except KeyError:
        pass


# Coroutines.

async def leaf():
    return 1


async def pausing():
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return await leaf()


async def ticking(n):
    for number in range(n):
        await asyncio.sleep(0)
        yield number


class Door:
    async def __aenter__(self):
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *error):
        return None


class Awaitable:
    def __await__(self):
        yield
        return 1


async def breaking():
    await asyncio.sleep(0)
    raise KeyError


async def cancelled():
    await asyncio.get_running_loop().create_future()


async def served():
    await leaf()
    await asyncio.gather(pausing(), pausing(), pausing())
    async for _ in ticking(4):
        pass
    [number async for number in ticking(3)]
    async with Door():
        await Awaitable()
    try:
        await asyncio.create_task(breaking())
    except KeyError:
        pass
    task = asyncio.create_task(cancelled())
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    leaf().close()


def coroutines():
    asyncio.run(served())


# Comprehensions, arguments, closures.

def keywords(a, b=1, *c, d=2, **e):
    return a


def many(a, b, c, d, e, f, g, h):
    return a


def outer():
    kept = 1

    def inner():
        return kept
    return inner()


def comprehensions():
    [
        doubled(item) for item in ITEMS]
    {
        doubled(item) for item in ITEMS}
    {
        item: doubled(item) for item in ITEMS}
    [
        [added(item, other) for other in range(3)]
        for item in range(3)]
    keywords(1)
    keywords(1, 2, 3, d=4, e=5)
    keywords(*(1, 2), **{"d": 3})
    many(1, 2, 3, 4, 5, 6, 7, 8)
    outer()


# Many functions, and not one of them in a file that could be read.
MADE = []
for which in range(300):
    SCOPE = {}
    exec(compile("\n" * which + "def made_%d(): pass" % which, "<made>", "exec"), SCOPE)
    MADE.append(SCOPE["made_%d" % which])


def of_many():
    for which, function in enumerate(MADE):
        for _ in range(which % 7):
            function()


def work():
    for _ in range(ROUNDS):
        recursion()
        generators()
        suspended()
        classes()
        callbacks()
        exceptions()
        coroutines()
        comprehensions()
        of_many()


if HOW == "profile":
    import cProfile
    import json

    profile = cProfile.Profile()
    profile.enable()
    work()
    profile.disable()
    rows = [
        [code.co_filename, code.co_firstlineno, code.co_name, entry.callcount, entry.callcount - entry.reccallcount]
        for entry in profile.getstats()
        for code in [entry.code]
        if not isinstance(code, str) and code.co_filename in (__file__, "<made>")
    ]
    print(json.dumps(rows), flush=True)
    print("READY", flush=True)
elif HOW == "alone":
    work()
else:
    print("READY", flush=True)
    sys.stdin.readline()
    work()
    print("DONE", flush=True)
    sys.stdin.readline()
