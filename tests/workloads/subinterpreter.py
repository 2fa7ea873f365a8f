# A thread inside a sub-interpreter, and the main thread outside. Both let go of the GIL by themselves: up to 3.11 they
# share it, and a thread of one interpreter does not hear that a thread of another one waits.
import json
import threading
from time import sleep, thread_time

SOURCE = """
from time import sleep, thread_time

def inside_leaf():
    end = thread_time() + 0.02
    while thread_time() < end:
        pass

def inside():
    print("READY", flush=True)
    while True:
        inside_leaf()
        sleep(0.001)

inside()
"""


def run_in_subinterpreter():
    started.acquire()
    try:
        import _interpreters  # 3.13 and later

        _interpreters.exec(_interpreters.create(), SOURCE)
    except ImportError:
        import _xxsubinterpreters

        _xxsubinterpreters.run_string(_xxsubinterpreters.create(), SOURCE)


def outside_leaf():
    end = thread_time() + 0.02
    while thread_time() < end:
        pass


def outside():
    while True:
        outside_leaf()
        sleep(0.001)


thread = threading.Thread(target=run_in_subinterpreter, daemon=True)
started = threading.Lock()
started.acquire()
thread.start()
# READY comes from inside the sub-interpreter.
print(json.dumps({"inside": thread.native_id, "outside": threading.main_thread().native_id}), flush=True)
started.release()
outside()
