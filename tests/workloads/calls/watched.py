# A few functions among very many calls of others: `watched.py`. Told a task and a number of rounds it does them, and
# says how often each function was called and how long it took, measured inside and outside: {"calls": {name: count},
# "inner": [ns], "outer": [ns]}.
import dis
import json
import subprocess
import sys
import threading
from time import perf_counter_ns


def other(x):
    return x + 1


def others(count):
    x = 0
    for _ in range(count):
        x = other(x)
    return x


def chosen(count):
    begin = perf_counter_ns()
    x = others(count)
    INNER.append(perf_counter_ns() - begin)
    return x


def closure():
    offset = 1

    def enclosed(count):
        return others(count) + offset

    return enclosed


def descends(depth):
    others(30)
    if depth:
        return descends(depth - 1) + 1
    return 0


def raises(turn):
    others(50)
    if turn % 4 == 3:
        raise KeyError(turn)
    return turn


def chooses(turn):
    others(50)
    if turn % 5 == 0:
        return turn + 1
    if turn % 5 == 1:
        return turn + 2
    if turn % 5 == 2:
        return turn + 3
    if turn % 5 == 3:
        return turn + 4
    return turn


def resumes(count):
    for turn in range(count):
        yield others(turn)


def plain(rounds):
    for _ in range(rounds):
        begin = perf_counter_ns()
        chosen(4000)
        OUTER.append(perf_counter_ns() - begin)


def recursion(rounds):
    for _ in range(rounds):
        descends(9)


def exceptions(rounds):
    for turn in range(rounds):
        try:
            raises(turn)
        except KeyError:
            pass


def choices(rounds):
    for turn in range(rounds):
        chooses(turn)


def resumptions(rounds):
    for _ in range(rounds):
        list(resumes(3))


# A new one each time it is told to, which lives on, and runs long enough to be sampled.
def anew(rounds):
    text = "def made(count):\n    x = 0\n    for turn in range(count):\n        x += turn\n    return x\n"
    names = {"__name__": "made_anew"}
    exec(compile(text, "made.py", "exec"), names)
    MADE.append(names["made"])
    for _ in range(rounds):
        names["made"](100_000)


def enclosing(rounds):
    function = closure()
    for _ in range(rounds):
        function(50)


# Half of them are there before anybody looks, and start others while they work.
def threads(rounds):
    def work():
        for _ in range(rounds):
            chosen(50)

    def start_others():
        work()
        later = [threading.Thread(target=work) for _ in range(2)]
        for thread in later:
            thread.start()
        work()
        for thread in later:
            thread.join()

    running = [threading.Thread(target=start_others) for _ in range(2)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


# Others read and write its bytecode.
def looked_at(rounds):
    for turn in range(rounds):
        chosen(50)
        if turn % 10 == 0:
            chosen.__code__.co_code
            list(dis.get_instructions(chosen))
            hash(chosen.__code__)
            # Later releases read the first instruction once more in the next call.
            if sys.version_info < (3, 13):
                sys.settrace(lambda *_: None)
                sys.settrace(None)
            chosen.__code__ == chosen.__code__


# Other processes, each of which has a function of that name and calls it once.
def children(rounds):
    for _ in range(rounds):
        subprocess.run([sys.executable, "-S", "-c", "def chosen(): pass\nchosen()"], check=True)


TASKS = {
    "plain": (plain, {"chosen": 1}),
    "recursion": (recursion, {"descends": 10}),
    "exceptions": (exceptions, {"raises": 1}),
    "choices": (choices, {"chooses": 1}),
    "resumptions": (resumptions, {"resumes": 4}),
    "anew": (anew, {"made": 1}),
    "enclosing": (enclosing, {"enclosed": 1}),
    "threads": (threads, {"chosen": 8}),
    "looked_at": (looked_at, {"chosen": 1}),
    "children": (children, {"chosen": 1}),
}

MADE = []
print("READY", flush=True)
for line in sys.stdin:
    name, rounds = line.split()
    INNER = []
    OUTER = []
    task, each = TASKS[name]
    task(int(rounds))
    calls = {name: int(rounds) * count for name, count in each.items()}
    print(json.dumps({"calls": calls, "inner": INNER, "outer": OUTER}), flush=True)
