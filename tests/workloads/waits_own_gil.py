"""A sub-interpreter with a GIL of its own, in which one thread computes and one wants the GIL every 10 ms and measures how
long it waits for it (as waits_gil.py does). Beside it a thread of the main interpreter computes, with nobody else there.
"""

import json
import select
import sys
import threading
import time

SECONDS = 1.5
waited = turns = 0
done = threading.Event()


def computes():
    n = 0
    while not done.is_set():
        for i in range(1000):
            n += i * i


def wants():
    global waited, turns
    end = time.perf_counter_ns() + int(SECONDS * 1e9)
    while time.perf_counter_ns() < end:
        until = time.perf_counter_ns() + 10_000_000
        select.select([], [], [], 0.01)  # line it waits at
        waited += max(time.perf_counter_ns() - until, 0)
        turns += 1


def alone():
    n = 0
    while not done.is_set():
        for i in range(1000):
            n += i * i


def inside():
    threads = [threading.Thread(target=function) for function in (computes, wants)]
    for thread in threads:
        thread.start()
    threads[1].join()
    done.set()
    threads[0].join()
    print(json.dumps({"waited_ns": waited, "turns": turns}), flush=True)


def outside():
    with open(__file__) as source:
        line = next(number for number, text in enumerate(source, 1) if text.endswith("# line it waits at\n"))
    print(json.dumps({"line": line}))
    print("READY", flush=True)
    sys.stdin.readline()
    beside = threading.Thread(target=alone)
    beside.start()
    code = f"""if True:
        file = {__file__!r}
        with open(file) as source:
            code = compile(source.read(), file, "exec")
        exec(code, {{"__name__": "inside", "__file__": file}})
    """
    try:
        import _interpreters  # 3.13 and later

        _interpreters.exec(_interpreters.create(), code)
    except ImportError:
        import _xxsubinterpreters

        _xxsubinterpreters.run_string(_xxsubinterpreters.create(isolated=True), code)
    done.set()
    beside.join()
    sys.stdin.readline()


inside() if __name__ == "inside" else outside()
